"""Align a small language model, and know honestly whether it became better.

`train`, `judge` and `Run` are what the command line calls; they are loaded on first use, because they need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignkit.methods import Batch, Method, MethodConfig
from alignkit.registry import hookimpl

if TYPE_CHECKING:
    from alignkit.api import Run, judge, train

__version__ = "0.1.0"
__all__ = ["Batch", "Method", "MethodConfig", "Run", "__version__", "hookimpl", "judge", "train"]


def __getattr__(name: str) -> object:
    if name in {"Run", "judge", "train"}:
        from alignkit import api

        return getattr(api, name)
    raise AttributeError(f"module 'alignkit' has no attribute {name!r}")
