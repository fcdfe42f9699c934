"""What `alignkit evaluate` measures of one model, without a judge and without a baseline.

    bleu1, bleu2, bleu4       corpus BLEU with its signature; low and high beside each
    bleu4_sentence_method1    means of smoothed sentence BLEU, as old papers have it (bleu.py), with their signatures
    bleu4_sentence_method4
    perplexity                micro, on the references' tokens, end tokens included; bits_per_byte beside it;
                              perplexity_cut and perplexity_left_out count the references that did not fit
    mean_length               tokens of the answers, end token included, thinking not; mean_thinking apart
    NAME                      the figure of each metric that a plugin adds and that stands in a verdict's table
    health                    text health, measure by measure, each with the 95 % interval of its mean
    units                     what the intervals are over: prompts, or clusters of them as in a verdict (clustering.py)

All None where no prompt has a reference; lengths and health are always there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.data.prepared.selection import prompt_key
from alignkit.judging import health
from alignkit.judging.answers import Answer, Answers, PerplexityResult
from alignkit.judging.bleu import SENTENCE_MODES, corpus_bleu, sentence_bleu_mean, sentence_signature
from alignkit.judging.clustering import find_clusters
from alignkit.judging.health import measure
from alignkit.judging.metrics import plugin_metrics

_NUM_RESAMPLES = 1000


def evaluate_answers(
    answers: Sequence[Answer], predicted: PerplexityResult, *, seed: int, column: str | None = None
) -> dict[str, Any]:
    """Put the figures together; BLEU from 0 to 100, JSON types.

    Args:
        column: as for `clustering.find_clusters`; where the clusters are too few to speak of others, the intervals
            are of these alone.
    """
    rows = [answer.row for answer in answers]
    grouping = find_clusters([row.fields for row in rows], [prompt_key(row) for row in rows], column=column)
    grouping = grouping.alone or grouping
    texts, references = [answer.text for answer in answers], [answer.row.reference for answer in answers]
    bleu = corpus_bleu(texts, references, num_resamples=_NUM_RESAMPLES, clusters=grouping.clusters, seed=seed)
    figures: dict[str, Any] = {"num_prompts": len(answers), "units": grouping.words}
    for number, name in enumerate(("bleu1", "bleu2", "bleu4")):
        value: float | None = getattr(bleu, name) if bleu else None
        low, high = bleu.intervals[number] if bleu and bleu.intervals else (None, None)
        figures |= {name: value, f"{name}_low": low, f"{name}_high": high}
    figures["signature"] = bleu.signature if bleu else None
    for mode in SENTENCE_MODES:
        figures[f"bleu4_sentence_{mode}"] = sentence_bleu_mean(texts, references, mode=mode)
        figures[f"signature_sentence_{mode}"] = sentence_signature(mode) if bleu else None
    figures["perplexity"] = None if math.isnan(predicted.perplexity) else predicted.perplexity
    figures["bits_per_byte"] = None if math.isnan(predicted.bits_per_byte) else predicted.bits_per_byte
    figures["perplexity_tokens"] = predicted.num_tokens
    figures["perplexity_cut"], figures["perplexity_left_out"] = predicted.num_cut, predicted.num_left_out
    figures["perplexity_missing"] = predicted.missing()
    figures["mean_length"] = float(np.mean([answer.num_tokens for answer in answers]))
    figures["mean_thinking"] = float(np.mean([answer.num_thinking_tokens for answer in answers]))
    together = Answers("", tuple(answers), predicted.perplexity)
    figures |= {metric.name: metric.figure(together) for metric in plugin_metrics() if metric.in_table}
    measures = measure(together, None, seed=seed, clusters=grouping.clusters)
    figures["health"] = [one.model_dump(mode="json", exclude={"theirs", "difference"}) for one in measures]
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures as text."""

    def shown(key: str, digits: int = 2) -> str:
        value = figures[key]
        return "no reference answers" if value is None else f"{value:.{digits}f}"

    rows = [("prompts", str(figures["num_prompts"])), ("95 % intervals over", figures["units"])]
    for n in (1, 2, 4):
        low, high = figures[f"bleu{n}_low"], figures[f"bleu{n}_high"]
        rows.append(
            (f"BLEU-{n}", shown(f"bleu{n}") + ("" if low is None else f" (95 % interval {low:.2f} to {high:.2f})"))
        )
    if figures["signature"] is not None:
        rows.append(("BLEU signature", figures["signature"]))
        for mode in SENTENCE_MODES:
            rows.append(
                (
                    f"sentence BLEU-4, {mode}",
                    f"{shown(f'bleu4_sentence_{mode}')} ({figures[f'signature_sentence_{mode}']})",
                )
            )
    missing = figures["perplexity_missing"]
    rows.append(("perplexity", shown("perplexity") + ("" if missing is None else f" ({missing})")))
    rows.append(("bits per byte", shown("bits_per_byte", 3)))
    rows.append(("mean length, tokens", f"{figures['mean_length']:.2f}"))
    if figures["mean_thinking"]:
        rows.append(("mean thinking, tokens", f"{figures['mean_thinking']:.2f}"))
    rows += [row for metric in plugin_metrics() if metric.in_table for row in metric.rows(figures[metric.name])]
    measures = [health.Measure(**one, theirs=None, difference=None) for one in figures["health"]]
    width = max(len(name) for name, _ in rows)
    return [*(f"{name:<{width}} {text}" for name, text in rows), "text health:", *health.lines(measures)]
