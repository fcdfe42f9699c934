"""What the families of the demo tasks are made of: tasks, the rules they carry, and ways to say an instruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from alignkit_plugins.demo.words import BOILERPLATE

Rule = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One instruction with its right answer and what bad answers are built from.

    `wrong` is a plausible answer that breaks a rule, `statement` says the right answer in a full sentence or with an
    introduction, and `subject` is what padding talks about.
    """

    prompt: str
    chosen: str
    rules: list[Rule]
    wrong: str
    statement: str
    subject: str


@dataclass(frozen=True)
class Family:
    """A template family: `make` draws one task; `open` answers are free text; `unseen` families are in test alone."""

    name: str
    make: Callable[[Random], Task]
    open: bool = False
    unseen: bool = False


def say(rng: Random, asks: Sequence[str], specs: Sequence[str], **slots: object) -> str:
    """Draw an instruction: one way to ask and one way to say the form of the answer, before or after it."""
    ask, spec = rng.choice(asks).format(**slots), rng.choice(specs).format(**slots)
    if rng.random() < 0.3:
        return f"{spec} {ask}"
    return f"{ask} {spec}"


def capitalised(text: str) -> str:
    """Return the text with its first letter large."""
    return text[:1].upper() + text[1:]


def joined(items: Sequence[str], last: str = "and") -> str:
    """Return "a, b and c"."""
    return f"{', '.join(items[:-1])} {last} {items[-1]}" if len(items) > 1 else items[0]


def rule(kind: str, *, weight: int = 1, **fields: object) -> Rule:
    """Return one rule; the weight is written only where it is not 1."""
    return {"kind": kind, **fields} | ({"weight": weight} if weight != 1 else {})


def plain_rules() -> list[Rule]:
    """Rules that every answer must follow: no boilerplate and no repetition."""
    return [rule("excludes", values=list(BOILERPLATE)), rule("no_repetition")]


def short_rules(answer: str) -> list[Rule]:
    """Rules of an answer that is asked for alone, in a fixed number of words."""
    return [
        rule("equals", value=answer, weight=3),
        rule("contains", values=[answer]),
        rule("num_words", max=len(answer.split()), weight=2),
        *plain_rules(),
    ]


def list_rules(format: str, count: int, *, words: Sequence[str]) -> list[Rule]:
    """Rules of a list of `count` items, at least half of them known words."""
    return [
        rule("format", format=format, weight=2),
        rule("num_items", min=count, max=count, weight=2),
        rule("num_words", max=2 * count),
        rule("contains", values=list(words), at_least=(count + 1) // 2),
        *plain_rules(),
    ]


def open_rules(*, sentences: int, min_words: int, max_words: int, topics: Sequence[str]) -> list[Rule]:
    """Rules of free text: sentences, length, any of the topic words, a full stop at the end."""
    return [
        rule("num_sentences", min=sentences, max=sentences, weight=2),
        rule("num_words", min=min_words, max=max_words, weight=3),
        rule("contains", values=list(topics), at_least=1, weight=2),
        rule("ends_with", values=[".", "!"]),
        *plain_rules(),
    ]
