"""The token tree: a prompt followed by one or more completions, what every method trains on.

A tree is one row looked at; what is stored, packed and computed lies over flat arrays (flat.py, packs.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segment:
    """A prompt, or a completion of it.

    Args:
        ids: int32 [n], token ids.
        scored: bool [n], which tokens the loss sees.
    """

    ids: np.ndarray
    scored: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Tree:
    """The segments of one row: the prompt first, then its completions.

    Args:
        row_id: the data row's id.
        segments: the prompt, then each of its completions.
        reference_length: length of the row's reference answer with its end token, in tokens; 0 where it has none.
        labels: the unit's label of each completion; () where the unit has none.
    """

    row_id: str
    segments: tuple[Segment, ...]
    reference_length: int = 0
    labels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.segments[0].scored.any():
            raise ValueError(f"tree {self.row_id}: the prompt is scored")
        if len(self.prompt) == 0 and any(len(c) and c.scored[0] for c in self.completions):
            raise ValueError(f"tree {self.row_id}: the first token of a text without prompt cannot be predicted")

    @classmethod
    def unchecked(
        cls, row_id: str, segments: tuple[Segment, ...], reference_length: int, labels: tuple[float, ...]
    ) -> Tree:
        """Make a tree of segments that were checked before: many at once, or when they were stored."""
        made = object.__new__(cls)
        made.__dict__.update(row_id=row_id, segments=segments, reference_length=reference_length, labels=labels)
        return made

    @property
    def prompt(self) -> Segment:
        """The prompt, which is not scored; it may be empty."""
        return self.segments[0]

    @property
    def completions(self) -> tuple[Segment, ...]:
        """The answers to the prompt."""
        return self.segments[1:]

    def __len__(self) -> int:
        """Number of tokens in a pack; the prompt counts once."""
        return sum(len(segment) for segment in self.segments)


def tree(
    row_id: str, prompt_ids: np.ndarray, completions: list[tuple[np.ndarray, np.ndarray]], *, reference_length: int = 0
) -> Tree:
    """Make a tree from a prompt and (ids, scored) of each completion."""
    prompt_ids = np.asarray(prompt_ids, np.int32)
    root = Segment(prompt_ids, np.zeros(len(prompt_ids), bool))
    children = (Segment(np.asarray(ids, np.int32), np.asarray(scored, bool)) for ids, scored in completions)
    return Tree(row_id, (root, *children), reference_length)
