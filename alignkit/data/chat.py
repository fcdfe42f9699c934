"""Conversations -> text, with the part of it that the model must learn.

The prompt is the template's rendering with the generation prompt; a completion is what the rendering of the whole
conversation adds to it. Its scored part ends with the token that ends the turn, or the model would never learn to
stop; what a template puts behind that token is not scored. No generation tags are needed. A template under which the
prompt is not the beginning of the whole conversation is refused: its mask would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alignkit.data.rows import Message
from alignkit.errors import InputError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Scored:
    """Text, and the half-open character ranges of it that the loss sees."""

    text: str
    spans: tuple[tuple[int, int], ...]


class Chat:
    """One tokenizer's chat template with the run's settings.

    Args:
        tokenizer: a fast tokenizer of transformers.
        template: a Jinja file, "chatml", or None for the tokenizer's own.
        system: system message put before conversations that have none.
        template_kwargs: further values for the template.

    Raises:
        InputError: there is no template, or the file cannot be read.
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
        special = {str(t) for t in tokenizer.all_special_tokens} | {
            str(t) for t in tokenizer.added_tokens_decoder.values() if t.special
        }
        self._special = re.compile(
            "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) or "(?!)"
        )

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end a completion: the turn's end token and the tokenizer's end of text."""
        answer = self.answer([{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Hello"}])
        end = self.tokenizer(answer.text[: answer.spans[0][1]], add_special_tokens=False)["input_ids"][-1]
        eos = self.tokenizer.eos_token_id
        return frozenset({end} if eos is None else {end, eos})

    @cached_property
    def turn_end_id(self) -> int:
        """Token id that ends an assistant's turn."""
        answer = self.answer([{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Hello"}])
        return int(self.tokenizer(answer.text[: answer.spans[0][1]], add_special_tokens=False)["input_ids"][-1])

    def prompt(self, messages: Sequence[Message]) -> str:
        """Render messages and the generation prompt."""
        return self._render(messages, generation_prompt=True)

    def answer(self, prompt: Sequence[Message], answer: Sequence[Message]) -> Scored:
        """Render what `answer` adds to the rendered prompt; its last assistant turn is scored."""
        before = self.prompt([*prompt, *answer[:-1]])
        whole = self._render([*prompt, *answer], generation_prompt=False)
        if not whole.startswith(before):
            raise InputError(
                "under this chat template the prompt is not the beginning of the finished conversation, so that no "
                "right mask follows from it; give another with --chat-template FILE or --chat-template chatml"
            )
        cut = len(self.prompt(prompt))
        start = len(before)
        end = start + self._turn_length(whole[start:], answer[-1]["content"])
        return Scored(whole[cut:], ((start - cut, end - cut),))

    def conversation(self, messages: Sequence[Message]) -> Scored:
        """Render a whole conversation; every assistant turn is scored."""
        whole = self._render(messages, generation_prompt=False)
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.prompt(messages[:number])
            if not whole.startswith(before):
                raise InputError(
                    "under this chat template an earlier turn changes when later ones follow, so that not every "
                    "assistant turn has a right mask; use --train-on last, or another --chat-template"
                )
            spans.append((len(before), len(before) + self._turn_length(whole[len(before) :], message["content"])))
        return Scored(whole, tuple(spans))

    def _turn_length(self, text: str, content: str) -> int:
        """Length of the turn that `text` begins with: up to and with the first special token after the content."""
        at = text.find(content)
        if at < 0:
            content = content.strip()
            at = text.find(content)
        if at < 0:
            raise InputError("this chat template changes the answer's text; give another with --chat-template")
        end = self._special.search(text, at + len(content))
        if end is None:
            raise InputError(
                "this chat template puts no end token after an answer, so that a model trained on it would never stop; "
                "give another with --chat-template, for example chatml"
            )
        return end.end()

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        import jinja2

        turns = [dict(message) for message in messages]
        if self.system is not None and not (turns and turns[0]["role"] == "system"):
            turns.insert(0, {"role": "system", "content": self.system})
        try:
            return self.tokenizer.apply_chat_template(
                turns,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                **self.template_kwargs,
            )
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template refuses this conversation: {error}") from error


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
