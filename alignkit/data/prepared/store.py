"""Prepared rows as flat files: token ids end to end, with offsets, read by memory map.

A folder holds one file for each array, little endian, and a manifest, written last, with the size and CRC-32 of each:

    ids.bin         int32   token ids of every segment of every tree
    scored.bin      bool    beside each id
    segments.bin    int64   tokens of each segment
    trees.bin       int64   [trees, 3]: its segments, its reference's length in tokens, its row's place in the data
    rows.bin        JSON    each kept row, end to end: [its columns], or [its columns, {what it has beside}], its prompt
                            where turns were cut, and of a pair of two labelled rows the rejected answer
    row_ends.bin    int64   where each row's JSON ends
    names.bin       UTF-8   the id of each kept row, end to end
    name_ends.bin   int64   where each id ends
    places.bin      UTF-8   where each kept row stands, "FILE, line N", end to end
    place_ends.bin  int64   where each place ends
    labels.bin      float32 each completion's label, where the unit has labels
    lengths-*.bin   int64   tokens of each prompt and answer before any cut

Memory does not grow with the rows: a tree or row is made when it is asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from alignkit.data.prepared.tokens import Prepared
from alignkit.data.reading.rows import Row, to_row
from alignkit.data.trees.flat import FlatTrees, Lazy
from alignkit.errors import InputError
from alignkit.storage import read_object

MANIFEST = "manifest.json"
_CHECK = "sha256"  # of the rest of the manifest
_LENGTHS = "lengths-"
_READ_BYTES = 1 << 20
_FILES = ("ids", "scored", "segments", "trees", "rows", "row_ends", "names", "name_ends", "places", "place_ends")
_TYPES: Mapping[str, Any] = {
    "ids": np.int32,
    "scored": np.bool_,
    "rows": np.uint8,
    "names": np.uint8,
    "places": np.uint8,
    "labels": np.float32,
}  # else int64
_IDENTITY = ("names", "name_ends", "segments", "ids", "scored")  # what the fingerprint is made of
_OF_A_PAIR = ("rejected", "rejected_id", "label", "is_conversation")  # what a pair of two labelled rows has of its own
_CONTENT = ("rows", "row_ends")  # what a reward may read of a row
_COUNTS = [f.name for f in dataclasses.fields(Prepared) if f.name.startswith("num_")]


def counts_of(prepared: Prepared) -> dict[str, int]:
    """Return the account's counts: `num_cut`, `num_dropped`, ..."""
    return {name: getattr(prepared, name) for name in _COUNTS}


class Damaged(Exception):
    """A store that is not whole; says which file."""


@dataclass(frozen=True)
class Stored(Prepared):
    """Prepared rows that lie in files.

    Args:
        fingerprint: a hash of every row's id, token ids and scored tokens, in order.
        content: a hash of every column of every row, in order.
        numbers: int64 [trees], each kept row's place among all rows.
        notes: what was seen while the rows were read.
        from_cache: they were prepared before.
    """

    trees: StoredTrees
    rows: StoredRows
    fingerprint: str = ""
    content: str = ""
    numbers: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    from_cache: bool = False

    def names_of(self, ids: Sequence[str]) -> list[str]:
        """What a person finds kept rows by, of their ids; an id that is none of theirs stays."""
        wanted = set(ids)
        found = {id_: self.rows[n].name for n, id_ in enumerate(self.trees.ids()) if id_ in wanted}
        return [found.get(id_, id_) for id_ in ids]


class Writer:
    """Writes a store part by part.

    Args:
        folder: an empty folder.
        columns: our name = the file's name, as the rows were read with.
    """

    def __init__(self, folder: Path, *, columns: Mapping[str, str]) -> None:
        self.folder, self.columns = folder, dict(columns)
        self._files = {
            name: open(folder / f"{name}.bin", "wb")  # noqa: SIM115 - closed by `finish` or with the object
            for name in _FILES
        }
        self._checks: dict[str, int] = {}
        self._digests = {name: hashlib.sha256() for name in (*_IDENTITY, *_CONTENT)}
        self._ends = {"rows": 0, "names": 0, "places": 0}
        self._skipped: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self._counts = dict.fromkeys(_COUNTS, 0)

    def add(self, part: Prepared, numbers: Sequence[int]) -> None:
        """Append trees and rows.

        Args:
            part: what was made of some rows.
            numbers: the place of each kept row among all rows.
        """
        trees = FlatTrees.of(part.trees)
        self._write("ids", trees.flat_ids)
        self._write("scored", trees.flat_scored)
        self._write("segments", trees.segment_lengths)
        if trees.labels is not None:
            self._digests.setdefault("labels", hashlib.sha256())
            self._write("labels", trees.labels)
        places = np.array(numbers, np.int64).reshape(-1, 1)
        self._write("trees", np.concatenate([trees.table[:, :2], places], axis=1))
        self._texts("rows", "row_ends", [self._line(row) for row in part.rows])
        self._texts("names", "name_ends", [row.id.encode() for row in part.rows])
        self._texts("places", "place_ends", [row.where.encode("utf-8", "surrogateescape") for row in part.rows])
        for name, column in part.lengths.items():
            self._write(_LENGTHS + name, np.ascontiguousarray(column, np.int64))
        self._skipped |= part.skipped
        self._left_out |= part.left_out
        for name, count in counts_of(part).items():
            self._counts[name] += count

    def finish(self, notes: Mapping[str, Any], *, name: str = "") -> None:
        """Write the manifest, with notes for `Stored` and the entry's own name: the store is whole."""
        for file in self._files.values():
            file.close()
        manifest = {
            "columns": self.columns,
            "name": name,
            "fingerprint": self._digest([*_IDENTITY, *(["labels"] if "labels" in self._digests else [])]),
            "content": self._digest(_CONTENT),
            "skipped": self._skipped,
            "left_out": self._left_out,
            "notes": dict(notes),
            "counts": self._counts,
            "files": {
                name: {"bytes": (self.folder / f"{name}.bin").stat().st_size, "crc32": self._checks.get(name, 0)}
                for name in self._files
            },
        }
        text = json.dumps(manifest | {_CHECK: _check(manifest)}, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")

    def _digest(self, names: Sequence[str]) -> str:
        return hashlib.sha256(b"".join(self._digests[name].digest() for name in names)).hexdigest()

    def close(self) -> None:
        """Let go of the files, whole or not."""
        for file in self._files.values():
            file.close()

    def _line(self, row: Row) -> bytes:
        """Write a row so that reading it again gives the same prompt and answers."""
        beside: dict[str, Any] = {} if row.prompt is row.read_prompt else {"prompt": row.prompt}
        if row.rejected_id is not None:
            beside |= {name: getattr(row, name) for name in _OF_A_PAIR}
        if not beside and row.json is not None:
            return b"[%b]" % row.json
        content = [row.fields, beside] if beside else [row.fields]
        return to_json(content, inf_nan_mode="constants", fallback=str)

    def _texts(self, name: str, ends_name: str, texts: list[bytes]) -> None:
        ends = self._ends[name] + np.cumsum([len(text) for text in texts], dtype=np.int64)
        self._ends[name] = int(ends[-1]) if len(ends) else self._ends[name]
        self._write(name, b"".join(texts))
        self._write(ends_name, ends)

    def _write(self, name: str, content: np.ndarray | bytes) -> None:
        if name not in self._files:
            self._files[name] = open(self.folder / f"{name}.bin", "wb")  # noqa: SIM115 - closed as the others
        data = content if isinstance(content, bytes) else np.ascontiguousarray(content).reshape(-1).view(np.uint8).data
        self._checks[name] = zlib.crc32(data, self._checks.get(name, 0))
        if name in self._digests:
            self._digests[name].update(data)
        self._files[name].write(data)


def load(folder: Path, *, name: str = "") -> Stored:
    """Map a store into memory, after every byte of it was checked.

    Args:
        name: the entry that it must be.

    Raises:
        Damaged: a file is missing, cut short, or not what was written.
    """
    try:
        manifest = read_object(folder / MANIFEST)
        if manifest.pop(_CHECK) != _check(manifest):
            raise Damaged(f"{folder / MANIFEST}: not what was written")
        if manifest["name"] != name:
            raise Damaged(f"{folder / MANIFEST}: another entry, {manifest['name']}")
        files = manifest["files"]
        arrays = {name: _mapped(folder / f"{name}.bin", known) for name, known in files.items()}
        trees = StoredTrees(arrays, manifest["columns"])
        return Stored(
            trees,
            trees.rows,
            manifest["skipped"],
            manifest["left_out"],
            **manifest["counts"],
            lengths={n.removeprefix(_LENGTHS): a for n, a in arrays.items() if n.startswith(_LENGTHS) and len(a)},
            fingerprint=manifest["fingerprint"],
            content=manifest["content"],
            numbers=trees.table[:, 2],
            notes=manifest["notes"],
        )
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder / MANIFEST}: {error}") from error


def _check(manifest: Mapping[str, Any]) -> str:
    """Hash what a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _mapped(path: Path, known: Mapping[str, int]) -> np.ndarray:
    size = path.stat().st_size
    if size != known["bytes"]:
        raise Damaged(f"{path}: {size} bytes, {known['bytes']} were written")
    if size == 0:
        return np.zeros(0, _TYPES.get(path.stem, np.int64))
    check = 0
    with open(path, "rb") as file:
        while part := file.read(_READ_BYTES):  # read, not mapped: what is looked at only here need not stay in memory
            check = zlib.crc32(part, check)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if check != known["crc32"]:
        raise Damaged(f"{path}: not what was written")
    return np.frombuffer(mapped, _TYPES.get(path.stem, np.int64))


class _Texts:
    """Texts that lie end to end."""

    def __init__(self, bytes_: np.ndarray, ends: np.ndarray) -> None:
        self._bytes, self.ends = bytes_, ends

    def __getitem__(self, number: int) -> bytes:
        start = int(self.ends[number - 1]) if number else 0
        return self._bytes[start : int(self.ends[number])].tobytes()


class _Names(Lazy[str]):
    """The kept rows' ids."""

    def __init__(self, texts: _Texts) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts.ends)

    def _make(self, number: int) -> str:
        return self._texts[number].decode()


class StoredRows(Lazy[Row]):
    """The kept rows."""

    def __init__(self, texts: _Texts, names: _Texts, places: _Texts, columns: Mapping[str, str]) -> None:
        self._texts, self._names, self._places, self._columns = texts, names, places, columns

    def __len__(self) -> int:
        return len(self._texts.ends)

    def _make(self, number: int) -> Row:
        text = self._texts[number]
        try:
            fields, *beside = from_json(text, cache_strings="keys")
        except ValueError:  # a line that is nested as deep as that reader goes, in the brackets around it
            fields, *beside = json.loads(text)
        where = self._places[number].decode("utf-8", "surrogateescape")
        row = to_row(fields, where=where, columns=self._columns)
        row = dataclasses.replace(row, id=self._names[number].decode())
        if not beside:
            return row
        changes: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in beside[0].items()}
        return dataclasses.replace(row, **changes)


class StoredTrees(FlatTrees):
    """The trees of the kept rows."""

    def __init__(self, arrays: Mapping[str, np.ndarray], columns: Mapping[str, str]) -> None:
        names = _Texts(arrays["names"], arrays["name_ends"])
        places = _Texts(arrays["places"], arrays["place_ends"])
        self.rows = StoredRows(_Texts(arrays["rows"], arrays["row_ends"]), names, places, columns)
        table = arrays["trees"].reshape(-1, 3)
        super().__init__(
            _Names(names), arrays["ids"], arrays["scored"], arrays["segments"], table, arrays.get("labels")
        )
        if len(self.rows) != len(table):
            raise ValueError("rows and trees do not agree")

    def ids(self) -> list[str]:
        """The rows' ids."""
        return list(self.names)
