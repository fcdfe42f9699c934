"""Many trees over flat arrays: ids and scores end to end; a tree is made when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar, overload

import numpy as np

from alignkit.data.trees.trees import Segment, Tree

_T = TypeVar("_T")


class Lazy(Sequence[_T]):
    """A sequence whose elements are made when they are asked for."""

    @abstractmethod
    def _make(self, number: int) -> _T:
        """Make the element of a number from 0 to below the length."""

    @overload
    def __getitem__(self, key: int) -> _T: ...
    @overload
    def __getitem__(self, key: slice) -> list[_T]: ...
    def __getitem__(self, key: int | slice) -> _T | list[_T]:
        if isinstance(key, slice):
            return [self._make(number) for number in range(*key.indices(len(self)))]
        number = int(key) + (len(self) if key < 0 else 0)
        if not 0 <= number < len(self):
            raise IndexError(f"{key} of {len(self)}")
        return self._make(number)

    def __iter__(self) -> Iterator[_T]:
        return (self._make(number) for number in range(len(self)))

    def some(self, numbers: np.ndarray) -> Sequence[_T]:
        """View the elements of these numbers, int64 [k], in that order."""
        return _Some(self, numbers)


class _Some(Lazy[_T]):
    def __init__(self, elements: Lazy[_T], numbers: np.ndarray) -> None:
        self._elements, self._numbers = elements, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _make(self, number: int) -> _T:
        return self._elements[int(self._numbers[number])]


class FlatTrees(Lazy[Tree]):
    """Trees end to end: each is its segments, the prompt first.

    Args:
        names: the row's id of each tree.
        ids, scored: int32 and bool [tokens].
        segment_lengths: int64 [segments], tokens of each.
        table: int64 [trees, 2 or more]: segments of each tree, its reference's length in tokens.
        labels: float32 [completions], the unit's label of each; None where the unit has none.

    `token_ends` and `segment_ends` say where each segment's tokens and each tree's segments begin, and end, int64.

    Raises:
        ValueError: the arrays do not belong together.
    """

    def __init__(
        self,
        names: Sequence[str],
        ids: np.ndarray,
        scored: np.ndarray,
        segment_lengths: np.ndarray,
        table: np.ndarray,
        labels: np.ndarray | None = None,
    ) -> None:
        self.names, self.flat_ids, self.flat_scored = names, ids, scored
        self.segment_lengths, self.table, self.labels = segment_lengths, table, labels
        self.token_ends = np.concatenate([[0], np.cumsum(segment_lengths)])
        self.segment_ends = np.concatenate([[0], np.cumsum(table[:, 0])])
        if len(names) != len(table) or self.segment_ends[-1] != len(segment_lengths):
            raise ValueError("names, trees and segments do not agree")
        if not self.token_ends[-1] == len(ids) == len(scored):
            raise ValueError("ids and segments do not agree")
        if labels is not None and len(labels) != len(segment_lengths) - len(table):
            raise ValueError("labels and completions do not agree")

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> FlatTrees:
        """Lay trees end to end."""
        if isinstance(trees, FlatTrees):
            return trees
        segments = [segment for tree in trees for segment in tree.segments]
        return FlatTrees(
            [tree.row_id for tree in trees],
            np.concatenate([np.zeros(0, np.int32), *(segment.ids for segment in segments)]).astype(
                np.int32, copy=False
            ),
            np.concatenate([np.zeros(0, bool), *(segment.scored for segment in segments)]),
            np.array([len(segment) for segment in segments], np.int64),
            np.array([[len(t.segments), t.reference_length] for t in trees], np.int64).reshape(-1, 2),
            np.array([x for t in trees for x in t.labels], np.float32) if any(t.labels for t in trees) else None,
        )

    def __len__(self) -> int:
        return len(self.table)

    def lengths(self) -> np.ndarray:
        """Tokens of each tree, int64 [trees]."""
        return np.diff(self.token_ends[self.segment_ends])

    def check(self) -> None:
        """Check of every tree what `Tree` checks of one: the prompt is unscored, what is scored has a token before it.

        Raises:
            ValueError: names the tree.
        """
        prompts, ends = self.segment_ends[:-1], self.token_ends
        counts = np.concatenate([[0], np.cumsum(self.flat_scored)])
        is_scored = counts[ends[prompts + 1]] > counts[ends[prompts]]
        if is_scored.any():
            raise ValueError(f"tree {self.names[int(np.argmax(is_scored))]}: the prompt is scored")
        # A scored first token is predicted by the prompt's last hidden state, so an empty prompt leaves it no source.
        prompt_of = np.repeat(prompts, self.table[:, 0])
        is_first = (ends[prompt_of + 1] == ends[prompt_of]) & (self.segment_lengths > 0)
        first = np.flatnonzero(is_first)
        wrong = first[self.flat_scored[ends[first]]]
        if len(wrong):
            name = self.names[int(np.searchsorted(self.segment_ends, wrong[0], side="right")) - 1]
            raise ValueError(f"tree {name}: the first token of a text without prompt cannot be predicted")

    def _make(self, number: int) -> Tree:
        first, last = int(self.segment_ends[number]), int(self.segment_ends[number + 1])
        ids, scored = self.flat_ids, self.flat_scored
        ends = self.token_ends[first : last + 1].tolist()  # where this tree's segments begin, and where the last ends
        segments = [Segment(ids[start:end], scored[start:end]) for start, end in pairwise(ends)]
        labels: list[float] = []
        if self.labels is not None:  # one for each segment but the prompts, of which `number` stand before these
            labels = self.labels[first - number : last - number - 1].tolist()
        return Tree.unchecked(self.names[number], tuple(segments), int(self.table[number, 1]), tuple(labels))


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Join range(start, start + length) of each, int64."""
    # A range begins at place `ends - lengths` of the result, so place and number differ by the same all along it.
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def gathered(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Join stretches of values, of int64 starts and lengths; those that lie one behind another are copied as one."""
    ends = starts + lengths
    breaks = np.flatnonzero(starts[1:] != ends[:-1])
    firsts, lasts = np.concatenate([starts[:1], starts[breaks + 1]]), np.concatenate([ends[breaks], ends[-1:]])
    runs = zip(firsts.tolist(), lasts.tolist(), strict=True)
    return np.concatenate([values[:0], *(values[start:end] for start, end in runs)])


def equal_ranges(
    left: tuple[np.ndarray, np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Say of each pair of stretches (values, starts, ends) whether they hold the same values, bool."""
    (values, starts, ends), (others, other_starts, other_ends) = left, right
    lengths = ends - starts
    equal: Any = lengths == other_ends - other_starts
    which = np.flatnonzero(equal)
    same = values[ranges(starts[which], lengths[which])] == others[ranges(other_starts[which], lengths[which])]
    wrong = np.repeat(which, lengths[which])[~same]
    equal[wrong] = False
    return np.asarray(equal, bool)
