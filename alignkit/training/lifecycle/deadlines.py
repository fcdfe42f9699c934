"""A deadline for each phase of a step: generate, score, sync, train. Past it the run says where it hangs, and ends.

At the deadline the stacks of all threads are written to log.txt, and `DeadlinePassed` is raised in the main thread: a
BaseException, since what hangs is often inside code that catches every Exception. It interrupts Python and blocking
system calls. What is still in the phase when the grace is over, because it catches this too or is native code that does
not listen, is ended from outside (watchdog.py) with exit code 3; the last good checkpoint is what is left then, and is
named. The functions of a reward file are in a process of their own, which is ended at the deadline itself.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from alignkit.storage import open_private

_logger = logging.getLogger(__name__)
PHASES = ("generate", "score", "sync", "train")
GRACE_S = 30.0  # for Python to take notice
SAVING_S = 600.0  # for saving and tidying up afterwards
_STACKS = signal.SIGUSR2
_END = signal.SIGQUIT


class DeadlinePassed(BaseException):
    """A phase took longer than it may."""

    def __init__(self, phase: str, limit_s: float) -> None:
        super().__init__(f"{phase} took longer than {limit_s:g} s ({phase}_timeout_s)")
        self.phase = phase


class Deadlines:
    """Watches the phases of one run, inside `with`; outside the main thread, where no signal is handled, none is.

    Args:
        limits: seconds by phase.
        log: file that the stacks are appended to.
        left: says what there is to go on from, should the run be ended from outside.
    """

    def __init__(self, limits: Mapping[str, float], *, log: Path, left: Callable[[], str] = lambda: "") -> None:
        self.limits, self.log, self.left = dict(limits), log, left
        self._phase: str | None = None
        self._passed_by: DeadlinePassed | None = None  # raised in the phase that is still under way
        self._process: subprocess.Popen[bytes] | None = None
        self._file: IO[str] | None = None

    def __enter__(self) -> Deadlines:
        if threading.current_thread() is threading.main_thread():
            self._start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None and self._file is not None
        self._phase = None
        self._process.stdin.close()
        self._process.wait()
        self._process = None
        faulthandler.unregister(_STACKS)
        signal.signal(_STACKS, self._before)
        _handle_natively(_END, self._end_before)
        self._file.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch what runs inside.

        Raises:
            DeadlinePassed: it took longer than it may, also where what runs inside caught that.
        """
        if self._process is None or self._phase is not None:
            yield
            return
        self._phase = name
        self._tell(self.limits[name], f"{name} took longer than {self.limits[name]:g} s")
        try:
            yield
        finally:
            passed, self._passed_by = self._passed_by, None
            if self._phase == name:
                self._phase = None
                self._send({})
            elif passed is not None:  # the grace was for coming here; now the run is saved
                self._tell(SAVING_S, f"{passed}; saving what there is hung too")
                raise passed

    def _start(self) -> None:
        self._file = open(self.log, "a", encoding="utf-8", opener=open_private)  # noqa: SIM115 - closed with the run
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py"))]
        self._process = subprocess.Popen(
            [*command, str(os.getpid()), str(int(_STACKS)), str(int(_END))],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._before = signal.signal(_STACKS, self._passed)
        faulthandler.register(_STACKS, file=self._file, all_threads=True, chain=True)
        # SIGQUIT's number is 3: handled by C's _exit, it is the exit code, whoever holds the interpreter
        self._end_before = _handle_natively(_END, ctypes.cast(ctypes.CDLL(None)._exit, ctypes.c_void_p).value)

    def _passed(self, number: int, frame: object) -> None:
        name, self._phase = self._phase, None
        if name is None:  # it ended just now
            return
        self._passed_by = passed = DeadlinePassed(name, self.limits[name])
        _logger.error("%s: the stacks of all threads are in %s", passed, self.log)
        raise passed

    def _tell(self, seconds: float, what: str) -> None:
        end = f"error: {what} and does not stop when asked to, it was ended: the stacks are in {self.log}"
        self._send({"in": seconds, "grace": GRACE_S, "say": f"{end}; {self.left()}"})

    def _send(self, line: Mapping[str, object]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            _logger.warning("the process that watches the deadlines is gone: there are none from here on")
            self._process = None


def _handle_natively(number: int, handler: int | None) -> int | None:
    """Set a signal's handler to a C function's address (None: the default); returns the one before."""
    native = ctypes.CDLL(None).signal
    native.restype, native.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before: int | None = native(number, handler)
    return before
