"""The kinds of rules: pure functions from a text and a rule's fields to the share of the rule that it satisfies.

Every function returns a number in [0, 1]: 1 where the rule holds, and, wherever "almost" means something, less the
further the text is from it. That gradation is what a trainer can climb. A field's name has one type in all kinds, so
that rules of different kinds fit one Parquet column; a field that is null counts as not given.

A *word* is a run of letters and digits (inner apostrophes and hyphens belong to it); words are compared without case.
Patterns from the data (regular expressions) are left out: a hostile one can take exponential time.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

Values = Annotated[list[str], Field(min_length=1)]
Bound = Annotated[int, Field(ge=0)]
FormatName = Literal["comma-list", "numbered-list", "bullet-list", "csv", "json", "uppercase", "lowercase"]

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]+[\"')\]]*(?=\s|$)")
_BULLETS = ("- ", "* ", "\u2022 ")


def equals(text: str, /, *, value: str) -> float:
    """1 where text and value agree but for case, outer spaces and final . or !; else half the F1 of their words."""
    if _plain(text) == _plain(value):
        return 1.0
    have, want = Counter(_words(text)), Counter(_words(value))
    return (have & want).total() / max(have.total() + want.total(), 1)  # half of 2 x common / (have + want)


def one_of(text: str, /, *, values: Values) -> float:
    """The best `equals` over values."""
    return max(equals(text, value=value) for value in values)


def contains(text: str, /, *, values: Values, at_least: Bound | None = None) -> float:
    """Number of values that occur, as whole words, divided by `at_least` (default: all of them), at most 1."""
    wanted = len(values) if at_least is None else at_least
    found = sum(_occurs(text, value) for value in values)
    return min(1.0, found / wanted) if wanted else 1.0


def excludes(text: str, /, *, values: Values) -> float:
    """1 where none of the values occurs, 0 where any does."""
    return 0.0 if any(_occurs(text, value) for value in values) else 1.0


def starts_with(text: str, /, *, values: Values) -> float:
    """1 where the text, without outer spaces, starts with one of the values, without regard to case; else 0."""
    return float(text.strip().casefold().startswith(tuple(value.casefold() for value in values)))


def ends_with(text: str, /, *, values: Values) -> float:
    """1 where the text, without outer spaces, ends with one of the values, without regard to case; else 0."""
    return float(text.strip().casefold().endswith(tuple(value.casefold() for value in values)))


def num_words(text: str, /, *, min: Bound | None = None, max: Bound | None = None) -> float:
    """1 where min <= words <= max; outside, the smaller of count and bound divided by the larger."""
    return _closeness(len(_words(text)), min, max)


def num_sentences(text: str, /, *, min: Bound | None = None, max: Bound | None = None) -> float:
    """As `num_words`, for sentences: parts with a word in them that end in . ! or ? or, the last one, unfinished."""
    return _closeness(sum(bool(_words(part)) for part in _SENTENCE_END.split(text)), min, max)


def num_lines(text: str, /, *, min: Bound | None = None, max: Bound | None = None) -> float:
    """As `num_words`, for lines that are not blank."""
    return _closeness(len(_lines(text)), min, max)


def num_items(text: str, /, *, min: Bound | None = None, max: Bound | None = None) -> float:
    """As `num_words`, for items: the lines where there are several, else what commas and a last "and" part."""
    lines = _lines(text)
    items = lines if len(lines) > 1 or text.lstrip().startswith(_BULLETS) else re.split(r",| and ", text)
    return _closeness(sum(bool(_words(item)) for item in items), min, max)


def ordered(text: str, /, *, values: Values) -> float:
    """Share of neighbouring values whose first occurrences, as whole words, stand in this order."""
    haystack = _spaced(text)
    places = [haystack.find(_spaced(value)) for value in values]
    neighbours = list(itertools.pairwise(places))
    return sum(0 <= first < second for first, second in neighbours) / len(neighbours) if neighbours else 1.0


def number(text: str, /, *, number: float, at: Literal["first", "last"] = "last") -> float:
    """1 where the text's last (or first) number is this one, 0.5 where it stands elsewhere in the text, else 0."""
    found = [float(digits) for digits in _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", text))]
    if not found:
        return 0.0
    return 1.0 if found[-1 if at == "last" else 0] == number else 0.5 * (number in found)


def json_keys(text: str, /, *, values: Values) -> float:
    """Share of the values that are keys of the JSON object that the text is or holds."""
    found = _json(text[text.find("{") : text.rfind("}") + 1])
    return sum(value in found for value in values) / len(values) if isinstance(found, dict) else 0.0


def no_repetition(text: str, /, *, size: Annotated[int, Field(ge=1)] = 4) -> float:
    """1 less the share of runs of `size` words that occurred before in the text; 1 for shorter texts."""
    words = _words(text)
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def has_format(text: str, /, *, format: FormatName) -> float:
    """How far the text has the named format; each is described at its function in `FORMATS`."""
    return FORMATS[format](text)


def _comma_list(text: str) -> float:
    """Share of items of at most three words on one line of two or more items; 0 where that is not the shape."""
    items = text.strip().split(",")
    if len(_lines(text)) != 1 or len(items) < 2 or text.strip().startswith(_BULLETS):
        return 0.0
    return sum(1 <= len(_words(item)) <= 3 for item in items) / len(items)


def _numbered_list(text: str) -> float:
    """Share of lines that start with their own number, "1." or "1)"."""
    lines = _lines(text)
    right = sum(line.startswith((f"{n}.", f"{n})")) for n, line in enumerate(lines, start=1))
    return right / len(lines) if lines else 0.0


def _bullet_list(text: str) -> float:
    """Share of lines that start with "- ", "* " or a bullet."""
    lines = _lines(text)
    return sum(line.startswith(_BULLETS) for line in lines) / len(lines) if lines else 0.0


def _csv(text: str) -> float:
    """Share of lines with as many commas as the first; 0 where it has none."""
    commas = [line.count(",") for line in _lines(text)]
    return sum(count == commas[0] for count in commas) / len(commas) if commas and commas[0] else 0.0


def _is_json(text: str) -> float:
    """1 for a JSON object or list, 0.5 where an object stands inside other text, else 0."""
    if isinstance(_json(text), dict | list):
        return 1.0
    return 0.5 * isinstance(_json(text[text.find("{") : text.rfind("}") + 1]), dict)


def _uppercase(text: str) -> float:
    """Share of letters that are capital."""
    return _share_of_letters(text, str.isupper)


def _lowercase(text: str) -> float:
    """Share of letters that are small."""
    return _share_of_letters(text, str.islower)


FORMATS: dict[str, Callable[[str], float]] = {
    "comma-list": _comma_list,
    "numbered-list": _numbered_list,
    "bullet-list": _bullet_list,
    "csv": _csv,
    "json": _is_json,
    "uppercase": _uppercase,
    "lowercase": _lowercase,
}

KINDS: dict[str, Callable[..., float]] = {
    "equals": equals,
    "one_of": one_of,
    "contains": contains,
    "excludes": excludes,
    "starts_with": starts_with,
    "ends_with": ends_with,
    "num_words": num_words,
    "num_sentences": num_sentences,
    "num_lines": num_lines,
    "num_items": num_items,
    "ordered": ordered,
    "number": number,
    "json_keys": json_keys,
    "no_repetition": no_repetition,
    "format": has_format,
}


def _closeness(count: int, low: int | None, high: int | None) -> float:
    """1 where low <= count <= high, else the smaller of count and the missed bound divided by the larger."""
    if low is not None and count < low:
        return count / low
    if high is not None and count > high:
        return high / count
    return 1.0


@lru_cache(maxsize=128)  # the rules of a row ask for the words of one text again and again
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!").rstrip()


@lru_cache(maxsize=128)
def _spaced(text: str) -> str:
    return f" {' '.join(_words(text))} "


def _occurs(text: str, value: str) -> bool:
    """Whether value's words stand in the text in a row; a value without words is looked for as it is."""
    return _spaced(value) in _spaced(text) if _words(value) else value in text


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _share_of_letters(text: str, holds: Callable[[str], bool]) -> float:
    letters = [letter for letter in text if letter.isalpha()]
    return sum(map(holds, letters)) / len(letters) if letters else 0.0
