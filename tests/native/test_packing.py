"""Packing: best fit decreasing loses nothing, overfills nothing, and is always the same."""

from __future__ import annotations

import numpy as np
import pytest
import reference_kernels as reference
from hypothesis import given
from hypothesis import strategies as st

from alignkit import _native


def packed(lengths: list[int], capacity: int) -> tuple[list[int], int]:
    row_of, num_rows = _native.pack_trees(np.array(lengths, np.int64), capacity)
    assert row_of.dtype == np.int64
    return row_of.tolist(), num_rows


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], int]:
    """Trees and a capacity; from many equal lengths to capacities of several words of the bit set."""
    capacity = draw(st.sampled_from([1, 7, 63, 64, 65, 1000, 4096, 10_000]))
    shortest = draw(st.integers(0, capacity))
    longest = draw(st.integers(shortest, capacity))
    return draw(st.lists(st.integers(shortest, longest), max_size=80)), capacity


@given(problems())
def test_rows_equal_the_reference(problem: tuple[list[int], int]) -> None:
    assert packed(*problem) == reference.pack_trees(*problem)


@given(problems())
def test_nothing_is_lost_no_row_is_overfull_and_none_is_needless(problem: tuple[list[int], int]) -> None:
    lengths, capacity = problem
    row_of, num_rows = packed(lengths, capacity)
    assert len(row_of) == len(lengths)
    assert set(row_of) == set(range(num_rows))
    filled = np.bincount(row_of, weights=lengths, minlength=num_rows)
    assert (filled <= capacity).all()
    assert sum(sorted(filled)[:2]) > capacity or num_rows < 2 or not any(lengths)


@given(problems())
def test_equal_lengths_keep_their_order_and_the_same_trees_the_same_rows(problem: tuple[list[int], int]) -> None:
    lengths, capacity = problem
    row_of, num_rows = packed(lengths, capacity)
    assert packed(lengths, capacity) == (row_of, num_rows)
    by_length = sorted(range(len(lengths)), key=lambda tree: -lengths[tree])
    in_order, _ = packed([lengths[tree] for tree in by_length], capacity)
    assert in_order == [row_of[tree] for tree in by_length]


def test_each_tree_goes_where_it_leaves_the_least_space() -> None:
    assert packed([2, 7, 3, 6, 4], 10) == ([2, 0, 0, 1, 1], 3)


def test_rows_are_numbered_as_they_are_opened_the_longest_tree_first() -> None:
    assert packed([4, 9, 8, 9], 10) == ([3, 0, 2, 1], 4)


def test_full_empty_and_no_trees_are_packed() -> None:
    assert packed([10, 10], 10) == ([0, 1], 2)
    assert packed([10, 0, 0], 10) == ([0, 0, 0], 1)
    assert packed([0], 10) == ([0], 1)
    assert packed([], 10) == ([], 0)


def test_many_trees_of_ordinary_lengths_leave_almost_nothing_free() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(6, 0.7, 50_000), 1, 4096).astype(np.int64)
    row_of, num_rows = _native.pack_trees(lengths, 4096)
    assert np.bincount(row_of, weights=lengths).max() <= 4096
    assert lengths.sum() / (num_rows * 4096) > 0.999


@pytest.mark.parametrize(
    ("lengths", "capacity", "message"),
    [
        ([5, 11], 10, "tree 1 has 11 tokens, but a row holds 10"),
        ([5, -1], 10, "tree 1 has the negative length -1"),
        ([5], 0, "capacity must be between 1 and 16777216"),
        ([5], 2**24 + 1, "capacity must be between 1 and 16777216"),
    ],
)
def test_what_cannot_be_packed_is_named(lengths: list[int], capacity: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packed(lengths, capacity)


def test_other_dtypes_are_type_errors() -> None:
    with pytest.raises(TypeError):
        _native.pack_trees(np.array([1, 2], np.int32), 10)
