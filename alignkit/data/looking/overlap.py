"""Which prompts of one data set share runs of words with the prompts of another: test questions seen in training.

A prompt's share is that of its distinct runs of n words that stand in some prompt of the other data. System messages
are left out: they are the same in many rows. Words, and how short prompts are compared: rust_ext/core/src/overlap.rs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from alignkit._native import OverlapIndex
from alignkit.data.reading.messages import text_of_turn
from alignkit.data.reading.rows import Row

SIZE = 8  # words of a run
THRESHOLD = 0.5  # share of a prompt's runs
_BATCH_ROWS = 1000


@dataclass(frozen=True)
class Found:
    """A prompt that overlaps: its row's id, the share of its runs that were seen, and the first row with one."""

    id: str
    share: float
    first: str


@dataclass(frozen=True)
class Overlap:
    """What was compared, and the prompts whose share is at least the threshold, the largest share first."""

    num_rows: int
    num_prompts: int
    size: int
    threshold: float
    found: tuple[Found, ...]


def overlap(rows: Iterable[Row], prompts: Iterable[Row], *, size: int = SIZE, threshold: float = THRESHOLD) -> Overlap:
    """Look for the runs of `prompts` in the prompts of `rows`, which stream past.

    Args:
        size: words of a run, at least 1.
        threshold: share of a prompt's runs from which on it is found, above 0.
    """
    asked = [(row.name, prompt_text(row)) for row in prompts]
    index = OverlapIndex([text for _, text in asked], size)
    ids: list[str] = []
    stream = iter(rows)
    while batch := list(islice(stream, _BATCH_ROWS)):
        index.scan([prompt_text(row) for row in batch])
        ids += [row.name for row in batch]
    num_runs, num_seen, first = index.overlaps()
    share = num_seen / np.maximum(num_runs, 1)
    which = np.flatnonzero((num_runs > 0) & (share >= threshold))
    which = which[np.argsort(-share[which], kind="stable")]
    found = tuple(Found(asked[n][0], float(share[n]), ids[first[n]]) for n in which)
    return Overlap(len(ids), len(asked), size, threshold, found)


def prompt_text(row: Row) -> str:
    """Return the prompt's text, turn by turn, without system messages."""
    return "\n".join(text_of_turn(message) for message in row.prompt if message["role"] != "system")
