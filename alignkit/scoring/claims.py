"""Who claims a score: the name of a process and its call, and whether its claim still holds.

Processes that share a ledger buy each score once. A process claims the scores that it is about to ask for. Another one
that wants them too waits, and takes what the first one gets (score_cache.py). A claim ends with its answer, with the
call that made it, with its process (on the same machine, a killed one's claims are taken over at once), or when it was
not renewed for `STALE_S` (another machine, a stopped process). Nobody waits while holding a claim that he does not work
on, so no two processes wait for each other.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

STALE_S = 120.0


def new_owner() -> str:
    """Return a name to claim by, of this process and one call."""
    pid = os.getpid()
    return f"{_place()} {pid} {_started(pid)} {uuid.uuid4().hex}"


def is_held(name: object, renewed: object) -> bool:
    """Whether a claim still holds: renewed lately, and its process there where that can be seen from here."""
    if not isinstance(name, str) or not isinstance(renewed, int | float) or abs(time.time() - renewed) > STALE_S:
        return False
    place, _, rest = name.partition(" ")
    pid, _, rest = rest.partition(" ")
    started, _, _ = rest.partition(" ")
    if not pid.isascii() or not pid.isdigit() or len(pid) > 10:
        return False
    return place != _place() or (started != "" and _started(int(pid)) == started)


def _started(pid: int) -> str | None:
    """When a process began, as the system counts; "?" where that is not known, None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _alive(pid)
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZXx" else fields[18]  # field 22 of proc(5): ticks since the machine started


def _alive(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "?"
    except (OSError, OverflowError):
        return None
    return "?"


@cache
def _place() -> str:
    """A name for what one process number means: this machine, since it started, in this container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
