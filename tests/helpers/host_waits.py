"""Counts where a host would wait for a GPU, on a machine without one."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {  # operations whose result, or its size, the host must know before it goes on
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "bincount",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "segment_reduce",
}


class _Reads(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        waits = name in _READS and not (name == "segment_reduce" and kwargs.get("unsafe"))
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            waits = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        if name == "repeat_interleave":
            waits = kwargs.get("output_size") is None
        if waits:
            self._found.append(f"{name} at {_place()}")
        return func(*args, **kwargs)


@contextmanager
def host_waits() -> Iterator[list[str]]:
    """Collect, for a while, each operation that would wait on a GPU, with its place. One read of many numbers is one.

    `tolist` and `numpy` of a CPU's tensor call no operation, so that they are counted by their names.
    """
    found: list[str] = []

    def counted(name: str, own: Any) -> Any:
        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append(f"{name} at {_place()}")
            return own(tensor, *args, **kwargs)

        return read

    named = {name: counted(name, getattr(Tensor, name)) for name in ("tolist", "numpy")}
    with _Reads(found), patch.multiple(Tensor, **named):
        yield found


def _place() -> str:
    """The innermost line of alignkit or of a plugin."""
    own = [x for x in traceback.extract_stack() if "alignkit" in x.filename and "/tests/" not in x.filename]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else "a test"
