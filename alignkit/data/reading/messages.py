"""Messages of a row -> {"role", "content"}, whichever of the usual ways they are written in.

A message is {"role", "content"} or ShareGPT's {"from", "value"}; its content is text, or a list of typed parts that
are all text, which are joined with nothing between. Every other field is read, harmless, or refused
(alignkit.data.reading.fields).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignkit.data.reading.cells import is_missing, kind_of, says_nothing, shown
from alignkit.data.reading.fields import (
    HARMLESS,
    IN_SHAPE,
    MESSAGE,
    PART,
    READ,
    REFUSED,
    ROLE,
    Field,
    FieldRefused,
    by_name,
    names,
    refuse_fields,
    used,
)
from alignkit.data.reading.written_turns import refuse_written_turns
from alignkit.errors import InputError

Message = Mapping[str, Any]
"""{"role", "content"} as text; {"weight": 0} where an assistant's turn is not to be scored; and what is in CARRIED.

`tool_calls` is a list of {"type": "function", "function": {"name", "arguments"}}, perhaps with an "id"; arguments are
an object. `tool_call_id` and `name` stand in results of tools. `tools` are those of the whole conversation, a list of
{"type": "function", "function": {"name", ...}}, and ride with its first message.
"""
Messages = tuple[Message, ...]
_KNOWN = used(MESSAGE, READ, HARMLESS)
_REFUSED = by_name(MESSAGE, REFUSED)
_UNKNOWN = Field("", REFUSED, "alignkit does not know what it means")
_FLAGS = names(MESSAGE, "weight")
_ROLES = {name: field.names[0] for name, field in by_name(ROLE, READ).items()}
_REFUSED_ROLES = by_name(ROLE, REFUSED)
_TEXT_PARTS = names(PART, "text")
CARRIED = ("tool_calls", "tool_call_id", "name", "reasoning_content", "tools")
"""What a message may hold besides a content that a template can see."""
_REFUSED_PARTS = by_name(PART, REFUSED)
_OF_TEXT = frozenset({"type", "text", "value"})
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
            return _list(inner, where, name, columns)
        return (_message(value, where, columns),)
    return _list(value, where, name, columns)


def tools_of(messages: Sequence[Message]) -> list[Any] | None:
    """The tools of a conversation, which ride with its first message; None where it has none."""
    return messages[0].get("tools") if messages else None


def with_tools(messages: Messages, tools: list[Any] | None) -> Messages:
    """Let tools ride with the first message."""
    return ({**messages[0], "tools": tools}, *messages[1:]) if tools and messages else messages


def without_tools(messages: Messages) -> Messages:
    """The messages without the tools that ride with the first."""
    if tools_of(messages) is None:
        return messages
    return ({name: value for name, value in messages[0].items() if name != "tools"}, *messages[1:])


def _refuse_beside_messages(value: Mapping[str, Any], where: str, name: str, columns: Mapping[str, str] | None) -> None:
    """Refuse fields of a row that stand inside one of its fields, beside the messages there."""
    for inner, held in value.items():
        if inner == "messages" or inner not in IN_SHAPE or says_nothing(held) or (columns or {}).get(inner) == "":
            continue
        raise InputError(
            f"{where}: {name!r} holds {inner!r} beside its messages, which is not read there: write it beside "
            f"{name!r}, or leave it unread by --ignore-fields {inner}"
        )


def _list(value: Any, where: str, name: str, columns: Mapping[str, str] | None) -> Messages:
    if isinstance(value, (list, tuple)):
        return tuple([_message(message, where, columns) for message in value])
    hint = "; write numbers in quotes" if isinstance(value, (int, float)) else ""
    raise InputError(f"{where}: expected text or a list of messages in {name!r}, found {kind_of(value)}{hint}")


def _message(message: Any, where: str, columns: Mapping[str, str] | None) -> Message:
    if not isinstance(message, dict):
        raise InputError(f"{where}: expected text or a list of messages, found {shown(message)} in a list")
    if columns:
        unread = {name[8:] for name, theirs in columns.items() if not theirs and name.startswith("message.")}
        message = {name: field for name, field in message.items() if name not in unread}
    _refuse(message, where, _REFUSED)
    _refuse_two(message, where)
    role = _role(message, where)
    content = _content(message, where)
    _refuse(message, where, message)
    is_scored = _is_scored(message, role, where)
    return {"role": role, "content": content} if is_scored else {"role": role, "content": content, "weight": 0}


def _refuse(message: Mapping[str, Any], where: str, names: Iterable[str]) -> None:
    """Refuse fields that are not read; one that says nothing does no harm."""
    for name in names:
        if name in _KNOWN or says_nothing(message.get(name)):
            continue
        raise FieldRefused(where, f"message.{name}", _REFUSED.get(name, _UNKNOWN))


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
    raise InputError(f"{where}: a message has the role {own!r}; known are {', '.join(_ROLES)}: rename it")


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
    other = next((n for n, value in part.items() if n not in _OF_TEXT and not says_nothing(value)), None)
    if other is not None:
        raise InputError(f"{where}: a text part of a message has the field {other!r}, which is not read; take it out")
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
