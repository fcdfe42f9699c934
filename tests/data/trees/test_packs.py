"""Trees in rows: what a row holds, and rows shared among ranks."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit import _native
from alignkit.data.trees.flat import FlatTrees, gathered
from alignkit.data.trees.packs import (
    attention_cost,
    attention_costs,
    fill,
    lay_out,
    pack,
    pack_for_ranks,
    pack_lengths,
    share_rows,
)
from alignkit.data.trees.trees import Tree, tree


@st.composite
def trees(draw: st.DrawFn) -> list[Tree]:
    """Trees of no to three completions, some of them empty, some prompts empty."""
    made = []
    for number in range(draw(st.integers(0, 4))):
        prompt = draw(st.lists(st.integers(0, 9), max_size=4))
        completions = []
        for _ in range(draw(st.integers(0, 3))):
            ids = draw(st.lists(st.integers(0, 9), max_size=4))
            scored = [draw(st.booleans()) and (len(prompt) > 0 or at > 0) for at in range(len(ids))]
            completions.append((np.array(ids, np.int32), np.array(scored, bool)))
        made.append(tree(f"t{number}", np.array(prompt, np.int32), completions, reference_length=number))
    return made


@given(trees())
def test_a_row_holds_what_is_laid_out_token_by_token(row: list[Tree]) -> None:
    laid = lay_out(row)
    ids: list[int] = []
    positions: list[int] = []
    scored: list[tuple[int, int, int]] = []  # (source, target, completion) of each scored token
    groups, last, counts, targets, spans = [], [], [], [], []
    for number, one in enumerate(row):
        start = len(ids)
        ids += one.prompt.ids.tolist()
        positions += range(len(one.prompt))
        prompt_end, places = len(ids), []
        for completion in one.completions:
            first = len(ids)
            own = [
                (prompt_end - 1 if at == 0 else first + at - 1, int(completion.ids[at]), len(groups))
                for at in range(len(completion))
                if completion.scored[at]
            ]
            scored += own
            ids += completion.ids.tolist()
            positions += range(len(one.prompt), len(one.prompt) + len(completion))
            groups.append(number)
            counts.append(len(own))
            targets.append(one.reference_length)
            places.append((first, len(ids)))
            last.append(len(ids) - 1 if len(completion) else prompt_end - 1)
        spans.append((start, prompt_end, tuple(places)))
    assert laid.trees == tuple(row)
    assert (laid.ids_S.tolist(), laid.position_S.tolist()) == (ids, positions)
    assert list(zip(laid.source_T.tolist(), laid.target_T.tolist(), laid.completion_T.tolist(), strict=True)) == scored
    assert (laid.group_N.tolist(), laid.last_N.tolist()) == (groups, last)
    assert (laid.num_tokens_N.tolist(), laid.reference_length_N.tolist()) == (counts, targets)
    assert [(span.start, span.prompt_end, span.completions) for span in laid.spans] == spans
    arrays = [x for x in vars(laid).values() if isinstance(x, np.ndarray)]
    assert len(arrays) == 9 and {x.dtype for x in arrays} == {np.dtype(np.int64)}


def test_a_tree_longer_than_a_row_has_one_of_its_own() -> None:
    lengths = np.array([3, 12, 7, 3], np.int64)
    rows = pack_lengths(lengths, 10)
    assert rows == [[1], [0, 2], [3]]
    assert fill(lengths, rows, 10) == pytest.approx((10 + 10 + 3) / 30)
    assert pack([], 10) == [] and fill(np.zeros(0, np.int64), [], 10) == 0.0


def test_attention_cost_counts_queries_and_keys() -> None:
    ones = np.ones(4, bool)
    one = tree("t", np.arange(3), [(np.arange(2), ones[:2]), (np.arange(4), ones)])
    # prompt 1+2+3; completion of 2: 4+5; completion of 4: 4+5+6+7
    assert attention_cost(one) == 6 + 9 + 22
    assert attention_costs(FlatTrees.of([])).tolist() == []


@given(trees())
def test_costs_of_many_trees_equal_those_of_each(some: list[Tree]) -> None:
    assert attention_costs(FlatTrees.of(some)).tolist() == [attention_cost(one) for one in some]


@given(trees(), st.randoms(use_true_random=False))
def test_some_of_many_trees_are_laid_out_as_they_are_alone(some: list[Tree], random: Random) -> None:
    numbers = [random.randrange(len(some)) for _ in range(3)] if some else []
    laid, alone = lay_out(FlatTrees.of(some), numbers), lay_out([some[number] for number in numbers])
    assert [one.row_id for one in laid.trees] == [one.row_id for one in alone.trees]
    assert laid.spans == alone.spans
    for name, values in vars(alone).items():
        if isinstance(values, np.ndarray):
            assert np.array_equal(getattr(laid, name), values), name


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 5))
def test_every_row_goes_to_one_rank_and_no_rank_has_a_row_too_many(costs: list[int], num_ranks: int) -> None:
    ranks = share_rows(costs, num_ranks)
    assert sorted(itertools.chain(*ranks)) == list(range(len(costs)))
    assert ranks == share_rows(costs, num_ranks)
    loads = [sum(costs[row] for row in rows) for rows in ranks]
    for load, rows in zip(loads, ranks, strict=True):
        assert not rows or load - min(costs[row] for row in rows) <= min(loads)


@given(trees(), st.integers(1, 5))
def test_ranks_get_every_tree_once_and_equally_many_rows(some: list[Tree], num_ranks: int) -> None:
    ranks = pack_for_ranks(some, 12, num_ranks)
    rows = list(itertools.chain(*ranks))
    assert sorted(row for row in rows if row) == sorted(pack(some, 12))
    assert {len(own) for own in ranks} == {-(-len(pack(some, 12)) // num_ranks)}


def test_ranks_are_balanced_by_cost_among_equally_many_rows() -> None:
    def one(length: int) -> Tree:
        return tree("t", np.zeros(length, np.int32), [])

    # costs 55, 45, 36, 28, 21, 15: rank 0 gets 55, 28, 15 (98) and rank 1 gets 45, 36, 21 (102)
    some = [one(length) for length in (5, 6, 7, 8, 9, 10)]
    assert pack_for_ranks(some, 10, 2) == [[[5], [2], [0]], [[4], [3], [1]]]
    assert pack_for_ranks(some[-1:], 10, 2) == [[[0]], [[]]]


def test_what_cannot_be_shared_is_named() -> None:
    with pytest.raises(ValueError, match="at least one rank"):
        _native.share_rows(np.array([1]), 0, 1)
    with pytest.raises(ValueError, match="row 1 has the negative cost -5"):
        _native.share_rows(np.array([1, -5]), 2, 1)
    with pytest.raises(ValueError, match="3 rows, but the ranks take 2"):
        _native.share_rows(np.array([1, 1, 1]), 2, 1)


def test_stretches_are_gathered_in_their_order_whether_they_lie_behind_one_another_or_not() -> None:
    values = np.arange(20)
    for stretches in ([], [(3, 4), (7, 2), (9, 0), (9, 5)], [(10, 3), (0, 0), (2, 4), (6, 1), (2, 4)]):
        starts, lengths = np.array(stretches, np.int64).reshape(-1, 2).T
        found = gathered(values, starts, lengths)
        assert found.tolist() == [n for start, length in stretches for n in range(start, start + length)]
