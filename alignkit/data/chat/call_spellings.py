"""Ways to write calls of tools that some templates want: arguments as JSON text, ids of nine letters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from alignkit.data.chat.layouts import Conversation
from alignkit.data.reading.messages import Message

Spelling = Callable[[Conversation], Conversation]
_ID_LETTERS = 9  # of Mistral's templates, which take no other ids


def as_they_are(conversation: Conversation) -> Conversation:
    """Leave calls as they are: arguments as objects, the rows' own ids or none."""
    return conversation


def with_text_arguments(conversation: Conversation) -> Conversation:
    """Write the arguments of calls as JSON text."""
    messages: list[Message] = []
    for message in conversation.messages:
        if "tool_calls" in message:
            calls = [
                {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
                for call in message["tool_calls"]
                for function in (call["function"],)
            ]
            message = {**message, "tool_calls": calls}
        messages.append(message)
    return conversation._replace(messages=tuple(messages))


def with_short_ids(conversation: Conversation) -> Conversation:
    """Give calls and their results ids of nine letters, made of their own ids or of their places."""
    messages: list[Message] = []
    unanswered: list[str] = []
    num_calls = 0
    for message in conversation.messages:
        if "tool_calls" in message:
            calls: list[Any] = []
            for call in message["tool_calls"]:
                num_calls += 1
                unanswered.append(_short(call.get("id", f"call {num_calls}")))
                calls.append({"id": unanswered[-1], **{name: v for name, v in call.items() if name != "id"}})
            message = {**message, "tool_calls": calls}
        elif message["role"] == "tool":
            own = message.get("tool_call_id")
            id_ = _short(own) if own is not None else unanswered[0] if unanswered else None
            if id_ is not None:
                message = {**message, "tool_call_id": id_}
                unanswered = [other for other in unanswered if other != id_]
        messages.append(message)
    return conversation._replace(messages=tuple(messages))


def with_both(conversation: Conversation) -> Conversation:
    """Write arguments as text and ids in nine letters."""
    return with_text_arguments(with_short_ids(conversation))


SPELLINGS: tuple[Spelling, ...] = (as_they_are, with_text_arguments, with_short_ids, with_both)
"""In the order in which they are tried."""


def _short(id_: str) -> str:
    if len(id_) == _ID_LETTERS and id_.isalnum():
        return id_
    return hashlib.blake2b(id_.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_LETTERS]
