"""Length statistics: streaming gives the same numbers as all lengths at once, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import reference_kernels as reference
from hypothesis import given
from hypothesis import strategies as st

from alignkit._native import LengthStatistics
from alignkit.data.looking.lengths import ColumnLengths, summarise

LENGTHS = st.lists(st.one_of(st.integers(0, 50), st.integers(65_500, 65_600), st.integers(0, 2**40)), max_size=60)
QUANTILES = st.lists(st.floats(0, 1), max_size=10).map(lambda q: np.array(q, np.float64))


def counted(*parts: list[int]) -> LengthStatistics:
    statistics = LengthStatistics()
    for part in parts:
        statistics.add("chosen", np.array(part, np.int64))
    return statistics


@given(LENGTHS, LENGTHS, QUANTILES)
def test_parts_give_the_quantiles_of_numpy_over_the_whole(first: list[int], second: list[int], q: np.ndarray) -> None:
    whole = first + second
    if not whole:
        return
    statistics = counted(first, second)
    quantiles = statistics.quantile("chosen", q)
    np.testing.assert_array_equal(quantiles, np.quantile(np.array(whole), q))
    np.testing.assert_allclose(quantiles, [reference.quantile(whole, share) for share in q], rtol=1e-12)


@given(LENGTHS, LENGTHS)
def test_merging_is_the_same_as_adding(first: list[int], second: list[int]) -> None:
    merged, whole = counted(first), counted(first + second)
    merged.merge(counted(second))
    assert merged.count("chosen") == whole.count("chosen") == len(first + second)
    if first + second:
        assert merged.mean("chosen") == whole.mean("chosen") == sum(first + second) / len(first + second)
        assert merged.min("chosen") == whole.min("chosen") == min(first + second)
        assert merged.max("chosen") == whole.max("chosen") == max(first + second)


@given(LENGTHS, st.sets(st.integers(-5, 70_000), min_size=2, max_size=8), st.integers(-5, 70_000))
def test_histogram_and_counts_over_a_limit_equal_the_reference(lengths: list[int], edges: set[int], limit: int) -> None:
    statistics = counted(lengths)
    bins = statistics.histogram("chosen", np.array(sorted(edges)))
    assert bins.dtype == np.int64
    assert bins.tolist() == reference.histogram(lengths, sorted(edges))
    assert statistics.share_over("chosen", limit) == sum(length > limit for length in lengths)


def test_columns_come_in_order_of_first_use_and_stay_apart() -> None:
    statistics, other = LengthStatistics(), LengthStatistics()
    statistics.add("rejected", np.array([4]))
    statistics.add("chosen", np.array([1, 2]))
    other.add("prompt", np.array([9]))
    other.add("chosen", np.array([3]))
    statistics.merge(other)
    assert statistics.columns() == ["rejected", "chosen", "prompt"]
    assert [statistics.count(column) for column in statistics.columns()] == [1, 3, 1]
    assert statistics.mean("chosen") == 2.0
    assert other.columns() == ["prompt", "chosen"]


def test_a_refused_part_counts_nothing() -> None:
    statistics = counted([1])
    with pytest.raises(ValueError, match='column "chosen", row 1: the negative length -2'):
        statistics.add("chosen", np.array([4, -2]))
    assert statistics.count("chosen") == 1


def test_questions_without_an_answer_are_value_errors() -> None:
    empty, own = counted([]), counted([1, 2])
    assert empty.count("chosen") == 0
    for ask in (empty.mean, empty.min, empty.max):
        with pytest.raises(ValueError, match="holds no lengths"):
            ask("chosen")
    with pytest.raises(ValueError, match='no column "chose"; there are: chosen'):
        own.count("chose")
    for q in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            own.quantile("chosen", np.array([0.5, q]))
    for edges in ([3], [3, 3], [3, 2]):
        with pytest.raises(ValueError, match="each above the one before"):
            own.histogram("chosen", np.array(edges))


def test_an_object_is_not_merged_into_itself() -> None:
    statistics = counted([1])
    with pytest.raises(RuntimeError):
        statistics.merge(statistics)


def of_columns(columns: dict[str, list[int]]) -> LengthStatistics:
    statistics = LengthStatistics()
    for column, lengths in columns.items():
        statistics.add(column, np.array(lengths, np.int64))
    return statistics


def test_differences_of_pairs_are_counted_with_their_sign() -> None:
    statistics = of_columns({"chosen": [5, 2, 900]})
    statistics.add_differences("chosen - rejected", np.array([5, 2, 900]), np.array([1, 40, 900]))
    _, difference = summarise(statistics, limits=(0,))
    assert (difference.min, difference.p50, difference.max) == (-38, 0.0, 4)
    assert difference.edges == (-64, -32, -16, 0, 16) and difference.counts == (1, 0, 0, 2)
    assert difference.over == {0: 1}  # the chosen answer is the longer one in 1 of 3 pairs


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1))
def test_quantiles_of_differences_equal_numpys(pairs: list[tuple[int, int]]) -> None:
    left, right = np.array(pairs, np.int64).T.copy()
    statistics = LengthStatistics()
    half = len(left) // 2
    statistics.add_differences("d", left[:half], right[:half])
    statistics.add_differences("d", left[half:], right[half:])
    q = np.array([0, 0.1, 0.5, 0.9, 1])
    assert statistics.quantile("d", q).tolist() == np.quantile(left - right, q).tolist()
    assert statistics.mean("d") == pytest.approx(np.mean(left - right))


@pytest.mark.parametrize(
    ("left", "right", "message"), [([1], [], "1 lengths against 0"), ([1], [-1], "row 0: the negative length -1")]
)
def test_differences_of_what_is_no_pair_are_refused(left: list[int], right: list[int], message: str) -> None:
    statistics = LengthStatistics()
    with pytest.raises(ValueError, match=message):
        statistics.add_differences("d", np.array(left, np.int64), np.array(right, np.int64))
    assert statistics.columns() == []


def test_a_summary_by_hand() -> None:
    (summary,) = summarise(of_columns({"chosen": [4, 16, 20, 40, 600]}), limits=(20, 600))
    assert summary == ColumnLengths(
        column="chosen",
        count=5,
        mean=136.0,
        min=4,
        p50=20.0,
        p90=pytest.approx(376.0),
        p99=pytest.approx(577.6),
        max=600,
        edges=(0, 16, 32, 64, 128, 256, 512, 1024),
        counts=(1, 2, 1, 0, 0, 0, 1),
        over={20: 2, 600: 0},
    )


@given(st.dictionaries(st.sampled_from(["chosen", "prompt", "rejected"]), LENGTHS))
def test_a_summary_has_every_filled_column_and_every_length_in_a_bin(columns: dict[str, list[int]]) -> None:
    summaries = summarise(of_columns(columns))
    assert [summary.column for summary in summaries] == [c for c in ("prompt", "chosen", "rejected") if columns.get(c)]
    for summary in summaries:
        assert sum(summary.counts) == summary.count == len(columns[summary.column])
        assert len(summary.counts) == len(summary.edges) - 1
        assert list(summary.over) == [512, 1024, 2048]
