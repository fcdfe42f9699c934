"""Tables -> rows: CSV and TSV by Python's reader, Parquet and Arrow by polars, all in parts.

A cell of CSV is text, also where it looks like a number: `0123` is an answer. An empty one is missing. Only labels
are read as what they say, true and false, 1 and 0. Arrow's streams, which datasets' `save_to_disk` writes, are handed
to polars one batch of rows at a time, since it reads a stream into memory whole.
"""

from __future__ import annotations

import csv
import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from alignkit.data.reading.fields import SCORES, SHAPE, names
from alignkit.data.reading.text_files import Line, beginning_of, lines_of, without_bom
from alignkit.data.reading.tools import without_filled_arguments
from alignkit.errors import InputError, first_line

_BATCH_ROWS = 2048
_LONGEST_CELL = 1 << 30
_TRUTH = {"true": True, "false": False, "1": 1, "0": 0, "1.0": 1, "0.0": 0}
_IS_TRUTH = frozenset((*names(SHAPE, "label"), *names(SCORES, "tie")))
_KIND, _LENGTH = 6, 10  # where the places of an Arrow message's kind and of its body's length stand
_ROWS = 3  # the kind that holds rows; others are the schema and dictionaries
_CONTINUES, _END = b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\0\0\0\0"


def read_csv(path: Path, separator: str) -> Iterator[Line]:
    """Yield the rows of CSV with a header; cells may hold line ends in quotes.

    Raises:
        InputError: it is not UTF-8, quotes are wrong, or a row has other columns than the header; names the line.
    """
    beginning = beginning_of(path, 1 << 16).lstrip().partition(b"\n")[0]
    if separator == "," and b"," not in beginning:  # as spreadsheets write it where a comma stands in numbers
        separator = ";" if b";" in beginning else "\t" if b"\t" in beginning else ","
    csv.field_size_limit(_LONGEST_CELL)
    line = 1
    with lines_of(path) as lines:
        reader = csv.reader(_decoded(lines, str(path)), delimiter=separator, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise InputError(f"{path}, line 1: two columns are named {twice!r}; name them differently")
            while True:
                line = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                where = f"{path}, line {line}"
                if cells and len(cells) != len(header):
                    raise InputError(
                        f"{where}: {len(cells)} cells, where the header has {len(header)}; put text that holds the "
                        "separator, quotes or line ends into quotes"
                    )
                if cells:
                    yield where, {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)}, None
        except csv.Error as error:
            raise InputError(f"{path}, line {line}: not CSV: {error}; correct the quotes of this row") from error


def read_parquet(path: Path) -> Iterator[Line]:
    """Yield the rows of Parquet. Raises InputError where it is none."""
    import polars

    return _of_batches(
        path, "Parquet", lambda: polars.scan_parquet(path).collect_batches(maintain_order=True, chunk_size=_BATCH_ROWS)
    )


def read_arrow(path: Path) -> Iterator[Line]:
    """Yield the rows of Arrow's file format (Feather 2) or of its stream. Raises InputError where it is neither."""
    import polars

    with open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"FEA1"):
        raise InputError(f"{path}: Feather's first version, which nothing here reads; write it as Parquet")
    if magic == b"ARROW1":
        return _of_batches(
            path, "Arrow", lambda: polars.scan_ipc(path).collect_batches(maintain_order=True, chunk_size=_BATCH_ROWS)
        )
    return _of_batches(path, "Arrow", lambda: _stream_batches(path))


def _of_batches(path: Path, kind: str, batches: Callable[[], Iterable[Any]]) -> Iterator[Line]:
    import polars

    number = 0
    try:
        for batch in batches():
            calls = [name for name, type_ in batch.schema.items() if "'arguments': Struct" in str(type_)]
            for fields in batch.iter_rows(named=True):
                number += 1
                for name in calls:
                    fields[name] = without_filled_arguments(fields[name])
                yield f"{path}, row {number}", fields, None
    except (polars.exceptions.PolarsError, OSError, struct.error) as error:
        raise InputError(f"{path}: not a readable {kind} file: {first_line(error)}; write it again") from error


def _stream_batches(path: Path) -> Iterator[Any]:
    """Hand a stream to polars one batch of rows at a time, each behind the schema and the dictionaries.

    Source: the Arrow columnar format, "Encapsulated message format".
    """
    import polars

    before = b""
    with open(path, "rb") as file:
        while message := _message(file):
            kind, content = message
            if kind == _ROWS:
                yield polars.read_ipc_stream(io.BytesIO(before + content + _END))
            else:
                before += content


def _message(file: BinaryIO) -> tuple[int, bytes] | None:
    """One message's kind and bytes; None at the stream's end."""
    begins = file.read(4)
    if begins == _CONTINUES:  # missing before version 0.15
        begins += file.read(4)
    if not begins or begins[-4:] == b"\0\0\0\0":
        return None
    about = _exactly(file, struct.unpack("<i", begins[-4:])[0])
    # A flatbuffer: at its begin the root table's place; there, how far back the places of the table's fields begin.
    (root,) = struct.unpack_from("<I", about)
    places = root - struct.unpack_from("<i", about, root)[0]
    (end,) = struct.unpack_from("<H", about, places)
    # A field whose value is 0, or that no later field follows, may be missing.
    kind, length = (struct.unpack_from("<H", about, places + at)[0] if at < end else 0 for at in (_KIND, _LENGTH))
    body = _exactly(file, struct.unpack_from("<q", about, root + length)[0] if length else 0)
    return about[root + kind] if kind else 0, begins + about + body


def _exactly(file: BinaryIO, num_bytes: int) -> bytes:
    if not 0 <= num_bytes <= os.fstat(file.fileno()).st_size - file.tell():
        raise struct.error("it was cut off, or is no Arrow")
    return file.read(num_bytes)


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield (without_bom(line) if number == 1 else line).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}, line {number}: not UTF-8: {error.reason} at byte {error.start + 1}; save the file as UTF-8"
            ) from error


def _cell(name: str, cell: str) -> str | bool | int | None:
    if name in _IS_TRUTH:
        return _TRUTH.get(cell.strip().lower(), cell) if cell.strip() else None
    return cell or None
