"""Messages of a row -> {"role", "content"}, whichever of the usual ways they are written in.

A message is {"role", "content"} or ShareGPT's {"from", "value"}; its content is text, or a list of typed parts that
are all text, which are joined with nothing between. Calls of tools are OpenAI's `tool_calls` or `function_call`, or
turns of a role of their own, whose content is the calls as JSON text; such a turn that follows one of the assistant is
part of it. Every other field is read, harmless, or refused (alignkit.data.reading.fields).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignkit.data.reading.cells import is_missing, kind_of, says_nothing, shown
from alignkit.data.reading.fields import (
    DID_YOU_MEAN,
    FALSE_MEANS,
    HARMLESS,
    IN_SHAPE,
    MESSAGE,
    PART,
    READ,
    REFUSED,
    ROLE,
    SHAPE,
    Field,
    FieldRefused,
    by_name,
    letters,
    names,
    refuse_fields,
    used,
)
from alignkit.data.reading.tools import read_calls, read_tools
from alignkit.data.reading.written_turns import refuse_written_turns
from alignkit.display import is_blank
from alignkit.errors import InputError, nearest

Message = Mapping[str, Any]
"""{"role", "content"} as text; {"weight": 0} where an assistant's turn is not to be scored; and what is in CARRIED.

`reasoning_content` is what the assistant thought before its content, under whichever name the row has it.
`tool_calls` is a list of {"type": "function", "function": {"name", "arguments"}}, perhaps with an "id"; arguments are
an object. `tool_call_id` and `name` stand in results of tools. `tools` are those of the whole conversation, a list of
{"type": "function", "function": {"name", ...}}, and `template_values` what the row gives to the template by name; both
ride with its first message.
"""
Messages = tuple[Message, ...]
_KNOWN = used(MESSAGE, READ, HARMLESS)
_REFUSED = by_name(MESSAGE, REFUSED)
_UNKNOWN = Field("", REFUSED, "alignkit does not know what it means")
_BY_LETTERS = {letters(name): name for name in sorted(used(MESSAGE, READ), reverse=True)}
_FLAGS = names(MESSAGE, "weight")
_ROLES = {name: field.names[0] for name, field in by_name(ROLE, READ).items()}
_REFUSED_ROLES = by_name(ROLE, REFUSED)
_TEXT_PARTS = names(PART, "text")
_CALLS, _RESULT = names(MESSAGE, "tool_calls"), names(MESSAGE, "tool_call_id")
_THOUGHTS = names(MESSAGE, "reasoning_content")
_OPENS_THOUGHTS = re.compile(r"\s*(<(?:think|thinking|thought|reasoning)>)")
_HAS_MORE = frozenset({*_CALLS, *_RESULT, *_THOUGHTS, "tools"})
_CALL = names(ROLE, "function_call")[0]
_SPEAKER = Field("name", REFUSED, "names of speakers, and of calls outside results of tools, are not rendered")
_LATER = Field("tools", REFUSED, "tools are read in the first message alone")
RIDING = ("tools", "template_values")
"""What a whole conversation has, and rides with its first message."""
CARRIED = ("tool_calls", "tool_call_id", "name", "reasoning_content", *RIDING)
"""What a message may hold besides a content that a template can see."""
_REFUSED_PARTS = by_name(PART, REFUSED)
_OF_TEXT = frozenset({"type", "text", "value"})
_TURNS = names(SHAPE, "messages")
_ANSWERS = frozenset(name for first in ("chosen", "rejected", "output", "completion") for name in names(SHAPE, first))
_USUAL_ROLES = frozenset({"system", "user", "assistant"})
_TRAINS = frozenset(_FLAGS) - {"weight"}  # OpenAI's: 1 is what turns of the user have too


def read_messages(
    value: Any, where: str, name: str, *, role: str = "user", columns: Mapping[str, str] | None = None
) -> Messages:
    """Read text, a message, a list of messages, or {"messages": [...]}.

    Args:
        name: the field's, for errors.
        role: whose text it is where it is text; no text is no turn of the user, but an empty answer.
        columns: message fields to leave unread, `message.NAME` = "".

    Raises:
        InputError: it is none of these, or a message cannot be read as it is.
    """
    if type(value) is list:
        usual = [
            {"role": own, "content": content}
            for message in value
            if type(message) is dict
            and len(message) == 2
            and type(own := message.get("role")) is str
            and own in _USUAL_ROLES
            and type(content := message.get("content")) is str
        ]
        return tuple(usual) if len(usual) == len(value) else _list(value, where, name, columns)
    if isinstance(value, str):
        refuse_written_turns(value, where, name)
        return ({"role": role, "content": value},) if value or role == "assistant" else ()
    if isinstance(value, dict):
        inner = value.get("messages")
        if inner is not None and "role" not in value and "from" not in value:
            refuse_fields(value, where, columns)
            _refuse_beside_messages(value, where, name, columns)
            tools = None if says_nothing(value.get("tools")) else read_tools(value["tools"], where, "tools")
            turns = _list(inner, where, name, columns)
            return with_riders(turns, {"tools": tools}) if tools else turns
        return (_message(value, f"{where}: {name!r}", columns),)
    return _list(value, where, name, columns)


def text_of_turn(message: Message) -> str:
    """What a turn says as text: its content, and each call of a tool as a line of JSON."""
    calls = message.get("tool_calls")
    if not calls:
        return str(message["content"])
    written = [json.dumps(call["function"], ensure_ascii=False) for call in calls]
    return "\n".join([message["content"], *written] if message["content"] else written)


def says_something(message: Message) -> bool:
    """Whether a turn has a text or a call."""
    return "tool_calls" in message or not is_blank(message["content"])


def are_alike(answer: Sequence[Message], other: Sequence[Message]) -> bool:
    """Whether two answers say the same; names that calls were given say nothing."""
    if len(answer) == len(other) == 1 and len(answer[0]) == len(other[0]) == 2:
        return bool(answer[0] == other[0])
    said = [
        [(turn["role"], turn.get("reasoning_content"), text_of_turn(turn)) for turn in turns]
        for turns in (answer, other)
    ]
    return said[0] == said[1]


def tools_of(messages: Sequence[Message]) -> list[Any] | None:
    """The tools of a conversation, which ride with its first message; None where it has none."""
    return messages[0].get("tools") if messages else None


def riders_of(messages: Sequence[Message]) -> dict[str, Any]:
    """What rides with the first message, by name in RIDING."""
    return {name: messages[0][name] for name in RIDING if name in messages[0]} if messages else {}


def with_riders(messages: Messages, riders: Mapping[str, Any]) -> Messages:
    """Let these ride with the first message."""
    return ({**messages[0], **riders}, *messages[1:]) if riders and messages else messages


def without_riders(messages: Messages) -> Messages:
    """The messages without what rides with the first."""
    if not riders_of(messages):
        return messages
    return ({name: value for name, value in messages[0].items() if name not in RIDING}, *messages[1:])


def _refuse_beside_messages(value: Mapping[str, Any], where: str, name: str, columns: Mapping[str, str] | None) -> None:
    """Refuse fields of a row that stand inside one of its fields, beside the messages there."""
    for inner, held in value.items():
        if (
            inner in ("messages", "tools")
            or inner not in IN_SHAPE
            or (says_nothing(held) and not (held is False and inner in FALSE_MEANS))
            or (columns or {}).get(inner) == ""
        ):
            continue
        raise InputError(
            f"{where}: {name!r} holds {inner!r} beside its messages, which is not read there: write it beside "
            f"{name!r}, or leave it unread by --ignore-fields {inner}"
        )


def _list(value: Any, where: str, name: str, columns: Mapping[str, str] | None) -> Messages:
    if isinstance(value, (list, tuple)):
        turns: list[Message] = []
        for given in value:
            if not isinstance(given, dict):
                raise InputError(f"{where}: {name!r} is a list with {kind_of(given)} in it: {_way_out(given, name)}")
            at = where if name in _TURNS else f"{where}: {name!r}"
            turn = _message(given, at, columns, is_last=given is value[-1])
            if "tools" in turn and turns:
                raise FieldRefused(where, "message.tools", _LATER)
            if turns and _is_call(given) and _goes_on_from(turns[-1], turn):
                turns[-1] = {**turns[-1], "tool_calls": [*turns[-1].get("tool_calls", ()), *turn["tool_calls"]]}
            else:
                turns.append(turn)
        return tuple(turns)
    hint = "; write numbers in quotes" if isinstance(value, (int, float)) else ""
    raise InputError(f"{where}: expected text or a list of messages in {name!r}, found {kind_of(value)}{hint}")


def _way_out(given: Any, name: str) -> str:
    """What to do about a list that holds something else than messages."""
    if isinstance(given, str) and name in _ANSWERS:
        return "one answer is read; write it as text, and further ones as rows of their own"
    return "a list holds messages with role and content; write it as text, or as messages"


def _message(
    message: Mapping[str, Any], where: str, columns: Mapping[str, str] | None, *, is_last: bool = True
) -> Message:
    if columns:
        unread = {name[8:] for name, theirs in columns.items() if not theirs and name.startswith("message.")}
        message = {name: field for name, field in message.items() if name not in unread}
        if unread and isinstance(parts := message.get("content"), (list, tuple)):
            message = {**message, "content": [_without(part, unread) for part in parts]}
    _refuse(message, where, _REFUSED)
    _refuse_two(message, where)
    role = _role(message, where)
    if role == _CALL:
        content, calls = _calls_as_text(message, where)
        role = "assistant"
    else:
        calls = [] if _HAS_MORE.isdisjoint(message) else _calls(message, role, where)
        is_empty = bool(calls) and says_nothing(message.get("content"))
        if role == "assistant" and is_last and not is_empty:  # null is an empty answer, as "" is
            held = [message[name] for name in ("content", "value") if name in message]
            is_empty = bool(held) and all(map(is_missing, held))
        content = "" if is_empty else _content(message, where)
    _refuse(message, where, message)
    read: dict[str, Any] = {"role": role, "content": content}
    if not _is_scored(message, role, where):
        read["weight"] = 0
    if calls:
        read["tool_calls"] = calls
    if not _HAS_MORE.isdisjoint(message):
        _add_more(read, message, where)
    return read


def _without(part: Any, unread: set[str]) -> Any:
    """A part of a content without the fields that are to be left unread."""
    return {name: value for name, value in part.items() if name not in unread} if isinstance(part, dict) else part


def _is_call(message: Mapping[str, Any]) -> bool:
    """Whether a message has the role of a call by itself."""
    return _ROLES.get(message.get("role") or message.get("from") or "") == _CALL


def _goes_on_from(last: Message, turn: Message) -> bool:
    """Whether calls belong to the turn before them: an assistant's, both scored or both not."""
    return bool(last["role"] == "assistant" and not turn["content"] and last.get("weight") == turn.get("weight"))


def _calls(message: Mapping[str, Any], role: str, where: str) -> list[dict[str, Any]]:
    """The calls of `tool_calls`, or of OpenAI's former `function_call`."""
    calls: list[dict[str, Any]] = []
    for name in _CALLS:
        if says_nothing(message.get(name)):
            continue
        if role != "assistant":
            raise FieldRefused(where, f"message.{name}", Field(name, REFUSED, f"the {role} calls no tools"))
        calls += read_calls(message[name], where, name)
    return calls


def _calls_as_text(message: Mapping[str, Any], where: str) -> tuple[str, list[dict[str, Any]]]:
    """The calls that a turn of their own role holds as JSON text, and a thought before them."""
    value = message.get("content")
    value = message.get("value") if is_missing(value) else value
    thought, between, text = value.rpartition("</think>") if isinstance(value, str) else ("", "", value)
    calls = read_calls(text, where, "content" if "content" in message else "value")
    if not calls:
        raise InputError(f"{where}: a message that calls tools has no call: {shown(message)}; take it out")
    return thought + between, calls


def _add_more(read: dict[str, Any], message: Mapping[str, Any], where: str) -> None:
    """Add thoughts, which call or tool a result answers, and the tools of the conversation."""
    thoughts = {name: message[name] for name in _THOUGHTS if not says_nothing(message.get(name))}
    for name, value in thoughts.items():
        if read["role"] != "assistant":
            raise FieldRefused(where, f"message.{name}", Field(name, REFUSED, f"the {read['role']} has no thoughts"))
        if not isinstance(value, str):
            raise InputError(f"{where}: a message's {name!r} must be text, found {kind_of(value)}; correct it")
        if read.setdefault("reasoning_content", value) != value:
            raise InputError(
                f"{where}: a message has thoughts of two kinds that differ, {' and '.join(map(repr, thoughts))}: leave "
                f"one unread by --ignore-fields message.{name}"
            )
    if thoughts:
        refuse_thoughts_twice(read["content"], next(iter(thoughts)), where)
    for name in _RESULT:
        value = message.get(name)
        if says_nothing(value):
            continue
        if read["role"] != "tool":
            raise FieldRefused(where, f"message.{name}", _SPEAKER)
        if not isinstance(value, (str, int)):
            raise InputError(f"{where}: a message's {name!r} must be text, found {kind_of(value)}; correct it")
        read[name] = str(value)
    if not says_nothing(message.get("tools")):
        read["tools"] = read_tools(message["tools"], where, "tools")


def refuse_thoughts_twice(content: str, name: str, where: str) -> None:
    """Refuse an answer with thoughts in a field of their own whose text begins with thoughts too."""
    if (opened := _OPENS_THOUGHTS.match(content)) is not None:
        raise InputError(
            f"{where}: the text beside {name!r} begins with {opened[1]}: the answer has thoughts twice; take them out "
            f"of the text, or leave the field unread by --ignore-fields {name}"
        )


def _refuse(message: Mapping[str, Any], where: str, names: Iterable[str]) -> None:
    """Refuse fields that are not read; one that says nothing does no harm, but false may mean all in an unknown one."""
    for name in names:
        value = message.get(name)
        if name in _KNOWN or is_missing(value):
            continue
        meant = _BY_LETTERS.get(letters(name))
        if says_nothing(value) and (value is not False or name in _REFUSED) and meant not in _FLAGS:
            continue
        unknown = _UNKNOWN if meant is None else Field("", REFUSED, DID_YOU_MEAN.format(meant), f"write it as {meant}")
        raise FieldRefused(where, f"message.{name}", _REFUSED.get(name, unknown))


def _refuse_two(message: Mapping[str, Any], where: str) -> None:
    """Refuse a message that is written in both ways, which differ."""
    for ours, theirs in (("role", "from"), ("content", "value")):
        one, other = message.get(ours), message.get(theirs)
        if is_missing(one) or is_missing(other) or one == other:
            continue
        if ours == "role" and isinstance(one, str) and isinstance(other, str) and _ROLES.get(one) == _ROLES.get(other):
            continue
        raise InputError(
            f"{where}: a message has both {ours!r} and {theirs!r}, which differ: take one out, or leave it unread by "
            f"--ignore-fields message.{theirs}"
        )


def _role(message: Mapping[str, Any], where: str) -> str:
    own = message.get("role")
    if is_missing(own):
        own = message.get("from")
    if not isinstance(own, str):
        raise InputError(
            f"{where}: a message needs 'role' and 'content' as text (or 'from' and 'value'), found {shown(message)}"
        )
    role = _ROLES.get(own)
    if role is not None:
        return role
    if own in _REFUSED_ROLES:
        field = _REFUSED_ROLES[own]
        raise InputError(f"{where}: a message has the role {own!r}: {field.says}; {field.instead.format(own)}")
    known = list(_ROLES)
    raise InputError(
        f"{where}: a message has the role {own!r}; known are {', '.join(known)}: rename it{nearest(own.lower(), known)}"
    )


def _content(message: Mapping[str, Any], where: str) -> str:
    content = message.get("content")
    if is_missing(content):
        content = message.get("value")
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)) and content:
        return "".join([_part(part, message, where) for part in content])
    raise InputError(
        f"{where}: a message needs 'role' and 'content' as text (or 'from' and 'value'), found {shown(message)}"
    )


def _part(part: Any, message: Mapping[str, Any], where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise InputError(
            f"{where}: a message needs 'role' and 'content' as text, or as parts that have a type, found "
            f"{shown(message)}"
        )
    if kind not in _TEXT_PARTS:
        field = _REFUSED_PARTS.get(kind)
        why = f"{field.says}; {field.instead.format(kind)}" if field else "only text is read; take such rows out"
        raise InputError(f"{where}: a message has a part of type {kind!r}: {why}")
    texts = [value for n, value in part.items() if n in ("text", "value") and not is_missing(value)]
    further = ((n, value) for n, value in part.items() if n not in _OF_TEXT)
    other = next((n for n, value in further if value is False or not says_nothing(value)), None)
    if other is not None:
        raise InputError(
            f"{where}: a text part of a message has the field {other!r}, which is not read; take it out, or leave it "
            f"unread by --ignore-fields message.{other}"
        )
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise InputError(f"{where}: a text part of a message needs 'text' as text, found {shown(part)}")
    return texts[0]


def _is_scored(message: Mapping[str, Any], role: str, where: str) -> bool:
    is_scored = True
    for name in _FLAGS:
        flag = message.get(name)
        if is_missing(flag):
            continue
        if not isinstance(flag, (bool, int, float)) or flag not in (0, 1):
            raise InputError(
                f"{where}: a message's {name} is 1 (or true), or 0 (or false) for not scored, found {shown(message)}"
            )
        if flag and role != "assistant" and name in _TRAINS:
            raise InputError(
                f"{where}: a message of the {role} has {name}: true: only the assistant's turns are scored; take it out"
            )
        is_scored = is_scored and bool(flag)
    return is_scored or role != "assistant"
