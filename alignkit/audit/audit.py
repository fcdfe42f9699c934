"""The audit, part by part."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from alignkit.audit.biases import biases, explained, length_lessons, ties
from alignkit.audit.findings import Findings, SourceRows
from alignkit.audit.flips import flips, suspect
from alignkit.audit.pairs import PairSet, read_pairs
from alignkit.audit.surface import COLUMNS, compare
from alignkit.data.reading.read import Source

CHARACTERS_A_TOKEN = 4  # of English text; where no tokenizer is named


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
    findings = Findings(data=data, rows=len(pairs), sources=_sources(pairs), ties=ties(pairs))
    findings = findings.model_copy(update=_preferences(pairs))
    return findings.model_copy(update={"seconds": time.monotonic() - began})


def _preferences(pairs: PairSet) -> dict[str, object]:
    """What the preferences follow, and which of them probably stand the wrong way round."""
    compared = compare(pairs)
    found: dict[str, object] = {"biases": biases(compared)}
    lengths_P2 = np.maximum(compared.counts_P2M[:, :, COLUMNS.index("characters")] / CHARACTERS_A_TOKEN, 1)
    counted_by = f"about {CHARACTERS_A_TOKEN} characters a token"
    found["length_lessons"] = length_lessons(compared, lengths_P2, counted_by=counted_by)
    suspicion = suspect(compared)
    if suspicion is not None:
        found["explained"] = explained(compared, suspicion.surface_PK.sum(1, dtype=np.float64))
        found["flips"] = flips(pairs, compared, suspicion)
    return found


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
