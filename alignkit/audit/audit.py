"""The audit, part by part."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from alignkit.audit.biases import biases, explained, length_lessons, ties
from alignkit.audit.clean import check_clean, removals, write_clean, write_list
from alignkit.audit.embeddings import read_tokens
from alignkit.audit.findings import Findings, SourceRows
from alignkit.audit.flips import Suspicion, flips, suspect
from alignkit.audit.pairs import PairSet, read_pairs
from alignkit.audit.surface import COLUMNS, Compared, compare
from alignkit.data.reading.read import Source
from alignkit.pretrained.names import ModelSource

CHARACTERS_A_TOKEN = 4  # of English text; where no tokenizer is named


def audit(
    data: str,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    model: ModelSource | None = None,
    list_to: Path | None = None,
    clean_to: Path | None = None,
) -> Findings:
    """Look at a preference set in every way there is.

    Args:
        data: `--data`.
        columns: our name = the file's name.
        limit: at most this many rows, from the top.
        model: the policy, or a folder with its tokenizer alone: lengths are counted in its tokens, and its embeddings
            are looked up.
        list_to: where the ranked list of suspected pairs is written.
        clean_to: where the set is written without the rows that should be taken out; they are written beside it.

    Raises:
        InputError, UsageError: as `Source.rows` and `clean.write_clean`.
    """
    began = time.monotonic()
    source = Source(data, columns or {}, limit)
    if clean_to is not None:
        check_clean(source, clean_to)
    pairs = read_pairs(source.rows())
    compared = compare(pairs)
    lengths_P2 = np.maximum(compared.counts_P2M[:, :, COLUMNS.index("characters")] / CHARACTERS_A_TOKEN, 1)
    counted_by = f"about {CHARACTERS_A_TOKEN} characters a token"
    if model is not None:
        lengths_P2, compared = read_tokens(pairs, compared, model.folder)
        counted_by = f"the tokenizer of {model.name}"
    suspicion = suspect(compared)
    findings = Findings(data=data, rows=len(pairs), sources=_sources(pairs), ties=ties(pairs))
    lessons = length_lessons(compared, lengths_P2, counted_by=counted_by)
    findings = findings.model_copy(update={"length_lessons": lessons, **_preferences(pairs, compared, suspicion)})
    if list_to is not None and findings.flips is not None:
        write_list(findings.flips, list_to)
    if clean_to is not None:
        write_clean(source, pairs, removals(pairs, compared, suspicion, {}), clean_to)
    return findings.model_copy(update={"seconds": time.monotonic() - began})


def _preferences(pairs: PairSet, compared: Compared, suspicion: Suspicion | None) -> dict[str, object]:
    """What the preferences follow, and which of them probably stand the wrong way round."""
    found: dict[str, object] = {"biases": biases(compared)}
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
