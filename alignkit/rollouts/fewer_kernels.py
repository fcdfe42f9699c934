"""A model's own layers with fewer kernels, for decoding: the same numbers, but for the last bit of an RMS norm.

Under autocast each of q, k and v, and each of gate and up, casts the same input again; here a tensor is cast once. A
norm is six kernels; torch has it as one. Of some 1,100 kernels of a step of a 0.5B model, about 320 are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm

_SAME = 1e-5  # relative L2 to the module's own output, fp32


@contextmanager
def fewer_kernels(body: nn.Module) -> Iterator[None]:
    """Let a decoder's linear layers and norms compute this way for a while, without gradient."""
    casts, kinds = _Casts(), dict[type[nn.Module], bool]()
    forward_of: dict[Any, Callable[..., Tensor]] = {}
    for module in body.modules():
        if "forward" in vars(module):
            continue
        if type(module) is nn.Linear:
            forward_of[module] = partial(casts.linear, module)
        elif type(module).__name__.endswith("RMSNorm"):
            norm = partial(_norm, module, type(module).forward)
            if type(module) not in kinds:
                kinds[type(module)] = _is_same(module, norm)
            if kinds[type(module)]:
                forward_of[module] = norm
    for module, forward in forward_of.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forward_of:
            del module.forward


class _Casts:
    """Keeps the last tensor that a linear layer was given, and its copy in autocast's type."""

    def __init__(self) -> None:
        self._given: Tensor | None = None
        self._cast: Tensor | None = None

    def linear(self, module: nn.Linear, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind) and x.dtype == torch.float32:
            if self._given is not x or self._cast is None:
                self._given, self._cast = x, x.to(torch.get_autocast_dtype(kind))
            x = self._cast
        return linear(x, module.weight, module.bias)


def _norm(module: Any, own: Callable[..., Tensor], x: Tensor) -> Tensor:
    """x / rms(x) * weight, where both have one type; a norm of queries or keys gets bf16 and stays as it is."""
    if x.dtype != module.weight.dtype:
        return own(module, x)
    return rms_norm(
        x, module.weight.shape, module.weight, getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))
    )


def _is_same(module: Any, forward: Callable[[Tensor], Tensor]) -> bool:
    """Whether it gives what the module gives, on random numbers: some norms multiply by 1 + weight."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 1 or weight.dtype != torch.float32:
        return False
    x = 3 * torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        own, ours = module(x), forward(x)
    return own.shape == ours.shape and bool((own - ours).norm() <= _SAME * own.norm())
