"""Ctrl-C and SIGTERM as a note that is read between two steps, so that the step in progress ends and is saved.

Validation and sampling change nothing of the run and may take long: inside `breakable` a signal ends them at once. Of
several ranks each ends its own part of them, and all of them the whole: they agree where they gather the parts.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from alignkit.distributed.ranks import ALONE, World

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Broken(KeyboardInterrupt):
    """A signal came inside `Signals.breakable`."""


class Signals:
    """What came so far.

    Args:
        answer: says at once what a signal does; in a thread of its own, because a handler may come in the middle of a
            line that is being written. It is told whether what runs is thrown away.
    """

    def __init__(self, world: World = ALONE, answer: Callable[[bool], None] | None = None) -> None:
        self.came = False
        self._world, self._answer = world, answer
        self._is_breakable = False

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Let a signal, also one that came before, raise `Broken` here: what runs inside is thrown away."""
        if self._world.size == 1:
            with self._armed():
                yield
            return
        if self._world.any(self.came):
            raise Broken
        self._world.apart = self._armed
        try:
            yield
        except KeyboardInterrupt as error:  # also on ranks that no signal came to
            raise Broken from error
        finally:
            self._world.apart = nullcontext

    @contextmanager
    def _armed(self) -> Iterator[None]:
        self._is_breakable = True
        try:
            if self.came:
                raise Broken
            yield
        finally:
            self._is_breakable = False

    def note(self) -> None:
        """Take note of a signal."""
        self.came = True
        if self._answer is not None and self._world.is_first:
            threading.Thread(target=self._answer, args=(self._is_breakable,), daemon=True).start()
        if self._is_breakable:
            self._is_breakable = False
            raise Broken


@contextmanager
def noted_signals(world: World = ALONE, answer: Callable[[bool], None] | None = None) -> Iterator[Signals]:
    """Note SIGINT and SIGTERM instead of dying at once.

    A second one ends the process as usual. Outside the main thread, where handlers cannot be set, none is noted.
    """
    signals = Signals(world, answer)
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.getsignal(number) for number in _NUMBERS}

    def note(number: int, frame: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        signals.note()

    for number in before:
        signal.signal(number, note)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_signals() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM: what rank 0 does meanwhile decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that what was begun is tidied up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:  # a rank that lost another ignores it
            signal.signal(signal.SIGTERM, before)
