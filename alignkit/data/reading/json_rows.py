"""JSON files -> rows: one object per line, objects on several lines each, an array of objects, `{"data": [...]}`.

How a file is written is seen by its beginning, whatever its name. Lines are parsed one by one. In the other ways an
object ends where its brackets close; it is then parsed as a line is, so that no way reads a row otherwise.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from alignkit.data.reading.fields import SHAPE
from alignkit.data.reading.text_files import Line, beginning_of, lines_of, pieces_of, without_bom
from alignkit.errors import InputError

_SEEN = 1 << 16  # bytes that show how a file is written
_SEARCHED, _SEARCHED_EVERY = 1000, 16  # lines searched for keys twice: to search all takes 3 % of the data path
_LARGEST = 64 << 20  # an object with more bytes than this most likely lacks a quote or a bracket
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_TOKEN = re.compile(_STRING + rb'|[][{}"]', re.DOTALL)  # a quote alone: a string that ends in a later piece
_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = rb"(?:" + _STRING + rb"|[-+.\w]+)"
_KEYS = re.compile(rb"(" + _STRING + rb")\s*:\s*" + _SCALAR + rb"\s*,\s*", re.DOTALL)
_WRAPPED = re.compile(  # {"version": 1, "data": [{
    rb"\{\s*((?:" + _STRING + rb"\s*:\s*" + _SCALAR + rb"\s*,\s*)*+)"
    rb'"(?:data|rows|examples|instances|records|samples|items|train)"\s*:\s*\[(?=\s*[]{])',
    re.DOTALL,
)
_TURN = re.compile(  # a message, whose list is a conversation
    rb'\{\s*(?:"(?:role|from)"\s*:\s*'
    + _STRING
    + rb'\s*,\s*"(?:content|value)"|"(?:content|value)"\s*:\s*'
    + _STRING
    + rb'\s*,\s*"(?:role|from)")\s*:',
    re.DOTALL,
)
_COLUMNS = re.compile(rb"\{\s*" + _STRING + rb'\s*:\s*\{\s*"0"\s*:')  # as pandas' to_json writes a table
_ROW_FIELDS = frozenset(f'"{name}"'.encode() for field in SHAPE for name in field.names)


def read_json(path: Path) -> Iterator[Line]:
    """Yield the rows of one file of JSON.

    Raises:
        InputError: it is not UTF-8, not JSON, or holds something else than objects; names file, line and byte.
    """
    beginning = beginning_of(path, _SEEN)
    text = beginning.lstrip()
    if text.startswith(b"["):
        return _array(path, len(beginning) - len(text) + 1, is_wrapped=False)
    line, line_end, rest = text.partition(b"\n")
    if not text.startswith(b"{") or (_are_closed(line) and rest.strip()):
        return _lines(path)
    if _COLUMNS.match(text):
        raise InputError(f"{path}, line 1: a table by columns; write it by rows: to_json(orient='records', lines=True)")
    wrapped = _WRAPPED.match(text)
    is_row = wrapped and (_ROW_FIELDS & set(_KEYS.findall(wrapped[1])) or _TURN.match(text, wrapped.end()))
    if wrapped and not is_row:  # else the list is a field of the row's own
        return _array(path, len(beginning) - len(text) + wrapped.end(), is_wrapped=True)
    return _lines(path) if _are_closed(line) or not line_end else _objects(path)


def _are_closed(text: bytes) -> bool:
    """Whether as many brackets close as open."""
    found = [token for token in _TOKEN.findall(text) if token != b'"']
    return sum(token in (b"[", b"{") for token in found) == sum(token in (b"]", b"}") for token in found)


def _lines(path: Path) -> Iterator[Line]:
    name = str(path)
    with lines_of(path) as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = without_bom(line)
            if line and not line.isspace():
                where = f"{name}, line {number}"
                is_searched = number <= _SEARCHED or number % _SEARCHED_EVERY == 0
                yield where, *_object(line, where, is_searched=is_searched)


def _objects(path: Path) -> Iterator[Line]:
    text = _Text(path)
    while letter := text.next_letter():
        if letter != b"{":
            way_out = "put the rows into [ ], or leave the commas out" if letter == b"," else "a row begins with {"
            raise InputError(f"{text.place()}: {_letter(letter)} between two rows; {way_out}")
        yield text.row()


def _array(path: Path, begins: int, *, is_wrapped: bool) -> Iterator[Line]:
    """Read the objects of an array whose first element, if it has one, stands behind so many bytes."""
    text = _Text(path)
    text.skip(begins)
    letter = text.next_letter()
    while letter != b"]":
        if letter != b"{":
            found = f"found {_letter(letter)}" if letter else "the file ends: it was cut off"
            raise InputError(f"{text.place()}: expected an object in the array, {found}; a row is an object, {{...}}")
        yield text.row()
        letter = text.next_letter()
        if letter == b",":
            text.skip(1)
            letter = text.next_letter()
            if letter == b"]":
                raise InputError(f"{text.place()}: a comma before the array's end; take the comma away")
        elif letter != b"]":
            found = f"{_letter(letter)} instead" if letter else "the file ends: it was cut off"
            raise InputError(f"{text.place()}: no comma and no ] behind a row, {found}; correct it there")
    text.skip(1)
    if is_wrapped:
        _refuse_another_list(text)
    elif letter := text.next_letter():
        raise InputError(
            f"{text.place()}: {_letter(letter)} behind the array's end; a file has one array, or one row per line"
        )


def _refuse_another_list(text: _Text) -> None:
    """Read what stands behind the list of rows: it is not read as data, so that it may hold no second list."""
    place, rest = text.place(), text.rest()
    if another := re.search(_STRING + rb"(?=\s*:\s*\[\s*\{)", rest, re.DOTALL):
        raise InputError(
            f"{place}: behind the list of rows the file holds another one, {another[0].decode('utf-8', 'replace')}; "
            "write each to a file of its own"
        )
    if own := _ROW_FIELDS & {key[:-1].rstrip() for key in re.findall(_STRING + rb"\s*:", rest, re.DOTALL)}:
        raise InputError(
            f"{place}: {min(own).decode()} behind a list of objects: a row with a list, or a list of rows? Write one "
            "JSON object per line"
        )
    if not rest.strip().endswith(b"}"):
        raise InputError(f"{place}: no }} behind the list of rows: the file was cut off, or goes on; give a whole one")


class _Text:
    """A file that is read from its beginning to its end, and the place up to which it is used."""

    def __init__(self, path: Path) -> None:
        self._name, self._pieces = str(path), pieces_of(path)
        self._text, self._at = without_bom(next(self._pieces, b"")), 0
        self._line, self._byte = 1, 1  # of the place, both from 1
        self._rows = 0

    def place(self) -> str:
        return f"{self._name}, line {self._line}, byte {self._byte}"

    def next_letter(self) -> bytes:
        """Go behind white space; the byte there, none at the file's end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self.skip(found.end() - self._at)
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self, num_bytes: int) -> None:
        while len(self._text) - self._at < num_bytes and self._more():
            pass
        to = self._at + num_bytes
        lines = self._text.count(b"\n", self._at, to)
        self._byte = to - self._text.rfind(b"\n", 0, to) if lines else self._byte + num_bytes
        self._line += lines
        self._at = to

    def row(self) -> Line:
        """The object at the place, which goes behind it."""
        self._rows += 1
        where, line = f"{self._name}, line {self._line} (row {self._rows})", self._line
        end, depth = self._at, 0
        while True:
            for token in _TOKEN.finditer(self._text, end):
                letter = token[0]
                if letter == b'"':
                    break  # the next piece holds the string's end
                end = token.end()
                depth += (letter in (b"[", b"{")) - (letter in (b"]", b"}"))
                if depth == 0:
                    content = self._text[self._at : end]
                    self.skip(end - self._at)
                    return where, *_object(content, where, first_line=line)
            if len(self._text) - self._at > _LARGEST:
                raise InputError(
                    f"{where}: the object that begins here has more than {_LARGEST >> 20} MiB; most likely a quote or "
                    "a bracket is missing in it"
                )
            end -= self._at
            if not self._more():
                raise InputError(
                    f"{where}: the object that begins here does not end: a quote or a bracket is missing in it, or the "
                    "file was cut off"
                )

    def rest(self) -> bytes:
        """All that is not used yet; of more than an object may have, the first part."""
        while len(self._text) - self._at <= _LARGEST and self._more():
            pass
        return self._text[self._at :]

    def _more(self) -> bool:
        """Read on, and forget what is used."""
        piece = next(self._pieces, b"")
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)


def _object(
    text: bytes, where: str, first_line: int = 1, *, is_searched: bool = True
) -> tuple[Mapping[str, Any], bytes | None]:
    """Read one object; what the fast reader refuses is read again by the one that can say what is wrong with it.

    Args:
        is_searched: look for keys that stand in it twice; of these the reader takes the last.
    """
    json_: bytes | None = text
    try:
        fields = from_json(text, cache_strings="keys")
    except ValueError:
        fields, json_ = _json(text, where, first_line), None
    if json_ is not None and b"\n" in text[:-1]:
        json_ = None  # what is kept of a row's JSON is one line
    if not isinstance(fields, dict):
        hint = "write each of its rows on a line of its own" if isinstance(fields, list) else "correct this line"
        raise InputError(f"{where}: expected an object, found {type(fields).__name__}; {hint}")
    if is_searched and text.count(b'":') - text.count(b'\\":') > _num_keys(fields):
        _refuse_twice(text, where)
    return fields, json_


def _num_keys(value: Any) -> int:
    """How many keys all the objects inside a value have."""
    kind = type(value)
    if kind is dict:
        return len(value) + sum(_num_keys(inner) for inner in value.values() if type(inner) in (dict, list))
    return sum(_num_keys(inner) for inner in value if type(inner) in (dict, list)) if kind is list else 0


def _refuse_twice(text: bytes, where: str) -> None:
    """Refuse an object that has a key twice: only the last value would be read."""

    def checked(pairs: list[tuple[str, Any]]) -> None:
        seen = Counter(key for key, _ in pairs)
        if len(seen) < len(pairs):
            twice = next(key for key, times in seen.items() if times > 1)
            raise InputError(f"{where}: an object has the key {twice!r} twice; leave one of them")

    json.loads(text, object_pairs_hook=checked)


def _json(line: bytes, where: str, first_line: int) -> Any:
    """Read an object by Python's reader; a `\\u` escape that is half a character is refused: no tokenizer takes it."""
    try:
        text = line.decode("utf-8")
        fields = json.loads(text)
        if b"\\u" in line:
            json.dumps(fields, ensure_ascii=False).encode()
        from_json(to_json(fields, inf_nan_mode="constants"))  # fails where it is nested deeper than rows are kept
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8: {error.reason} at byte {error.start + 1}; save the file as UTF-8"
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: no valid text: {error.reason}; correct this line") from error
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].rpartition("\n")[2].encode()) + 1
        place = f"line {first_line + error.lineno - 1}, byte {byte}" if error.lineno > 1 else f"byte {byte}"
        raise InputError(f"{where}: not JSON: {error.msg} at {place}; {_way_out(line)}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise InputError(f"{where}: JSON that cannot be read: {error}; correct this line") from error
    return fields


def _way_out(line: bytes) -> str:
    """What to do about an object that is not JSON: the whole file may be written in another way."""
    text = line.strip()
    if b"\r" in text.replace(b"\r\n", b""):
        return "lines end with a carriage return alone: save the file with line feeds"
    if text == b"{" or not _are_closed(text):
        return "correct this line: a row must end on the line on which it begins; or was the file cut off?"
    if text.endswith(b"},"):
        return "take the comma behind the object away: one JSON object per line, or all of them in one array, [...]"
    if re.match(rb"\{\s*'", text) or re.search(rb":\s*(?:None|True|False|')", text):
        return "this is how Python prints a row: write it with json.dumps, one JSON object per line"
    return "correct this line; a row is a JSON object on one line"


def _letter(letter: bytes) -> str:
    return repr(letter.decode("latin-1"))
