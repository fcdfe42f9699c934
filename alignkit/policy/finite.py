"""Which tensors hold a number that is not finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def non_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of tensors that hold nan or an infinity; of sharded ones, in this rank's shards.

    A sum is not finite where one of its terms is not, and is computed in one pass without a copy; finite terms whose
    sum overflows are told apart by a second look.
    """
    from torch.distributed.tensor import DTensor

    own = [(name, x.detach()) for name, x in named]
    local = [(name, x.to_local() if isinstance(x, DTensor) else x) for name, x in own]
    looked_at = [(name, x) for name, x in local if x.is_floating_point() and not x.is_meta]
    if not looked_at:
        return []
    sums = torch.stack([x.sum(dtype=torch.float32) for _, x in looked_at]).isfinite().tolist()
    suspect = (one for one, is_finite in zip(looked_at, sums, strict=True) if not is_finite)
    return [name for name, x in suspect if not bool(x.isfinite().all())]
