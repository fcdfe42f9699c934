"""A function handed over in Python as a judge: `alignkit.train(..., reward=f)`, `alignkit.judge(judge=f)`.

It takes and returns what a function of a reward file does (judge.py), but runs in the caller's process, which it
shares with the training: it can be guarded only as far as Python can. What it raises, SystemExit and GeneratorExit as
well, stops the run with the row's id, and so does what is no number; its deadline interrupts Python. Not guarded:
`os._exit`, a crash in native code, memory, what it does to the process (streams, folder, random numbers), and a
KeyboardInterrupt, which is taken for Ctrl-C. A file's functions run apart.

Nobody knows what such a function refers to. Its source text is compared on a resume; its scores are known to this
process alone, and none is read from the ledger.
"""

from __future__ import annotations

import hashlib
import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from alignkit.errors import UsageError
from alignkit.scoring.functions.judge import failed, refused
from alignkit.scoring.functions.worker import answer_of, taken_kind
from alignkit.scoring.judge import Item, Judge, Missing, Scored

PREFIX = "python:"
_given: dict[str, Callable[..., Any]] = {}
_process = secrets.token_hex(8)  # a part of each score's key: the ledger gives no score of another process


def give(function: Callable[..., Any]) -> str:
    """Keep a function for this process and return the name that stands for it in a configuration."""
    name = getattr(function, "__name__", type(function).__name__)
    base = f"{PREFIX}{getattr(function, '__module__', None) or '?'}.{name}"
    number = 1
    spec = base
    while _given.setdefault(spec, function) is not function:
        number += 1
        spec = f"{base}#{number}"
    return spec


def names_of(rewards: object) -> object:
    """Return rewards with a name in the place of each function."""
    if callable(rewards):
        return [give(rewards)]
    if isinstance(rewards, list | tuple):
        return [give(one) if callable(one) else one for one in rewards]
    return rewards


class GivenFunction(Judge):
    """Scores by a function that was handed over in Python.

    Raises:
        UsageError: no such function was handed over in this process, or it does not take a completion and a row.
    """

    name: ClassVar[str] = "function"
    version: ClassVar[str] = "1"
    verifiable: ClassVar[bool] = True

    def __init__(self, spec: str) -> None:
        super().__init__()
        self.spec = spec
        if spec not in _given:
            raise UsageError(
                f"{spec}: a function that was handed over in Python: go on there, alignkit.train(..., reward=FUNCTION, "
                "resume=True), or write it into a file, --reward FILE.py:function"
            )
        self.function = _given[spec]
        said = taken_kind(self.function)
        if not said.get("ready"):
            raise refused(spec, said)

    @property
    def label(self) -> str:
        """Its name, as its scores are logged."""
        return self.spec.rpartition(".")[2].strip("<>")

    def parameters(self) -> Mapping[str, Any]:
        """Its name and the hash of its source text."""
        return {"function": self.spec, "source_sha256": hashlib.sha256(_source(self.function)).hexdigest()}

    def given(self, item: Item) -> Any:
        """The completion, the row and this process."""
        return {"completion": item.completion, "row": dict(item.row), "process": _process}

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Call the function on each item. Raises as `FunctionJudge.score`."""
        return [self._score(item) for item in items]

    def _score(self, item: Item) -> Scored | Missing:
        answer = answer_of(self.function, item.completion, dict(item.row), ends=(SystemExit, GeneratorExit))
        if "score" in answer:
            return Scored(answer["score"])
        if "missing" in answer:
            return Missing("does not apply", applies=False)
        error = failed(f"{self.spec}, {item.said}", answer)
        error.corrects = self.label
        raise error


def _source(function: Callable[..., Any]) -> bytes:
    """The source text of a function or of its class; where there is none, its compiled code."""
    try:
        return inspect.getsource(function if inspect.isroutine(function) else type(function)).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return b"" if code is None else code.co_code + repr(code.co_consts).encode()
