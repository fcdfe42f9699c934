"""How long the texts of each column are, in tokens: what is looked at before anything is cut.

Every number is exact, however many rows there are: how often each length occurs is all that is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignkit._native import LengthStatistics
from alignkit.data.chat.chat import Chat
from alignkit.data.prepared.cache import chunks
from alignkit.data.prepared.tokens import prepare
from alignkit.data.reading.rows import Row
from alignkit.units import Chosen, Labelled, Pairs, Samples, Unit

_QUANTILES = np.array([0.5, 0.9, 0.99])
_FIRST_EDGE = 16  # bins double from here: shorter texts differ in nothing that anyone would cut
LIMITS = (512, 1024, 2048)
ROW = "prompt + longest answer"
DIFFERENCE = "chosen - rejected"
_NO_LIMIT = 2**40  # nothing is cut


@dataclass(frozen=True)
class ColumnLengths:
    """The lengths of one column, in tokens.

    Args:
        count: how many texts.
        p50, p90, p99: quantiles, interpolated linearly.
        edges: bounds of the histogram's half-open bins: 0, then the powers of two from 16 to above the longest; below 0
            the same downwards.
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


def _summary(statistics: LengthStatistics, column: str, limits: Sequence[int]) -> ColumnLengths:
    longest = statistics.max(column)
    shortest = statistics.min(column)
    edges = _edges(shortest, longest)
    p50, p90, p99 = statistics.quantile(column, _QUANTILES).tolist()
    return ColumnLengths(
        column=column,
        count=statistics.count(column),
        mean=statistics.mean(column),
        min=shortest,
        p50=p50,
        p90=p90,
        p99=p99,
        max=longest,
        edges=edges,
        counts=tuple(statistics.histogram(column, np.array(edges, np.int64)).tolist()),
        over={limit: statistics.share_over(column, limit) for limit in limits},
    )


def measure(rows: Iterable[Row], chat: Chat, unit: Unit | None = None) -> LengthStatistics:
    """Count the tokens of prompts and answers of a stream of rows of any shape, and of each row as a whole.

    Columns: prompt, chosen, rejected, answer (labelled good or bad), `ROW` (what a limit on rows cuts) and, of pairs,
    `DIFFERENCE`.

    Args:
        unit: of the rows that it can use; None: of all rows, by the answers that they have.

    Raises:
        InputError: the template allows no right mask.
    """
    statistics = LengthStatistics()
    for _, chunk in chunks(rows):
        for kind, alike in _by_answers(chunk) if unit is None else [(unit, chunk)]:
            part = prepare(
                alike,
                chat,
                unit=kind,
                max_length=_NO_LIMIT,
                max_skipped=1.0,
                train_on="last",
                keep_unusable=unit is None,
                is_part=True,
            )
            _count(statistics, part.lengths)
    return statistics


def of_prepared(lengths: Mapping[str, np.ndarray]) -> list[ColumnLengths]:
    """Summarise the lengths of prepared rows (`Prepared.lengths`)."""
    statistics = LengthStatistics()
    _count(statistics, lengths)
    return summarise(statistics)


def _count(statistics: LengthStatistics, lengths: Mapping[str, np.ndarray]) -> None:
    columns = {name: np.ascontiguousarray(column, np.int64) for name, column in lengths.items()}
    for name, column in columns.items():
        statistics.add(name, column)
    answers = [column for name, column in columns.items() if name != "prompt"]
    if "prompt" in columns:
        statistics.add(ROW, columns["prompt"] + (np.max(answers, axis=0) if answers else 0))
    if len(answers) == 2:
        statistics.add_differences(DIFFERENCE, *answers)


def summarise(statistics: LengthStatistics, *, limits: Sequence[int] = LIMITS) -> list[ColumnLengths]:
    """Summarise every column that holds lengths, in the order of the texts."""
    last = (ROW, DIFFERENCE)
    first = ["prompt", "chosen", "rejected"]
    first += [column for column in statistics.columns() if column not in (*first, *last)]  # other units' answers
    known = [column for column in (*first, *last) if column in statistics.columns() and statistics.count(column)]
    return [_summary(statistics, column, limits) for column in known]


def _by_answers(rows: list[Row]) -> Iterator[tuple[Unit, list[Row]]]:
    """Group rows by the answers they have, so that lengths of pairs stand beside each other."""
    kinds: dict[Unit, list[Row]] = {}
    chosen, pairs, labelled, samples = Chosen(), Pairs(), Labelled(), Samples()
    for row in rows:
        if row.label is not None:
            kinds.setdefault(labelled, []).append(row)
        elif row.chosen is not None:
            kinds.setdefault(chosen if row.rejected is None else pairs, []).append(row)
        else:
            kinds.setdefault(samples, []).append(row)
    yield from kinds.items()


def _edges(shortest: int, longest: int) -> tuple[int, ...]:
    edges = [0, _FIRST_EDGE]
    while edges[-1] <= longest:
        edges.append(2 * edges[-1])
    below = [-_FIRST_EDGE] if shortest < 0 else []
    while below and below[0] > shortest:
        below.insert(0, 2 * below[0])
    return (*below, *edges)
