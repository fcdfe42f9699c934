"""Conversations -> text, with the part of it that the model must learn.

The prompt is the template's rendering with the generation prompt; a completion is what the rendering of the whole
conversation adds to it. Its scored part ends with the token that ends the turn, or the model would never learn to
stop; what a template puts behind that token is not scored. No generation tags are needed. A template under which the
prompt is not the beginning of the whole conversation is refused: its mask would be wrong.

Templates are rendered in a limited process (alignkit.data.template), once for each shape of conversation where they
write contents as they are (alignkit.data.layouts), else for each conversation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from alignkit.data.encoder import Encoder
from alignkit.data.layouts import Job, Layout, Scored, dropped, probes, sentinels
from alignkit.data.lookalikes import Lookalikes, Restore
from alignkit.data.rows import Message
from alignkit.data.template import Rendering, Template, texts
from alignkit.errors import InputError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SAMPLED = 16  # the first conversations of each shape, rendered in full too, and then one in _SAMPLED_EVERY
_SAMPLED_EVERY = 512
_log = logging.getLogger(__name__)


class Chat:
    """One tokenizer's chat template with the run's settings.

    Args:
        tokenizer: a fast tokenizer of transformers.
        template: a Jinja file, "chatml", or None for the tokenizer's own.
        system: system message put before conversations that have none.
        template_kwargs: further values for the template; `today` (YYYY-MM-DD) is the date that it sees.

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
        values = {**tokenizer.special_tokens_map, **self.template_kwargs}
        self._template = Template(self.template, values=values, now=self._now())
        special = {str(t) for t in tokenizer.all_special_tokens} | {
            str(t) for t in tokenizer.added_tokens_decoder.values() if t.special
        }
        self._special = re.compile(
            "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) or "(?!)"
        )
        self._lookalikes = Lookalikes(special, self._special)
        self._shapes: dict[Any, _Shape] = {}
        self._afters: dict[str, str] = {}

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
        answer = self.answer([{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Hello"}])
        return int(self.encoder.ids(Scored(answer.text[: answer.spans[0][1]]))[-1])

    @property
    def looks_at_contents(self) -> bool:
        """Whether some shape seen so far has to be rendered conversation by conversation."""
        return any(shape.layout is None for shape in self._shapes.values())

    def after_special(self, text: str, near: int | None) -> str:
        """The end of a text behind its last special token, looked for in the last `near` characters first."""
        if near is not None and len(text) > near:
            found = self._after_special(text[-near // 2 :])
            if len(found) == near // 2:
                found = self._after_special(text[-near:])
            if len(found) < near:
                return found
        return self._after_special(text)

    def _after_special(self, text: str) -> str:
        known = self._afters.get(text)  # many prompts end alike
        if known is None:
            end = 0
            for match in self._special.finditer(text):
                end = match.end()
            known = text[end:]
            if len(text) <= 64 and len(self._afters) < 4096:
                self._afters[text] = known
        return known

    def prompt(self, messages: Sequence[Message]) -> str:
        """Render messages and the generation prompt."""
        return self._one(self.prompt_job(messages)).text

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of messages and the generation prompt; what looks like a special token in a message is text."""
        return self.encoder.ids(self._one(self.prompt_job(messages))).tolist()

    def answer(self, prompt: Sequence[Message], answer: Sequence[Message]) -> Scored:
        """Render what `answer` adds to the rendered prompt; its last assistant turn is scored."""
        return self._one(self.answer_job(prompt, answer))

    def conversation(self, messages: Sequence[Message]) -> Scored:
        """Render a whole conversation; every assistant turn is scored."""
        return self._one(self.conversation_job(messages))

    def prompt_job(self, messages: Sequence[Message]) -> Job:
        """What `prompt` renders."""
        return Job(self._with_system(messages))

    def answer_job(self, prompt: Sequence[Message], answer: Sequence[Message]) -> Job:
        """What `answer` renders."""
        messages = self._with_system((*prompt, *answer))
        return Job(messages, len(messages) - len(answer), (len(messages) - 1,))

    def conversation_job(self, messages: Sequence[Message]) -> Job:
        """What `conversation` renders; a message of weight 0 is not scored."""
        turns = self._with_system(messages)
        own = (n for n, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("weight", 1) != 0)
        return Job(turns, 0, tuple(own))

    def render(self, jobs: Sequence[Job]) -> list[Scored | InputError]:
        """Render many conversations: their texts, or why there is none.

        Raises:
            InputError: a splice was found wrong after others of its shape had been given out.
        """
        shapes = [self._shape(job) for job in jobs]
        results: list[Scored | InputError | None] = []
        full: list[tuple[int, Job, Restore | None]] = []
        for number, (job, shape) in enumerate(zip(jobs, shapes, strict=True)):
            result: Scored | InputError | None = shape.refused
            if result is None:
                try:
                    hidden, restore = self._lookalikes.hide(job)
                except InputError as error:
                    result = error
                else:
                    if shape.layout is None or shape.samples():
                        full.append((number, hidden, restore))
                    else:
                        filled = shape.layout.fill(hidden.messages)
                        result = filled if restore is None else restore(filled)
            results.append(result)
        rendered = self._in_full([(job, shapes[number].closings) for number, job, _ in full])
        wrong = set()
        for (number, job, restore), answer in zip(full, rendered, strict=True):
            layout = shapes[number].layout
            if layout is not None and layout.fill(job.messages) != answer:
                wrong.add(job.shape)
            results[number] = answer if restore is None or isinstance(answer, InputError) else restore(answer)
        if wrong:
            self._demote(wrong)
            again = [number for number, job in enumerate(jobs) if job.shape in wrong]
            for number, result in zip(again, self.render([jobs[number] for number in again]), strict=True):
                results[number] = result
        for shape in set(shapes):
            shape.given = True
        return [result for result in results if result is not None]

    def _demote(self, wrong: Collection[Any]) -> None:
        """Render these shapes in full from now on."""
        for key in wrong:
            shape = self._shapes[key]
            shape.layout = None
            _log.warning("the chat template does not write every content as it is: rendered in full from here on")
            if shape.given:
                raise InputError(
                    "this chat template looks at contents in a way that was not seen at once, so that earlier rows may "
                    "be wrong; give another with --chat-template FILE or --chat-template chatml"
                )

    def _one(self, job: Job) -> Scored:
        (result,) = self.render([job])
        if isinstance(result, InputError):
            raise result
        return result

    def _shape(self, job: Job) -> _Shape:
        key = job.shape
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = self._analysed(job)
            if found.layout is None and found.refused is None:
                _log.info("the chat template looks at contents: rendered in full for each %s", " ".join(key[0]))
        return found

    def _analysed(self, job: Job) -> _Shape:
        """Render a shape with sentinels, find what closes its turns, and show its splice equal on awkward contents."""
        sample = sentinels(job)
        cuts = [Rendering(sample.messages[: turn + 1], False) for turn in job.turns]
        items = [Rendering(item.messages, item.generation_prompt, True) for item in sample.renderings()]
        answers = self._template.render([*items, *cuts])
        try:
            found = texts(answers)
            role = dropped(sample, found[0])
            if role is not None:
                raise InputError(f"this chat template leaves out a message of the role {role!r}; give another with "
                                 "--chat-template FILE or --chat-template chatml")  # fmt: skip
            sample.check_beginnings(found)
            closings = tuple(
                self._closing(text, sample.messages[turn]["content"])
                for text, turn in zip(found[len(items) :], job.turns, strict=True)
            )
            scored = sample.scored(found[: len(items)], closings)
        except InputError as error:
            return _Shape(refused=error)
        if any(answer[1] for answer in answers if not isinstance(answer, InputError)):
            return _Shape(closings)
        layout = Layout(scored)
        tried = probes(job)
        rendered = self._in_full([(probe, closings) for probe in tried])
        same = all(layout.fill(probe.messages) == result for probe, result in zip(tried, rendered, strict=True))
        return _Shape(closings, layout if same else None)

    def _closing(self, text: str, content: str) -> str:
        """What follows the last answer, up to and with the token that ends its turn."""
        after = text.partition(content)[2]
        end = self._special.search(after)
        if end is None:
            raise InputError(
                "this chat template puts no end token after an answer, so that a model trained on it would never stop; "
                "give another with --chat-template, for example chatml"
            )
        return after[: end.end()]

    def _in_full(self, jobs: Sequence[tuple[Job, tuple[str, ...]]]) -> list[Scored | InputError]:
        items = [job.renderings() for job, _ in jobs]
        answers = self._template.render([item for own in items for item in own])
        results: list[Scored | InputError] = []
        at = 0
        for (job, closings), own in zip(jobs, items, strict=True):
            try:
                results.append(job.scored(texts(answers[at : at + len(own)]), closings))
            except InputError as error:
                results.append(error)
            at += len(own)
        return results

    def _with_system(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        if self.system is not None and not (messages and messages[0]["role"] == "system"):
            return ({"role": "system", "content": self.system}, *messages)
        return tuple(messages)

    def _now(self) -> str:
        today = self.template_kwargs.get("today")
        if today is None:
            if "strftime_now" in self.template:
                _log.warning(
                    "the chat template writes today's date into prompts; to have the same tomorrow give "
                    "--template-kwargs today=%s", datetime.now().date()
                )  # fmt: skip
            return datetime.now().isoformat(timespec="seconds")
        try:
            return datetime.fromisoformat(str(today)).isoformat()
        except ValueError as error:
            raise InputError(f"--template-kwargs today={today}: not a date; write it as YYYY-MM-DD") from error


class _Shape:
    """What is known of a shape: why it is refused, what closes its scored turns, its layout where it has one."""

    def __init__(
        self, closings: tuple[str, ...] = (), layout: Layout | None = None, refused: InputError | None = None
    ) -> None:
        self.closings, self.layout, self.refused = closings, layout, refused
        self.given = False  # whether results of it are out
        self._seen = 0

    def samples(self) -> bool:
        """Whether the next conversation is one of the sample that is rendered in full too."""
        self._seen += 1
        return self._seen <= _SAMPLED or self._seen % _SAMPLED_EVERY == 0


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
