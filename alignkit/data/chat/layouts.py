"""One rendering for each shape of conversation: contents are spliced into it instead of rendered row by row.

A shape is the roles in their order and what is asked of them. It is rendered once with sentinels for contents, which
gives the text between the contents. That holds for any contents only where the template does nothing with a content
but write it: the sandbox notes it where a template looks at one, and a few awkward contents (PROBES) are rendered in
full and compared with the splice, for every shape. Where either fails the shape has no layout and each of its
conversations is rendered in full.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from alignkit.data.chat.template import Rendering
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.data.reading.rows import Message
from alignkit.errors import InputError

ANSWER = "\ue000answer\ue001"  # stands for the content that a mask is sought for
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
    def shape(self) -> tuple[tuple[str, ...], int, tuple[int, ...]]:
        return tuple([message["role"] for message in self.messages]), self.cut, self.turns

    def renderings(self) -> list[Rendering]:
        """What has to be rendered to find the text and its spans."""
        if not self.turns:
            return [Rendering(self.messages, True)]
        items = [Rendering(self.messages, False)]
        items += [Rendering(self.messages[:before], True) for before in self._befores()]
        return items + [Rendering(_with_content(self.messages, turn, ANSWER), False) for turn in self.turns]

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
            closings: what ends each scored turn, up to and with its end token.

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
            after = text.partition(ANSWER)[2]
            if text.count(ANSWER) != 1 or not whole.endswith(after) or not after.startswith(closing):
                raise InputError(self._changed(turn))
            end = len(whole) - len(after)
            if _letters(self.messages[turn]["content"]) not in _letters(whole[lengths[turn] : end]):
                raise InputError(self._changed(turn))
            spans.append((lengths[turn] - start, end + len(closing) - start))
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


def sentinels(conversation: Conversation) -> Conversation:
    """The same shape with a sentinel for each content."""
    return Conversation(
        tuple({**message, "content": f"\ue000{number}\ue001"} for number, message in enumerate(conversation.messages)),
        conversation.cut,
        conversation.turns,
    )


def probes(conversation: Conversation) -> list[Conversation]:
    """The same shape with awkward contents, each of them in each place."""
    conversations = []
    for shift in range(len(PROBES)):
        contents = (PROBES[(number + shift) % len(PROBES)] for number in range(len(conversation.messages)))
        messages = tuple({**m, "content": content} for m, content in zip(conversation.messages, contents, strict=True))
        conversations.append(Conversation(messages, conversation.cut, conversation.turns))
    return conversations


def dropped(conversation: Conversation, text: str) -> str | None:
    """The role of the first message whose sentinel is not in the text."""
    present = {int(number) for number in _SENTINEL.findall(text)}
    return next((m["role"] for number, m in enumerate(conversation.messages) if number not in present), None)


def _border(at: int, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """A place in a text with sentinels as (index of the part it lies in, offset there)."""
    behind = [end for _, end in places if end <= at]
    return 2 * len(behind), at - (behind[-1] if behind else 0)


def _with_content(messages: tuple[Message, ...], turn: int, content: str) -> tuple[Message, ...]:
    return (*messages[:turn], {**messages[turn], "content": content}, *messages[turn + 1 :])


def _letters(text: str) -> str:
    """Text without white space, which templates may trim."""
    return "".join(text.split())
