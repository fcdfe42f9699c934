"""Trees laid into rows: what one forward pass sees.

Shape letters: S tokens laid out, T scored tokens, N completions. The first token of every completion is predicted
from the prompt's last hidden state, so the source of each scored token is gathered rather than shifted. Position ids
restart at the prompt's length for every completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkit import _native
from alignkit.data.trees import Tree


@dataclass(frozen=True)
class Span:
    """Where one tree lies in the row: [start, prompt_end) and a [start, end) for each completion."""

    start: int
    prompt_end: int
    completions: tuple[tuple[int, int], ...]


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
        target_num_tokens_N: int64 [N], the row's reference length.
        spans: one for each tree.
    """

    trees: tuple[Tree, ...]
    ids_S: np.ndarray
    position_S: np.ndarray
    source_T: np.ndarray
    target_T: np.ndarray
    completion_T: np.ndarray
    group_N: np.ndarray
    num_tokens_N: np.ndarray
    last_N: np.ndarray
    target_num_tokens_N: np.ndarray
    spans: tuple[Span, ...]

    @property
    def num_completions(self) -> int:
        return len(self.group_N)


def lay_out(trees: Sequence[Tree]) -> Pack:
    """Lay trees one after another into one row."""
    ids, positions, sources, targets, owners, spans = [], [], [], [], [], []
    groups: list[int] = []
    num_tokens, last, lengths = [], [], []
    at = 0
    for number, tree in enumerate(trees):
        start, prompt_length = at, len(tree.prompt)
        ids.append(tree.prompt.ids)
        positions.append(np.arange(prompt_length))
        at += prompt_length
        prompt_end, places = at, []
        for completion in tree.completions:
            length = len(completion)
            before = np.arange(at - 1, at + length - 1)
            if length:
                before[0] = prompt_end - 1
            sources.append(before[completion.scored])
            targets.append(completion.ids[completion.scored])
            owners.append(np.full(len(targets[-1]), len(groups)))
            ids.append(completion.ids)
            positions.append(np.arange(prompt_length, prompt_length + length))
            groups.append(number)
            num_tokens.append(len(targets[-1]))
            lengths.append(tree.target_num_tokens)
            places.append((at, at + length))
            at += length
            last.append(at - 1 if length else prompt_end - 1)
        spans.append(Span(start, prompt_end, tuple(places)))
    return Pack(
        trees=tuple(trees),
        ids_S=_joined(ids),
        position_S=_joined(positions),
        source_T=_joined(sources),
        target_T=_joined(targets),
        completion_T=_joined(owners),
        group_N=np.array(groups, np.int64),
        num_tokens_N=np.array(num_tokens, np.int64),
        last_N=np.array(last, np.int64),
        target_num_tokens_N=np.array(lengths, np.int64),
        spans=tuple(spans),
    )


def pack(trees: Sequence[Tree], capacity: int) -> list[list[int]]:
    """Assign trees to rows of `capacity` tokens by best fit decreasing; a longer tree gets a row of its own.

    Returns the tree numbers of each row; every tree is in exactly one row, in the order given.
    """
    lengths = np.array([len(tree) for tree in trees], np.int64)
    rows: list[list[int]] = [[int(number)] for number in np.flatnonzero(lengths > capacity)]
    fitting = np.flatnonzero(lengths <= capacity)
    row_of, num_rows = _native.pack_trees(lengths[fitting], capacity)
    packed: list[list[int]] = [[] for _ in range(num_rows)]
    for number, row in zip(fitting, row_of, strict=True):
        packed[row].append(int(number))
    return rows + packed


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
