"""What a pydantic field allows, in a user's words: for messages about wrong values and for --help.

Only what options need: booleans, numbers, text, choices, lists and tables, each possibly absent.
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

from pydantic.fields import FieldInfo

Kind = Literal["bool", "int", "float", "str", "choice", "list", "dict"]
_WORDS: dict[str, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "dict": "a table KEY = VALUE",
}
_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def inner(annotation: Any) -> Any:
    """Return the annotation without `| None`."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        present = [a for a in typing.get_args(annotation) if a is not type(None)]
        return present[0] if len(present) == 1 else Union[tuple(present)]  # noqa: UP007 - built at run time
    return annotation


def kind(annotation: Any) -> Kind:
    """Return which sort of value an annotation takes; a union of several scalars takes text."""
    bare = inner(annotation)
    origin = typing.get_origin(bare)
    if origin is Literal:
        return "choice"
    if origin in (list, tuple, set, frozenset) or bare in (list, tuple):
        return "list"
    if bare is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "dict"
    names: dict[Any, Kind] = {bool: "bool", int: "int", float: "float", str: "str", Path: "str"}
    return names.get(bare, "str")


def element(annotation: Any) -> Any:
    """Return the type of a list's elements."""
    arguments = [a for a in typing.get_args(inner(annotation)) if a is not Ellipsis]
    return arguments[0] if arguments else str


def choices(annotation: Any) -> list[str]:
    """Return the values a choice allows, as text."""
    return [str(choice) for choice in typing.get_args(inner(annotation))]


def limits(field: FieldInfo) -> str:
    """Return the field's range in words, "above 0 and at most 1", or "" where it has none."""
    found = [
        f"{word} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, word in _LIMITS.items()
        if getattr(rule, name, None) is not None
    ]
    return " and ".join(found)


def allowed(field: FieldInfo) -> str:
    """Return what the field takes: "a whole number, at least 1" or "one of auto, bf16, fp32"."""
    sort = kind(field.annotation)
    if sort == "choice":
        return "one of " + ", ".join(choices(field.annotation))
    if sort == "list":
        words = "a list of " + {"int": "whole numbers", "float": "numbers"}.get(
            kind(element(field.annotation)), "texts"
        )
    else:
        words = _WORDS[sort]
    return ", ".join(part for part in (words, limits(field)) if part)


def parse(text: str, annotation: Any) -> object:
    """Read a value typed on a command line; text that does not fit stays text, and validation refuses it.

    A list is `a,b` or TOML's `["a", "b"]`; a table is `key=value,key=value` or TOML's `{key = value}`.
    """
    sort, bare = kind(annotation), inner(annotation)
    try:
        if sort == "list":
            texts = (
                _toml(text)
                if text.startswith("[")
                else [parse(t.strip(), element(annotation)) for t in text.split(",")]
            )
            return texts if isinstance(texts, list) else text
        if sort == "dict":
            return _toml(text) if text.startswith("{") else pairs(text.split(","))
        if sort == "int":
            return int(text)
        if sort == "float":
            return float(text)
        if sort == "bool":
            return {"true": True, "false": False}.get(text.lower(), text)
    except ValueError:
        return text
    return text if sort == "choice" or bare in (str, Path) else scalar(text)


def pairs(texts: list[str]) -> dict[str, object]:
    """Read `KEY=VALUE` texts into a table.

    Raises:
        ValueError: a text has no `=`.
    """
    found: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{text!r} is not KEY=VALUE")
        found[key.strip()] = scalar(value.strip())
    return found


def scalar(text: str) -> object:
    """Read one value as TOML would (true, 3, 1e-5, "text"); what is not TOML is text."""
    try:
        return _toml(text)
    except tomllib.TOMLDecodeError:
        return text


def _toml(text: str) -> object:
    return tomllib.loads(f"value = {text}")["value"]
