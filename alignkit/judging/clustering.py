"""Which judged prompts are no independent evidence of each other, and are resampled together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from alignkit.errors import UsageError, nearest
from alignkit.statistics.resampling import Clusters

COLUMNS = ("template", "source")  # what rows name where one generator or collection made many of them
ALONE = "none"


def find_clusters(
    fields: Sequence[Mapping[str, Any]], keys: Sequence[Hashable], *, column: str | None
) -> tuple[Clusters, str]:
    """Return the clusters of the rows, and what they are in words.

    Rows with the same `key` (the same prompt) are always together, as are rows with the same value of the column; a row
    without a value stands with its own key alone. Where rows name a template and a source, the coarser one counts.

    Args:
        fields: every column of each row.
        keys: what makes a prompt the same one.
        column: the column to take; "none" for no column; None finds template or source.

    Raises:
        UsageError: no row has the named column.
    """
    if column == ALONE:
        return _same_prompts(keys)
    names = COLUMNS if column is None else (column,)
    found = {name: {_value(row.get(name)) for row in fields} - {None} for name in names}
    found = {name: values for name, values in found.items() if values}
    if not found:
        if column is None:
            return _same_prompts(keys)
        known = sorted({key for row in fields for key in row})
        raise UsageError(f"--cluster {column}: no judged row has this column{nearest(column, known)}")
    name = min(found, key=lambda each: len(found[each]))
    if len(found[name]) == 1 and all(_value(row.get(name)) is not None for row in fields):
        return Clusters.of(keys), f"prompts; all are of one {name}, the verdict speaks for it alone"
    values = [_value(row.get(name)) for row in fields]
    parts = _joined(
        [("key", key) if value is None else ("value", value) for key, value in zip(keys, values, strict=True)], keys
    )
    clusters = Clusters.of(parts)
    return clusters, f"clusters of prompts with the same {name} ({clusters.num})"


def _same_prompts(keys: Sequence[Hashable]) -> tuple[Clusters, str]:
    clusters = Clusters.of(keys)
    repeated = len(keys) - clusters.num
    return clusters, f"prompts; {repeated} occur again and are drawn with the first" if repeated else "prompts"


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
