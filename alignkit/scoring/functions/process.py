"""The process that the functions of one reward file run in (alignkit.scoring.functions.worker), seen from alignkit.

It is started before anything large is loaded. Whatever ends it, ends a request with `Ended`, which says how; a signal
or a deadline that comes while a request is under way ends it. It has a session of its own, so that Ctrl-C on a terminal
comes to alignkit alone, and what it started is ended with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_logger = logging.getLogger(__name__)
START_S = 600.0  # that the import of a file may take
_CLOSE_S = 2.0  # that it may take to end by itself
_STACKS_S = 2.0  # that its stacks may take
_TICK_S = 0.25  # between two looks at whether it lives: what it forked may hold its end of the pipe
_MAX_ANSWER = 1 << 20  # bytes
_WORKER = Path(__file__).with_name("worker.py")
_LENGTH = struct.Struct(">Q")


class Ended(Exception):
    """The process is gone; the text says how it ended."""


class FunctionProcess:
    """Imports one file and calls its functions.

    Args:
        file: the reward file, absolute.
        name: the module it becomes.
        is_in_package: `name` is a dotted name below one of the folders.
        folders: come first on its sys.path.
    """

    def __init__(self, file: Path, *, name: str, is_in_package: bool, folders: list[Path]) -> None:
        self._lock = threading.Lock()
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process, self._to, self._from = _started(self._stacks)
        self._finalizer = weakref.finalize(self, _end, self._process, self._to, self._from, self._stacks, _CLOSE_S)
        self._begin = {
            "file": str(file),
            "name": name,
            "is_in_package": is_in_package,
            "folders": [str(f) for f in folders],
            "more_path": [entry for entry in sys.path if entry],
        }

    def start(self) -> dict[str, Any]:
        """Import the file; the answer says whether that worked. Raises as `ask`."""
        return self._answered(pickle.dumps(self._begin), limit_s=START_S)

    def ask(self, *request: Any) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            Ended: the process ended, or took longer to import than START_S.
            ValueError: the request holds what cannot be pickled; the process is as it was.
        """
        try:
            body = pickle.dumps(request, protocol=5)
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return self._answered(body)

    @property
    def is_alive(self) -> bool:
        return self._finalizer.alive and self._process.poll() is None

    def close(self) -> None:
        """End the process and what it started, at once where a request is under way."""
        if self._finalizer.detach() is not None:
            _end(self._process, self._to, self._from, self._stacks, 0.0 if self._lock.locked() else _CLOSE_S)

    def _answered(self, request: bytes, limit_s: float | None = None) -> dict[str, Any]:
        with self._lock:
            try:
                self._send(request)
                return self._received(limit_s)
            except Exception:
                self.close()
                raise
            except BaseException as stop:
                if not isinstance(stop, KeyboardInterrupt):  # a deadline: where it hangs is of use
                    _logger.error("the reward function was here when it was stopped:\n%s", self._where())
                self.close()
                raise

    def _send(self, body: bytes) -> None:
        if not self._finalizer.alive:
            raise Ended("was closed")
        left = memoryview(_LENGTH.pack(len(body)) + body)
        try:
            while left:
                left = left[os.write(self._to, left) :]
        except BrokenPipeError:
            raise Ended(self._how()) from None

    def _received(self, limit_s: float | None) -> dict[str, Any]:
        due = None if limit_s is None else time.monotonic() + limit_s
        (size,) = _LENGTH.unpack(self._bytes(_LENGTH.size, due))
        if size > _MAX_ANSWER:
            raise Ended("wrote into the pipe that is alignkit's")
        try:
            answer = json.loads(self._bytes(size, due))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Ended("wrote into the pipe that is alignkit's")
        return answer

    def _bytes(self, count: int, due: float | None) -> bytes:
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        parts: list[bytes] = []
        while count:
            ended = self._process.poll() is not None  # looked at first: what it wrote before its end is still read
            if poll.poll(0 if ended else _TICK_S * 1000):
                part = os.read(self._from, count)
                if not part:
                    raise Ended(self._how())
                parts.append(part)
                count -= len(part)
            elif ended:
                raise Ended(self._how())
            elif due is not None and time.monotonic() > due:
                raise Ended(f"took longer than {START_S:g} s to import it")
        return b"".join(parts)

    def _how(self) -> str:
        try:
            code = self._process.wait(timeout=_CLOSE_S)
        except subprocess.TimeoutExpired:
            return "closed the pipe that is alignkit's"
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        more = {
            "SIGKILL": ", as the system ends what takes too much memory",
            "SIGSEGV": ", a crash in native code",
            "SIGABRT": ", a crash in native code",
        }
        return f"was ended by {name}{more.get(name, '')}"

    def _where(self) -> str:
        """The stacks of its threads."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR2)
        text, until = "", time.monotonic() + _STACKS_S
        while time.monotonic() < until:
            time.sleep(0.1)
            self._stacks.seek(0)
            before, text = text, self._stacks.read().decode(errors="replace").strip()
            if text and text == before:
                break
        return text or "(it did not say where)"


def _started(stacks: IO[bytes]) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start the process; returns it, where requests are written and where answers are read."""
    requests, to = os.pipe()
    from_, answers = os.pipe()
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    pipes = (requests, answers, stacks.fileno())
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), *map(str, pipes), str(parent)],
            stdin=subprocess.DEVNULL,
            stdout=_error_stream(),
            pass_fds=pipes,
            start_new_session=True,
        )
    except BaseException:
        os.close(to)
        os.close(from_)
        raise
    finally:
        os.close(requests)
        os.close(answers)
    return process, to, from_


def _error_stream() -> int:
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _end(process: subprocess.Popen[bytes], to: int, from_: int, stacks: IO[bytes], wait_s: float) -> None:
    """End the process, its children and the pipes."""
    os.close(to)
    if wait_s:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=wait_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.close(from_)
    stacks.close()


def function_process(
    file: Path, *, key: str, name: str, is_in_package: bool, folders: list[Path]
) -> tuple[FunctionProcess, Mapping[str, Any]]:
    """Return the process of a file whose sources have the hash `key`, and what its import said; one for all functions.

    Raises:
        Ended: it did not survive the import.
    """
    with _all_lock:
        known = _all.get((file, key))
        if known is None or not known.is_alive:
            known = FunctionProcess(file, name=name, is_in_package=is_in_package, folders=folders)
            said = known.start()
            if not said.get("ready"):
                known.close()
                return known, said
            _all[file, key] = known
        return known, {"ready": True}


_all: weakref.WeakValueDictionary[tuple[Path, str], FunctionProcess] = weakref.WeakValueDictionary()
_all_lock = threading.Lock()
