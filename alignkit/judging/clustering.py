"""Which judged prompts are no independent evidence of each other, and are resampled together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.errors import UsageError, nearest
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import WinRate, win_rate

COLUMNS = ("template", "source")  # what rows name where one generator or collection made many of them
ALONE = "none"


@dataclass(frozen=True)
class Grouping:
    """What is resampled, and what it is in words.

    `strata` are the sources that a verdict speaks of alone; `clusters` are then copies of prompts. `alone` is such a
    grouping beside one whose clusters are too few to speak of others. `only` names what the verdict speaks of alone
    ("this one source"); empty where it speaks of others too.
    """

    clusters: Clusters
    words: str
    strata: Clusters | None = None
    alone: Grouping | None = None
    only: str = ""

    def where(self, number_P: np.ndarray) -> Grouping:
        """Of some of the rows."""
        strata = self.strata and self.strata.where(number_P)
        return replace(self, clusters=self.clusters.where(number_P), strata=strata)

    def rate(self, outcomes_P: np.ndarray, *, seed: int, level: float) -> WinRate:
        """The win rate, arguments as for `win_rate`."""
        return win_rate(outcomes_P, seed=seed, level=level, clusters=self.clusters, strata=self.strata)


def find_clusters(fields: Sequence[Mapping[str, Any]], keys: Sequence[Hashable], *, column: str | None) -> Grouping:
    """Return the clusters of the rows.

    Rows with the same `key` (the same prompt) are always together, as are rows with the same value of the column; a row
    without a value stands with its own key alone. Where rows name several templates and several sources, the coarser
    one counts.

    Args:
        fields: every column of each row.
        keys: what makes a prompt the same one.
        column: the column to take; "none" for no column: where the rows' sources are too few to speak of others, the
            verdict is then about these alone. None finds template or source.

    Raises:
        UsageError: no row has the named column.
    """
    names = COLUMNS if column in (None, ALONE) else (column,)
    found = {name: {_value(row.get(name)) for row in fields} - {None} for name in names if name is not None}
    found = {name: values for name, values in found.items() if values}
    if not found:
        if column in (None, ALONE):
            return _same_prompts(keys)
        known = sorted({key for row in fields for key in row})
        raise UsageError(f"--cluster {column}: no judged row has this column{nearest(str(column), known)}")
    varied = {name: values for name, values in found.items() if len(values) > 1}
    name = min(varied or found, key=lambda each: len(found[each]))
    if len(found[name]) == 1 and all(_value(row.get(name)) is not None for row in fields):
        words = f"prompts; all are of one {name}, the verdict speaks for it alone"
        return Grouping(Clusters.of(keys), words, only=f"this one {name}")
    parts = _joined([_part(row, key, name) for row, key in zip(fields, keys, strict=True)], keys)
    clusters = Clusters.of(parts)
    num_named = len({part for part, row in zip(parts, fields, strict=True) if _value(row.get(name)) is not None})
    without = "" if num_named == clusters.num else _and_without(clusters.num - num_named)
    alone = Grouping(
        Clusters.of(keys),
        f"prompts within {num_named} groups of the same {name}{without}; the verdict speaks for these alone",
        strata=clusters,
    )
    if column == ALONE:
        return replace(alone, only=f"these {name}s alone") if clusters.too_few else _same_prompts(keys)
    words = f"clusters of prompts with the same {name} ({num_named})"
    if without:
        words = f"{num_named} {f'{name}s' if name in COLUMNS else f'values of {name}'}{without}"
    return Grouping(clusters, words, alone=alone if clusters.too_few else None)


def _and_without(num_prompts: int) -> str:
    return f", and {num_prompts} prompt{'' if num_prompts == 1 else 's'} without one"


def _part(row: Mapping[str, Any], key: Hashable, name: str) -> Hashable:
    value = _value(row.get(name))
    return ("key", key) if value is None else ("value", value)


def _same_prompts(keys: Sequence[Hashable]) -> Grouping:
    clusters = Clusters.of(keys)
    repeated = len(keys) - clusters.num
    return Grouping(
        clusters, f"prompts; {repeated} occur again and are drawn with the first" if repeated else "prompts"
    )


def _joined(names: Sequence[Hashable], keys: Sequence[Hashable]) -> list[Hashable]:
    """Merge clusters that share a key, so that copies of a prompt are together under different names too."""
    parent: dict[Hashable, Hashable] = {}

    def root(x: Hashable) -> Hashable:
        while parent.setdefault(x, x) != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for name, key in zip(names, keys, strict=True):
        parent[root(("key", key))] = root(name)
    return [root(name) for name in names]


def _value(value: Any) -> Hashable | None:
    return None if value is None or value == "" else str(value)
