"""Tables -> rows: CSV and TSV by Python's reader, Parquet and Arrow by polars, all in parts.

A cell of CSV is text, also where it looks like a number: `0123` is an answer. An empty one is missing. Only labels
and ties are read as what they say, true and false, 1 and 0. Arrow's streams, which datasets'
`save_to_disk` writes, are read by pyarrow, batch by batch.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from alignkit.data.reading.cells import truth_of
from alignkit.data.reading.fields import SCORES, SHAPE, names
from alignkit.data.reading.text_files import Line, beginning_of, lines_of, without_bom
from alignkit.data.reading.tools import without_filled_arguments
from alignkit.errors import InputError, first_line

_BATCH_ROWS = 2048
_LONGEST_CELL = 1 << 30
_IS_TRUTH = frozenset((*names(SHAPE, "label"), *names(SCORES, "tie")))


def read_csv(path: Path, separator: str) -> Iterator[Line]:
    """Yield the rows of CSV with a header; cells may hold line ends in quotes.

    Raises:
        InputError: it is not UTF-8, quotes are wrong, or a row has other columns than the header; names the line.
    """
    beginning = beginning_of(path, 1 << 16).lstrip().partition(b"\n")[0]
    if separator == "," and b"," not in beginning:  # as spreadsheets write it where a comma stands in numbers
        separator = ";" if b";" in beginning else "\t" if b"\t" in beginning else ","
    mark = separator.encode()
    is_spaced = 0 < beginning.count(mark) == beginning.count(mark + b" ")  # a space behind each comma is no text
    csv.field_size_limit(_LONGEST_CELL)
    line = 1
    with lines_of(path) as lines:
        reader = csv.reader(_decoded(lines, str(path)), delimiter=separator, strict=True, skipinitialspace=is_spaced)
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
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"FEA1"):
        raise InputError(f"{path}: Feather's first version, which nothing here reads; write it as Parquet")
    if magic == b"ARROW1":
        return _of_batches(path, "Arrow", lambda: _file_batches(path))
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
    except (polars.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a readable {kind} file: {first_line(error)}; write it again") from error


def _file_batches(path: Path) -> Iterable[Any]:
    """A file's batches; of two columns of one name polars reads none, and no row."""
    import polars
    import pyarrow

    try:
        with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_file(file) as reader:
            names = reader.schema.names
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two columns are named {twice!r}; name them differently")
    return polars.scan_ipc(path).collect_batches(maintain_order=True, chunk_size=_BATCH_ROWS)


def _stream_batches(path: Path) -> Iterator[Any]:
    """A stream's batches of rows, one at a time; polars reads a stream into memory whole."""
    import polars
    import pyarrow

    try:
        with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_stream(file) as batches:
            for batch in batches:
                yield polars.from_arrow(batch)
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error


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
        return truth_of(cell) if cell.strip() else None
    return cell or None
