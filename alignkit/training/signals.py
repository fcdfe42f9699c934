"""Ctrl-C and SIGTERM as a note that is read between two steps, so that the step in progress ends and is saved.

Validation and sampling change nothing of the run and may take long: inside `breakable` a signal ends them at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Broken(KeyboardInterrupt):
    """A signal came inside `Signals.breakable`."""


class Signals:
    """What came so far."""

    def __init__(self) -> None:
        self.came = False
        self._is_breakable = False

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Let a signal, also one that came before, raise `Broken` here: what runs inside is thrown away."""
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
        if self._is_breakable:
            self._is_breakable = False
            raise Broken


@contextmanager
def noted_signals() -> Iterator[Signals]:
    """Note SIGINT and SIGTERM instead of dying at once.

    A second one ends the process as usual. Outside the main thread, where handlers cannot be set, none is noted.
    """
    signals = Signals()
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
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that what was begun is tidied up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
