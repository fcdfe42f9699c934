"""A step's arrays moved to the device: by one copy, from pinned memory, that the host does not wait for.

A copy of an array of its own waits for all that the device was given before. There are about twelve for a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

HOST = "host_"  # names of arrays that stay on the host begin so
_ALIGNED = 16  # bytes; kernels read whole vectors, and what compiles them copies a tensor that lies otherwise


def to_device(rows: Sequence[Mapping[str, np.ndarray]], device: torch.device) -> list[dict[str, Tensor]]:
    """Move arrays that have names; on a CPU the tensors share their memory.

    On a GPU they lie in one buffer, which is freed with the last of them. torch keeps the pinned one until it is read.
    """
    if device.type == "cpu":
        return [{name: torch.as_tensor(x) for name, x in row.items()} for row in rows]
    arrays = [x for row in rows for name, x in row.items() if not name.startswith(HOST)]
    moved = torch.from_numpy(side_by_side(arrays)).pin_memory().to(device, non_blocking=True)
    parts = iter(taken_apart(moved, arrays))
    return [
        {name: torch.as_tensor(x) if name.startswith(HOST) else next(parts) for name, x in row.items()} for row in rows
    ]


def side_by_side(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Lay the bytes of arrays one after another, uint8."""
    starts = _starts(arrays)
    flat = np.empty(starts[-1], np.uint8)
    for x, start in zip(arrays, starts, strict=False):
        flat[start : start + x.nbytes] = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    return flat


def taken_apart(flat: Tensor, arrays: Sequence[np.ndarray]) -> list[Tensor]:
    """View `side_by_side` of arrays, which may lie on another device, as tensors of their shapes and types."""
    types = [torch.from_numpy(np.empty(0, x.dtype)).dtype for x in arrays]
    return [
        flat[start : start + x.nbytes].view(dtype).view(x.shape)
        for x, dtype, start in zip(arrays, types, _starts(arrays), strict=False)
    ]


def _starts(arrays: Sequence[np.ndarray]) -> list[int]:
    """Where each begins, and where the last ends."""
    return [0, *np.cumsum([-(-x.nbytes // _ALIGNED) * _ALIGNED for x in arrays], dtype=np.int64).tolist()]
