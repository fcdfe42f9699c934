"""Conversations -> text, with the part of it that the model must learn.

The prompt is the template's rendering with the generation prompt; a completion is what the rendering of the whole
conversation adds to it. Its scored part ends with the token that ends the turn, or the model would never learn to
stop; what a template puts behind that token is not scored. No generation tags are needed. A template under which the
prompt is not the beginning of the whole conversation is refused: its mask would be wrong.

Templates are rendered in a limited process (alignkit.data.chat.template), once for each shape of conversation where
they write contents as they are (alignkit.data.chat.layouts), else for each conversation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from alignkit.config.settings import ModelSection
from alignkit.data.chat.layouts import Conversation, after_opening, no_thoughts
from alignkit.data.chat.shapes import SchemaRenderer
from alignkit.data.chat.template import Template
from alignkit.data.chat.template_values import TemplateValues
from alignkit.data.encoding.encoder import Encoder
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.data.reading.messages import Message, riders_of, with_riders, without_riders
from alignkit.errors import InputError
from alignkit.pretrained.names import ModelSource
from alignkit.pretrained.read import load_tokenizer
from alignkit.pretrained.weights import settings_fingerprint
from alignkit.runs import read_run

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_log = logging.getLogger(__name__)


class Chat:
    """One tokenizer's chat template with the run's settings.

    Args:
        tokenizer: a fast tokenizer of transformers.
        template: a Jinja file, "chatml", or None for the tokenizer's own.
        system: system message put before conversations that have none.
        template_kwargs: further values for the template; `today` (YYYY-MM-DD) is the date that it sees.

    Raises:
        InputError: there is no template, the file cannot be read, or the template never reads one of the values.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        template: str | None = None,
        system: str | None = None,
        template_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.system = system
        self.template_kwargs = dict(template_kwargs or {})
        self.template = _template_text(tokenizer, template)
        self._reads = TemplateValues(self.template)
        for name in self.template_kwargs:
            if (why := self._reads.why_unread(name, tokenizer.special_tokens_map)) is not None:
                raise InputError(f"--template-kwargs {name}: {why}")
        values = {**tokenizer.special_tokens_map, **self.template_kwargs}
        special = {str(t) for t in tokenizer.all_special_tokens} | {
            str(t) for t in tokenizer.added_tokens_decoder.values() if t.special
        }
        self._special = re.compile(
            "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) or "(?!)"
        )
        name = f"the chat template of {tokenizer.name_or_path}" if template is None else f"the chat template {template}"
        rendered_by = Template(self.template, values=values, now=self._now(), name=name)
        self.renderer = SchemaRenderer(rendered_by, special, self._special, self._why_unread)

    @cached_property
    def encoder(self) -> Encoder:
        """What makes token ids of rendered texts."""
        return Encoder(self.tokenizer, self._special)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end a completion: the turn's end token and the tokenizer's end of text."""
        eos = self.tokenizer.eos_token_id
        return frozenset({self.turn_end_id} if eos is None else {self.turn_end_id, eos})

    @cached_property
    def turn_end_id(self) -> int:
        """Token id that ends an assistant's turn."""
        end = self.renderer.end_token(self._with_system([{"role": "user", "content": "Hi"}]))
        return int(self.encoder.ids(TextWithSpans(end))[-1])

    @cached_property
    def opening(self) -> str:
        """What ends a prompt and no finished answer has, such as DeepSeek-R1's <think>; "" under most templates."""
        try:
            opening = self.renderer.opening(self._with_system([{"role": "user", "content": "Hi"}]))
        except InputError:  # rendering rows will say it
            return ""
        return opening if opening.strip() else ""

    def why_no_place(self, answers: Iterable[Sequence[Message]]) -> str | None:
        """Say why one of some answers has no place behind a prompt; None where all have."""
        if self.opening and any(after_opening(answer[-1]["content"], self.opening) is None for answer in answers):
            return no_thoughts(self.opening)
        return None

    @property
    def looks_at_contents(self) -> bool:
        """Whether some shape seen so far has to be rendered conversation by conversation."""
        return self.renderer.looks_at_contents

    def after_special(self, text: str) -> str | None:
        """The end of a text behind its last special token; None where it has none."""
        end = None
        for match in self._special.finditer(text):
            end = match.end()
        return None if end is None else text[end:]

    def prompt(self, messages: Sequence[Message]) -> str:
        """Render messages and the generation prompt."""
        return self._one(self.prompt_conversation(messages)).text

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of messages and the generation prompt; what looks like a special token in a message is text."""
        return self.encoder.ids(self._one(self.prompt_conversation(messages))).tolist()

    def answer_ids(self, prompt: Sequence[Message], answer: Sequence[Message]) -> list[int]:
        """Token ids that `answer` adds behind `prompt_ids`, to the end of the rendering.

        Behind an opening that ends the prompt it goes on from there, also where it never closes it.
        """
        *turns, last = answer
        given = self.answer_conversation(prompt, [*turns, {**last, "content": self._going_on(last["content"])}])
        before, text = (self._one(conversation) for conversation in (self.prompt_conversation(prompt), given))
        return self.encoder.ids_behind(before, text).tolist()

    def said(self, ids: Sequence[int]) -> str:
        """The content that sampled ids say: without special tokens, and without white space that no content has."""
        return self._behind_a_letter(ids).removeprefix(self._white_space_before_answers)

    def _behind_a_letter(self, ids: Sequence[int]) -> str:
        """Decode ids where no text begins: SentencePiece's decoders take a space away from the beginning."""
        letter = self.encoder.ids(TextWithSpans("a")).tolist()
        before: str = self.tokenizer.decode(letter, skip_special_tokens=True)
        text: str = self.tokenizer.decode([*letter, *ids], skip_special_tokens=True)
        return text[len(before) :] if text.startswith(before) else self.tokenizer.decode(ids, skip_special_tokens=True)

    @cached_property
    def _white_space_before_answers(self) -> str:
        """White space that the template, or the tokenizer behind a special token, puts before an answer."""
        prompt, answer = [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Hello"}]
        before = self._behind_a_letter(self.answer_ids(prompt, answer)).partition("Hello")[0]
        return before if before.isspace() else ""

    def answer(self, prompt: Sequence[Message], answer: Sequence[Message]) -> TextWithSpans:
        """Render what `answer` adds to the prompt: its assistant turns are scored, but earlier ones of weight 0."""
        return self._one(self.answer_conversation(prompt, answer))

    def prompt_conversation(self, messages: Sequence[Message]) -> Conversation:
        """What `prompt` renders."""
        return Conversation(self._with_system(messages))

    def answer_conversation(self, prompt: Sequence[Message], answer: Sequence[Message]) -> Conversation:
        """What `answer` renders."""
        messages = self._with_system((*prompt, *answer))
        cut, last = len(messages) - len(answer), len(messages) - 1
        if cut == last:
            return Conversation(messages, cut, (last,))
        own = (n for n in range(cut, last) if messages[n]["role"] == "assistant" and messages[n].get("weight", 1) != 0)
        return Conversation(messages, cut, (*own, last))

    def reference_conversation(self, prompt: Sequence[Message], text: str) -> Conversation:
        """A text as an answer whose length alone counts: it need not go on from a prompt's opening."""
        return self.answer_conversation(prompt, [{"role": "assistant", "content": self._going_on(text)}])

    def _going_on(self, text: str) -> str:
        """A text that goes on from a prompt's opening, whatever it is."""
        return text if after_opening(text, self.opening) is not None else self.opening + text

    def whole_conversation(self, messages: Sequence[Message]) -> Conversation:
        """A whole conversation, every assistant turn scored but those of weight 0."""
        turns = self._with_system(messages)
        own = (n for n, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("weight", 1) != 0)
        return Conversation(turns, 0, tuple(own))

    def render(self, conversations: Sequence[Conversation]) -> list[TextWithSpans | InputError]:
        """Render many conversations: their texts, or why there is none. Raises as `SchemaRenderer.render`."""
        return self.renderer.render(conversations)

    def _one(self, conversation: Conversation) -> TextWithSpans:
        (result,) = self.renderer.render([conversation])
        if isinstance(result, InputError):
            raise result
        return result

    def _with_system(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        if self.system is None or (messages and messages[0]["role"] == "system"):
            return tuple(messages)
        rest = tuple(messages)
        return with_riders(({"role": "system", "content": self.system}, *without_riders(rest)), riders_of(rest))

    def _why_unread(self, name: str) -> str | None:
        """Say why a row's own value does not reach the template."""
        if name == "today":
            return "the date of one row is none of its values: give --template-kwargs today"
        return self._reads.why_unread(name, self.tokenizer.special_tokens_map)

    def _now(self) -> str:
        today = self.template_kwargs.get("today")
        has_date = any("date" in name for name in self.template_kwargs)
        if today is None:
            for name, text in () if has_date else self._reads.fixed_dates.items():
                _log.warning(
                    "the chat template writes a fixed date into prompts, %s; another is given by --template-kwargs "
                    "%s=..., or by rows",
                    text,
                    name,
                )
            if self._reads.has_clock and not has_date:
                _log.warning(
                    "the chat template writes today's date into prompts; to have the same tomorrow give "
                    "--template-kwargs today=%s",
                    datetime.now().date(),
                )
            return datetime.now().isoformat(timespec="seconds")
        try:
            return datetime.fromisoformat(str(today)).isoformat()
        except ValueError as error:
            raise InputError(f"--template-kwargs today={today}: not a date; write it as YYYY-MM-DD") from error


def make_chat(source: ModelSource, section: ModelSection) -> Chat:
    """Load the tokenizer and its template with a run's settings.

    System message and template values of the run a model came from hold where `section` names none.
    """
    tokenizer = load_tokenizer(source.folder)
    system, template_kwargs = section.system, section.template_kwargs
    if source.run is not None:
        inherited = read_run(source.run).config.model
        system = inherited.system if system is None else system
        reads = TemplateValues(_template_text(tokenizer, section.chat_template)).reads
        known = {name: value for name, value in (inherited.template_kwargs or {}).items() if reads(name)}
        template_kwargs = template_kwargs or known
    return Chat(tokenizer, template=section.chat_template, system=system, template_kwargs=template_kwargs)


def refuse_ids_without_rows(chat: Chat, rows: int, folder: Path) -> None:
    """Check that each id of a model's tokenizer has a row in its embedding.

    Args:
        rows: of the embedding.

    Raises:
        InputError: there are more ids.
    """
    highest = max(chat.tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise InputError(
            f"{folder}: the tokenizer has ids up to {highest}, the embedding {rows} rows; take "
            f"the model's own tokenizer, or give the model more rows (model.resize_token_embeddings({highest + 1}))"
        )


def settings_identity(folder: Path, chat: Chat) -> dict[str, str]:
    """What makes other answers of the same weights, as hashes by name.

    Args:
        chat: its template, system message and template values as they are used.
    """
    spoken = json.dumps([chat.template, chat.system, chat.template_kwargs], sort_keys=True, default=str)
    return {
        "config and tokenizer": settings_fingerprint(folder),
        "chat template": hashlib.sha256(spoken.encode("utf-8", "backslashreplace")).hexdigest(),
    }


def _template_text(tokenizer: Any, template: str | None) -> str:
    if template == "chatml":
        return CHATML
    if template is not None:
        try:
            return Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"chat template {template}: cannot be read: {error}") from error
    own = tokenizer.chat_template
    if not own:
        raise InputError(
            f"the tokenizer in {tokenizer.name_or_path} has no chat template; give one with --chat-template FILE or "
            "--chat-template chatml"
        )
    return own if isinstance(own, str) else own["default"]
