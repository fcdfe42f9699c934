"""Rows as every later stage sees them: a prompt, and up to two answers to it, whatever shape the file had.

Shapes read (house of the data row): preference rows `prompt/chosen/rejected` (prompt as text or messages, answers as
text, messages or whole conversations as in UltraFeedback binarized), prompts alone, `messages`,
`instruction/input/output`, ShareGPT `conversations`, and `prompt/completion` with KTO's `label` or without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.errors import InputError

Message = Mapping[str, Any]
"""{"role", "content"} as text, and {"weight": 0} where an assistant's turn is not to be scored."""
Messages = tuple[Message, ...]

SHAPES = (
    "prompt + chosen [+ rejected]",
    "chosen + rejected as whole conversations",
    "prompt alone",
    "messages",
    "instruction [+ input] + output",
    "conversations (ShareGPT)",
    "prompt + completion [+ label (KTO)]",
)
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Row:
    """One usable line of data.

    Args:
        id: the row's own `id`, else the hash of its content.
        prompt: messages before the answer; ends with the user's.
        chosen: the answer to learn, usually one assistant message; None for prompts alone.
        rejected: the worse answer; None where there is none.
        reference: text to compare lengths and BLEU with: the row's `reference`, else the chosen answer's text.
        is_conversation: the row was a list of turns (all assistant turns are scored by default).
        fields: every column as read; rewards and reports see this as `row`.
        read_prompt: the prompt that `fields` hold; another object than `prompt` where turns were left out.
        json: the JSON that `fields` were read from; None where they come from elsewhere.
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


def to_row(
    fields: Mapping[str, Any], *, where: str, columns: Mapping[str, str] | None = None, json_: bytes | None = None
) -> Row:
    """Read one line's fields into a row.

    Args:
        fields: the line's columns.
        where: "FILE, line N", for errors.
        columns: our name = the file's name.
        json_: the JSON that the fields were read from.

    Raises:
        InputError: the shape is unknown, or a message is malformed; names where, the fields found and shapes known.
    """
    named: Mapping[str, Any] = fields
    if columns:
        named = {**fields, **{ours: fields[theirs] for ours, theirs in columns.items() if theirs in fields}}
    named = {name: value for name, value in named.items() if value is not None}  # Parquet has every column in every row
    prompt, chosen, rejected, is_conversation = _split(named, where)
    reference = named.get("reference")
    if reference is not None and not isinstance(reference, str):
        reference = text_of(_messages(reference, where, role="assistant"))
    if reference is None and chosen is not None:
        reference = text_of(chosen)
    identity = named.get("id")
    if identity is None:
        identity = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Row(str(identity), prompt, chosen, rejected, reference, is_conversation, fields, prompt, json_)


def text_of(messages: Sequence[Message]) -> str:
    """Return the text of the last message."""
    return messages[-1]["content"] if messages else ""


def unusable_reason(row: Row, trains_on: str) -> str | None:
    """Say why a well-formed row cannot train a method, or None where it can.

    Args:
        trains_on: "chosen", "pairs" or "samples".
    """
    if not row.prompt and not row.is_conversation:
        return "empty prompt"
    if trains_on in {"chosen", "pairs"}:
        if row.chosen is None:
            return "no chosen answer"
        if not text_of(row.chosen).strip():
            return "empty chosen answer"
    if trains_on == "pairs":
        if row.rejected is None:
            return "no rejected answer"
        if not text_of(row.rejected).strip():
            return "empty rejected answer"
        if text_of(row.chosen or ()) == text_of(row.rejected):
            return "chosen equals rejected"
    return None


def _split(named: Mapping[str, Any], where: str) -> tuple[Messages, Messages | None, Messages | None, bool]:
    """Return prompt, chosen, rejected, and whether the row is a conversation."""
    if "conversations" in named or "messages" in named:
        turns = (
            _sharegpt(named["conversations"], where)
            if "conversations" in named
            else _messages(named["messages"], where)
        )
        if not turns or turns[-1]["role"] != "assistant":
            return turns, None, None, False
        return turns[:-1], turns[-1:], None, True
    if "instruction" in named and "output" in named:
        question = "\n\n".join(str(named[key]) for key in ("instruction", "input") if named.get(key))
        return _messages(question, where), _messages(named["output"], where, role="assistant"), None, False
    if "chosen" in named:
        return _preference(named, where)
    if "prompt" in named and "completion" in named:
        answer = _messages(named["completion"], where, role="assistant")
        prompt = _messages(named["prompt"], where)
        return (prompt, answer, None, False) if named.get("label", True) else (prompt, None, answer, False)
    if "prompt" in named:
        return _messages(named["prompt"], where), None, None, False
    found = ", ".join(sorted(map(str, named))) or "none"
    raise InputError(
        f"{where}: unknown row shape; fields found: {found}; shapes known: {'; '.join(SHAPES)}; "
        "map foreign names in [data.columns]"
    )


def _preference(named: Mapping[str, Any], where: str) -> tuple[Messages, Messages | None, Messages | None, bool]:
    chosen = _messages(named["chosen"], where, role="assistant")
    rejected = None if named.get("rejected") is None else _messages(named["rejected"], where, role="assistant")
    if chosen and chosen[0]["role"] != "assistant":  # whole conversations: the answers are their last messages
        return chosen[:-1], chosen[-1:], rejected[-1:] if rejected else None, False
    if named.get("prompt") is None:
        raise InputError(f"{where}: 'chosen' holds only the answer and there is no 'prompt'")
    return _messages(named["prompt"], where), chosen, rejected, False


def _messages(value: Any, where: str, *, role: str = "user") -> Messages:
    """Take text or a list of {"role", "content"}."""
    if isinstance(value, str):
        return ({"role": role, "content": value},) if value or role == "assistant" else ()
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where}: expected text or a list of messages, found {_shown(value)}")
    return tuple([_message(message, where) for message in value])


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise InputError(f"{where}: expected text or a list of messages, found {_shown(message)} in a list")
    own, content, weight = message.get("role"), message.get("content"), message.get("weight")
    if not isinstance(own, str) or not isinstance(content, str):
        raise InputError(f"{where}: a message needs 'role' and 'content' as text, found {_shown(message)}")
    if weight is None or weight == 1:
        return {"role": own, "content": content}
    if weight == 0:
        return {"role": own, "content": content, "weight": 0}
    raise InputError(f"{where}: a message's weight is 1, or 0 for not scored, found {_shown(message)}")


def _sharegpt(value: Any, where: str) -> Messages:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"{where}: 'conversations' must be a list, found {_shown(value)}")
    turns = []
    for turn in value:
        if (
            not isinstance(turn, Mapping)
            or turn.get("from") not in _SHAREGPT_ROLES
            or not isinstance(turn.get("value"), str)
        ):
            known = ", ".join(_SHAREGPT_ROLES)
            raise InputError(f"{where}: a turn needs 'from' ({known}) and 'value' as text, found {_shown(turn)}")
        turns.append({"role": _SHAREGPT_ROLES[turn["from"]], "content": turn["value"]})
    return tuple(turns)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
