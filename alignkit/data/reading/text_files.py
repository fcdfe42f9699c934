"""A file's bytes as text files are read: unpacked, line by line or in pieces, without a byte order mark.

polars unpacks zst. What a file is no text of is said by its first bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from alignkit.errors import InputError, first_line

Line = tuple[str, Mapping[str, Any], bytes | None]
"""Where a row stands ("FILE, line N"), its columns, and the JSON that they were read from."""
_BATCH_LINES = 2048
_PIECE = 1 << 20
_BOM = b"\xef\xbb\xbf"  # what some editors put before UTF-8
_UTF_16 = "not UTF-8 but UTF-16: save the file as UTF-8"
_OTHERS = (
    (b"\xff\xfe", _UTF_16),
    (b"\xfe\xff", _UTF_16),
    (b"\x1f\x8b", "packed by gzip: let its name end with .gz"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd: let its name end with .zst"),
    (b"PK\x03\x04", "a zip file: unpack it"),
    (b"PAR1", "a Parquet file: let its name end with .parquet"),
    (b"ARROW1", "an Arrow file: let its name end with .arrow"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the data: fetch them with git lfs pull"),
)


def lines_of(path: Path) -> AbstractContextManager[Iterable[bytes]]:
    """Open a file for its lines, each with its line end."""
    if path.suffix.lower() == ".zst":
        return closing(_zst_lines(path))
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in pieces."""
    if path.suffix.lower() == ".zst":
        yield from _zst_lines(path)
        return
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def beginning_of(path: Path, num_bytes: int) -> bytes:
    """Return the first bytes of a text file, without a byte order mark.

    Raises:
        InputError: they are no UTF-8 text's.
    """
    found = b""
    pieces = pieces_of(path)
    while len(found) < num_bytes and (piece := next(pieces, b"")):
        found += piece
    for magic, what in _OTHERS:
        if found.startswith(magic):
            raise InputError(f"{path}, line 1, byte 1: {what}")
    if b"\0" in found[:2]:
        raise InputError(f"{path}, line 1, byte 1: {_UTF_16}")
    return without_bom(found[:num_bytes])


def without_bom(text: bytes) -> bytes:
    """Take a byte order mark away from the beginning."""
    return text.removeprefix(_BOM)


def _zst_lines(path: Path) -> Generator[bytes]:
    import polars

    try:
        for batch in polars.scan_lines(path).collect_batches(maintain_order=True, chunk_size=_BATCH_LINES):
            for line in batch.to_series():
                yield (line or "").encode() + b"\n"
    except (polars.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not readable as zst: {first_line(error)}; pack it again") from error
