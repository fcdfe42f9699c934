"""Rows as every later stage sees them: a prompt, and up to two answers to it, whatever shape the file had.

The shapes are in `row_shapes`, the fields that change what a row means in `fields`. Most rows are `prompt`, `chosen`,
`rejected` as text or messages, `prompt` and `completion`, `messages` or `instruction/input/output`, and nothing else
that is read: they take a short way.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from alignkit.data.reading.cells import is_missing, is_text_of_missing, says_nothing
from alignkit.data.reading.fields import SCORED, SPECIAL, refuse_fields, refuse_files, suspects, under_other_names
from alignkit.data.reading.given import Given
from alignkit.data.reading.messages import Message, Messages, are_alike, read_messages, says_something, text_of_turn
from alignkit.data.reading.row_shapes import SHAPES, split_row
from alignkit.data.reading.scores import margin_of, says_tie, scores_of
from alignkit.data.reading.written_turns import may_be_turns
from alignkit.units import MARKED_BAD, Unit

__all__ = ["SHAPES", "Message", "Messages", "Row", "row_id", "text_of", "to_row", "unusable_reason"]

_MESSAGES, _COMPLETION = frozenset({"messages"}), frozenset({"completion"})
_INSTRUCTION = (frozenset({"instruction", "input", "output"}), frozenset({"instruction", "output"}))
_Parts = tuple[Messages, Messages | None, Messages | None, bool, str | None, bool | None]
"""A `Split` that takes no time to make."""


@dataclass(frozen=True)
class Row:
    """One usable line of data.

    Args:
        id: the row's own `id`, else the hash of its content.
        prompt: messages before the answer; usually ends with the user's.
        chosen: the answer to learn, usually one assistant message; None for prompts alone.
        rejected: the worse answer; None where there is none.
        reference: text to compare lengths and BLEU with: the row's `reference`, else the chosen answer's text.
        is_conversation: the row was a list of turns (all assistant turns are scored by default); where it ends with
            the user, `prompt` is all of it and `chosen` None.
        fields: every column as read; rewards and reports see this as `row`.
        read_prompt: the prompt that `fields` hold; another object than `prompt` where turns were left out.
        json: the JSON that `fields` were read from; None where they come from elsewhere.
        not_a_pair: why chosen and rejected are no preference: they answer different prompts.
        is_tie: the row says that they are equally good, by equal scores or by a word.
        scores: of the chosen and the rejected answer, in the data set's own unit; None where one is missing.
        margin: how much better the chosen answer is by the row's `margin`, None without one.
        label: whether the row's only answer is a good one, as its label says; None where it carries none.
        rejected_id: of a pair of two labelled rows, the id of the one marked bad; `fields` are the good one's.
        where: "FILE, line N".
    """

    id: str
    prompt: Messages
    chosen: Messages | None
    rejected: Messages | None
    reference: str | None
    is_conversation: bool
    fields: Mapping[str, Any]
    read_prompt: Messages | None = field(default=None, compare=False, repr=False)
    json: bytes | None = field(default=None, compare=False, repr=False)
    not_a_pair: str | None = None
    is_tie: bool = False
    scores: tuple[float, float] | None = None
    margin: float | None = None
    label: bool | None = None
    rejected_id: str | None = None
    where: str = field(default="", compare=False, repr=False)

    @classmethod
    def unchecked(cls, **fields: Any) -> Row:
        """Make a row of all its fields in a third of the time: a frozen class sets them one by one."""
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made

    @property
    def name(self) -> str:
        """What a person finds the row by: its own id, else where it stands."""
        if not self.where or self.id == self.fields.get("id"):
            return self.id
        return self.where if self.id.startswith(_hash(self.fields)) else self.id

    @property
    def said(self) -> str:
        """`name` in a sentence."""
        name = self.name
        return f"row {name}" if name == self.id else name

    @property
    def difference(self) -> float | None:
        """By how much the chosen answer's score is the higher one: by the scores, else the `margin`; None without."""
        difference = self.margin if self.scores is None else self.scores[0] - self.scores[1]
        return None if difference is None or not math.isfinite(difference) else difference

    @property
    def is_reversed(self) -> bool:
        """Whether the row's own scores prefer the rejected answer."""
        return not self.is_tie and (self.difference or 0.0) < 0

    @property
    def ends_with_user(self) -> bool:
        """Whether the row is a conversation whose last turn is no answer."""
        return self.is_conversation and self.chosen is None

    @property
    def has_same_answers(self) -> bool:
        """Whether the chosen and the rejected answer say the same."""
        return self.chosen is not None and self.rejected is not None and are_alike(self.chosen, self.rejected)

    @property
    def has_user_twice(self) -> bool:
        """Whether two turns of the user follow one another in the row's conversation."""
        roles = [message["role"] for message in self.prompt]
        return roles.count("user") > 1 and ("user", "user") in pairwise(roles)

    def answers_unread(self) -> list[str]:
        """Say of each column that looks like an answer under another name what to do with it."""
        given = [name for name, value in self.fields.items() if not says_nothing(value)]
        return under_other_names(given, answers_only=True)

    def missing_answer(self) -> str:
        """Say why the row has no chosen answer."""
        others = "".join(f"; {other}" for other in self.answers_unread())
        if self.rejected is not None or not self.is_conversation:
            return f"no chosen answer{', only a rejected one' if self.rejected is not None else ''}{others}"
        if not self.prompt:
            return "an empty conversation"
        twice = ", two user turns in a row" if self.has_user_twice else ""
        return f"the conversation ends with the {self.prompt[-1]['role']}{twice}{others}"


def to_row(
    fields: Mapping[str, Any], *, where: str, columns: Mapping[str, str] | None = None, json_: bytes | None = None
) -> Row:
    """Read one line's fields into a row.

    Args:
        fields: the line's columns.
        where: "FILE, line N", for errors.
        columns: our name = the file's name; an empty one leaves the field unread.
        json_: the JSON that the fields were read from.

    Raises:
        InputError: the shape is unknown, or a field or message cannot be read as it is; names where, and what it is.
    """
    named = renamed(fields, columns) if columns else fields
    if suspects(tuple(named)):
        refuse_fields(named, where, columns)
    refuse_files(named, where)
    split = _plain(named, where, columns) or split_row(named, where, columns)
    prompt, chosen, rejected, is_conversation, not_a_pair, label = split
    reference = named.get("reference")
    if reference is None or (type(reference) is not str and is_missing(reference)):
        reference = text_of(chosen) if chosen else None
    elif isinstance(reference, str):
        if is_text_of_missing(reference):
            Given(named, where, columns).refuse_missing("reference", reference)
    else:
        reference = text_of(read_messages(reference, where, "reference", role="assistant", columns=columns))
    own = named.get("id")
    id_ = _hash(fields) if type(own) is not str and is_missing(own) else str(own)
    is_tie, scores, margin = False, None, None
    if chosen and rejected and not SCORED.isdisjoint(named):
        scores = scores_of(named, where)
        margin = margin_of(named, where) if "margin" in named else None
        is_tie = says_tie(named, where, columns) or (scores is not None and scores[0] == scores[1])
    return Row.unchecked(
        id=id_,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        reference=reference,
        is_conversation=is_conversation,
        fields=fields,
        read_prompt=prompt,
        json=json_,
        not_a_pair=not_a_pair,
        is_tie=is_tie,
        scores=scores,
        margin=margin,
        label=label,
        rejected_id=None,
        where=where,
    )


def row_id(fields: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> str:
    """Return a row's own `id`, else the hash of its content."""
    own = fields.get("id") if not columns else renamed(fields, columns).get("id")
    return _hash(fields) if type(own) is not str and is_missing(own) else str(own)


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]


def renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields with those of other names under ours too, and without those to be left unread."""
    renamed = {**fields, **{ours: fields[theirs] for ours, theirs in columns.items() if theirs in fields}}
    for ours, theirs in columns.items():
        if not theirs:
            renamed.pop(ours, None)
    return renamed


def text_of(messages: Sequence[Message]) -> str:
    """Return the text of the last message."""
    return text_of_turn(messages[-1]) if messages else ""


def unusable_reason(row: Row, unit: Unit, train_on: str | None = None) -> str | None:
    """Say why a well-formed row cannot train a method, or None where it can.

    Args:
        unit: what the method trains on.
        train_on: "last", "all-assistant", or None for what suits the row.
    """
    if not row.prompt and (unit.is_sampled or not row.is_conversation):
        return "empty prompt"
    if row.prompt and not any(map(says_something, row.prompt)):
        return "empty prompt"
    return _no_turn_to_score(row) if scores_all_turns(row, unit, train_on) else unit.unusable_reason(row)


def scores_all_turns(row: Row, unit: Unit, train_on: str | None) -> bool:
    """Whether every assistant turn of a row is scored."""
    return unit.may_score_all_turns and (train_on == "all-assistant" or (train_on is None and row.is_conversation))


def _no_turn_to_score(row: Row) -> str | None:
    if row.label is False:
        return MARKED_BAD
    if row.chosen is not None and not says_something(row.chosen[-1]):
        return "empty chosen answer"
    has_turn, is_scored = False, False
    for message in (*row.prompt, *(row.chosen or ())):
        if message["role"] == "assistant":
            has_turn = True
            if message.get("weight") != 0:
                is_scored = True
                if not says_something(message):
                    return "an empty assistant turn"
    if not has_turn or (row.chosen is None and not row.is_conversation):
        return row.missing_answer()
    return None if is_scored else "every assistant turn has weight 0"


def _plain(named: Mapping[str, Any], where: str, columns: Mapping[str, str] | None) -> _Parts | None:
    """Read the commonest shapes; None for all others and for whatever is unusual in these."""
    if not SPECIAL.isdisjoint(named):
        return _one_answer(named, where, columns)
    prompt = _plain_prompt(named.get("prompt"), where, columns)
    if prompt is None:
        return None
    better, worse = named.get("chosen"), named.get("rejected")
    chosen = None if better is None else _plain_answer(better)
    rejected = None if worse is None else _plain_answer(worse)
    if (chosen is None and better is not None) or (rejected is None and worse is not None):
        return None
    return prompt, chosen, rejected, False, None, None


def _plain_prompt(asked: Any, where: str, columns: Mapping[str, str] | None) -> Messages | None:
    """Read a prompt of text or messages; None for anything else."""
    if type(asked) is str:
        if not asked or is_text_of_missing(asked) or may_be_turns(asked):
            return None
        return ({"role": "user", "content": asked},)
    if type(asked) is not list:
        return None
    prompt = read_messages(asked, where, "prompt", columns=columns)
    return None if prompt and prompt[-1]["role"] == "assistant" else prompt


def _plain_answer(value: Any) -> Messages | None:
    """Read an answer of text or one message; None for anything else."""
    if type(value) is str:
        if is_text_of_missing(value) or may_be_turns(value):
            return None
        return ({"role": "assistant", "content": value},)
    if type(value) is list and len(value) == 1 and type(value[0]) is dict and len(value[0]) == 2:
        content = value[0].get("content")
        if value[0].get("role") == "assistant" and type(content) is str:
            return ({"role": "assistant", "content": content},)
    return None


def _one_answer(named: Mapping[str, Any], where: str, columns: Mapping[str, str] | None) -> _Parts | None:
    """Read a conversation, or a question with its answer, where no other field that is read is there."""
    if named.get("chosen") is not None or named.get("rejected") is not None:
        return None
    special = SPECIAL.intersection(named)
    if special == _COMPLETION:
        prompt = _plain_prompt(named.get("prompt"), where, columns)
        completion = _plain_answer(named["completion"])
        return (prompt, completion, None, False, None, None) if prompt and completion else None
    if special == _MESSAGES and type(named["messages"]) is list:
        turns = read_messages(named["messages"], where, "messages", columns=columns)
        asked = named.get("prompt")
        if asked is not None and (type(asked) is not str or all(asked != turn["content"] for turn in turns)):
            return None
        if turns and turns[-1]["role"] == "assistant":
            return turns[:-1], turns[-1:], None, True, None, None
        return turns, None, None, True, None, None
    if special in _INSTRUCTION and named.get("prompt") is None:
        asked, more, answer = named["instruction"], named.get("input"), named["output"]
        if (
            type(asked) is str
            and type(answer) is str
            and asked
            and not (is_text_of_missing(asked) or is_text_of_missing(answer))
            and not (may_be_turns(asked) or may_be_turns(answer))
            and (more is None or (type(more) is str and not is_text_of_missing(more)))
        ):
            prompt = ({"role": "user", "content": f"{asked}\n\n{more}" if more else asked},)
            return prompt, ({"role": "assistant", "content": answer},), None, False, None, None
    return None
