"""Reads alignkit.toml and knows on which line each key stands.

`tomllib` gives no lines, so they are found in the text: table headers and `key =` at the start of a line, outside
multi-line strings. Keys inside an inline table have the line of the table.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.errors import InputError

FILE_NAME = "alignkit.toml"
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"^\s*\[\[?\s*({_DOTTED})\s*\]\]?")
_KEY = re.compile(rf"^\s*({_DOTTED})\s*=")
_STRING_OR_COMMENT = re.compile(r"""\"{3}|'{3}|"(?:[^"\\]|\\.)*"|'[^']*'|#""")


@dataclass(frozen=True)
class Source:
    """A parsed file: its tables, and the line (from 1) of every key and table."""

    path: Path
    tables: dict[str, Any]
    lines: dict[tuple[str, ...], int] = field(repr=False)

    def place(self, *path: str) -> str:
        """Return "alignkit.toml:12" for a key, or for the nearest table around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.path}:{self.lines[path[:end]]}"
        return str(self.path)


def find(path: Path | None) -> Path | None:
    """Return the file to read: `path` where given, else ./alignkit.toml, else None.

    Raises:
        InputError: `path` was given and is not a file.
    """
    if path is None:
        here = Path(FILE_NAME)
        return here if here.is_file() else None
    if not path.is_file():
        raise InputError(f"{path}: no such file; `alignkit init --out {path}` writes one")
    return path


def read(path: Path) -> Source:
    """Parse a TOML file.

    Raises:
        InputError: it cannot be read, or is not TOML (with the line).
    """
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}; give a TOML file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        place = f"{path}:{line[1]}" if line else f"{path}:{text.count(chr(10)) + 1}"
        raise InputError(f"{place}: not valid TOML: {str(error).rstrip('.')}; correct this line") from error
    return Source(path, tables, key_lines(text))


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line of every key and table of a valid TOML text, by its path."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    open_quote: str | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if open_quote is not None:
            open_quote = _left_open(line, open_quote)
            continue
        if header := _TABLE.match(line):
            table = _parts(header[1])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            path = table + _parts(key[1])
            for end in range(len(table) + 1, len(path) + 1):
                lines.setdefault(path[:end], number)
        open_quote = _left_open(line)
    return lines


def _left_open(line: str, open_quote: str | None = None) -> str | None:
    """Return the quotes of the multi-line string that is still open at the line's end, or None."""
    position = 0
    while True:
        if open_quote is not None:
            end = line.find(open_quote, position)
            if end < 0:
                return open_quote
            position, open_quote = end + 3, None
        found = _STRING_OR_COMMENT.search(line, position)
        if found is None or found[0] == "#":
            return None
        position = found.end()
        open_quote = found[0] if found[0] in ('"""', "'''") else None


def _parts(dotted: str) -> tuple[str, ...]:
    parts: list[str] = []
    table: Any = tomllib.loads(f"{dotted} = 0")
    while isinstance(table, dict):
        ((part, table),) = table.items()
        parts.append(part)
    return tuple(parts)
