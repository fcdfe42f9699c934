"""The rows of a preference set as columns: what every part of the audit reads, from one pass over the rows.

Texts are kept, rows are not: 60,000 pairs of 2.5 KB take about 200 MB. Shape letter: P rows, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from alignkit.data.looking.overlap import prompt_text
from alignkit.data.reading.messages import text_of_turn
from alignkit.data.reading.rows import Messages, Row, unusable_reason
from alignkit.statistics.resampling import Clusters
from alignkit.units import Chosen, Labelled, Pairs, Samples, Unit

_SOURCE = ("source", "dataset")  # columns in which sets say where a row comes from, the first that is there


@dataclass(frozen=True)
class PairSet:
    """Rows of any shape; a row without one of the two answers has None in its place.

    Args:
        ids: the rows' names, `Row.name`, no two alike.
        places: "FILE, line N".
        sources: the row's `source` or `dataset`, else its file.
        prompts: turn by turn, without system messages.
        chosen, rejected: the answers' texts; of several messages, one after another; a call of a tool as JSON.
        unusable: why no method trains on a row of this kind, None where some do.
        scores_P2: float64 [P, 2], of the chosen and the rejected answer, a margin as scores of it and 0; nan where the
            row has none.
        is_tie_P: bool [P], the row says so, or its scores are equal.
        label_P: int8 [P], of rows with one answer: 1 good, 0 bad, -1 where nothing is said.
        is_pair_P: bool [P], both answers are there, neither is empty, they differ, and methods train on such pairs.
        prompt_P: which rows have the same prompt, system messages included; the units of every interval and fold.
    """

    ids: list[str]
    places: list[str]
    sources: list[str]
    prompts: list[str]
    chosen: list[str | None]
    rejected: list[str | None]
    unusable: list[str | None]
    scores_P2: np.ndarray
    is_tie_P: np.ndarray
    label_P: np.ndarray
    is_pair_P: np.ndarray
    prompt_P: Clusters

    def __len__(self) -> int:
        return len(self.ids)

    def said(self, row: int) -> str:
        """A row's name in a sentence."""
        return self.ids[row] if self.ids[row] == self.places[row] else f"row {self.ids[row]}"

    @property
    def is_preference_P(self) -> np.ndarray:
        """bool [P]: a pair, and no tie."""
        return self.is_pair_P & ~self.is_tie_P


def read_pairs(rows: Iterable[Row]) -> PairSet:
    """Read rows, which stream past, into columns.

    Args:
        rows: such as `Source.rows` yields.

    Raises:
        InputError: as `Source.rows`.
    """
    ids, places, sources, prompts = [], [], [], []
    chosen: list[str | None] = []
    rejected: list[str | None] = []
    unusable: list[str | None] = []
    scores, ties, labels, asked = [], [], [], []
    for row in rows:
        ids.append(row.name)
        places.append(row.where)
        sources.append(_source(row))
        prompts.append(prompt_text(row))
        asked.append(hash(tuple((message["role"], message["content"]) for message in row.prompt)))
        chosen.append(_text(row.chosen))
        rejected.append(_text(row.rejected))
        unusable.append(_unusable(row))
        scores.append(row.scores or ((np.nan, np.nan) if row.margin is None else (row.margin, 0.0)))
        ties.append(row.is_tie)
        labels.append(-1 if row.label is None else int(row.label))
    is_pair = [
        bool(why is None and a and b and a.strip() and b.strip() and a != b)
        for why, a, b in zip(unusable, chosen, rejected, strict=True)
    ]
    return PairSet(
        ids,
        places,
        sources,
        prompts,
        chosen,
        rejected,
        unusable,
        np.array(scores, np.float64).reshape(-1, 2),
        np.array(ties, bool),
        np.array(labels, np.int8),
        np.array(is_pair, bool),
        Clusters.of(asked),
    )


def _source(row: Row) -> str:
    for name in _SOURCE:
        value = row.fields.get(name)
        if isinstance(value, str) and value:
            return value
    return row.where.rpartition(", ")[0]


def _text(answer: Messages | None) -> str | None:
    return None if answer is None else "\n".join(map(text_of_turn, answer))


def _unusable(row: Row) -> str | None:
    """Say why methods for rows of this kind leave the row out; ties and margins are a matter of their options."""
    if row.label is not None:
        unit: Unit = Labelled()
    elif row.rejected is not None:
        unit = Pairs()
        if row.is_tie or row.margin is not None:
            row = replace(row, is_tie=False, margin=None)
    else:
        unit = Samples() if row.chosen is None else Chosen()
    return unusable_reason(row, unit)
