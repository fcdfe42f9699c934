"""Text of others on a terminal and in a log: what would steer the terminal, or forge a line, is shown escaped.

Data, models, file names and services say what they like; an escape code among it would clear the screen, a line end
would begin a line that looks like ours, and a bidirectional mark would show another order than is there.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

# C0 but for tab and line end, DEL, C1; marks of direction; line and paragraph separators; lone surrogates
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
_PLACE = re.compile(r"(.*, (?:line|row)) (\d.*)")  # as readers of files name rows
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BLANK = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0") | frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Letters and marks that show nothing: fillers, the empty pattern of Braille, variation selectors."""


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space, format characters such as U+200B and U+FEFF, fillers."""
    if text and "!" <= text[0] <= "~":  # nearly every text
        return False
    return all(c.isspace() or c in _BLANK or unicodedata.category(c) == "Cf" for c in text)


def shown(text: object) -> str:
    """Return text of several lines as a terminal may show it: line ends and tabs stay."""
    return _STEERING.sub(_escaped, str(text).replace("\r\n", "\n"))


def on_one_line(text: object) -> str:
    """Return an id, a name or a message as it may stand within a line: line ends are shown as \\n."""
    return shown(str(text).replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t"))


def shortened(text: str, most: int) -> str:
    """Return a text in at most so many characters; where it is cut, it ends with three dots.

    >>> shortened("as it is", 8), shortened("too long", 7)
    ('as it is', 'too ...')
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def counted(n: int, one: str) -> str:
    """A number of things.

    >>> counted(1, "row"), counted(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{n:,} {one}{'' if n == 1 else 's'}"


def listed(rows: Sequence[str], most: int, *, num_all: int | None = None) -> str:
    """The first few rows of a list by their names; places in one file are said with the file's name once.

    Args:
        num_all: how many there are, where `rows` are the first ones alone.

    >>> listed(["a.jsonl, line 3", "a.jsonl, line 7", "a.jsonl, line 8"], 2), listed(["x", "y"], 3)
    ('a.jsonl, lines 3, 7, ...', 'x, y')
    """
    first = list(rows[:most])
    places = [_PLACE.fullmatch(row) for row in first]
    files = {place and place[1] for place in places}
    if len(first) > 1 and len(files) == 1 and (file := files.pop()) is not None:
        first = [f"{file}s {place[2]}" if n == 0 else place[2] for n, place in enumerate(places) if place is not None]
    return ", ".join(first) + (", ..." if (num_all or len(rows)) > len(first) else "")


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(40), duration(1800), duration(9000)
    ('40 s', '30 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def at_words(line: str, width: int) -> str:
    """Break a line between words, where a terminal would break it within one; what is to be copied stays whole.

    >>> at_words("nothing is left; type `alignkit runs` now", 24)
    'nothing is left; type\\n  `alignkit runs` now'
    """
    whole = re.sub("`[^`]*`", lambda found: found[0].replace(" ", "\0"), line)
    if len(line) <= width or "alignkit " in whole:
        return line
    lines = textwrap.wrap(whole, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def fitted(line: str, stream: TextIO) -> str:
    """Return a line as `at_words` breaks it where `stream` is a terminal, elsewhere as it is."""
    return at_words(line, shutil.get_terminal_size().columns) if stream.isatty() else line


def json_shown(text: str) -> str:
    """Return JSON that says the same and holds nothing that steers a terminal; outside strings JSON has none of it."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_typed(words: Iterable[str]) -> str:
    """Return a command as it is typed in a POSIX shell, on one line: printf writes what has no printable form.

    The shell drops line ends at the end of such a word.
    """
    return " ".join(shlex.quote(word) if word.isprintable() else f"\"$(printf '{_octal(word)}')\"" for word in words)


class LogFormatter(logging.Formatter):
    """Lays out log records: a message is one line, unless its own format has several; the further ones are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        is_ours = record.name.partition(".")[0] in ("alignkit", "alignkit_plugins")
        if is_ours and "\n" not in str(record.msg):
            record.message = on_one_line(record.message)
        else:
            record.message = shown(record.message).replace("\n", "\n    ")
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return shown(super().formatException(ei))


def _octal(word: str) -> str:
    """Return printf's format of a text."""
    return "".join(
        letter
        if letter.isprintable() and letter not in "\\%'"
        else "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))
        for letter in word
    )


def _escaped(found: re.Match[str]) -> str:
    letter = found[0]
    number = ord(letter)
    return _NAMES.get(letter) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")
