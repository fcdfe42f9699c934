"""Which rows an optimizer step sees: a pure function of (seed, epoch, step), whatever the packing or the resume."""

from __future__ import annotations

import functools

import numpy as np

from alignkit.data.trees.packs import pack_lengths


def steps_per_epoch(num_rows: int, prompts_per_step: int) -> int:
    """Optimizer steps of one pass over the rows; the last may see fewer rows."""
    return -(-num_rows // prompts_per_step)


def step_rows(num_rows: int, prompts_per_step: int, *, seed: int, step: int) -> np.ndarray:
    """Return the row numbers of an optimizer step (from 1), int64 [<= prompts_per_step].

    Each epoch is its own permutation of the rows, drawn from (seed, epoch).
    """
    epoch, place = divmod(step - 1, steps_per_epoch(num_rows, prompts_per_step))
    return _order(num_rows, seed, epoch)[place * prompts_per_step : (place + 1) * prompts_per_step]


@functools.lru_cache(maxsize=2)  # an epoch has many steps; the next one's first batch may be read ahead
def _order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=(seed << 64) + epoch)).permutation(num_rows)
    order.flags.writeable = False
    return order


class EpochPacking:
    """`pack_scope = "epoch"`: all trees of an epoch are packed together, and a step takes whole rows of tokens.

    Rows are fuller than when each step packs its own trees, and batches are others: how many trees a step sees follows
    from the rows it gets. Their number is the same in every epoch, and as many steps make an epoch as otherwise, unless
    there are fewer rows. Everything follows from (seed, epoch, step) and the trees' lengths.

    Args:
        length_P: int64 [P], tokens of each tree.
        capacity: tokens a row holds.
        prompts_per_step: trees of a step in step scope.
    """

    def __init__(self, length_P: np.ndarray, *, capacity: int, prompts_per_step: int, seed: int) -> None:
        self.length_P, self.capacity, self.seed = length_P, capacity, seed
        self.rows = self._pack(0)
        self._epoch = 0
        self.steps_per_epoch = min(steps_per_epoch(len(length_P), prompts_per_step), len(self.rows))

    def step(self, step: int) -> list[list[int]]:
        """Return the tree numbers of each row of an optimizer step (from 1)."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self.rows, self._epoch = self._pack(epoch), epoch
        first, last = (len(self.rows) * n // self.steps_per_epoch for n in (place, place + 1))
        return self.rows[first:last]

    def _pack(self, epoch: int) -> list[list[int]]:
        """Pack the trees in the epoch's order, and put the rows into an order of their own."""
        generator = np.random.Generator(np.random.Philox(key=(self.seed << 64) + epoch))
        order = generator.permutation(len(self.length_P))
        rows = pack_lengths(self.length_P[order], self.capacity)
        return [order[rows[n]].tolist() for n in generator.permutation(len(rows))]
