"""The audit, part by part."""

from __future__ import annotations

import time
from collections.abc import Mapping

from alignkit.audit.findings import Findings, SourceRows
from alignkit.audit.pairs import PairSet, read_pairs
from alignkit.data.reading.read import Source


def audit(data: str, *, columns: Mapping[str, str] | None = None, limit: int | None = None) -> Findings:
    """Look at a preference set in every way there is.

    Args:
        data: `--data`.
        columns: our name = the file's name.
        limit: at most this many rows, from the top.

    Raises:
        InputError, UsageError: as `Source.rows`.
    """
    began = time.monotonic()
    pairs = read_pairs(Source(data, columns or {}, limit).rows())
    return Findings(data=data, rows=len(pairs), sources=_sources(pairs), seconds=time.monotonic() - began)


def _sources(pairs: PairSet) -> tuple[SourceRows, ...]:
    places: dict[str, list[int]] = {}
    for number, source in enumerate(pairs.sources):
        places.setdefault(source, []).append(number)
    found = []
    for source, where in places.items():
        num_pairs = int(pairs.is_pair_P[where].sum())
        labelled = int((pairs.label_P[where] >= 0).sum())
        found.append(
            SourceRows(
                source=source,
                rows=len(where),
                pairs=num_pairs,
                ties=int((pairs.is_pair_P & pairs.is_tie_P)[where].sum()),
                labelled=labelled,
                others=len(where) - num_pairs - labelled,
            )
        )
    return tuple(found)
