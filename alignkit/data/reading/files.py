"""Reads the rows of files, one after another: JSONL (also .gz and .zst) and Parquet. No file is held in memory.

JSON is read line by line, so that a wrong line is named; polars unpacks zst and reads Parquet in batches.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from alignkit.errors import InputError, first_line

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
Line = tuple[str, Mapping[str, Any], bytes | None]
"""Where a row stands ("FILE, line N"), its columns, and the JSON that they were read from."""
_BATCH_ROWS = 2048
_BOM = b"\xef\xbb\xbf"  # what some editors put before UTF-8


def files_of(path: Path) -> list[Path]:
    """Return the data files of a folder in the order of their names, or the file itself.

    Raises:
        InputError: the folder has none, or the file is of another kind.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if not files:
            raise InputError(f"{path}: no data file in this folder; read are {', '.join(SUFFIXES)}")
        return files
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: unknown kind of file; read are {', '.join(SUFFIXES)}")
    return [path]


def read_file(path: Path) -> Iterator[Line]:
    """Yield the rows of one file.

    Raises:
        InputError: it cannot be read to its end, or a line is not a JSON object in UTF-8.
    """
    try:
        yield from _parquet(path) if path.suffix == ".parquet" else _jsonl(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}; give a whole file that you may read") from error


def _jsonl(path: Path) -> Iterator[Line]:
    name = str(path)
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if line and not line.isspace():
                where = f"{name}, line {number}"
                yield where, *_object(line, where)


def _opened(path: Path) -> AbstractContextManager[Iterable[bytes]]:
    if path.suffix == ".zst":
        return closing(_zst_lines(path))
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _object(line: bytes, where: str) -> tuple[Mapping[str, Any], bytes | None]:
    """Read one line; what the fast reader refuses is read again by the one that can say what is wrong with it."""
    json_: bytes | None = line
    try:
        fields = from_json(line, cache_strings="keys")
    except ValueError:
        fields, json_ = _json(line, where), None
    if not isinstance(fields, dict):
        hint = "write each of its rows on a line of its own" if isinstance(fields, list) else "correct this line"
        raise InputError(f"{where}: expected an object, found {type(fields).__name__}; {hint}")
    return fields, json_


def _json(line: bytes, where: str) -> Any:
    """Read a line by Python's reader; a `\\u` escape that is half a character is refused: no tokenizer takes it."""
    try:
        fields = json.loads(line.decode("utf-8"))
        if b"\\u" in line:
            json.dumps(fields, ensure_ascii=False).encode()
        from_json(to_json(fields, inf_nan_mode="constants"))  # fails where it is nested deeper than rows are kept
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: no valid text: {error.reason}; correct this line") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error.msg} at column {error.colno}; {_way_out(line)}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise InputError(f"{where}: JSON that cannot be read: {error}; correct this line") from error
    return fields


def _way_out(line: bytes) -> str:
    """What to do about a line that is not JSON: the whole file may be written in another way."""
    text = line.strip()
    if b"\r" in text:
        return "lines end with a carriage return alone: save the file with line feeds"
    if text.startswith(b"["):
        return "this is a JSON array: write each of its rows on a line of its own"
    if text == b"{":
        return "a row must stand on one line: write a JSON object a line"
    return "correct this line; a row is a JSON object on one line"


def _zst_lines(path: Path) -> Generator[bytes]:
    import polars

    try:
        for batch in polars.scan_lines(path).collect_batches(maintain_order=True, chunk_size=_BATCH_ROWS):
            for line in batch.to_series():
                yield (line or "").encode()
    except (polars.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not readable as zst: {first_line(error)}; pack it again") from error


def _parquet(path: Path) -> Iterator[Line]:
    import polars

    number = 0
    try:
        for batch in polars.scan_parquet(path).collect_batches(maintain_order=True, chunk_size=_BATCH_ROWS):
            for fields in batch.iter_rows(named=True):
                number += 1
                yield f"{path}, row {number}", fields, None
    except (polars.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {first_line(error)}; write it again") from error
