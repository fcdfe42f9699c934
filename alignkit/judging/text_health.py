"""Signs that a model's texts are unwell: repetition, and answers that never end."""

from __future__ import annotations

from collections.abc import Sequence


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """Mean over texts of the share of word n-grams that repeat an earlier one: seq-rep-n, from 0 to just under 1.

    1 - unique / all n-grams of a text; 0 for a text of fewer than n words, and without texts. Words are what
    white space separates.
    Source: Welleck et al. 2019, arXiv 1908.04319 (there on tokens; words do not depend on the tokenizer).
    """
    return sum(_repeated_share(text.split(), n) for text in texts) / max(1, len(texts))


def cut_share(cuts: Sequence[bool]) -> float:
    """Share of answers that the length limit ended, from 0 to 1; 0 without answers."""
    return sum(cuts) / max(1, len(cuts))


def _repeated_share(words: Sequence[str], n: int) -> float:
    ngrams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
