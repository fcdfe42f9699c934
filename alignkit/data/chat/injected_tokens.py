"""Text in a message that looks like a special token, `<|im_end|>` in a question about chat templates: it is text.

Before rendering, each is replaced by a placeholder that no tokenizer knows; afterwards the placeholders give the places
of the text that must not be read as a token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from alignkit.data.chat.layouts import Conversation
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.data.reading.messages import Message
from alignkit.errors import InputError

_OPEN, _CLOSE = "\ue002", "\ue003"
Restore = Callable[[TextWithSpans], TextWithSpans]
_PLACEHOLDER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class InjectedTokens:
    """Finds and hides what looks like one of some special tokens."""

    def __init__(self, special: Collection[str], pattern: re.Pattern[str]) -> None:
        self._starts = tuple({token[:2] for token in special if token})
        self._pattern = pattern

    def hide(self, conversation: Conversation) -> tuple[Conversation, Restore | None]:
        """Replace lookalikes in a conversation; None where there are none.

        Raises:
            InputError: a message has both lookalikes and the placeholder's own characters.
        """
        starts = self._starts
        for message in conversation.messages:
            for content in (message["content"],) if len(message) == 2 else strings(message):
                for start in starts:
                    if start in content and self._pattern.search(content):
                        return self._hidden(conversation)
        return conversation, None

    def _hidden(self, conversation: Conversation) -> tuple[Conversation, Restore]:
        hidden: list[str] = []

        def replaced(found: re.Match[str]) -> str:
            hidden.append(found.group())
            return f"{_OPEN}{len(hidden) - 1}{_CLOSE}"

        messages: list[Message] = []
        for message in conversation.messages:
            wrong = next((text for text in strings(message) if _PLACEHOLDER.search(text)), None)
            if wrong is not None:
                raise InputError(f"a message with special tokens and U+E002 in its text: {wrong[:80]!r}")
            messages.append(_replaced(message, lambda text: self._pattern.sub(replaced, text)))
        replaced_in = Conversation(tuple(messages), conversation.cut, conversation.turns)
        return replaced_in, lambda scored: _restored(scored, hidden)


def strings(value: Any) -> Iterator[str]:
    """Yield the strings inside a value, keys of mappings too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def _replaced(value: Any, replace: Callable[[str], str]) -> Any:
    """The same value with other strings inside."""
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, Mapping):
        return {replace(name): _replaced(inner, replace) for name, inner in value.items()}
    return [_replaced(inner, replace) for inner in value] if isinstance(value, list) else value


def _restored(scored: TextWithSpans, hidden: list[str]) -> TextWithSpans:
    """Put the hidden text back, and say where it lies."""
    parts, plain, moves = [], [], []
    at = length = 0
    for found in _PLACEHOLDER.finditer(scored.text):
        text = hidden[int(found.group(1))]
        parts += [scored.text[at : found.start()], text]
        length += found.start() - at
        plain.append((length, length + len(text)))
        length += len(text)
        moves.append((found.end(), length - found.end()))
        at = found.end()
    parts.append(scored.text[at:])
    spans = tuple((_moved(start, moves), _moved(end, moves)) for start, end in scored.spans)
    return TextWithSpans("".join(parts), spans, tuple(plain))


def _moved(at: int, moves: list[tuple[int, int]]) -> int:
    """Where a place lies after the replacements before it."""
    return at + next((by for end, by in reversed(moves) if end <= at), 0)
