"""What a row has beside its turns that a template can see: tools, thoughts before an answer, values of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from alignkit.data.reading.cells import is_missing, kind_of, says_nothing
from alignkit.data.reading.fields import REFUSED, SHAPE, Field, FieldRefused, names
from alignkit.data.reading.given import UNREAD, Given, Split
from alignkit.data.reading.messages import RIDING, Message, Messages, refuse_thoughts_twice, with_riders
from alignkit.data.reading.tools import read_tools, without_undeclared
from alignkit.errors import InputError

_TOOLS = names(SHAPE, "tools")
_VALUES = frozenset({"chat_template_kwargs", "enable_thinking", "date_string"})
_THOUGHTS_OF: Mapping[tuple[str, ...], str | None] = {
    names(SHAPE, "reasoning_content"): None,
    names(SHAPE, "chosen_reasoning"): "chosen",
    names(SHAPE, "rejected_reasoning"): "rejected",
}
_THOUGHTS = frozenset(name for group in _THOUGHTS_OF for name in group)


def with_carried(row: Given, split: Split) -> Split:
    """Put what a row has beside its turns, and a template can see, into its messages.

    Raises:
        InputError: it cannot be read, or differs from what a message holds.
    """
    if not _THOUGHTS.isdisjoint(row.given):
        split = _with_thoughts(row, split)
    riders: dict[str, Any] = {}
    if (tools := _tools(row, split)) is not None:
        riders["tools"] = tools
    if not _VALUES.isdisjoint(row.given) and (values := _values(row)):
        riders["template_values"] = values
    if not riders:
        return split
    prompt = _bare(split.prompt, tools)
    chosen, rejected = (answer and _bare(answer, tools) for answer in (split.chosen, split.rejected))
    if not prompt:
        chosen, rejected = (answer and with_riders(answer, riders) for answer in (chosen, rejected))
    return split._replace(prompt=with_riders(prompt, riders), chosen=chosen, rejected=rejected)


def _values(row: Given) -> dict[str, Any]:
    """The row's own values for the template."""
    given = row.given.get("chat_template_kwargs", {})
    if isinstance(given, str):
        try:
            given = from_json(given) if given.strip() else {}
        except ValueError as error:
            raise InputError(
                f"{row.where}: 'chat_template_kwargs' is text, and no JSON: {error}; correct it, or leave it "
                "unread by --ignore-fields chat_template_kwargs"
            ) from error
    if not isinstance(given, dict):
        raise InputError(f"{row.where}: 'chat_template_kwargs' must be an object, found {kind_of(given)}; correct it")
    values = {name: value for name, value in given.items() if not is_missing(value)}
    for name, kind in (("enable_thinking", bool), ("date_string", str)):
        value = row.given.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, kind):
            wanted = "true or false" if kind is bool else "text"
            raise InputError(
                f"{row.where}: {name!r} must be {wanted}, found {kind_of(value)}; correct it, or leave it unread "
                f"by --ignore-fields {name}"
            )
        if values.setdefault(name, value) != value:
            raise InputError(
                f"{row.where}: {name!r} differs from the one in 'chat_template_kwargs': {UNREAD.format(name)}"
            )
    return values


def _with_thoughts(row: Given, split: Split) -> Split:
    """Put thoughts that stand beside an answer into its last message."""
    for names_, own in _THOUGHTS_OF.items():
        name = row.one_of([n for n in names_ if not says_nothing(row.given.get(n))])
        if name is None:
            continue
        which = own or ("rejected" if split.chosen is None else "chosen")
        answer: Messages | None = getattr(split, which)
        if answer is None or (own is None and split.chosen is not None and split.rejected is not None):
            why = f"there is no {own or 'single'} answer that these thoughts would stand before"
            raise FieldRefused(row.where, name, Field(name, REFUSED, why))
        value = row.given[name]
        if not isinstance(value, str):
            raise InputError(f"{row.where}: {name!r} must be text, found {kind_of(value)}; correct it")
        row.refuse_missing(name, value)
        *before, last = answer
        if last.get("reasoning_content", value) != value:
            raise InputError(
                f"{row.where}: {name!r} and the thoughts in the answer's message differ: {UNREAD.format(name)}"
            )
        refuse_thoughts_twice(last["content"], name, row.where)
        answer = (*before, {**last, "reasoning_content": value})
        split = split._replace(chosen=answer) if which == "chosen" else split._replace(rejected=answer)
    return split


def _tools(row: Given, split: Split) -> list[Any] | None:
    """The tools of the row, or of the first message of its conversation."""
    name = row.one_of([n for n in _TOOLS if n in row.given and not says_nothing(row.given[n])])
    turns = split.prompt or split.chosen or split.rejected or ()
    in_turns = next((turn["tools"] for turn in turns if "tools" in turn), None)
    if name is None:
        return in_turns
    tools = read_tools(row.given[name], row.where, name)
    if in_turns is not None and in_turns != tools:
        raise InputError(
            f"{row.where}: {name!r} and the tools in the first message differ: {UNREAD.format('message.tools')}"
        )
    return tools


def _bare(turns: Messages, tools: list[Any] | None) -> Messages:
    """Turns without what rides with the first, and without null for what the tools that they call do not take."""
    bare: list[Message] = []
    for turn in turns:
        own = {name: value for name, value in turn.items() if name not in RIDING}
        if "tool_calls" in own and tools:
            own["tool_calls"] = without_undeclared(own["tool_calls"], tools)
        bare.append(own)
    return tuple(bare)
