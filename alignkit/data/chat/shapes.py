"""Conversations -> rendered texts: spliced into the layout of their shape, or rendered in full where that is needed.

A shape is analysed when it is first met: what surrounds its scored turns, whether its splice equals full renderings
(alignkit.data.chat.layouts). Later a sample of each shape's conversations is rendered in full too and compared.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit._native import Splicer
from alignkit.data.chat.call_spellings import SPELLINGS, Spelling, as_they_are
from alignkit.data.chat.injected_tokens import InjectedTokens, Restore, strings
from alignkit.data.chat.layouts import (
    Conversation,
    RenderedTemplate,
    ScoredTurn,
    behind_sentinels,
    dropped,
    is_written_as_by_python,
    kind_of,
    opening_of,
    probes,
    sentinels,
)
from alignkit.data.chat.template import Rendering, Template, texts
from alignkit.data.encoding.texts import FlatTexts, TextWithSpans, offsets_of
from alignkit.data.reading.messages import Message, riders_of, tools_of
from alignkit.data.reading.said import say_once
from alignkit.errors import InputError

_SAMPLED = 16  # the first conversations of each shape, rendered in full too, and then one in _SAMPLED_EVERY
_SAMPLED_EVERY = 512
_ANSWER: Message = {"role": "assistant", "content": "\ue000answer\ue001"}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")  # names that templates have for them
_THOUGHT = "\ue000thought\ue001"
_log = logging.getLogger(__name__)


class MessageSchema:
    """What is known of a shape: why it is refused, what surrounds its scored turns, its layout where it has one.

    `spelling` is how the template wants calls of tools. `whole` and `ended` are the layout's numbers in the splicer:
    all of the text, and up to its last scored part.
    """

    def __init__(
        self,
        turns: tuple[ScoredTurn, ...] = (),
        layout: RenderedTemplate | None = None,
        refused: InputError | None = None,
        spelling: Spelling = as_they_are,
    ) -> None:
        self.turns, self.layout, self.refused, self.spelling = turns, layout, refused, spelling
        self.whole = self.ended = -1
        self.given = False  # whether results of it are out
        self._seen = 0

    def samples(self) -> bool:
        """Whether the next conversation is one of the sample that is rendered in full too."""
        self._seen += 1
        return self._seen <= _SAMPLED or self._seen % _SAMPLED_EVERY == 0


@dataclass(frozen=True)
class Rendered:
    """Rendered conversations.

    Args:
        texts: in an order of their own.
        text_of: int64 [conversations], the text of each.
        layouts: int64 [texts], the layout that each was spliced into, -1 for none.
        errors: why conversations, by number, have no text.
    """

    texts: FlatTexts
    text_of: np.ndarray
    layouts: np.ndarray
    errors: Mapping[int, InputError]


class SchemaRenderer:
    """Renders with one template.

    Args:
        special, pattern: the special tokens, and what matches one of them.
        why_unread: says why a value of this name does not reach the template; None where it does.
    """

    def __init__(
        self,
        template: Template,
        special: Collection[str],
        pattern: re.Pattern[str],
        why_unread: Callable[[str], str | None] = lambda name: None,
    ) -> None:
        self._template, self._special, self._why_unread = template, pattern, why_unread
        self._lookalikes = InjectedTokens(special, pattern)
        self._splicer = Splicer([token for token in special if token])
        self._ends: dict[int, str] = {}
        self._turn_of_kind: dict[Any, ScoredTurn] = {}
        self._has_thoughts: bool | None = None
        self._shapes: dict[Any, MessageSchema] = {}

    @property
    def looks_at_contents(self) -> bool:
        """Whether some shape seen so far has to be rendered conversation by conversation."""
        return any(shape.layout is None for shape in self._shapes.values())

    def start(self) -> None:
        """Let the template's process start, which the first rendering would wait for."""
        self._template.start()

    def end_of(self, layout: int) -> str:
        """What a layout has behind its last content."""
        return self._ends[layout]

    def render(self, conversations: Sequence[Conversation]) -> list[TextWithSpans | InputError]:
        """Render conversations one by one: their texts, or why there is none.

        Raises:
            InputError: a splice was found wrong after others of its shape had been given out.
        """
        shapes = [self._shape(conversation) for conversation in conversations]
        results, wrong = self._carefully(conversations, shapes, [shape.samples() for shape in shapes])
        if wrong:
            self._demote(wrong)
            return self.render(conversations)
        for shape in set(shapes):
            shape.given = True
        return results

    def render_many(self, conversations: Sequence[Conversation], *, to_the_end: bool) -> Rendered:
        """Render conversations into flat texts, as `render` does.

        Args:
            to_the_end: leave out what follows the last scored part of a conversation.

        Raises:
            InputError: as `render`.
        """
        shapes = [self._shape(conversation) for conversation in conversations]
        is_slow = np.array([shape.layout is None or shape.samples() for shape in shapes], bool)
        fast, sampled = np.flatnonzero(~is_slow).tolist(), np.flatnonzero(is_slow).tolist()
        which = np.array([shapes[n].ended if to_the_end else shapes[n].whole for n in fast], np.int64)
        contents = [message["content"] for n in fast for message in conversations[n].messages]
        try:
            spliced = self._splicer.splice(which, contents, offsets_of([len(conversations[n].messages) for n in fast]))
        except UnicodeEncodeError:
            return _failed(
                len(conversations), {n: error for n in fast if (error := _no_text(conversations[n])) is not None}
            )
        utf8, text_offsets, spans, span_offsets, has_special, is_normal = spliced
        slow = sampled + [fast[n] for n in np.flatnonzero(has_special)]
        is_sampled = [place < len(sampled) for place in range(len(slow))]
        results, wrong = self._carefully([conversations[n] for n in slow], [shapes[n] for n in slow], is_sampled)
        if wrong:
            self._demote(wrong)
            return self.render_many(conversations, to_the_end=to_the_end)
        for shape in set(shapes):
            shape.given = True
        errors = {n: result for n, result in zip(slow, results, strict=True) if isinstance(result, InputError)}
        errors |= {n: error for n in slow if (error := _no_text(conversations[n])) is not None}
        if errors:
            return _failed(len(conversations), errors)
        careful = [result for result in results if isinstance(result, TextWithSpans)]
        if to_the_end:
            careful = [_to_the_end(text) if text.spans else text for text in careful]
        text_of = np.zeros(len(conversations), np.int64)
        text_of[fast] = np.arange(len(fast))
        text_of[slow] = len(fast) + np.arange(len(slow))  # also those that the splicer left empty
        flat = FlatTexts(utf8, text_offsets, spans.reshape(-1, 2), span_offsets, is_normal) + FlatTexts.of(careful)
        layouts = np.concatenate([which, np.full(len(slow), -1)])
        return Rendered(flat, text_of, layouts, {})

    def _carefully(
        self, conversations: Sequence[Conversation], shapes: Sequence[MessageSchema], is_sampled: Sequence[bool]
    ) -> tuple[list[TextWithSpans | InputError], set[Any]]:
        """Render each by itself: in full where there is no layout, and compared with the layout where it is sampled.

        Returns the results, and the shapes whose layout was found wrong.
        """
        results: list[TextWithSpans | InputError | None] = []
        full: list[tuple[int, Conversation, Restore | None]] = []
        for number, (conversation, shape, sampled) in enumerate(zip(conversations, shapes, is_sampled, strict=True)):
            result: TextWithSpans | InputError | None = shape.refused
            if result is None:
                try:
                    hidden, restore = self._lookalikes.hide(conversation)
                except InputError as error:
                    result = error
                else:
                    hidden = shape.spelling(hidden)
                    if shape.layout is None or sampled:
                        full.append((number, hidden, restore))
                    else:
                        filled = shape.layout.fill(hidden.messages)
                        result = filled if restore is None else restore(filled)
            results.append(result)
        rendered = self._in_full([(conversation, shapes[number].turns) for number, conversation, _ in full])
        wrong = set()
        for (number, conversation, restore), answer in zip(full, rendered, strict=True):
            layout = shapes[number].layout
            if layout is not None and layout.fill(conversation.messages) != answer:
                wrong.add(conversation.shape)
            results[number] = answer if restore is None or isinstance(answer, InputError) else restore(answer)
        return [result for result in results if result is not None], wrong

    def _demote(self, wrong: Collection[Any]) -> None:
        """Render these shapes in full from now on."""
        for key in wrong:
            shape = self._shapes[key]
            shape.layout = None
            say_once("the chat template does not write every content as it is: rendered in full from here on")
            if shape.given:
                raise InputError(
                    "this chat template looks at contents in a way that was not seen at once, so that earlier rows may "
                    "be wrong; give another with --chat-template FILE or --chat-template chatml"
                )

    def _shape(self, conversation: Conversation) -> MessageSchema:
        key = conversation.shape
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = self._analysed(conversation)
            if found.layout is not None:
                found.whole = self._splicer.add(*found.layout.in_bytes())
                found.ended = (
                    self._splicer.add(*found.layout.in_bytes(to_the_end=True)) if conversation.turns else found.whole
                )
                self._ends[found.whole] = found.layout.in_bytes()[0][-1]
            elif found.refused is None and not conversation.has_more:
                roles = " ".join(message["role"] for message in conversation.messages)
                _log.info("the chat template looks at contents: rendered in full for each %s", roles)
        return found

    def _analysed(self, conversation: Conversation) -> MessageSchema:
        """Render a shape with sentinels, find what closes its turns, and show its splice equal on awkward contents."""
        if conversation.has_more:
            return self._analysed_with_more(conversation)
        sample = sentinels(conversation)
        items = sample.renderings(watched=True)
        cuts = [sample.rendering(sample.messages[: turn + 1], False) for turn in sample.turns]
        answers = self._template.render([*items, *cuts])
        try:
            found = texts(answers)
            self._check_whole(sample, found[0])
            contents = [sample.messages[turn]["content"] for turn in sample.turns]
            turns = tuple(map(self._turn, found[len(items) :], sample.prompts(found), contents))
            if sample.is_one_answer and turns[0].opening:
                return MessageSchema(turns)
            scored = sample.scored(found[: len(items)], turns)
        except InputError as error:
            return MessageSchema(refused=error)
        self._say_supplied(turns)
        if any(answer[1] for answer in answers if not isinstance(answer, InputError)):
            return MessageSchema(turns)
        layout = RenderedTemplate(scored)
        tried = probes(conversation)
        rendered = self._in_full([(probe, turns) for probe in tried])
        same = all(layout.fill(probe.messages) == result for probe, result in zip(tried, rendered, strict=True))
        return MessageSchema(turns, layout if same else None)

    def _analysed_with_more(self, conversation: Conversation) -> MessageSchema:
        """Find out whether the template writes all that such a conversation says, and which spelling of calls it takes.

        Such a conversation has no layout. Arguments that a template writes as Python does are no JSON.
        """
        values = riders_of(conversation.messages).get("template_values", {})
        for why in filter(None, map(self._why_unread, values)):
            return MessageSchema(refused=InputError(f"a value for the template in the row: {why}"))
        if any("reasoning_content" in message for message in conversation.messages) and not self._renders_thoughts():
            return MessageSchema(
                refused=InputError(
                    "a message has thoughts beside its content (reasoning_content), which this chat template does not "
                    "render: write them into the content, between <think> and </think>, take such rows out, or leave "
                    "them unread by --ignore-fields message.reasoning_content,reasoning_content (or as the rows name "
                    "them)"
                )
            )
        refused: InputError | None = None
        has_calls = any("tool_calls" in message or message["role"] == "tool" for message in conversation.messages)
        for spelling in SPELLINGS if has_calls else SPELLINGS[:1]:
            sample = spelling(sentinels(conversation))
            try:
                (whole,) = texts(self._template.render(sample.renderings()[:1]))
                if is_written_as_by_python(whole):
                    continue
                self._check_whole(sample, whole)
                turns = tuple(self._turn_with_more(sample, turn) for turn in sample.turns)
                self._say_supplied(turns)
                return MessageSchema(turns, spelling=spelling)
            except InputError as error:
                if refused is None or "refuses this conversation" in str(refused):
                    refused = error
        if refused is None:
            refused = InputError(f"{self._template.name} writes arguments of calls as no JSON; give another template")
        has_tools = has_calls or tools_of(conversation.messages) is not None
        return MessageSchema(refused=self._with_tools_named(refused) if has_tools else refused)

    def _with_tools_named(self, error: InputError) -> InputError:
        """Say of a template's own refusal that the conversation has tools, which may be why."""
        own = str(error).removeprefix("the chat template refuses this conversation: ")
        if own == str(error):
            return error
        return InputError(
            f"{self._template.name} refuses this conversation, which has tools, calls of them or results: {own}; take "
            "such rows out, or give a template that knows tools with --chat-template FILE"
        )

    def _turn_with_more(self, sample: Conversation, turn: int) -> ScoredTurn:
        """What surrounds a scored turn: what surrounds an answer in its place.

        A turn without the token that ends such an answer ends with its last special one.
        """
        values = str(riders_of(sample.messages).get("template_values"))
        kind = (*map(kind_of, sample.messages[max(0, turn - 1) : turn + 1]), values, sample.is_one_answer)
        if kind not in self._turn_of_kind:
            cut = sample.rendering(sample.messages[: turn + 1], False)
            answered = sample.rendering((*sample.messages[:turn], _ANSWER), False)
            prompt = sample.rendering(sample.messages[:turn], True)
            text, answer, asked = texts(self._template.render([cut, answered, prompt]))
            own = self._turn(answer, asked, _ANSWER["content"])
            if not (own.opening and sample.is_one_answer):
                end = self._special.findall(own.closing)[-1]
                message = sample.messages[turn]
                after = behind_sentinels(text, message, turn) or ""
                has_id = "tool_calls" in message and message["tool_calls"][-1].get("id", after + " ") in after
                after = behind_sentinels(text, message, turn, has_id=has_id) or ""
                written = list(self._special.finditer(after))
                last = next((found for found in written if found.group() == end), None)
                closing = self._closing(after) if not written else after[: (last or written[-1]).end()]
                own = ScoredTurn(closing, own.supplied, has_id=has_id)
            self._turn_of_kind[kind] = own
        return self._turn_of_kind[kind]

    def _renders_thoughts(self) -> bool:
        """Whether the template has a place for thoughts beside a content; finds under which name it reads them."""
        if self._has_thoughts is None:
            asked = {"role": "user", "content": "Hi"}
            tried = [Rendering((asked, {**_ANSWER, name: _THOUGHT}), False) for name in _THOUGHTS]
            answers = zip(_THOUGHTS, self._template.render(tried), strict=True)
            found = [name for name, text in answers if not isinstance(text, InputError) and _THOUGHT in text[0]]
            self._has_thoughts = bool(found)
            self._template.thoughts = [*found, _THOUGHTS[0]][0]
        return self._has_thoughts

    def end_token(self, messages: Sequence[Message]) -> str:
        """The token that ends an answer to messages.

        Raises:
            InputError: there is none.
        """
        (text,) = texts(self._template.render([Rendering((*messages, _ANSWER), False)]))
        return self._special.findall(self._closing(text.partition(_ANSWER["content"])[2]))[-1]

    def opening(self, messages: Sequence[Message]) -> str:
        """What ends the prompt of messages and no finished answer has, "" for nothing. Raises as `end_token`."""
        text, prompt = texts(self._template.render([Rendering((*messages, _ANSWER), False), Rendering(messages, True)]))
        return self._turn(text, prompt, _ANSWER["content"]).opening

    def _turn(self, text: str, prompt: str, content: str) -> ScoredTurn:
        """What surrounds the content that ends a rendered text."""
        before, _, after = text.partition(content)
        closing = self._closing(after)
        if before.startswith(prompt):
            return ScoredTurn(closing, before[len(prompt) :])
        return ScoredTurn(closing, opening=opening_of(prompt, before))

    def _say_supplied(self, turns: Sequence[ScoredTurn]) -> None:
        """Say once what the template writes before answers that no prompt has."""
        for supplied in dict.fromkeys(turn.supplied for turn in turns if turn.supplied.strip()):
            hint = ""
            if "enable_thinking" in self._template.text:
                hint = "; --template-kwargs enable_thinking=false may put it into prompts"
            say_once(
                f"the chat template writes {supplied!r} before an answer, which a sampled model's prompt does not end "
                f"with: it is not scored{hint}"
            )

    def _check_whole(self, sample: Conversation, text: str) -> None:
        """Check that a text holds all that a conversation of sentinels says."""
        what = dropped(sample, text)
        if what is None:
            return
        if what == "the list of tools" or "tool call" in what:
            raise InputError(
                f"{self._template.name} leaves out {what}; take such rows out, or give a template that renders it "
                "with --chat-template FILE"
            )
        raise InputError(
            f"this chat template leaves out {what}; give another with --chat-template FILE or --chat-template chatml"
        )

    def _closing(self, after: str) -> str:
        """Of what follows the last answer, that up to and with the token that ends its turn."""
        end = self._special.search(after)
        if end is None:
            raise InputError(
                "this chat template puts no end token after an answer, so that a model trained on it would never stop; "
                "give another with --chat-template, for example chatml"
            )
        return after[: end.end()]

    def _in_full(
        self, conversations: Sequence[tuple[Conversation, tuple[ScoredTurn, ...]]]
    ) -> list[TextWithSpans | InputError]:
        items = [conversation.renderings() for conversation, _ in conversations]
        answers = self._template.render([item for own in items for item in own])
        results: list[TextWithSpans | InputError] = []
        at = 0
        for (conversation, turns), own in zip(conversations, items, strict=True):
            try:
                results.append(conversation.scored(texts(answers[at : at + len(own)]), turns))
            except InputError as error:
                results.append(error)
            at += len(own)
        return results


def _to_the_end(text: TextWithSpans) -> TextWithSpans:
    """Leave out what follows the last scored text."""
    end = text.spans[-1][1]
    if end == len(text.text):
        return text
    return TextWithSpans(text.text[:end], text.spans, tuple(place for place in text.plain if place[1] <= end))


def _no_text(conversation: Conversation) -> InputError | None:
    """Say where a conversation's contents are no valid text."""
    for message in conversation.messages:
        for text in (message["content"],) if len(message) == 2 else strings(message):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                half = text[error.start]
                return InputError(f"half a character ({half!r}) in a message is no valid text; correct the row")
    return None


def _failed(num_conversations: int, errors: Mapping[int, InputError]) -> Rendered:
    return Rendered(FlatTexts.of([]), np.zeros(num_conversations, np.int64), np.zeros(0, np.int64), errors)
