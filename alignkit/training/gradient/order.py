"""Which rows an optimizer step sees: a pure function of (seed, epoch, step), whatever the packing or the resume."""

from __future__ import annotations

import functools

import numpy as np


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
