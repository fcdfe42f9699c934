"""One rendering for each shape of conversation: contents are spliced into it instead of rendered row by row.

A shape is the roles in their order and what is asked of them. It is rendered once with sentinels for contents, which
gives the text between the contents. That holds for any contents only where the template does nothing with a content
but write it: the sandbox notes it where a template looks at one, and a few awkward contents (PROBES) are rendered in
full and compared with the splice, for every shape. Where either fails the shape has no layout and each of its
conversations is rendered in full. So is one whose messages hold more than a content (calls of tools, thoughts).

What ends a scored turn is found by rendering the whole conversation with sentinels in that turn's place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from alignkit.data.chat.template import Rendering
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.data.reading.messages import CARRIED, Message, tools_of
from alignkit.errors import InputError

PROBES = (
    " \n edge \t\n",
    "",
    "<think>why</think>\n\nso",
    "a \"quoted\" 'text' with <b>, &, \\n, {{ braces }} and {% tags %}",
    "Ünïcödé \u4e2d\u6587 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \U0001f600 e\u0301",
    "null",
    "0",
    "/no_think",
    "many words " * 200,
)
_SENTINEL = re.compile("\ue000([0-9]+)\ue001")
_ANOTHER = "give another with --chat-template FILE or --chat-template chatml"


class Conversation(NamedTuple):
    """A conversation to render.

    Args:
        messages: all of it, system message included.
        cut: messages that are the prompt; the text wanted is what the others add to it.
        turns: indices of the messages that are scored; none: the text wanted is the prompt of all messages.
    """

    messages: tuple[Message, ...]
    cut: int = 0
    turns: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[tuple[Any, ...], int, tuple[int, ...]]:
        """What conversations that are rendered alike have in common."""
        return tuple([m["role"] if len(m) == 2 else kind_of(m) for m in self.messages]), self.cut, self.turns

    @property
    def has_more(self) -> bool:
        """Whether a message holds more than a content."""
        return any(len(message) > 2 and not isinstance(kind_of(message), str) for message in self.messages)

    def renderings(self, *, watched: bool = False) -> list[Rendering]:
        """What has to be rendered to find the text and its spans."""
        if not self.turns:
            return [self.rendering(self.messages, True, watched)]
        items = [self.rendering(self.messages, False, watched)]
        items += [self.rendering(self.messages[:before], True, watched) for before in self._befores()]
        for turn in self.turns:
            asked = (*self.messages[:turn], _sentinel(self.messages[turn], turn), *self.messages[turn + 1 :])
            items.append(self.rendering(asked, False, watched))
        return items

    def rendering(self, messages: tuple[Message, ...], prompts: bool, watched: bool = False) -> Rendering:
        """Render messages with what the template sees of this conversation besides them."""
        tools = tools_of(self.messages)
        return Rendering(messages, prompts, watched, {} if tools is None else {"tools": tools})

    def check_beginnings(self, texts: Sequence[str]) -> None:
        """Check that each prompt begins the whole conversation.

        Raises:
            InputError: one does not, so that no right mask follows.
        """
        if self.turns:
            for before, text in zip(self._befores(), texts[1:], strict=False):
                if not texts[0].startswith(text):
                    raise InputError(self._not_a_beginning(before))

    def scored(self, texts: Sequence[str], closings: Sequence[str]) -> TextWithSpans:
        """Find text and spans in what was rendered.

        Args:
            texts: of `renderings`, in their order.
            closings: what ends each scored turn behind its last sentinel, up to and with its end token.

        Raises:
            InputError: no right mask follows.
        """
        whole = texts[0]
        if not self.turns:
            return TextWithSpans(whole)
        self.check_beginnings(texts)
        befores = self._befores()
        lengths = dict(zip(befores, map(len, texts[1:]), strict=False))
        start = lengths[self.cut] if self.cut else 0
        spans = []
        for turn, text, closing in zip(self.turns, texts[1 + len(befores) :], closings, strict=True):
            message = self.messages[turn]
            after = behind_sentinels(text, message, turn)
            rest = (after or "").removeprefix(closing)
            # Behind a call's last sentinel stand the quotes of a text; what ends its own arguments may have none.
            known = rest if "tool_calls" in message else after
            end = len(whole) - len(rest)
            if after is None or not after.startswith(closing) or not whole.endswith(known or ""):
                raise InputError(self._changed(turn))
            said = _letters(whole[lengths[turn] : end])
            if any(_letters(part) not in said for part in _said(message)):
                raise InputError(self._changed(turn))
            spans.append((lengths[turn] - start, end - start))
        return TextWithSpans(whole[start:], tuple(spans))

    def _befores(self) -> list[int]:
        """Where prompts end: before each scored turn, and at the cut."""
        return sorted({self.cut, *self.turns} if self.cut else set(self.turns))

    def _not_a_beginning(self, turn: int) -> str:
        if turn == len(self.messages) - 1 or turn == self.cut:
            return (
                "under this chat template the prompt is not the beginning of the finished conversation, so that no "
                f"right mask follows from it; {_ANOTHER}"
            )
        return (
            "under this chat template an earlier turn changes when later ones follow, so that not every "
            "assistant turn has a right mask; use --train-on last, or another --chat-template"
        )

    def _changed(self, turn: int) -> str:
        if turn == len(self.messages) - 1:
            return f"this chat template changes the answer's text; {_ANOTHER}"
        return (
            "under this chat template an earlier answer's text changes when later turns follow, so that not every "
            "assistant turn has a right mask; use --train-on last, or another --chat-template"
        )


class RenderedTemplate:
    """A rendered shape: the text between the contents, and where its spans begin and end."""

    def __init__(self, sample: TextWithSpans) -> None:
        literals, numbers = [], []
        at = 0
        places = []  # of each sentinel
        for found in _SENTINEL.finditer(sample.text):
            literals.append(sample.text[at : found.start()])
            numbers.append(int(found.group(1)))
            places.append(found.span())
            at = found.end()
        literals.append(sample.text[at:])
        self._parts: list[str] = [literals[0]]
        self._slots: list[tuple[int, int]] = []
        for number, literal in zip(numbers, literals[1:], strict=True):
            self._slots.append((len(self._parts), number))
            self._parts += ["", literal]
        self._borders = [[_border(at, places) for at in span] for span in sample.spans]

    def in_bytes(self, *, to_the_end: bool = False) -> tuple[list[str], list[int], list[list[tuple[int, int]]]]:
        """Say it as `_native.Splicer.add` takes it; `to_the_end`: up to the end of the last span."""
        literals, slots = self._parts[::2], [number for _, number in self._slots]
        if to_the_end and self._borders:
            part, at = self._borders[-1][1]
            literals, slots = [*literals[: part // 2], literals[part // 2][:at]], slots[: part // 2]
        return (
            literals,
            slots,
            [[(part // 2, len(self._parts[part][:at].encode())) for part, at in span] for span in self._borders],
        )

    def fill(self, messages: Sequence[Message]) -> TextWithSpans:
        """Put contents in."""
        parts = self._parts.copy()
        for slot, number in self._slots:
            parts[slot] = messages[number]["content"]
        if not self._borders:
            return TextWithSpans("".join(parts))
        ends = list(accumulate((len(part) for part in parts), initial=0))
        spans = tuple([(ends[a] + b, ends[c] + d) for (a, b), (c, d) in self._borders])
        return TextWithSpans("".join(parts), spans)


def kind_of(message: Mapping[str, Any]) -> str | tuple[Any, ...]:
    """A message's role, and where it holds more than a content, what that is."""
    held = tuple((name, _how_many(message[name])) for name in CARRIED if name in message)
    return (message["role"], bool(message["content"]), *held) if held else str(message["role"])


def _how_many(value: Any) -> int:
    return min(len(value), 2) if isinstance(value, list) else 1


def sentinels(conversation: Conversation, *, as_text: bool = False) -> Conversation:
    """The same shape with a sentinel for each content, and for what else a message says.

    Args:
        as_text: arguments of calls as JSON text, which some templates want.
    """
    messages = tuple(_sentinel(message, number, as_text) for number, message in enumerate(conversation.messages))
    return Conversation(messages, conversation.cut, conversation.turns)


def behind_sentinels(text: str, message: Message, number: int) -> str | None:
    """What stands behind the last sentinel of a message; None where it has none, or a content twice."""
    content = f"\ue000{number}\ue001"
    if "tool_calls" not in message:
        return text.partition(content)[2] if text.count(content) == 1 else None
    names = [_name("call", number, len(message["tool_calls"]) - 1), _name("key", number), _name("value", number)]
    ends = [at + len(name) for name in (*names, content) if (at := text.rfind(name)) >= 0]
    return text[max(ends) :] if ends else None


def _sentinel(message: Message, number: int, as_text: bool | None = None) -> Message:
    changed = {**message, "content": f"\ue000{number}\ue001"}
    if "reasoning_content" in message:
        changed["reasoning_content"] = _name("thought", number)
    if "tool_calls" in message:
        changed["content"] = message["content"] and changed["content"]
        arguments = {_name("key", number): _name("value", number)}
        calls: list[Any] = []
        for n, call in enumerate(message["tool_calls"]):
            is_text = isinstance(call["function"]["arguments"], str) if as_text is None else as_text
            own = json.dumps(arguments) if is_text else arguments
            calls.append({**call, "function": {"name": _name("call", number, n), "arguments": own}})
        changed["tool_calls"] = calls
    if "tools" in message:
        changed["tools"] = [
            {**tool, "function": {**tool["function"], "name": _name("tool", number, n)}}
            for n, tool in enumerate(message["tools"])
        ]
    return changed


def _name(kind: str, *numbers: int) -> str:
    """A name that no template holds, of letters that every writing of JSON leaves as they are."""
    return f"alignkit_{kind}_{'_'.join(map(str, numbers))}_"


def is_written_as_by_python(text: str) -> bool:
    """Whether the arguments of a call stand in a text of sentinels as Python writes them, which is no JSON."""
    return "{'alignkit_key_" in text


def with_text_arguments(conversation: Conversation) -> Conversation:
    """Write the arguments of calls as JSON text."""
    messages = []
    for message in conversation.messages:
        if "tool_calls" in message:
            calls = [{**call, "function": {**call["function"]}} for call in message["tool_calls"]]
            for call in calls:
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            message = {**message, "tool_calls": calls}
        messages.append(message)
    return Conversation(tuple(messages), conversation.cut, conversation.turns)


def probes(conversation: Conversation) -> list[Conversation]:
    """The same shape with awkward contents, each of them in each place."""
    conversations = []
    for shift in range(len(PROBES)):
        contents = (PROBES[(number + shift) % len(PROBES)] for number in range(len(conversation.messages)))
        messages = tuple({**m, "content": content} for m, content in zip(conversation.messages, contents, strict=True))
        conversations.append(Conversation(messages, conversation.cut, conversation.turns))
    return conversations


def dropped(sample: Conversation, text: str) -> str | None:
    """Say what of a conversation of sentinels is not in its text; None where all of it is."""
    for number, message in enumerate(sample.messages):
        if any(tool["function"]["name"] not in text for tool in message.get("tools", ())):
            return "the list of tools"
        names = [_name("key", number), _name("value", number)] if "tool_calls" in message else []
        names += [call["function"]["name"] for call in message.get("tool_calls", ())]
        if any(name not in text for name in names):
            return "tool calls"
        if message["content"] and message["content"] not in text:
            return "the text beside a tool call" if names else f"a message of the role {message['role']!r}"
    return None


def _border(at: int, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """A place in a text with sentinels as (index of the part it lies in, offset there)."""
    behind = [end for _, end in places if end <= at]
    return 2 * len(behind), at - (behind[-1] if behind else 0)


def _said(message: Message) -> list[str]:
    """What must stand in a scored turn; arguments of calls may be written in many ways."""
    thought = [message["reasoning_content"]] if "reasoning_content" in message else []
    return [*thought, message["content"], *(call["function"]["name"] for call in message.get("tool_calls", ()))]


def _letters(text: str) -> str:
    """Text without white space, which templates may trim."""
    return "".join(text.split())
