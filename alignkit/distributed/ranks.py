"""The processes that torchrun starts, and the values they exchange.

    torchrun --nproc-per-node N -m alignkit train METHOD ...

Ranks agree by JSON and plain bytes over gloo, nothing pickled; tensors of the model go by torch's own engine
(distributed/fsdp.py). Whatever one rank may fail at goes through `run_on_all` or `run_on_rank0`, which tell all the
others, so that none waits for a rank that gave up.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from alignkit.errors import AlignkitError, InputError, Interrupted, RunStopped, UsageError, first_line

T = TypeVar("T")
E = TypeVar("E", bound=AlignkitError)
_WAIT = datetime.timedelta(hours=24)  # for a rank that judges or prepares data; one that dies is noticed at once
_LOST = (
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Timed out",
    "timed out",
    "remote peer",
    "NCCL",
    "gloo",
)
_KINDS: dict[str, type[AlignkitError]] = {
    kind.__name__: kind for kind in (AlignkitError, UsageError, InputError, RunStopped, Interrupted)
}


class World:
    """The ranks that work together; alone, every question is answered by this process.

    Args:
        group: gloo's, over which they talk.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size = rank, size
        self._group = group
        self.apart: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered around a rank's own work in `each`: where a signal may break it off."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, x: Any) -> list[Any]:
        """Return every rank's value, in order of ranks; JSON types only."""
        if self.size == 1:
            return [x]
        return [json.loads(part) for part in self._gather_bytes(json.dumps(x).encode())]

    def gather_arrays(self, x: np.ndarray) -> list[np.ndarray]:
        """Return every rank's array of one dimension, in order of ranks; they have one type."""
        if self.size == 1:
            return [x]
        return [np.frombuffer(part, x.dtype) for part in self._gather_bytes(np.ascontiguousarray(x).tobytes())]

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        return any(self.gather(flag))

    def all_reduce_sums(self, own: Mapping[str, float]) -> dict[str, float]:
        """Add up numbers by name over all ranks, in order of ranks."""
        total: dict[str, float] = {}
        for part in self.gather(dict(own)):
            for name, x in part.items():
                total[name] = total.get(name, 0) + x
        return total

    def run_on_all(self, work: Callable[[], T]) -> list[T]:
        """Let every rank work apart and return all results (JSON types); what one raises, all raise.

        Raises:
            KeyboardInterrupt: a signal broke it off on a rank.
        """
        if self.size == 1:
            return [work()]
        return self._shared(*self._attempt(work))

    def run_on_rank0(self, work: Callable[[], T]) -> T:
        """Let rank 0 work and give every rank its result (JSON types); what it raises, all raise."""
        if self.size == 1:
            return work()
        attempt: tuple[dict[str, Any], Exception | None] = (
            self._attempt(work) if self.is_first else ({"value": None}, None)
        )
        found: list[T] = self._shared(*attempt)
        return found[0]

    def reported_by_rank0(self, error: E) -> E:
        """Mark an error that every rank raises, so that the first alone prints it."""
        error.is_reported_by_rank0 = not self.is_first
        return error

    def _attempt(self, work: Callable[[], Any]) -> tuple[dict[str, Any], Exception | None]:
        try:
            with self.apart():
                return {"value": work()}, None
        except KeyboardInterrupt:
            return {"interrupted": True}, None
        except AlignkitError as error:
            return {"error": str(error), "kind": _kind(error)}, error
        except OSError as error:
            return {"error": error.strerror or str(error), "errno": error.errno}, error

    def _shared(self, attempt: dict[str, Any], error: Exception | None) -> list[Any]:
        """Return all ranks' values, or raise what one of them met: a rank its own error, else the first rank's."""
        found = self.gather(attempt)
        for one in found:
            if "error" in one:
                error = error or _error(one)
        if error is not None:
            raise self.reported_by_rank0(error) if isinstance(error, AlignkitError) else error
        if any("interrupted" in one for one in found):
            raise KeyboardInterrupt
        return [one["value"] for one in found]

    def _gather_bytes(self, own: bytes) -> list[bytes]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(own)]), group=self._group)
        sizes = [int(length) for length in lengths]
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        padded[: len(own)] = torch.frombuffer(bytearray(own or b"\0"), dtype=torch.uint8)[: len(own)]
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self._group)
        return [part[:size].numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]


ALONE = World()


def _kind(error: AlignkitError) -> str:
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS), "AlignkitError")


def _error(attempt: Mapping[str, Any]) -> Exception:
    if "kind" in attempt:
        return _KINDS[attempt["kind"]](attempt["error"])
    return OSError(attempt["errno"], attempt["error"])


@contextlib.contextmanager
def joined(go_on: Callable[[], str]) -> Iterator[World]:
    """Join the ranks that torchrun started; alone without it. gloo on the CPU, nccl on CUDA.

    Args:
        go_on: gives the command that goes on with the run, for the message when another rank is lost.

    Raises:
        RunStopped: the ranks do not find one another; another rank died or no longer answers.
    """
    if num_started() == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend)
    except RuntimeError as error:  # a rank that torchrun starts again may find one that is not there yet
        raise RunStopped(f"the ranks did not find one another: {first_line(error)}") from error
    world = World(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_WAIT))
    is_done = False
    try:
        yield world
        is_done = True
    except (RuntimeError, KeyboardInterrupt) as error:
        if not _is_lost(error):
            raise
        _ignore_termination()
        raise RunStopped(
            f"rank {world.rank} of {world.size} lost contact with another rank, which died or no longer answers; go on "
            f"from the last checkpoint, on as many ranks as you like, with: {go_on()}"
        ) from error
    finally:
        if is_done or backend == "gloo":  # nccl would wait for what a lost rank never sends
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def _is_lost(error: BaseException | None) -> bool:
    """Whether another rank was lost: by this error, or by one after which a signal came."""
    while error is not None:
        is_of_ranks = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
        if is_of_ranks and any(sign in str(error) for sign in _LOST):
            return True
        error = error.__context__
    return False


def _ignore_termination() -> None:
    """Ignore SIGTERM from now on: torchrun sends it when a rank died, but this one ends by itself and says why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def num_started() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_restarted() -> bool:
    """Whether torchrun started these ranks again after a failure: the run then goes on by itself."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
