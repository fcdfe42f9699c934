"""Corpus BLEU against one reference a prompt: how near the wording is, not how good the answer.

BLEU-n = brevity penalty x (p_1 ... p_n)^(1/n): cumulative, over the whole corpus, from 0 to 100, by sacrebleu's 13a
tokenizer with exponential smoothing (Papineni et al. 2002; Post 2018). Not the single precision p_n, and not a mean of
sentence scores: those are other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bleu:
    """BLEU-1, -2 and -4, 0 to 100, and sacrebleu's signature, without which the numbers cannot be compared."""

    bleu1: float
    bleu2: float
    bleu4: float
    signature: str


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str | None]) -> Bleu | None:
    """Compare texts with their references; None where no text has one.

    Args:
        hypotheses: one text a prompt.
        references: the prompts' references, in the same order; a prompt whose reference is None or blank is left out.
    """
    from sacrebleu.metrics import BLEU

    pairs = [(text, ref) for text, ref in zip(hypotheses, references, strict=True) if ref is not None and ref.strip()]
    if not pairs:
        return None
    texts, streams = [text for text, _ in pairs], [[ref for _, ref in pairs]]
    # `force` only silences the guess that the texts were tokenized before
    metrics = {n: BLEU(max_ngram_order=n, tokenize="13a", smooth_method="exp", force=True) for n in (1, 2, 4)}
    scores = {n: float(metric.corpus_score(texts, streams).score) for n, metric in metrics.items()}
    return Bleu(scores[1], scores[2], scores[4], str(metrics[4].get_signature()))
