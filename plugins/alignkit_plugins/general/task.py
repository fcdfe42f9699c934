"""What a general prompt is, and how its rules are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Rule = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A prompt of a kind and a template. The rules score `right` 1 and `wrong` less."""

    kind: str
    template: str
    prompt: str
    rules: tuple[Rule, ...]
    right: str
    wrong: str


def has(*values: str) -> Rule:
    """One of these words or phrases occurs."""
    return {"kind": "contains", "values": list(values), "at_least": 1}


def has_all(*values: str) -> Rule:
    return {"kind": "contains", "values": list(values)}


def lacks(*values: str) -> Rule:
    return {"kind": "excludes", "values": list(values)}


def has_format(name: str) -> Rule:
    return {"kind": "format", "format": name}


def counts(what: str, *, least: int | None = None, most: int | None = None) -> Rule:
    """Bounds of num_words, num_sentences, num_lines or num_items."""
    return {"kind": what, "min": least, "max": most}


def asked(kind: str, template: str, pattern: str, cases: Iterable[Sequence[str]]) -> list[Task]:
    """Questions whose answer holds a word. Of each case: what fills the pattern, a wrong answer, right ones."""
    return [
        Task(kind, template, pattern.format(filled), (has(*right),), _sentence(right[0]), _sentence(wrong))
        for filled, wrong, *right in cases
    ]


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
