"""Ranks without torchrun: forked after all imports and before any tensor work, with what torchrun would set.

Like torchrun's agent it ends the others some time after a rank has died: one that still waits for the dead one to join
(the rendezvous, where nothing tells it) would wait for long.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

GRACE_S = 15.0  # torchrun gives 30
LIMIT_S = 120.0  # of a run altogether
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def fork_ranks(
    size: int,
    work: Callable[[], int],
    *,
    log: Callable[[int], Path],
    before: Mapping[int, Callable[[], None]] | None = None,
    restarts: int = 0,
    kill: tuple[int, float] | None = None,
) -> list[int]:
    """Run `work` on so many ranks at once; returns their exit statuses as `subprocess` gives them.

    Args:
        log: where a rank's output goes.
        before: what a rank does first, by rank.
        restarts: how often torchrun would have started them before.
        kill: a rank, and the seconds after which it is killed unless it has ended.

    A status of -9 is that of a rank that was killed, also by the end of `GRACE_S` or `LIMIT_S`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rank_of = {}
    for rank in range(size):
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        given["TORCHELASTIC_RESTART_COUNT"] = restarts
        child = os.fork()
        if child == 0:
            os.environ |= {key: str(value) for key, value in given.items()} | {"MASTER_ADDR": "127.0.0.1"}
            _work(work, log(rank), (before or {}).get(rank))
        rank_of[child] = rank
    codes: dict[int, int] = {}
    ends_at = time.monotonic() + LIMIT_S
    kill_at = None if kill is None else time.monotonic() + kill[1]
    while rank_of:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            codes[rank_of.pop(child)] = code = os.waitstatus_to_exitcode(status)
            if code:
                ends_at = min(ends_at, time.monotonic() + GRACE_S)
        elif time.monotonic() >= ends_at:
            _kill(list(rank_of))
        elif kill is not None and kill_at is not None and time.monotonic() >= kill_at:
            kill_at = None
            _kill([process for process, rank in rank_of.items() if rank == kill[0]])
        else:
            time.sleep(0.003)
    return [codes[rank] for rank in range(size)]


def _kill(processes: list[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)
    time.sleep(0.01)


def _work(work: Callable[[], int], log: Path, before: Callable[[], None] | None) -> None:
    code = 99
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)  # Linux: no rank outlives a campaign that is stopped
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if before is not None:
            before()
        code = work()
    finally:
        sys.stdout.flush()
        os._exit(code)
