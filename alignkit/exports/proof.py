"""What was written, loaded again by its format's own reader and compared with the trained policy.

The trained policy, its adapter on, answers 20 prompts by its likeliest tokens. Each reader then says, of the same
prompts: how they are rendered to ids, what log-probs those answers' tokens have (in nats, in fp32), and what it would
answer itself. Reported are the mean and the largest |difference of log-prob| a token, and how many prompts have the
same ids and the same answers. A mean beyond the format's limit, or other ids, is an export that is not kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignkit.data.chat.chat import Chat
from alignkit.data.reading.messages import Message
from alignkit.errors import RunStopped
from alignkit.exports.llama_cpp import PACKAGE as LLAMA_CPP
from alignkit.exports.llama_cpp import LlamaCpp
from alignkit.exports.llama_cpp import version as llama_cpp_version
from alignkit.policy.policy import Policy
from alignkit.pretrained.read import read_model, read_tokenizer
from alignkit.rollouts.sampler import Request, make_sampler

LIMITS = {"float32": 1e-3, "adapter": 1e-3, "bfloat16": 0.02, "float16": 0.02, "f16": 0.02, "q8_0": 0.1}
"""Largest mean difference a token, nats. In q8_0 llama.cpp rounds activations too (SmolLM2-135M: 0.045)."""
NUM_TOKENS = 24  # of an answer
_CPU = torch.device("cpu")
_QUESTIONS = (
    "Name a river.",
    "What is 2 + 3?",
    "Write one sentence about the sea.",
    "Who are you?",
    "Translate to French: good morning.",
    "List three colours.",
    "How do I boil an egg?",
    "What is the capital of Peru?",
    "Say hello in three languages.",
    "Why is the sky blue?",
    "Give me a title for a story about a fox.",
    "Is 17 a prime number?",
    "What does 'ephemeral' mean?",
    "Describe a lamp to a child.",
    "Write a haiku about rain.",
    "What rhymes with 'stone'?",
    "Convert 3 km to metres.",
    "Name a metal that is liquid.",
    "Explain what a window is.",
    "Finish the sentence: Once upon a time",
)


@dataclass(frozen=True)
class Difference:
    """How far one export is from the trained policy.

    Args:
        what: the file or folder.
        reader: what loaded it again.
        mean, largest: |difference of log-prob| a token, nats.
        same_ids, same_answers: of `num_prompts`; None where this reader was not asked.
        limit: on the mean.
    """

    what: str
    reader: str
    mean: float
    largest: float
    num_tokens: int
    num_prompts: int
    same_ids: int | None
    same_answers: int | None
    limit: float

    def line(self) -> str:
        """It in words."""
        ids = "" if self.same_ids is None else f", {self.same_ids} of {self.num_prompts} prompts have the same ids"
        answers = "" if self.same_answers is None else f", {self.same_answers} the same answer"
        return (
            f"{self.what}: {self.mean:.2g} nats per token from the trained policy in the mean, {self.largest:.2g} at "
            f"most{ids}{answers} ({self.reader})"
        )

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True)
class Expected:
    """What the trained policy makes of the prompts: their ids, its answers, their tokens' log-probs."""

    conversations: tuple[tuple[Message, ...], ...]
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    logprobs: tuple[np.ndarray, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return max(len(p) + len(a) for p, a in zip(self.prompts, self.answers, strict=True))


def expect(policy: Policy, chat: Chat) -> Expected:
    """Let the trained policy answer the prompts."""
    conversations = tuple(
        tuple(chat.prompt_conversation([{"role": "user", "content": text}]).messages) for text in _QUESTIONS
    )
    prompts = tuple(tuple(chat.prompt_ids(messages)) for messages in conversations)
    requests = [Request(list(ids), temperature=0.0, top_p=1.0, seed=0, max_new_tokens=NUM_TOKENS) for ids in prompts]
    sampler = make_sampler("transformers", policy, chat)
    try:
        with policy.in_fp32():
            answers = tuple(tuple(done.ids.tolist()) for done in sampler.generate(requests))
    finally:
        sampler.close()
    expected = Expected(conversations, prompts, answers, ())
    with policy.on_path("plain"), policy.in_fp32():
        logits = _all_logits(policy.model, expected, policy.device)
        known = tuple(_logprobs(rows, p, a) for p, a, rows in zip(prompts, answers, logits, strict=True))
    return dataclasses.replace(expected, logprobs=known)


def compare_folder(
    folder: Path,
    expected: Expected,
    *,
    what: str,
    limit: float,
    template_kwargs: Mapping[str, object],
    adapter_on: Path | None = None,
) -> Difference:
    """Load a folder by transformers, or an adapter's by PEFT on its base, and compare it.

    Raises:
        RunStopped: it is further off than its limit, or renders other ids.
        InputError: it cannot be loaded.
    """
    import transformers

    model = _load(adapter_on or folder)
    reader = f"transformers {transformers.__version__}"
    if adapter_on is not None:
        import peft

        model, reader = peft.PeftModel.from_pretrained(model, str(folder)).eval(), f"peft {peft.__version__}"
    tokenizer = read_tokenizer(folder)
    ids = [
        tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False, **template_kwargs
        )
        for messages in expected.conversations
    ]
    return _compared(what, reader, expected, _by_logits(model, expected), limit=limit, ids=ids)


def compare_gguf(
    path: Path, expected: Expected, *, limit: float, vocab_size: int, template_kwargs: Mapping[str, object]
) -> Difference:
    """Load a GGUF file by llama.cpp where that is installed, else its weights by transformers, and compare it.

    Raises:
        RunStopped: as `compare_folder`, or llama.cpp cannot load it.
    """
    if (version := llama_cpp_version()) is None:
        import transformers

        model = _load(path.parent, gguf_file=path.name)
        reader = f"transformers {transformers.__version__}; its tokens by llama.cpp: pip install {LLAMA_CPP}"
        return _compared(path.name, reader, expected, _by_logits(model, expected), limit=limit, ids=None)
    try:
        read = LlamaCpp(path, longest=expected.longest + 1, vocab_size=vocab_size)
    except ValueError as error:
        raise RunStopped(f"{path.name}: {error}; not kept") from error
    try:
        found = [read.logprobs(p, a) for p, a in zip(expected.prompts, expected.answers, strict=True)]
        ids = [read.prompt_ids(messages, template_kwargs) for messages in expected.conversations]
    finally:
        read.close()
    return _compared(path.name, f"llama.cpp by {LLAMA_CPP} {version}", expected, found, limit=limit, ids=ids)


def _load(folder: Path, **options: Any) -> Any:
    import contextlib
    import io

    from transformers import AutoModelForCausalLM

    with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's bar has no switch of its own
        return read_model(AutoModelForCausalLM, folder, dtype=torch.float32, what="a causal model", **options).eval()


def _compared(
    what: str,
    reader: str,
    expected: Expected,
    found: Iterable[tuple[np.ndarray, bool]],
    *,
    limit: float,
    ids: Sequence[Sequence[int]] | None,
) -> Difference:
    """Compare a reader's log-probs of each answer's tokens; `found` also says whether it would answer the same."""
    gaps, same_answers = [], 0
    for known, (logprobs, same) in zip(expected.logprobs, found, strict=True):
        gaps.append(np.abs(logprobs - known))
        same_answers += same
    every = np.concatenate(gaps)
    same_ids = None if ids is None else sum(list(a) == list(b) for a, b in zip(ids, expected.prompts, strict=True))
    difference = Difference(
        what, reader, float(every.mean()), float(every.max()), len(every), len(gaps), same_ids, same_answers, limit
    )
    if not difference.mean <= limit or math.isnan(difference.largest):
        raise RunStopped(f"{difference.line()}: more than {limit:g}; not kept")
    if same_ids is not None and same_ids < len(gaps):
        raise RunStopped(f"{difference.line()}: its tokenizer or template gives other ids; not kept")
    return difference


def _by_logits(model: Any, expected: Expected) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield what `_compared` takes of a model.

    Where the likeliest token is the answer's at each place, drawing the likeliest ones gives the same answer.
    """
    for prompt, answer, rows in zip(expected.prompts, expected.answers, _all_logits(model, expected), strict=True):
        yield _logprobs(rows, prompt, answer), rows[len(prompt) - 1 : -1].argmax(-1).tolist() == list(answer)


def _all_logits(model: Any, expected: Expected, device: torch.device = _CPU) -> Iterator[torch.Tensor]:
    """Yield float32 [prompt + answer, V] of each prompt."""
    for prompt, answer in zip(expected.prompts, expected.answers, strict=True):
        ids = torch.tensor([[*prompt, *answer]], device=device)
        with torch.no_grad():
            yield model(input_ids=ids, use_cache=False).logits[0].float().cpu()


def _logprobs(rows: torch.Tensor, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
    """float64 [len(answer)], log-prob of each of the answer's tokens."""
    found: np.ndarray = (
        rows[len(prompt) - 1 : -1].double().log_softmax(-1).gather(1, torch.tensor([list(answer)]).T)[:, 0].numpy()
    )
    return found
