"""The weights that a run started from, put back where no validation after a step was better than the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignkit.policy.policy import Policy


def put_back(policy: Policy, load: Callable[[], Policy]) -> None:
    """Give a policy's trained weights the values of before the first step; every rank must ask.

    An adapter begins as nothing (B = 0) and keeps its base, so it needs no second copy. A whole model is loaded again;
    gradients are dropped first, so that it needs no more room than a step did.

    Args:
        load: gives the policy as it was, on the CPU.
    """
    for parameter in policy.parameters():
        parameter.grad = None
    with torch.no_grad():
        if policy.has_adapter:
            _reset_adapter(policy)
            return
        before = dict(load().named_parameters())
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad:
                _fill(parameter, before[name])


def _reset_adapter(policy: Policy) -> None:
    for module in policy.modules():
        own: Any = module
        if hasattr(module, "lora_B"):
            for matrix in own.lora_B.values():
                matrix.weight.zero_()
        if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
            before = dict(own.original_module.named_parameters())
            for trained in own.modules_to_save.values():
                for name, parameter in trained.named_parameters():
                    parameter.copy_(before[name])


def _fill(parameter: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into a parameter, or into this rank's shard of it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        local = whole.to(parameter.to_local().device)
        parameter.copy_(distribute_tensor(local, parameter.device_mesh, parameter.placements))
    else:
        parameter.copy_(whole)
