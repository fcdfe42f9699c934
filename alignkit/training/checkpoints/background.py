"""A checkpoint that is written while training goes on.

The step waits until the weights and moments are copied to the host; a thread writes the copies. The host needs their
bytes once more, 12 for a parameter trained by Adam, in blocks that are pinned where that is possible, and used again by
the next checkpoint. One is written at a time. What fails in the thread is raised by the next `check` or `wait`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from alignkit.distributed.shards import Piece
from alignkit.memory import free_machine_bytes

_logger = logging.getLogger(__name__)
_BLOCK_BYTES = 64 << 20  # a power of two: torch rounds what it pins up to one
_RESERVE = 0.1  # of the free memory, which the copies leave


class Background:
    """Writes in a thread of its own what is copied to the host."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._can_pin = torch.cuda.is_available()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def start(self, pieces: Sequence[Piece], write: Callable[[Sequence[Piece]], None]) -> bool:
        """Copy pieces, and let the thread write the copies once the checkpoint before is written.

        Returns: False where the machine has no memory for copies: nothing was started.
        """
        self.wait()
        if not self._has_room(pieces):
            return False
        copies = self._copied(pieces)
        self._writing = self._thread.submit(write, copies)
        return True

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is not on the disk yet."""
        return self._writing is not None and not self._writing.done()

    def wait(self) -> None:
        """Wait until what was started is on the disk; raises what failed there, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            except BaseException:
                if not writing.done():  # this wait was interrupted, not the writing
                    self._writing = writing
                raise

    def _has_room(self, pieces: Sequence[Piece]) -> bool:
        wanted = sum(_num_blocks(piece) for piece in pieces) - len(self._blocks)
        free = (1 - _RESERVE) * free_machine_bytes()
        if wanted * _BLOCK_BYTES <= free:
            return True
        _logger.warning(
            "the machine has no memory for a copy of what a checkpoint holds (%.1f GiB more, %.1f GiB are free): "
            "training waits for the disk",
            wanted * _BLOCK_BYTES / 2**30,
            free / 2**30,
        )
        return False

    def _copied(self, pieces: Sequence[Piece]) -> list[Piece]:
        copies, first = [], 0
        for piece in pieces:
            blocks = [self._block(first + number) for number in range(_num_blocks(piece))]
            copies.append(replace(piece, content=tuple(_fill(blocks, piece.content))))
            first += len(blocks)
        for device in {tensor.device for piece in pieces for tensor in piece.content}:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()  # before the next step changes the weights
        return copies

    def _block(self, number: int) -> Tensor:
        if number == len(self._blocks):
            self._blocks.append(self._new_block())
        return self._blocks[number]

    def _new_block(self) -> Tensor:
        if self._can_pin:
            try:
                return torch.empty(_BLOCK_BYTES, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as error:
                self._can_pin = False
                _logger.info("copies for checkpoints are not pinned: %s", error)
        return torch.empty(_BLOCK_BYTES, dtype=torch.uint8)


def _num_blocks(piece: Piece) -> int:
    return -(-sum(tensor.numel() for tensor in piece.content) // _BLOCK_BYTES)


def _fill(blocks: Sequence[Tensor], content: Sequence[Tensor]) -> Iterator[Tensor]:
    """Copy bytes end to end into blocks; yields what is filled of each."""
    at = 0
    for tensor in content:
        for part in _cut(tensor, _BLOCK_BYTES - at % _BLOCK_BYTES):
            start = at % _BLOCK_BYTES
            blocks[at // _BLOCK_BYTES][start : start + len(part)].copy_(part, non_blocking=True)
            at += len(part)
    for block in blocks:
        yield block[: min(at, _BLOCK_BYTES)]
        at -= _BLOCK_BYTES


def _cut(tensor: Tensor, first: int) -> Iterator[Tensor]:
    """A tensor's first bytes that fill up a block, and the rest by blocks."""
    yield tensor[:first]
    if len(tensor) > first:
        yield from tensor[first:].split(_BLOCK_BYTES)
