"""BLEU against one reference per prompt: how near the wording is, not how good the answer.

Corpus BLEU-n = brevity penalty x (p_1 ... p_n)^(1/n): cumulative, over the whole corpus, from 0 to 100, by sacrebleu's
13a tokenizer with exponential smoothing (Papineni et al. 2002; Post 2018). Not the single precision p_n.

Mean sentence BLEU is another number, usually larger; old papers print it without saying so. Two forms are offered for
comparison with them, on words between white space, both after Chen and Cherry 2014 for n-gram orders without a match:

    method1    such an order counts 0.1 matches
    method4    the k-th such order counts 1 / (2^k 5 / ln(length)) matches: short texts get less; no change for one word
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.statistics.resampling import Clusters, resampled_counts, resampled_interval, tail

ORDERS = (1, 2, 4)
_LEVEL = 0.95
SENTENCE_MODES = ("method1", "method4")


@dataclass(frozen=True)
class Bleu:
    """BLEU-1, -2 and -4, 0 to 100, and sacrebleu's signature, without which the numbers cannot be compared.

    `intervals` are (low, high) at 95 %, None where none was asked for or too few clusters are known.
    """

    bleu1: float
    bleu2: float
    bleu4: float
    signature: str
    intervals: tuple[tuple[float, float], ...] | None = None


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str | None],
    *,
    num_resamples: int = 0,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Bleu | None:
    """Compare texts with their references; None where no text has one.

    Args:
        hypotheses: one text a prompt.
        references: the prompts' references, in the same order; a prompt whose reference is None or blank is left out.
        num_resamples: of the bootstrap for the intervals (statistics/resampling.py); 0: none. With one prompt there is
            none either.
        clusters: prompts that are no independent evidence of each other; default: every prompt by itself.
    """
    from sacrebleu.metrics import BLEU

    pairs = known_pairs(hypotheses, references)
    if not pairs:
        return None
    texts, streams = [text for text, _ in pairs], [[ref for _, ref in pairs]]
    # `force` only silences the guess that the texts were tokenized before
    metrics = {n: BLEU(max_ngram_order=n, tokenize="13a", smooth_method="exp", force=True) for n in ORDERS}
    scores = {n: float(metric.corpus_score(texts, streams).score) for n, metric in metrics.items()}
    intervals = None
    if num_resamples and len(pairs) > 1:
        known_P = np.array([ref is not None and bool(ref.strip()) for ref in references])
        units = Clusters.single(len(pairs)) if clusters is None else clusters.where(known_P)
        if tail(units, _LEVEL) is not None:
            resampled = _resampled(pairs, units, np.random.default_rng(seed), num_resamples)
            intervals = tuple(resampled_interval(scores[n], resampled[n], units, _LEVEL) for n in ORDERS)
    return Bleu(scores[1], scores[2], scores[4], str(metrics[4].get_signature()), intervals)


def _resampled(
    pairs: Sequence[tuple[str, str]], clusters: Clusters, rng: np.random.Generator, num_resamples: int
) -> dict[int, np.ndarray]:
    """BLEU of resampled clusters, float64 [B] for each order: of the sums of matches, n-grams and lengths."""
    from sacrebleu.metrics import BLEU

    largest = max(ORDERS)
    metric = BLEU(max_ngram_order=largest, tokenize="13a", force=True, effective_order=True)
    found = [metric.sentence_score(text, [ref]) for text, ref in pairs]
    counts_PK = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found], dtype=np.float64)
    drawn = resampled_counts(clusters, rng=rng, num_resamples=num_resamples)
    sums_BK = np.concatenate([(times_PB.T @ counts_PK) for times_PB in drawn])
    return {
        n: np.array(
            [
                BLEU.compute_bleu(
                    correct=[round(x) for x in sums[:n]],
                    total=[round(x) for x in sums[largest : largest + n]],
                    sys_len=round(sums[-2]),
                    ref_len=round(sums[-1]),
                    smooth_method="exp",
                    max_ngram_order=n,
                ).score
                for sums in sums_BK.tolist()
            ]
        )
        for n in ORDERS
    }


def sentence_bleu_mean(
    hypotheses: Sequence[str], references: Sequence[str | None], *, mode: str, max_order: int = 4
) -> float | None:
    """Mean over prompts of smoothed sentence BLEU, 0 to 100; None where no text has a reference.

    Args:
        mode: "method1" or "method4".
    """
    pairs = known_pairs(hypotheses, references)
    if not pairs:
        return None
    return 100 * sum(_sentence(text.split(), ref.split(), max_order, mode) for text, ref in pairs) / len(pairs)


def sentence_signature(mode: str) -> str:
    """What a mean of sentence scores is, for the reader who compares."""
    return f"mean of sentences|nrefs:1|case:mixed|tok:whitespace|smooth:{mode} (Chen and Cherry 2014)"


def known_pairs(hypotheses: Sequence[str], references: Sequence[str | None]) -> list[tuple[str, str]]:
    """Texts whose prompt has a reference, with it."""
    return [(text, ref) for text, ref in zip(hypotheses, references, strict=True) if ref is not None and ref.strip()]


def _sentence(words: Sequence[str], reference: Sequence[str], max_order: int, mode: str) -> float:
    """One smoothed sentence BLEU, 0 to 1; 0 without a common word."""
    matches, totals = [], []
    for n in range(1, max_order + 1):
        ours, theirs = _ngrams(words, n), _ngrams(reference, n)
        matches.append(float(sum((ours & theirs).values())))
        totals.append(max(1, sum(ours.values())))
    if matches[0] == 0:
        return 0.0
    zeros = 0
    for order, count in enumerate(matches):
        if count > 0:
            continue
        zeros += 1
        if mode == "method1":
            matches[order] = 0.1
        elif len(words) > 1:
            matches[order] = math.log(len(words)) / (2**zeros * 5)
    if min(matches) == 0:
        return 0.0
    brevity = min(1.0, math.exp(1 - len(reference) / len(words)))
    return brevity * math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / max_order)


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))
