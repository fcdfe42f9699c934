"""Progress of long work: how far it is, what is being done, and lines worth reading.

A task (`start`) counts its units: steps, prompts. A phase is what is done within it, or before any, and has a count of
its own: "validating 40/150". Deep code names its phases by `phase`, and need not know who watches.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


def is_first_rank() -> bool:
    """Whether this process logs and writes for all that torchrun started; a process alone does."""
    return os.environ.get("RANK", "0") == "0"


class Progress(Protocol):
    """Receives the progress of one task at a time; `start` ends the task before it.

    Args:
        description: what is being done, "sft step".
        total: how many units there are (steps, prompts), or None where it is not known.
        done: how many of them were done before, by the run that goes on.
        shown: numbers or texts to show beside it, such as loss=1.23; the first ones matter most.
    """

    def start(self, description: str, total: int | None, done: int = 0) -> None: ...

    def advance(self, n: int = 1, **shown: float | str) -> None: ...

    def phase(self, description: str, done: int = 0, total: int | None = None) -> None:
        """Show what is done now within the task; "" where it is the task itself."""

    def stop(self) -> None: ...

    def note(self, line: str) -> None: ...


class Silent:
    """Shows nothing: the default in Python."""

    def start(self, description: str, total: int | None, done: int = 0) -> None:
        pass

    def advance(self, n: int = 1, **shown: float | str) -> None:
        pass

    def phase(self, description: str, done: int = 0, total: int | None = None) -> None:
        pass

    def stop(self) -> None:
        pass

    def note(self, line: str) -> None:
        pass


_SILENT = Silent()
_watching: ContextVar[Progress] = ContextVar("watching", default=_SILENT)
_phases: ContextVar[tuple[tuple[str, int | None], ...]] = ContextVar("phases", default=())


drawings: list[Callable[[], None]] = []
"""What takes away each drawing that is on the terminal now; whoever draws adds it, and takes it out at the end."""


def undraw() -> None:
    """Take away what is drawn on the terminal: what is printed next stays there as it is."""
    for take_away in list(drawings):
        take_away()


def ask(question: str) -> str:
    """Ask on the terminal, with nothing drawn over the question, and return the answer in small letters."""
    undraw()
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower()


@contextmanager
def watched_by(progress: Progress) -> Iterator[None]:
    """Let `progress` see the phases of what runs inside."""
    token = _watching.set(progress)
    try:
        yield
    finally:
        _watching.reset(token)


@contextmanager
def phase(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Name what runs inside, and yield what counts its units: `count(n)` says that n more of `total` are done.

    A phase within another one stands in its place until it ends.
    """
    progress, done = _watching.get(), 0

    def count(n: int = 1) -> None:
        nonlocal done
        done += n
        progress.phase(description, done, total)

    outer = _phases.get()
    token = _phases.set((*outer, (description, total)))
    progress.phase(description, 0, total)
    try:
        yield count
    finally:
        _phases.reset(token)
        before, its_total = outer[-1] if outer else ("", None)
        progress.phase(before, 0, its_total)


def shown(metrics: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """A step's finite metrics for a progress line: those of these names first, then the speed, then all others."""
    order = dict.fromkeys([*names, "tokens_per_s", *metrics])
    return {name: metrics[name] for name in order if name in metrics and math.isfinite(metrics[name])}
