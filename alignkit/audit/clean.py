"""Writes what the audit found as files: the ranked list of suspected pairs, and the set without what is wrong in it.

A pair that is flipped more likely than not is taken out. What is left is judged again, by models fitted to it alone,
until nothing is taken out any more: an audit of the cleaned set computes that last round again, and finds no such pair.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from alignkit.audit.findings import Flips, Written
from alignkit.audit.flips import LIKELY, Suspicion, flipped_pair, suspect
from alignkit.audit.pairs import PairSet
from alignkit.audit.repeats import OPPOSES, REPEATS
from alignkit.audit.surface import Compared
from alignkit.data.reading import mixing
from alignkit.data.reading.files import files_of
from alignkit.data.reading.read import Source, refuse_among_data
from alignkit.errors import RunStopped, UsageError
from alignkit.storage import check_path, new_file, what_helps

FLIPPED = "probably stands the wrong way round"
_KINDS = (REPEATS, OPPOSES, "holds a test prompt", FLIPPED)
"""How reasons begin that name other rows; the others are reasons by themselves."""


def write_list(found: Flips | None, out: Path) -> Written:
    """Write the listed pairs, one JSON object a line, as `FlippedPair`; the likeliest first.

    Args:
        found: None where there are too few pairs; the list is empty then.

    Raises:
        RunStopped: the disk refuses.
    """
    listed = () if found is None else found.listed
    try:
        with new_file(out) as file:
            for pair in listed:
                file.write(pair.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise _stopped(out, error) from error
    return Written(file=str(out), what="list of likely flips", rows=len(listed))


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
            reasons[int(compared.rows[pair])] = f"{FLIPPED} ({percent} %): {found.reason}"
        compared = compared.where(~is_likely_P)
        suspicion = suspect(compared)
    return reasons


def kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Count reasons by their kind, without the other rows that they name, the commonest first."""
    found = Counter(next((kind for kind in _KINDS if why.startswith(kind)), why) for why in reasons)
    return dict(found.most_common())


def removed_file(out: Path) -> Path:
    """Where the rows taken out stand beside a cleaned set: NAME.removed.jsonl."""
    return out.with_suffix(".removed.jsonl")


def check_outputs(*, list_to: Path | None, clean_to: Path | None, page_to: Path | None, reads: Sequence[str]) -> None:
    """Check that what is asked for can be written, before anything is read; nothing that is read is written over.

    Args:
        reads: what is read, named as `--data` is.

    Raises:
        UsageError: a name is no file's, is a file that is read or that another option writes, stands in a folder that
            is read, or nothing can be written there; the cleaned set, or the file of rows taken out, exists, or has
            another ending than .jsonl.
        InputError: a folder that is read has no data.
    """
    outputs = [("--list", list_to), ("--page", page_to), ("--write-clean", clean_to)]
    asked = [(option, out) for option, out in outputs if out is not None]
    for option, out in asked:
        check_path(str(out), option)
    if clean_to is not None:
        if clean_to.suffix != ".jsonl":
            raise UsageError(
                f"--write-clean {clean_to}: the cleaned set is JSON lines; name a file that ends in .jsonl"
            )
        asked.append(("--write-clean", removed_file(clean_to)))
    inputs = [
        file
        for data in reads
        for name, _ in mixing.parse(data)
        if (read := Path(name).expanduser()).exists()
        for file in files_of(read)
    ]
    taken: dict[str, str] = {}
    for option, out in asked:
        refuse_among_data(option, out, reads)
        try:
            with tempfile.TemporaryFile(dir=out.parent):
                pass
        except OSError as error:
            raise UsageError(
                f"{option} {out}: nothing can be written into {out.parent}: {error.strerror or error}; "
                "name a file in a folder that you may write into"
            ) from error
        if out.exists() and any(out.samefile(file) for file in inputs):
            raise UsageError(f"{option} {out}: rows are read from this file; name another one")
        if (other := taken.setdefault(os.path.realpath(out), option)) != option:
            raise UsageError(f"{option} {out}: {other} writes this file; name another one")
        if out.exists() and not out.is_file():
            raise UsageError(f"{option} {out}: is {'a folder' if out.is_dir() else 'no ordinary file'}; name a file")
        if option == "--write-clean" and os.path.lexists(out):
            raise UsageError(f"{option}: {out} exists; name another file, or remove it")


def _stopped(out: Path, error: OSError) -> RunStopped:
    return RunStopped(f"{out}: cannot be written: {error.strerror or error}; {what_helps(error)}")


def write_clean(source: Source, pairs: PairSet, reasons: Mapping[int, str], out: Path) -> tuple[Written, Written]:
    """Write the rows that stay, byte for byte as they were read from JSON lines, and beside them those taken out.

    Args:
        reasons: of the rows that are taken out, by their places in the set.
        out: as `check_outputs` has it.

    Returns:
        The cleaned set, and the file of rows taken out: id, place, reason, row.

    Raises:
        InputError: as `Source.rows`.
        RunStopped: the disk refuses.
    """
    removed = removed_file(out)
    try:
        with new_file(out) as kept_file, new_file(removed) as into:
            for number, row in enumerate(source.rows(numbered=False)):
                line = (
                    json.dumps(row.fields, ensure_ascii=False, default=str).encode() if row.json is None else row.json
                )
                line = line.removesuffix(b"\n")
                if number not in reasons:
                    kept_file.write(line + b"\n")
                    continue
                about = {"id": pairs.ids[number], "place": pairs.places[number], "reason": reasons[number]}
                head = json.dumps(about, ensure_ascii=False).encode()
                into.write(head[:-1] + b', "row": ' + line.strip() + b"}\n")
    except OSError as error:
        raise _stopped(out, error) from error
    return (
        Written(file=str(out), what="cleaned set", rows=len(pairs) - len(reasons)),
        Written(file=str(removed), what="rows taken out", rows=len(reasons), reasons=kinds(reasons.values())),
    )
