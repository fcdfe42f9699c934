"""Align a small language model, and know honestly whether it became better.

`train`, `judge` and `Run` are what the command line calls; they are loaded on first use, because they need torch.
"""

# No import stands before this, not even of __future__: `python -m alignkit` (and torchrun -m) puts the working folder
# first where modules and plugins are looked for, and a folder's rich.py or typing.py would be run in place of the real
# one. While a module is looked up for -m, argv begins with it.
import sys

if getattr(sys, "argv", [])[:1] == ["-m"] and not sys.flags.safe_path:
    del sys.path[0]

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
