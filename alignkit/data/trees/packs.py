"""Trees packed into rows: what one forward pass sees.

Shape letters: S packed tokens, T scored tokens, N completions. The first token of every completion is predicted
from the prompt's last hidden state, so the source of each scored token is gathered rather than shifted. Position ids
restart at the prompt's length for every completion.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from alignkit import _native
from alignkit.data.trees.flat import FlatTrees, ranges
from alignkit.data.trees.trees import Tree

ROW_CAPACITY = 4096  # tokens of a row, as the data commands count rows
MICRO_BATCH_TOKENS = 1024  # tokens computed at once where no plan says how many: a CPU's caches hold them


@dataclass(frozen=True)
class Span:
    """Where one tree lies in the row: [start, prompt_end) and a [start, end) for each completion."""

    start: int
    prompt_end: int
    completions: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        return self.completions[-1][1] if self.completions else self.prompt_end


@dataclass(frozen=True)
class Pack:
    """One row of trees.

    Args:
        trees: the trees, in the order they lie.
        ids_S, position_S: int64 [S], token ids and position ids.
        source_T: int64 [T], index in S of the hidden state that predicts the scored token.
        target_T: int64 [T], the scored token's id.
        completion_T: int64 [T], which completion it belongs to.
        group_N: int64 [N], which tree of this row each completion belongs to.
        num_tokens_N: int64 [N], scored tokens.
        last_N: int64 [N], index in S of each completion's last token.
        reference_length_N: int64 [N], the row's reference length.
        spans: one for each tree.
        label_N: float32 [N], the unit's labels; None where it has none.
    """

    trees: Sequence[Tree]
    ids_S: np.ndarray
    position_S: np.ndarray
    source_T: np.ndarray
    target_T: np.ndarray
    completion_T: np.ndarray
    group_N: np.ndarray
    num_tokens_N: np.ndarray
    last_N: np.ndarray
    reference_length_N: np.ndarray
    spans: tuple[Span, ...]
    label_N: np.ndarray | None = None

    @property
    def num_completions(self) -> int:
        return len(self.group_N)

    def filled_up(self, num_tokens: int) -> Pack:
        """Return a row of at least this many tokens: a tree that nobody scores fills what is missing.

        `trees` are left as they are.
        """
        size = len(self.ids_S)
        missing = num_tokens - size
        if missing <= 0:
            return self
        return replace(
            self,
            ids_S=np.pad(self.ids_S, (0, missing)),
            position_S=np.pad(self.position_S, (0, missing)),
            spans=(*self.spans, Span(size, num_tokens, ())),
        )


def lay_out(trees: Sequence[Tree], numbers: Sequence[int] | np.ndarray | None = None) -> Pack:
    """Lay trees one after another into one row: all of them, or those of these numbers, in that order."""
    if numbers is not None and not isinstance(trees, FlatTrees):
        trees, numbers = [trees[int(number)] for number in numbers], None
    flat = FlatTrees.of(trees)
    which = np.arange(len(flat)) if numbers is None else np.asarray(numbers, np.int64)
    ids_S, position_S, source_T, target_T, completion_T, group_N, num_tokens_N, last_N, ends = _native.lay_out(
        flat.flat_ids, flat.flat_scored, flat.token_ends, flat.segment_ends, which
    )
    return Pack(
        trees=tuple(trees) if numbers is None else flat.some(which),
        ids_S=ids_S,
        position_S=position_S,
        source_T=source_T,
        target_T=target_T,
        completion_T=completion_T,
        group_N=group_N,
        num_tokens_N=num_tokens_N,
        last_N=last_N,
        reference_length_N=flat.table[which, 1][group_N],
        spans=_spans(ends.tolist(), flat.table[which, 0].tolist()),
        label_N=_labels(flat, which),
    )


def _labels(flat: FlatTrees, which: np.ndarray) -> np.ndarray | None:
    """The labels of the completions of these trees, float32 [N]."""
    if flat.labels is None:
        return None
    # Each tree's first segment is its prompt, which has no label: n trees before this one leave n segments out.
    return flat.labels[ranges(flat.segment_ends[which] - which, flat.table[which, 0] - 1)]


def _spans(ends: Sequence[int], num_segments: Sequence[int]) -> tuple[Span, ...]:
    """Where each tree lies, from the ends of the segments of all."""
    spans, at, start = [], 0, 0
    for count in num_segments:
        own = ends[at : at + count]
        spans.append(Span(start, own[0], tuple(pairwise(own))))
        start, at = own[-1], at + count
    return tuple(spans)


def pack(trees: Sequence[Sized], capacity: int) -> list[list[int]]:
    """Assign trees to rows of `capacity` tokens by best fit decreasing; a longer tree gets a row of its own.

    Returns the tree numbers of each row; every tree is in exactly one row, in the order given.
    """
    return pack_lengths(np.array([len(tree) for tree in trees], np.int64), capacity)


def pack_evenly(trees: Sequence[Sized], capacity: int) -> list[list[int]]:
    """Pack trees into as many rows as `pack` needs, but of about equal length: a step's peak is its longest row's.

    Returns the tree numbers of each row; every tree is in exactly one row, in the order given.
    """
    rows, lengths = pack(trees, capacity), [len(tree) for tree in trees]

    def longest(rows: Sequence[Sequence[int]]) -> int:
        return max((sum(lengths[number] for number in row) for row in rows), default=0)

    even = [row for row in share_rows(lengths, max(1, len(rows))) if row]
    return even if longest(even) < longest(rows) else rows


def pack_lengths(length_P: np.ndarray, capacity: int) -> list[list[int]]:
    """Do as `pack`, given the trees' lengths in tokens, int64 [P]."""
    rows: list[list[int]] = [[int(number)] for number in np.flatnonzero(length_P > capacity)]
    fitting = np.flatnonzero(length_P <= capacity)
    row_of, num_rows = _native.pack_trees(length_P[fitting], capacity)
    order = np.argsort(row_of, kind="stable")
    ends = np.cumsum(np.bincount(row_of, minlength=num_rows))[:-1]
    return rows + [part.tolist() for part in np.split(fitting[order], ends)] if num_rows else rows


def fill(length_P: np.ndarray, rows: Sequence[Sequence[int]], capacity: int) -> float:
    """Return which share of the rows' space holds tokens; a tree longer than a row counts as a full row."""
    return float(np.minimum(length_P, capacity).sum()) / (capacity * len(rows)) if rows else 0.0


def attention_cost(tree: Tree) -> int:
    """Count pairs of (query, key): p (p + 1) / 2 of the prompt, c p + c (c + 1) / 2 of each completion."""
    prompt = len(tree.prompt)
    own = (len(completion) for completion in tree.completions)
    return prompt * (prompt + 1) // 2 + sum(length * prompt + length * (length + 1) // 2 for length in own)


def attention_costs(trees: FlatTrees) -> np.ndarray:
    """Do as `attention_cost` for each of many trees, int64 [P]."""
    first = trees.segment_ends[:-1]
    prompt = np.repeat(trees.segment_lengths[first], trees.table[:, 0])
    prompt[first] = 0  # nothing stands before a prompt
    length = trees.segment_lengths
    return np.add.reduceat(length * prompt + length * (length + 1) // 2, first) if len(first) else first


def pack_for_ranks(trees: Sequence[Tree], capacity: int, num_ranks: int) -> list[list[list[int]]]:
    """Pack trees as `pack` does, and share the rows among ranks that train together.

    Ranks get about the same attention cost, and equally many rows, since all of them take part in every forward pass;
    where the rows cannot be divided, the last row of some ranks is empty.

    Returns the rows of each rank, each the numbers of its trees: every tree is in exactly one row of one rank.
    """
    rows = pack(trees, capacity)
    costs = [sum(attention_cost(trees[number]) for number in row) for row in rows]
    most = -(-len(rows) // num_ranks)
    ranks = [[rows[number] for number in numbers] for numbers in share_rows(costs, num_ranks, equally_many=True)]
    return [own + [[]] * (most - len(own)) for own in ranks]


def share_rows(costs: Sequence[int], num_ranks: int, *, equally_many: bool = False) -> list[list[int]]:
    """Share rows among ranks by their attention cost, the costliest first to the least loaded.

    Args:
        equally_many: no rank gets more rows than ceil(rows / ranks).

    Returns the row numbers of each rank, in order.
    """
    most = -(-len(costs) // max(1, num_ranks)) if equally_many else len(costs)
    rank_of = _native.share_rows(np.array(costs, np.int64), num_ranks, most)
    return [np.flatnonzero(rank_of == rank).tolist() for rank in range(num_ranks)]
