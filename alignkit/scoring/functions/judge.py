"""A user's own function as a judge: `--reward FILE.py:function`.

The function takes `(completion: str, row: dict)` and returns a number, or None for *does not apply*. Its file is
imported from where it lies, in a process of its own (process.py), which all functions of the file share; the
hash of the file, and of what it imports from its own folder, is a part of its scores' key in the ledger. What it raises
stops the run with the row's id and its own traceback; NaN or a non-number counts as an exception. Where it ends its
process, or that is ended, the run stops and says how.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from alignkit.errors import AlignkitError, InputError, RunStopped, UsageError, nearest
from alignkit.scoring.functions.process import Ended, FunctionProcess, function_process
from alignkit.scoring.functions.sources import place_of, sources_sha256
from alignkit.scoring.functions.worker import WANTED
from alignkit.scoring.judge import Item, Judge, Missing, Scored

_PART = 64  # items whose scores the ledger keeps at once


class FunctionJudge(Judge):
    """Scores by one Python function of a file.

    Raises:
        InputError: the file is missing, fails to import, or the function fails on a row.
        UsageError: the file has no function of that name, or it cannot be called with a completion and a row.
    """

    name: ClassVar[str] = "function"
    version: ClassVar[str] = "1"
    verifiable: ClassVar[bool] = True

    def __init__(self, path: Path, function: str) -> None:
        super().__init__()
        self.path = path
        self.function_name = function
        self._place = place_of(path)
        self.sources_sha256 = sources_sha256(self._place)
        self._process: FunctionProcess | None = self._started()

    def parameters(self) -> Mapping[str, Any]:
        """The function's name, and the hash of its file and of the files beside it that this one imports."""
        return {"function": self.function_name, "sources_sha256": self.sources_sha256}

    def given(self, item: Item) -> Any:
        """The completion and the row."""
        return {"completion": item.completion, "row": dict(item.row)}

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Call the function on each item.

        Raises:
            InputError: it raised, or returned what is no number.
            RunStopped: it ended its process, or that was ended, or its number is too large.
        """
        return [self._score(item) for item in items]

    def stream(self, items: Sequence[Item]) -> Iterator[Mapping[int, Scored | Missing]]:
        """Yield some at a time, so that what a slow function gave is kept where a later one fails."""
        for at in range(0, len(items), _PART):
            yield {at + n: answer for n, answer in enumerate(self.score(items[at : at + _PART]))}

    def close(self) -> None:
        """Let go of the process; it ends with the last of its functions."""
        self._process = None

    def _score(self, item: Item) -> Scored | Missing:
        if self._process is None or not self._process.is_alive:
            if sources_sha256(self._place) != self.sources_sha256:
                raise InputError(f"{self.path}: it changed since it was imported; begin again")
            self._process = self._started()
        where = f"{self.path}:{self.function_name}, {item.said}"
        try:
            answer = self._process.ask("score", self.function_name, item.completion, dict(item.row))
        except Ended as error:
            text = f"{where}: the process that runs the reward function {error}; correct the function"
            raise self._correctable(RunStopped(text)) from None
        except ValueError as error:
            raise InputError(f"{where}: the row cannot be handed to the reward function: {error}") from error
        score = answer.get("score")
        if isinstance(score, float | int) and not isinstance(score, bool):
            return Scored(float(score))
        if answer.get("missing") is True:
            return Missing("does not apply", applies=False)
        raise self._correctable(failed(where, answer))

    def _correctable(self, error: AlignkitError) -> AlignkitError:
        error.corrects = self.path.name
        return error

    def _started(self) -> FunctionProcess:
        """Return the file's process, once its function is known to be there and to take what it is given."""
        place = self._place
        try:
            process, said = function_process(
                place.file,
                key=self.sources_sha256,
                name=place.name,
                is_in_package=place.is_in_package,
                folders=list(place.folders),
            )
            if said.get("ready"):
                said = process.ask("check", self.function_name)
        except Ended as error:
            raise InputError(f"{self.path}: the process that imports the reward file {error}; correct it") from None
        if said.get("ready"):
            return process
        raise _unusable(self.path, self.function_name, said)


def _unusable(path: Path, function: str, said: Mapping[str, Any]) -> AlignkitError:
    """Why a file or its function cannot be used."""
    if "trace" in said:
        what = f"ends its process by {said['ended']} when it is imported" if "ended" in said else "cannot be imported"
        return _traced(InputError(f"{path}: the reward file {what}; correct it"), said)
    if "taken" in said:
        return UsageError(
            f"{path}: {path.stem!r} is also the name of {said['taken']} module, which imports would mix up with it; "
            "rename the file"
        )
    if "unknown" in said:
        return UsageError(f"{path} has no function {function!r}{nearest(function, list(map(str, said['unknown'])))}")
    return refused(f"{path}:{function}", said)


def refused(name: str, said: Mapping[str, Any]) -> UsageError:
    """Why a function is no reward."""
    if "asynchronous" in said:
        return UsageError(f"{name} is an async function; a reward is an ordinary one, {WANTED}")
    return UsageError(f"{name} takes {said.get('signature')}; a reward takes {WANTED}, called for each completion")


def _traced(error: AlignkitError, said: Mapping[str, Any]) -> AlignkitError:
    """The error with the traceback of the function's own frames."""
    error.trace = str(said.get("trace", ""))
    return error


def failed(where: str, answer: Mapping[str, Any]) -> AlignkitError:
    """What a function did in place of returning a number."""
    above = f"{where}: the reward function"
    if "raised" in answer:
        return _traced(InputError(f"{above} raised {answer['raised']}; correct it"), answer)
    if "ended" in answer:
        return _traced(RunStopped(f"{above} would end the process by {answer['ended']}; correct it"), answer)
    if "too_large" in answer:
        return RunStopped(f"{above} returned {answer['too_large']}, too large a number; return one below 1.8e308")
    return InputError(f"{above} returned {answer.get('returned')}; return a finite number or None")
