"""How much of a text repeats itself: the share of its word n-grams that stand in it before. One number a text."""

from __future__ import annotations

from collections.abc import Sequence


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """Mean over texts of the share of word n-grams that repeat an earlier one: seq-rep-n, from 0 to just under 1.

    1 - unique / all n-grams of a text; 0 for a text of fewer than n words, and without texts.
    Source: Welleck et al. 2019, arXiv 1908.04319 (there on tokens; words do not depend on the tokenizer).
    """
    return sum(repeated_share(text, n) for text in texts) / max(1, len(texts))


def repeated_share(text: str, n: int = 4) -> float:
    """Share of one text's word n-grams that repeat an earlier one."""
    words = text.split()
    ngrams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
