"""What one model answers to the judged prompts, and how well it predicts their references."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from alignkit.config.file import Settings
from alignkit.config.settings import ModelSection
from alignkit.data.chat.chat import Chat, make_chat, refuse_ids_without_rows, settings_identity
from alignkit.data.prepared.tokens import Prepared, prepare
from alignkit.data.reading.rows import Messages, Row, text_of
from alignkit.data.reading.split import derived_seed
from alignkit.data.trees.packs import ROW_CAPACITY, lay_out, pack
from alignkit.errors import InputError, UsageError
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.pretrained.names import ModelSource
from alignkit.pretrained.read import context_length
from alignkit.progress import Progress
from alignkit.rollouts.sampler import Completion, Request, Sampler, make_sampler
from alignkit.units import Chosen

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_SHOWN_AT_ONCE = 16  # prompts between two movements of the progress bar


@dataclass(frozen=True)
class Generation:
    """How answers are drawn; temperature 0 takes the likeliest token, with several beams the likeliest answer.

    Raises:
        UsageError: several beams and a temperature.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    sampler: str = "transformers"
    strip_thinking: bool = True
    num_beams: int = 1
    length_penalty: float = 0.9
    vllm_memory: float | None = field(default=None, repr=False)  # answers do not depend on it

    def __post_init__(self) -> None:
        if self.num_beams > 1 and self.temperature > 0:
            raise UsageError(
                f"--num-beams {self.num_beams} with --temperature {self.temperature:g}: beam search does not sample; "
                "leave one of them out"
            )

    @classmethod
    def of(cls, settings: Settings) -> Generation:
        """How [judge] and [rollouts] say that answers are drawn."""
        section = settings.judge
        return cls(
            section.temperature,
            section.top_p,
            section.max_new_tokens,
            section.seed,
            settings.rollouts.sampler,
            section.strip_thinking,
            section.num_beams,
            section.length_penalty,
            settings.rollouts.vllm_memory,
        )


@dataclass(frozen=True)
class Answer:
    """One model's answer to one row. `num_tokens` counts the end token; `truncated` says that the limit ended it.

    Where thinking is stripped, `text` and `num_tokens` are without it and `num_thinking_tokens` counts it.
    """

    row: Row
    text: str
    num_tokens: int
    truncated: bool
    num_thinking_tokens: int = 0
    num_prompt_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        """As a file of answers has it."""
        return {
            "id": self.row.id,
            "prompt": list(self.row.prompt),
            "completion": self.text,
            "num_tokens": self.num_tokens,
            "num_prompt_tokens": self.num_prompt_tokens,
            "finish": "length" if self.truncated else "stop",
        }


@dataclass(frozen=True)
class PerplexityResult:
    """How well a model predicts texts: perplexity a token, bits a UTF-8 byte; over `num_tokens`, end tokens included.

    Perplexity = exp(-sum log p / tokens), over the corpus, not a mean of texts'; it compares models of one tokenizer
    alone. Bits per byte = -sum log p / (ln 2 x bytes of the texts) compares across tokenizers. Both nan without text.
    Of the references, `num_cut` were cut at the row's end, without an end token, and `num_left_out` left out because
    their prompt leaves no room, or opens thoughts that they have not. `by_row` has of each row's id what its reference
    adds: -sum log p, its tokens, and whether it was cut; what is left out is not in it.
    """

    perplexity: float
    bits_per_byte: float
    num_tokens: int
    num_cut: int = 0
    num_left_out: int = 0
    by_row: Mapping[str, tuple[float, int, bool]] = field(default_factory=dict, repr=False)

    def missing(self) -> str | None:
        """Say which references are not whole in it; None where all are."""
        parts = [f"{self.num_cut} references cut at the end of their row"] * bool(self.num_cut)
        parts += [f"{self.num_left_out} left out, whose prompts leave no place for them"] * bool(self.num_left_out)
        return ", ".join(parts) or None


@dataclass(frozen=True)
class Answers:
    """One model's answers, row by row, and its perplexity on the rows' references (nan without any).

    Perplexity: exp of the mean of -log p over reference tokens, end tokens included, prompts not; at temperature 1.
    `spoken_by` hashes what beside the weights made these answers: config.json, tokenizer, template, system message.
    """

    model: str
    answers: tuple[Answer, ...]
    perplexity: float
    spoken_by: Mapping[str, str] = field(default_factory=dict)
    num_reference_tokens: int = 0

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.answers]


class Answering:
    """A loaded model that answers rows; close it before the next is loaded."""

    def __init__(self, source: ModelSource, section: ModelSection, generation: Generation) -> None:
        self.source, self.generation = source, generation
        self.chat: Chat = make_chat(source, section)
        self.policy: Policy = load_policy(
            source.folder, precision=section.precision, attention=section.attention
        ).eval()
        refuse_ids_without_rows(self.chat, self.policy.num_embedded, source.folder)
        self.sampler: Sampler = make_sampler(
            generation.sampler, self.policy, self.chat, gpu_memory=generation.vllm_memory
        )
        self.context = context_length(source.folder)
        self.row_tokens = section.micro_batch_tokens or ROW_CAPACITY

    def answer(self, rows: Sequence[Row], *, progress: Progress) -> list[Answer]:
        """Answer each row's prompt; a row's random stream depends on its id alone.

        Raises:
            InputError: a prompt leaves no room for an answer.
        """
        done: dict[int, Answer] = {}
        for part in self.stream(rows, progress=progress):
            done |= part
        return [done[number] for number in range(len(rows))]

    def stream(self, rows: Sequence[Row], *, progress: Progress) -> Iterator[dict[int, Answer]]:
        """Yield answers as they are drawn, {number of the row: answer}, short prompts first. Raises as `answer`."""
        requests = [self._request(row) for row in rows]
        progress.start(f"answers of {self.source.name}", len(rows))
        by_length = sorted(range(len(rows)), key=lambda n: len(requests[n].prompt_ids))
        size = 4 * _SHOWN_AT_ONCE
        for at in range(0, len(rows), size):
            numbers = by_length[at : at + size]
            drawn = self._draw([requests[n] for n in numbers])
            yield {
                n: self._answer(rows[n], completion, len(requests[n].prompt_ids))
                for n, completion in zip(numbers, drawn, strict=True)
            }
            progress.advance(len(numbers))
        progress.stop()

    def _draw(self, requests: Sequence[Request]) -> list[Completion]:
        generation = self.generation
        if generation.num_beams == 1:
            return self.sampler.generate(requests)
        return self.sampler.beam_search(
            requests, num_beams=generation.num_beams, length_penalty=generation.length_penalty
        )

    def reply(self, messages: Sequence[dict[str, str]], *, seen: Callable[[str], None] | None = None) -> str:
        """Answer a conversation, for chat.

        Args:
            seen: is given the answer so far while it is drawn, where the sampler can.
        """
        row = Row(f"turn-{len(messages)}", tuple(messages), None, None, None, False, {})
        request = self._request(row)

        def so_far(ids: Sequence[int]) -> None:
            assert seen is not None
            text = self.chat.said(ids[:-1] if ids[-1] in self.chat.end_ids else ids)
            seen(text.rstrip("\N{REPLACEMENT CHARACTER}"))  # half a character yet

        if seen is None or self.generation.num_beams > 1:
            completion = self._draw([request])[0]
        else:
            completion = self.sampler.stream(request, so_far)
        ids = completion.ids.tolist()
        return self.chat.said(ids if completion.truncated else ids[:-1])

    def prepared(self, rows: Sequence[Row]) -> Prepared:
        """Tokenize rows to measure the log-probs of their answers, long ones cut to the context or 2,048 tokens."""
        return prepare(
            rows,
            self.chat,
            unit=Chosen(),
            max_length=min(self.context, 2048),
            truncation="cut-completion",
            max_skipped=1.0,
            train_on="last",
            is_part=True,
        )

    def perplexity(self, rows: Sequence[Row]) -> PerplexityResult:
        """Measure how well the rows' references are predicted, with the chat template and at temperature 1.

        A reference longer than the row (at most 2,048 tokens) is cut, and then the bytes of its cut text count; one
        whose prompt leaves no room, or opens thoughts that the reference has not, is left out. Both are counted.
        """
        known = [
            dataclasses.replace(row, chosen=_reference(row), is_conversation=False)
            for row in rows
            if row.reference and row.reference.strip()
        ]
        if not known:
            return PerplexityResult(math.nan, math.nan, 0)
        prepared = self.prepared(known)
        total, count, num_bytes = 0.0, 0, 0
        by_row: dict[str, tuple[float, int, bool]] = {}
        ends = self.chat.end_ids
        with torch.no_grad():
            for numbers in pack(prepared.trees, self.row_tokens):
                trees = [prepared.trees[n] for n in numbers]
                row = lay_out(trees)
                logprob_T = self.policy(row).logprob_T.double()
                total += float(logprob_T.sum())
                nats_N = -np.bincount(row.completion_T, logprob_T.cpu().numpy(), minlength=len(trees))
                by_row |= {
                    tree.row_id: (nats, size, prepared.num_cut > 0 and int(tree.completions[0].ids[-1]) not in ends)
                    for tree, nats, size in zip(trees, nats_N.tolist(), row.num_tokens_N.tolist(), strict=True)
                }
                count += len(logprob_T)
                num_bytes += sum(self._num_bytes(tree.completions[0]) for tree in trees)
        num_left_out = len(known) - len(prepared.trees)
        if not count:
            return PerplexityResult(math.nan, math.nan, 0, num_left_out=num_left_out)
        bits = -total / (math.log(2) * num_bytes) if num_bytes else math.nan
        return PerplexityResult(math.exp(-total / count), bits, count, prepared.num_cut, num_left_out, by_row)

    def _num_bytes(self, completion: Any) -> int:
        """UTF-8 bytes of the scored text; the end token has none."""
        scored = completion.ids[completion.scored].tolist()
        return len(self.chat.said(scored).encode("utf-8", "replace"))

    def _answer(self, row: Row, completion: Completion, num_prompt_tokens: int) -> Answer:
        ids = completion.ids.tolist()
        text = self.chat.said(ids if completion.truncated else ids[:-1])
        if not self.generation.strip_thinking:
            return Answer(row, text, len(ids), completion.truncated, 0, num_prompt_tokens)
        said, thinking = split_thinking(text)
        hidden = len(self.chat.tokenizer(thinking, add_special_tokens=False)["input_ids"]) if thinking else 0
        hidden = min(hidden, len(ids))
        return Answer(row, said, len(ids) - hidden, completion.truncated, hidden, num_prompt_tokens)

    def _request(self, row: Row) -> Request:
        ids = self.chat.prompt_ids(row.prompt)
        room = self.context - len(ids)
        if room < 1:
            raise InputError(f"{row.said}: its prompt of {len(ids)} tokens fills the model's context of {self.context}")
        generation = self.generation
        return Request(
            prompt_ids=ids,
            temperature=generation.temperature,
            top_p=generation.top_p,
            seed=derived_seed(generation.seed, "answer", row.id),
            max_new_tokens=min(generation.max_new_tokens, room),
        )


def _reference(row: Row) -> Messages:
    """The answer that a row's reference is: the chosen one, which may call tools, where it says the same."""
    if row.chosen is not None and len(row.chosen) == 1 and text_of(row.chosen) == row.reference:
        return row.chosen
    return ({"role": "assistant", "content": row.reference},)


def answers_of(
    source: ModelSource, rows: Sequence[Row], *, section: ModelSection, generation: Generation, progress: Progress
) -> Answers:
    """Load a model, answer all rows, measure its perplexity on their references, and let it go."""
    model: Any = Answering(source, section, generation)
    try:
        answers = model.answer(rows, progress=progress)
    finally:
        model.sampler.close()
    spoken_by = settings_identity(source.folder, model.chat)
    predicted = model.perplexity(rows)
    if (missing := predicted.missing()) is not None:
        progress.note(f"perplexity of {source.name}: {missing}")
    return Answers(source.name, tuple(answers), predicted.perplexity, spoken_by, predicted.num_tokens)


def split_thinking(text: str) -> tuple[str, str]:
    """Return (answer, thinking), each stripped of outer white space where thinking was found; else (text, "").

    Thinking stands between <think> and </think>. An opening mark without a closing one is thinking to the end (the
    answer was truncated); a closing mark without an opening one ends thinking that the chat template began.
    """
    opened, closed = text.find("<think>"), text.find("</think>")
    head = ""
    if closed >= 0 and (opened < 0 or closed < opened):
        head, text = text[: closed + len("</think>")], text[closed + len("</think>") :]
    thinking = "".join([head, *_THINKING.findall(text)])
    if not thinking:
        return text, ""
    return _THINKING.sub("", text).strip(), thinking.strip()
