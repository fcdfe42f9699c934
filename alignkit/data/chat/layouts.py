"""One rendering for each shape of conversation: contents are spliced into it instead of rendered row by row.

A shape is the roles in their order and what is asked of them. It is rendered once with sentinels for contents, which
gives the text between the contents. That holds for any contents only where the template does nothing with a content
but write it: the sandbox notes it where a template looks at one, and a few awkward contents (PROBES) are rendered in
full and compared with the splice, for every shape. Where either fails the shape has no layout and each of its
conversations is rendered in full. So is one whose messages hold more than a content (calls of tools, thoughts).

What ends a scored turn is found by rendering the whole conversation with sentinels in that turn's place. It begins
behind the turn's prompt and behind what the template supplies before an answer, whatever the answer is; what depends on
the row, such as the marks around its thoughts and calls, the model must write itself.

A prompt may end with an opening that no finished answer has (DeepSeek-R1's `<think>`), and a template may cut the
thoughts of a finished answer: the last turn is then the prompt and what of the answer goes on from there, since that is
what a sampler meets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from alignkit.data.chat.template import Rendering
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.data.reading.messages import CARRIED, Message, riders_of
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
_OPENS = re.compile(r"([<\[])(\w+[>\]])\s*\Z")  # <think>, [THINK]
_CLOSES = re.compile(r"[<\[]/\w+[>\]]\s*\Z")
_TAIL = 64  # letters at the end of a prompt that an answer may begin with
_SENTINEL = re.compile("\ue000([0-9]+)\ue001")
_FILE = "give another with --chat-template FILE"
_ANOTHER = f"{_FILE} or --chat-template chatml"


class ScoredTurn(NamedTuple):
    """What the template writes in a scored turn, whatever the answer is.

    Args:
        closing: what ends the turn behind the answer, up to and with its end token.
        supplied: what stands between the turn's prompt and an answer.
        opening: what ends the turn's prompt and no finished answer has.
        has_id: the id of the turn's last call stands behind its arguments, and the closing behind that.
    """

    closing: str
    supplied: str = ""
    opening: str = ""
    has_id: bool = False


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
        riders = riders_of(self.messages)
        values = {**riders.pop("template_values", {}), **riders}
        return Rendering(messages, prompts, watched, values)

    def check_beginnings(self, texts: Sequence[str]) -> None:
        """Check that each prompt begins the whole conversation.

        Raises:
            InputError: one does not, so that no right mask follows.
        """
        if self.turns:
            for before, text in zip(self._befores(), texts[1:], strict=False):
                if not texts[0].startswith(text):
                    raise InputError(self._not_a_beginning(before, texts[0], text))

    def scored(self, texts: Sequence[str], turns: Sequence[ScoredTurn]) -> TextWithSpans:
        """Find text and spans in what was rendered.

        Args:
            texts: of `renderings`, in their order.
            turns: what is known of each scored turn; its closing is what follows its last sentinel.

        Raises:
            InputError: no right mask follows.
        """
        whole = texts[0]
        if not self.turns:
            return TextWithSpans(whole)
        if self.is_one_answer and turns[0].opening:
            return self._going_on(self.prompts(texts)[0], turns[0])
        self.check_beginnings(texts)
        befores = self._befores()
        lengths = dict(zip(befores, map(len, texts[1:]), strict=False))
        start = lengths[self.cut] if self.cut else 0
        spans = []
        for turn, text, known_ in zip(self.turns, texts[1 + len(befores) :], turns, strict=True):
            message, closing, supplied = self.messages[turn], known_.closing, known_.supplied
            after = behind_sentinels(text, message, turn, has_id=known_.has_id)
            rest = (after or "").removeprefix(closing)
            # Behind a call's last sentinel stand the quotes of a text; what ends its own arguments may have none.
            known = rest if "tool_calls" in message else after
            end = len(whole) - len(rest)
            if after is None or not after.startswith(closing) or not whole.endswith(known or ""):
                raise InputError(self._changed(turn))
            begin = lengths[turn]
            said, written = [_letters(part) for part in _said(message)], _letters(whole[begin:end])
            if not all(part in written or _goes_on(part, whole[:begin], written) for part in said):
                if self.is_one_answer and not supplied.strip() and _cuts_thoughts(message, whole, begin, end, closing):
                    return self._behind(whole[:begin], message["content"] + closing)
                raise InputError(self._changed(turn))
            if supplied.strip() and whole.startswith(supplied, begin):
                behind = _letters(whole[begin + len(supplied) : end])
                if all(part in behind for part in said):
                    begin += len(supplied.rstrip(" "))  # a space is part of the answer's first token
            spans.append((begin - start, end - start))
        return TextWithSpans(whole[start:], tuple(spans))

    @property
    def is_one_answer(self) -> bool:
        """Whether the last message alone is scored, text without calls, and all before it is the prompt."""
        last = len(self.messages) - 1
        return self.turns == (last,) and self.cut in (0, last) and isinstance(kind_of(self.messages[last]), str)

    def _going_on(self, prompt: str, turn: ScoredTurn) -> TextWithSpans:
        """The prompt, and what of the answer goes on from its opening."""
        behind = after_opening(self.messages[-1]["content"], turn.opening)
        if behind is None:
            raise InputError(no_thoughts(turn.opening))
        return self._behind(prompt, behind + turn.closing)

    def _behind(self, prompt: str, scored: str) -> TextWithSpans:
        start = len(prompt) if self.cut else 0
        text = prompt + scored
        return TextWithSpans(text[start:], ((len(prompt) - start, len(text) - start),))

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Of the texts of `renderings`, the prompt of each scored turn."""
        prompts = dict(zip(self._befores(), texts[1:], strict=False))
        return [prompts[turn] for turn in self.turns]

    def _befores(self) -> list[int]:
        """Where prompts end: before each scored turn, and at the cut."""
        return sorted({self.cut, *self.turns} if self.cut else set(self.turns))

    def _not_a_beginning(self, turn: int, whole: str, prompt: str) -> str:
        if turn == len(self.messages) - 1 or turn == self.cut:
            same = next((n for n, (a, b) in enumerate(zip(whole, prompt, strict=False)) if a != b), len(whole))
            return (
                "under this chat template the prompt is not the beginning of the finished conversation, which goes on "
                f"with {whole[same : same + 30]!r} where the prompt has {prompt[same : same + 30]!r}, so that no right "
                f"mask follows; take such rows out, or {_FILE if self.has_more else _ANOTHER}"
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


def _how_many(value: Any) -> object:
    """How many things a field holds; of values for the template, what they are."""
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    return min(len(value), 2) if isinstance(value, list) else 1


def sentinels(conversation: Conversation) -> Conversation:
    """The same shape with a sentinel for each content, and for what else a message says."""
    messages = tuple(_sentinel(message, number) for number, message in enumerate(conversation.messages))
    return Conversation(messages, conversation.cut, conversation.turns)


def behind_sentinels(text: str, message: Message, number: int, *, has_id: bool = False) -> str | None:
    """What stands behind the last sentinel of a message; None where it has none, or a content twice.

    Args:
        has_id: behind the id of the last call, which stands behind the sentinels.
    """
    content = f"\ue000{number}\ue001"
    if "tool_calls" not in message:
        return text.partition(content)[2] if text.count(content) == 1 else None
    names = [_name("call", number, len(message["tool_calls"]) - 1), _name("key", number), _name("value", number)]
    ends = [at + len(name) for name in (*names, content) if (at := text.rfind(name)) >= 0]
    if not ends:
        return None
    after = text[max(ends) :]
    return after.partition(message["tool_calls"][-1]["id"])[2] if has_id else after


def _sentinel(message: Message, number: int) -> Message:
    changed = {**message, "content": f"\ue000{number}\ue001"}
    if "reasoning_content" in message:
        changed["reasoning_content"] = _name("thought", number)
    if "tool_calls" in message:
        changed["content"] = message["content"] and changed["content"]
        arguments = {_name("key", number): _name("value", number)}
        calls: list[Any] = []
        for n, call in enumerate(message["tool_calls"]):
            is_text = isinstance(call["function"]["arguments"], str)
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


def after_opening(content: str, opening: str) -> str | None:
    """What of an answer goes on from the opening that ends its prompt; None where the answer does not.

    An answer does that begins with the opening too, or has the mark that closes it.
    """
    mark, own = opening.strip(), content.lstrip()
    if not mark:
        return content.removeprefix(opening)
    if own.startswith(mark):
        return own[len(mark) :].removeprefix(opening[opening.index(mark) + len(mark) :])
    closing = closing_of(mark)
    return content if closing and closing in content else None


def opening_of(prompt: str, before: str) -> str:
    """What ends a prompt and does not stand before a finished answer; "" where there is no such thing."""
    if prompt.startswith(before):
        return prompt[len(before) :]
    mark = _OPENS.search(prompt)
    return mark.group() if mark is not None and before.startswith(prompt[: mark.start()]) else ""


def closing_of(mark: str) -> str | None:
    """The mark that closes what another opens, </think> for <think>; None where that cannot be told."""
    found = _OPENS.search(mark)
    return f"{found[1]}/{found[2]}" if found else None


def no_thoughts(opening: str) -> str:
    """Say why an answer has no place behind a prompt with an opening."""
    mark = opening.strip()
    closing = closing_of(mark)
    end = f", up to {closing!r}" if closing else ""
    return (
        f"no thoughts before an answer, though the chat template's prompt opens them with {mark!r}: write them "
        f"there{end}, or take another template"
    )


def _border(at: int, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """A place in a text with sentinels as (index of the part it lies in, offset there)."""
    behind = [end for _, end in places if end <= at]
    return 2 * len(behind), at - (behind[-1] if behind else 0)


def _said(message: Message) -> list[str]:
    """What must stand in a scored turn; arguments of calls may be written in many ways."""
    thought = [message["reasoning_content"]] if "reasoning_content" in message else []
    return [*thought, message["content"], *(call["function"]["name"] for call in message.get("tool_calls", ()))]


def _cuts_thoughts(message: Message, whole: str, begin: int, end: int, closing: str) -> bool:
    """Whether a template wrote of an answer just what stands behind its thoughts, and the prompt does not end these."""
    content, left = message["content"], whole[begin : end - len(closing)].strip()
    thoughts = content.rstrip().removesuffix(left) if left else ""
    return thoughts != content.rstrip() and bool(_CLOSES.search(thoughts)) and not _CLOSES.search(whole[:begin])


def _goes_on(said: str, prompt: str, written: str) -> bool:
    """Whether the beginning of what is said ends the prompt already, as <think> may; all without white space."""
    tail = _letters(prompt[-_TAIL:])
    return any(tail.endswith(said[:n]) and written.startswith(said[n:]) for n in range(1, min(len(said), _TAIL)))


def _letters(text: str) -> str:
    """Text without white space, which templates may trim."""
    return "".join(text.split())
