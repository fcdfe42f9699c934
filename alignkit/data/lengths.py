"""How long the texts of each column are, in tokens: what is looked at before anything is cut.

Every number is exact, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignkit._native import LengthStatistics

_QUANTILES = np.array([0.5, 0.9, 0.99])
_FIRST_EDGE = 16  # bins double from here: shorter texts differ in nothing that anyone would cut


@dataclass(frozen=True)
class ColumnLengths:
    """The lengths of one column, in tokens.

    Args:
        count: how many texts.
        p50, p90, p99: quantiles, interpolated linearly.
        edges: bounds of the histogram's half-open bins: 0, then the powers of two from 16 to above the longest.
        counts: texts in each bin, one fewer than edges.
        over: for each limit, how many texts are longer.
    """

    column: str
    count: int
    mean: float
    min: int
    p50: float
    p90: float
    p99: float
    max: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    over: dict[int, int]


def summarise(columns: Mapping[str, np.ndarray], *, limits: Sequence[int] = (512, 1024, 2048)) -> list[ColumnLengths]:
    """Summarise the lengths of each column, in the order given; a column without any is left out.

    Args:
        columns: name -> integers [n], lengths in tokens.
        limits: row lengths in tokens; `over` says how many texts each would cut.

    Raises:
        ValueError: a length is negative.
    """
    statistics = LengthStatistics()
    for column, lengths in columns.items():
        if len(lengths):
            statistics.add(column, np.ascontiguousarray(lengths, np.int64))
    return [_summary(statistics, column, limits) for column in statistics.columns()]


def _summary(statistics: LengthStatistics, column: str, limits: Sequence[int]) -> ColumnLengths:
    longest = statistics.max(column)
    edges = _edges(longest)
    p50, p90, p99 = statistics.quantile(column, _QUANTILES).tolist()
    return ColumnLengths(
        column=column,
        count=statistics.count(column),
        mean=statistics.mean(column),
        min=statistics.min(column),
        p50=p50,
        p90=p90,
        p99=p99,
        max=longest,
        edges=edges,
        counts=tuple(statistics.histogram(column, np.array(edges, np.int64)).tolist()),
        over={limit: statistics.share_over(column, limit) for limit in limits},
    )


def _edges(longest: int) -> tuple[int, ...]:
    edges = [0, _FIRST_EDGE]
    while edges[-1] <= longest:
        edges.append(2 * edges[-1])
    return tuple(edges)
