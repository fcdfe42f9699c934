"""A user's own function as a judge: `--reward FILE.py:function`.

The function takes `(completion: str, row: dict)` and returns a number, or None for *does not apply*. The file is
imported from where it lies; its hash is the judge's version. What it raises stops the run with the row's id and its
own traceback; NaN or a non-number counts as an exception.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Sequence
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
        self.file_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

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


def _below(trace: Any) -> Any:
    """Leave alignkit's and the import machinery's frames out of a user's traceback."""
    while trace is not None and (
        "importlib" in trace.tb_frame.f_code.co_filename or trace.tb_frame.f_globals.get("__name__") == __name__
    ):
        trace = trace.tb_next
    return trace
