"""Align a small language model, and know honestly whether it became better.

    run = alignkit.train(METHOD, model="Qwen/Qwen2.5-0.5B", data=rows)
    alignkit.judge(run, vs="Qwen/Qwen2.5-0.5B")

METHOD is a name that `alignkit plugins list` shows. Every name is loaded on first use: some need torch.
"""

# No import stands before this, not even of __future__: `python -m alignkit` (and torchrun -m) puts the working folder
# first where modules and plugins are looked for, and a folder's rich.py or typing.py would be run in place of the real
# one. While a module is looked up for -m, argv begins with it.
import sys

if getattr(sys, "argv", [])[:1] == ["-m"] and not sys.flags.safe_path:
    del sys.path[0]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignkit.api.python import Model, chat, evaluate, export, generate, judge, load, tournament, train
    from alignkit.api.runs import Run
    from alignkit.judging.verdict import Verdict
    from alignkit.methods import Batch, Method, MethodConfig
    from alignkit.registry import hookimpl

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Method",
    "MethodConfig",
    "Model",
    "Run",
    "Verdict",
    "__version__",
    "chat",
    "evaluate",
    "export",
    "generate",
    "hookimpl",
    "judge",
    "load",
    "tournament",
    "train",
]
_PLACES = {"Run": "alignkit.api.runs", "Verdict": "alignkit.judging.verdict", "hookimpl": "alignkit.registry"}
_PLACES |= dict.fromkeys(("Batch", "Method", "MethodConfig"), "alignkit.methods")
_PLACES |= dict.fromkeys(
    ("Model", "chat", "evaluate", "export", "generate", "judge", "load", "tournament", "train"), "alignkit.api.python"
)


def __getattr__(name: str) -> object:
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'alignkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
