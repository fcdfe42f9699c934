"""A user's own function as a judge: `--reward FILE.py:function`.

The function takes `(completion: str, row: dict)` and returns a number, or None for *does not apply*. The file is
imported from where it lies; the hash of the file, and of what it imports from its own folder, is a part of its scores'
key in the ledger. What it raises stops the run with the row's id and its own traceback; NaN or a non-number counts as
an exception.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

from alignkit.errors import InputError, UsageError, nearest
from alignkit.scoring.judge import Item, Judge, Missing, Scored


class FunctionJudge(Judge):
    """Scores by one Python function of a file.

    Raises:
        InputError: the file is missing, fails to import, or the function fails on a row.
        UsageError: the file has no function of that name.
    """

    name: ClassVar[str] = "function"
    version: ClassVar[str] = "1"
    verifiable: ClassVar[bool] = True

    def __init__(self, path: Path, function: str) -> None:
        super().__init__()
        self.path = path
        self.function_name = function
        self.function = _load(path, function)
        self.sources_sha256 = _sources_sha256(path)

    def parameters(self) -> Mapping[str, Any]:
        """The function's name, and the hash of its file and of the files beside it that this one imports."""
        return {"function": self.function_name, "sources_sha256": self.sources_sha256}

    def given(self, item: Item) -> Any:
        """The completion and the row."""
        return {"completion": item.completion, "row": dict(item.row)}

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Call the function on each item."""
        return [self._score(item) for item in items]

    def _score(self, item: Item) -> Scored | Missing:
        where = f"{self.path}:{self.function_name}, row {item.row.get('id', '?')}"
        try:
            value = self.function(item.completion, dict(item.row))
        except Exception as error:
            own = "".join(traceback.format_exception(type(error), error, _below(error.__traceback__)))
            raise InputError(
                f"{own.rstrip()}\n{where}: the reward function raised {type(error).__name__}; correct it"
            ) from error
        if value is None:
            return Missing("does not apply", applies=False)
        if not isinstance(value, Real) or not math.isfinite(value):
            raise InputError(f"{where}: the reward function returned {value!r}; return a finite number or None")
        return Scored(float(value))


def _load(path: Path, name: str) -> Callable[[str, dict[str, Any]], Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file (a reward is FILE.py:function)")
    spec = importlib.util.spec_from_file_location(f"_alignkit_reward_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        own = "".join(traceback.format_exception(type(error), error, _below(error.__traceback__)))
        raise InputError(f"{own.rstrip()}\n{path}: the reward file cannot be imported; correct it") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{path} has no function {name!r}{nearest(name, known)}")
    return function


def _sources_sha256(path: Path) -> str:
    """Hash a file with all that it imports from its own folder, also inside functions."""
    folder = path.parent.resolve()
    found: dict[str, bytes] = {}
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        name = str(file.relative_to(folder))
        if name not in found:
            found[name] = file.read_bytes()
            waiting += _imports(found[name], folder)
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{name}\0{hashlib.sha256(found[name]).hexdigest()}\0".encode())
    return digest.hexdigest()


def _imports(source: bytes, folder: Path) -> list[Path]:
    """The files below the folder that a module imports by absolute names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    files = []
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            stem = folder.joinpath(*parts[:length])
            files += [file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()]
    return files


def _below(trace: Any) -> Any:
    """Leave alignkit's and the import machinery's frames out of a user's traceback."""
    while trace is not None and (
        "importlib" in trace.tb_frame.f_code.co_filename or trace.tb_frame.f_globals.get("__name__") == __name__
    ):
        trace = trace.tb_next
    return trace
