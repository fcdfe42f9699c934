"""Work in processes forked after all imports and before any tensor work: dozens a minute, and really killed."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def in_child(
    work: Callable[[], object], *, log: Path, kill_after_s: float | None = None, modules: Path | None = None
) -> int:
    """Fork, work, and return the exit status as `subprocess` gives it.

    Args:
        log: where its output goes.
        kill_after_s: kill it then, unless it has ended.
        modules: where it writes the names of what it imported.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            code = int(work() or 0)  # type: ignore[call-overload]
            if modules is not None:
                modules.write_text("\n".join(sys.modules), encoding="utf-8")
        finally:
            with contextlib.suppress(Exception):  # what was run may have closed it; this process must end here
                sys.stdout.flush()
            os._exit(code)
    deadline = None if kill_after_s is None else time.monotonic() + kill_after_s
    while True:
        ended, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)


def die_before(number: int, below: str) -> None:
    """End this process by SIGKILL just before the given file operation below a folder."""
    left = number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _FILE_EVENTS and arguments and str(arguments[0]).startswith(below):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def import_same(modules: Path) -> None:
    """Import here what a run imported there, so that the next forked one starts at once; no tensor is made."""
    for name in modules.read_text(encoding="utf-8").split():
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def last_line(log: Path) -> str:
    """The last line a process wrote."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "(nothing written)"
