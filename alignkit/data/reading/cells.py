"""What a cell of a row holds: nothing, a number, or a value shown in an error."""

from __future__ import annotations

import math
from typing import Any

from alignkit.display import is_blank, shortened

TEXTS_OF_MISSING = ("nan", "NaN", "NaT", "<NA>", "None", "none", "null", "NULL", "NA", "N/A", "n/a", "#N/A")
_TEXT_OF_MISSING = frozenset(TEXTS_OF_MISSING)
_LONGEST = max(map(len, _TEXT_OF_MISSING))

_TRUTH = {"true": True, "false": False, "1": 1, "0": 0, "1.0": 1, "0.0": 0}


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, or what tables write for it: NaN, NaT, NA (which equal nothing)."""
    if value is None or isinstance(value, (str, list, tuple, dict, bool, int)):
        return value is None
    if isinstance(value, float):
        return math.isnan(value)
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # an array is no one value; pandas' NA gives no truth value either
        return type(value).__name__ == "NAType"


def is_text_of_missing(text: str) -> bool:
    """Whether a whole text is what a missing cell becomes where a table is written as text."""
    return len(text) <= _LONGEST and text in _TEXT_OF_MISSING


def says_nothing(value: Any) -> bool:
    """Whether a field is there but empty: also empty text, lists, and lists written as text."""
    if is_missing(value) or value is False:
        return True
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null") or is_blank(value)
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, (list, tuple)) and all(map(is_missing, value))


def is_truth(value: Any) -> bool:
    """Whether a value says true or false: one of these, or the number 1 or 0."""
    return isinstance(value, (bool, int, float)) and value in (0, 1)


def truth_of(text: str) -> str | bool | int:
    """Text of a table's cell as the truth value that it says; the text itself where it says none."""
    return _TRUTH.get(text.strip().lower(), text)


def number(value: Any) -> float | None:
    """A score as a number, also where it is written as text; None where it is none."""
    if type(value) is float or type(value) is int:
        return value if value == value else None
    if isinstance(value, (bool, list, dict, tuple)) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(found) else found


def shown(value: object) -> str:
    """A value in at most 80 characters, for messages."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return shortened(text, 80)


def kind_of(value: object) -> str:
    """A value's kind in words, for messages."""
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    return f"the number {shown(value)}" if isinstance(value, (int, float)) else shown(value)
