"""Who holds a run's memory: for the log when a run hangs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignkit.memory import peak_mib, reset_peak

if TYPE_CHECKING:
    from alignkit.training.gradient.models import Models


def memory_line(models: Models, optimizer: torch.optim.Optimizer) -> str:
    """What the run's tensors and the process hold now, MiB."""
    parameters = list(models.policy.parameters())
    frozen = None if models.reference is None else models.reference.frozen
    owners: Mapping[str, Iterable[Tensor]] = {
        "weights": parameters,
        "gradient": [p.grad for p in parameters if p.grad is not None],
        "optimizer": [x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor)],
        "reference": [] if frozen is None else frozen.parameters(),
    }
    held = ", ".join(f"{name} {sum(x.nbytes for x in tensors) / 2**20:,.0f}" for name, tensors in owners.items())
    reset_peak()
    where = "allocated on the GPU" if torch.cuda.is_available() else "of the process"
    return f"memory, MiB: {held}; {peak_mib():,.0f} {where} with the sampler and everything else"
