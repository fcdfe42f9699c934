"""What a model says whatever it is asked: openings, closings and 8-grams that many prompts' answers share.

No list of phrases: "Confidence: 95 %" at the end of every answer and "I am a model trained on ..." inside them are
found because they recur across prompts. Digits count as one (95 % and 87 % are the same closing), case does not, and
words that the row's own prompt has in this order do not either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

OPENING_WORDS = 4
NGRAM = 8
MIN_PROMPTS = 3  # that share a text before it counts, and
MIN_SHARE = 0.02  # of all prompts
_SHOWN = 5
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n+")


@dataclass(frozen=True)
class Shared:
    """One recurring text and the share of answers that have it."""

    text: str
    share: float


@dataclass(frozen=True)
class Boilerplate:
    """For each answer whether it opens or closes as the commonest do, or holds a shared 8-gram; and those texts."""

    opens: list[bool]
    closes: list[bool]
    holds: list[bool]
    opening: Shared | None
    closing: Shared | None
    ngrams: tuple[Shared, ...]


def boilerplate(texts: Sequence[str], prompts: Sequence[str]) -> Boilerplate:
    """Find what recurs in a model's answers.

    Args:
        texts: one answer per prompt.
        prompts: the prompts' texts, in the same order; copies of a prompt count once.
    """
    words = [_words(text) for text in texts]
    openings = [" ".join(w[:OPENING_WORDS]) if len(w) >= OPENING_WORDS else None for w in words]
    closings = [_closing(text) for text in texts]
    ngrams = [_ngrams(w) - _ngrams(_words(prompt)) for w, prompt in zip(words, prompts, strict=True)]
    found = _documents(ngrams, prompts)
    needed = max(MIN_PROMPTS, MIN_SHARE * len(set(prompts)))
    shared = {ngram for ngram, count in found.items() if count >= needed}
    opening, closing = (_commonest(parts, prompts, needed) for parts in (openings, closings))
    return Boilerplate(
        opens=[opening is not None and text == opening.text for text in openings],
        closes=[closing is not None and text == closing.text for text in closings],
        holds=[not shared.isdisjoint(each) for each in ngrams],
        opening=opening,
        closing=closing,
        ngrams=_apart(found, shared, len(set(prompts))),
    )


def _words(text: str) -> list[str]:
    return re.sub(r"\d+", "0", text.lower()).split()


def _closing(text: str) -> str | None:
    """The last sentence or line; a label before it ("Confidence:") belongs to it."""
    parts = [part for part in _SENTENCE_END.split(text.strip()) if part.strip()]
    if len(parts) < 2:
        return None  # a text of one sentence closes with all it says
    last = parts[-1]
    if parts[-2].rstrip().endswith(":"):
        last = f"{parts[-2]} {last}"
    return " ".join(_words(last))


def _ngrams(words: Sequence[str]) -> set[str]:
    return {" ".join(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)}


def _documents(parts: Sequence[set[str]], prompts: Sequence[str]) -> Counter[str]:
    """In how many different prompts' answers each text occurs."""
    by_prompt: dict[str, set[str]] = {}
    for prompt, each in zip(prompts, parts, strict=True):
        by_prompt.setdefault(prompt, set()).update(each)
    found: Counter[str] = Counter()
    for each in by_prompt.values():
        found.update(each)
    return found


def _commonest(parts: Sequence[str | None], prompts: Sequence[str], needed: float) -> Shared | None:
    found = _documents([{part} if part else set() for part in parts], prompts)
    if not found:
        return None
    text, count = min(found.items(), key=lambda item: (-item[1], item[0]))
    return Shared(text, count / len(set(prompts))) if count >= needed else None


def _apart(found: Counter[str], shared: set[str], num_prompts: int) -> tuple[Shared, ...]:
    """The commonest shared 8-grams of different places: those that overlap a commoner one by half are left out."""
    chosen: list[str] = []
    covered: set[str] = set()
    for ngram in sorted(shared, key=lambda each: (-found[each], each)):
        words = ngram.split()
        halves = {" ".join(words[at : at + NGRAM // 2]) for at in range(NGRAM // 2 + 1)}
        if covered.isdisjoint(halves):
            chosen.append(ngram)
            if len(chosen) == _SHOWN:
                break
        covered |= halves
    return tuple(Shared(ngram, found[ngram] / num_prompts) for ngram in chosen)
