"""Where pieces run: a slot is a process that has imported what training needs and computed nothing; it forks a piece.

Imports take 4 to 8 seconds of a core; a slot takes them once, while the tournament itself still reads. Each piece has
a process of its own all the same: its memory is freed whatever happens in it, and one that dies ends no other. Nothing
is computed before the fork, so neither CUDA nor a thread of torch is there yet (docs/decisions/012). What was imported
stays: nothing looks for garbage in it, neither while it is imported nor in a piece, which would copy it page by page.

    tournament --stdin: what to do, pickled-->  slot --fork--> piece
               <--a pipe: its exit code, a line-

A slot dies with the tournament and a piece with its slot, by the kernel's own means, whatever killed them. A slot has a
session of its own: a terminal's Ctrl-C reaches the tournament alone, which hands it on once.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import logging
import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

NEEDED = (  # of transformers what every model and tokenizer imports when it is loaded
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.modeling_layers",
    "alignkit.training.run.train_run",
    "alignkit.judging.answers",
    "alignkit.judging.answer_file",
    "alignkit.tournaments.answer_kl",
    "alignkit.tournaments.tournament",
)


class Slot:
    """One piece at a time, on this slot's GPU and share of the cores.

    Args:
        environment: over this process's own; a slot has it before it imports anything.
        imports: modules.
    """

    def __init__(self, environment: Mapping[str, str], imports: Sequence[str] = NEEDED) -> None:
        self._environment, self._imports = dict(os.environ) | dict(environment), imports
        self._begin()

    def _begin(self) -> None:
        self._codes, codes = os.pipe()
        words = [str(codes), str(os.getpid()), *self._imports]
        command = [sys.executable, "-m", "alignkit.tournaments.slots", *words]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[codes], env=self._environment, start_new_session=True
        )
        os.close(codes)

    def start(self, work: Callable[[], int], log: Path | None) -> None:
        """Begin a piece: call `work`, which can be pickled, in a process of its own.

        Args:
            log: the file that its words are appended to; None: they go where this process's go.
        """
        if self._process.poll() is not None:  # it was killed, and its piece with it
            self.close()
            self._begin()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it was killed just now: `poll` says so
            pickle.dump((work, log), self._process.stdin)
            self._process.stdin.flush()

    def poll(self) -> int | None:
        """The exit code of the piece that was begun last, as `subprocess` gives it; None while it runs."""
        return self._code() if select.select([self._codes], [], [], 0)[0] else None

    def ask_to_end(self) -> None:
        """Ask the piece that runs to save what it has and to end."""
        self._process.terminate()

    def wait(self) -> int:
        """Wait for the piece that runs; returns what `poll` then does."""
        return self._code()

    def _code(self) -> int:
        said = os.read(self._codes, 16)
        return int(said) if said else self._process.wait() or 1

    def close(self) -> None:
        """End the slot; no piece runs."""
        self._process.terminate()
        with suppress(BrokenPipeError):
            self._process.communicate()
        os.close(self._codes)


def main() -> None:
    """Be a slot: fork a piece for each request until there are no more, or the tournament is gone."""
    codes, tournament = map(int, sys.argv[1:3])
    _die_with(tournament)
    ended: list[int] = []  # a piece's exit code, once it has one
    atexit.register(_end_at_once, ended)  # called last: what is imported below registers later
    gc.disable()
    for name in sys.argv[3:]:
        with suppress(ImportError):  # the piece says what it cannot do without it
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    slot = os.getpid()
    while True:
        try:
            work, log = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        piece = os.fork()
        if not piece:
            _die_with(slot)
            os.close(codes)
            _redirect(log)
            ended.append(work())
            sys.exit(ended[0])
        signal.signal(signal.SIGTERM, lambda number, frame, piece=piece: _hand_on(piece, number))  # type: ignore[misc]
        code = os.waitstatus_to_exitcode(os.waitpid(piece, 0)[1])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.write(codes, f"{code}\n".encode())


def _end_at_once(ended: Sequence[int]) -> None:
    """End a piece behind its threads and exit functions: to take modules and memory apart takes half a second."""
    if ended:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


def _hand_on(piece: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(piece, number)


def _redirect(log: Path | None) -> None:
    """Take the requests away from a piece, and let its words go into a file."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)


def _die_with(parent: int) -> None:
    """Let this process end when its parent does: nobody else would end it, and a piece holds its run's folder."""
    if sys.platform == "linux":
        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
