"""Labelled answers (KTO) as pairs: of each prompt the k-th good answer with the k-th bad one, wherever they stand.

Each answer stands in one pair at most: one that is trained on in five pairs would weigh five times. Those left over are
rows without a pair. The data stream past: a row that comes before its partner waits in a file, and 16 bytes are kept of
each row. `pair_up` does both passes over data that are not split; `Selection` does them over its parts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from pydantic_core import from_json, to_json

from alignkit.data.reading.read import Source
from alignkit.data.reading.rows import Row, to_row

UNLABELLED, GOOD, BAD = 0, 1, 2


def label_code(row: Row) -> int:
    """A row's label as a small number: UNLABELLED, GOOD or BAD."""
    return UNLABELLED if row.label is None else GOOD if row.label else BAD


def pair_up(source: Source, folder: Path, *, numbered: bool) -> Iterator[Row]:
    """Yield the rows of a source, of labelled ones the pairs; `folder` as `paired` has it, `numbered` as `Source.rows`.

    Raises:
        InputError, UsageError: as `Source.rows`.
    """
    prompts, labels = array("q"), array("b")
    for row in source.rows(numbered=False):
        digest = hashlib.blake2b(to_json(row.prompt), digest_size=8).digest()
        prompts.append(int.from_bytes(digest, "little", signed=True))
        labels.append(label_code(row))
    partner_P = partners(np.array(prompts, np.int64), np.array(labels, np.int8))
    return paired(source.rows(numbered=numbered), partner_P, source.columns, folder)


def partners(prompt_P: np.ndarray, label_P: np.ndarray) -> np.ndarray:
    """Return the place of each row's partner, int64 [P]; -1 where it has none.

    Args:
        prompt_P: int64 [P], a key that rows with the same prompt share.
        label_P: int8 [P], as `label_code` gives them.
    """
    partner_P = np.full(len(label_P), -1, np.int64)
    places = np.flatnonzero(label_P)
    order = np.lexsort((places, label_P[places], prompt_P[places]))
    places = places[order]
    prompts, labels = prompt_P[places], label_P[places]
    is_first = np.ones(len(places), bool)
    is_first[1:] = (prompts[1:] != prompts[:-1]) | (labels[1:] != labels[:-1])
    first = np.flatnonzero(is_first)
    rank = np.arange(len(places)) - np.repeat(first, np.diff(first, append=len(places)))  # among its prompt and label
    order = np.lexsort((rank, prompts))
    places, prompts, rank = places[order], prompts[order], rank[order]
    # Two of one prompt and rank differ in their labels, so that they are a pair.
    is_pair = np.flatnonzero((prompts[1:] == prompts[:-1]) & (rank[1:] == rank[:-1]))
    one, other = places[is_pair], places[is_pair + 1]
    partner_P[one], partner_P[other] = other, one
    return partner_P


def paired(rows: Iterable[Row], partner_P: np.ndarray, columns: Mapping[str, str], folder: Path) -> Iterator[Row]:
    """Yield rows, with a pair in the place of the later of two partners.

    Args:
        partner_P: int64 [P], as `partners` gives them, of these rows.
        columns: our name = the file's name, as the rows were read with.
        folder: where rows wait for their partners, in a file without a name.
    """
    start_P = np.zeros(len(partner_P), np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for place, row in enumerate(rows):
            other = int(partner_P[place])
            if other < 0:
                yield row
            elif other > place:
                start_P[place] = file.tell()
                line = to_json([row.id, row.where, row.fields], inf_nan_mode="constants", fallback=str)
                file.write(line + b"\n")
            else:
                file.seek(start_P[other])
                id_, where, fields = from_json(file.readline(), cache_strings="keys")
                file.seek(0, 2)
                first = dataclasses.replace(to_row(fields, where=where, columns=columns), id=id_)
                good, bad = (first, row) if first.label else (row, first)
                # The keys are hashes: two prompts of one hash are as rare as they would be wrong.
                yield from [as_pair(good, bad)] if good.prompt == bad.prompt else [first, row]


def as_pair(good: Row, bad: Row) -> Row:
    """The good row, with the bad one's answer as the rejected one."""
    return dataclasses.replace(
        good, rejected=bad.rejected, rejected_id=bad.id, label=None, is_conversation=False, json=None
    )
