"""Writes what the audit found as files: the ranked list of suspected pairs, and the set without what is wrong in it.

A pair that is flipped more likely than not is taken out. What is left is judged again, by models fitted to it alone,
until nothing is taken out any more: an audit of the cleaned set computes that last round again, and finds no such pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from alignkit.audit.findings import Flips
from alignkit.audit.flips import LIKELY, Suspicion, flipped_pair, suspect
from alignkit.audit.pairs import PairSet
from alignkit.audit.surface import Compared
from alignkit.data.reading import mixing
from alignkit.data.reading.files import files_of
from alignkit.data.reading.read import Source
from alignkit.errors import UsageError
from alignkit.storage import new_file


def write_list(found: Flips, out: Path) -> None:
    """Write the listed pairs, one JSON object a line: id, place, source, probability, reason; the likeliest first."""
    with new_file(out) as file:
        for pair in found.listed:
            file.write(pair.model_dump_json().encode() + b"\n")


def removals(
    pairs: PairSet, compared: Compared, suspicion: Suspicion | None, others: Mapping[int, str]
) -> dict[int, str]:
    """Say which rows are taken out, by their places in the set, each with its reason.

    Args:
        suspicion: of `compared`, all pairs of the set.
        others: rows that are taken out for other reasons.
    """
    reasons = dict(others)
    is_kept_P = ~np.isin(compared.rows, list(others))
    if not is_kept_P.all():
        compared = compared.where(is_kept_P)
        suspicion = suspect(compared)
    while suspicion is not None and (is_likely_P := suspicion.probability_P > LIKELY).any():
        for pair in np.flatnonzero(is_likely_P).tolist():
            found = flipped_pair(pairs, compared, suspicion, pair)
            percent = round(100 * found.probability)
            reasons[int(compared.rows[pair])] = f"probably stands the wrong way round ({percent} %): {found.reason}"
        compared = compared.where(~is_likely_P)
        suspicion = suspect(compared)
    return reasons


def check_clean(source: Source, out: Path) -> None:
    """Check that a cleaned set can be written, before anything is computed.

    Args:
        out: a name that ends in .jsonl.

    Raises:
        UsageError: `out` has another ending, or is a file that the set is read from.
        InputError: the set is a folder without data.
    """
    if out.suffix != ".jsonl":
        raise UsageError(f"--write-clean {out}: the cleaned set is JSON lines; name a file that ends in .jsonl")
    for name, _ in mixing.parse(source.data):
        read = Path(name).expanduser()
        if out.exists() and read.exists() and any(out.samefile(file) for file in files_of(read)):
            raise UsageError(f"--write-clean {out}: the set is read from this file; name another one")


def write_clean(source: Source, pairs: PairSet, reasons: Mapping[int, str], out: Path) -> Path:
    """Write the rows that stay, byte for byte as they were read from JSON lines, and beside them those taken out.

    Args:
        reasons: of the rows that are taken out, by their places in the set.
        out: as `check_clean` has it.

    Returns:
        The file of rows taken out, NAME.removed.jsonl: id, place, reason, row.

    Raises:
        InputError: as `Source.rows`.
    """
    removed = out.with_suffix(".removed.jsonl")
    with new_file(out) as kept_file, new_file(removed) as removed_file:
        for number, row in enumerate(source.rows(numbered=False)):
            line = json.dumps(row.fields, ensure_ascii=False, default=str).encode() if row.json is None else row.json
            line = line.removesuffix(b"\n")
            if number not in reasons:
                kept_file.write(line + b"\n")
                continue
            about = {"id": pairs.ids[number], "place": pairs.places[number], "reason": reasons[number]}
            head = json.dumps(about, ensure_ascii=False).encode()
            removed_file.write(head[:-1] + b', "row": ' + line.strip() + b"}\n")
    return removed
