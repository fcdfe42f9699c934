"""The metrics that every verdict has, in the order in which they are shown; plugins' metrics follow them.

The table shows BLEU, perplexity, length, repetition, truncated answers and thinking. Text health compares the rest
answer by answer. Distinct-n falls with the amount of text: it is taken over blocks of prompts, at the same number of
words for both models, and its interval is over blocks. Shape letter: P prompts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from alignkit.data.reading.rows import text_of
from alignkit.errors import UsageError
from alignkit.judging.answers import Answers
from alignkit.judging.bleu import Bleu, corpus_bleu
from alignkit.judging.boilerplate import Boilerplate, Shared, boilerplate
from alignkit.judging.metric import Metric
from alignkit.registry import registry
from alignkit.statistics import texts

_MAX_BLOCKS = 20
_MIN_BLOCK = 5  # prompts


class CorpusBleu(Metric):
    """Corpus BLEU against the prompts' references; None without any."""

    name, label = "bleu", "BLEU"

    def figure(self, answers: Answers) -> Bleu | None:
        return corpus_bleu(answers.texts, [answer.row.reference for answer in answers.answers])

    def rows(self, figure: Bleu | None) -> list[tuple[str, str]]:
        orders = ("bleu1", "bleu2", "bleu4")
        return [(f"BLEU-{name[-1]}", "-" if figure is None else f"{getattr(figure, name):.1f}") for name in orders]


class Perplexity(Metric):
    """On the references' tokens, end tokens included; None without references."""

    name, label = "perplexity", "perplexity of the references"

    def figure(self, answers: Answers) -> float | None:
        return None if math.isnan(answers.perplexity) else answers.perplexity


class MeanLength(Metric):
    """Tokens of the answers, end token included."""

    name, label = "mean_length_tokens", "mean length, tokens"

    def figure(self, answers: Answers) -> float:
        return float(np.mean([answer.num_tokens for answer in answers.answers]))


class MeanThinking(Metric):
    """Tokens of thinking, hidden from the judge; None without any."""

    name, label = "thinking_tokens", "mean thinking, tokens"

    def figure(self, answers: Answers) -> float | None:
        tokens = [answer.num_thinking_tokens for answer in answers.answers]
        return float(np.mean(tokens)) if any(tokens) else None


class Truncated(Metric):
    """Share of answers that the length limit ended."""

    name, label, scale, more_is_better = "truncated_share", "truncated, %", 100, False

    def values(self, answers: Answers) -> list[float]:
        return [float(answer.truncated) for answer in answers.answers]


class TextMetric(Metric):
    """One number per text, by `of`; more of it is worse."""

    of: ClassVar[Callable[[str], float]]
    in_table = False
    more_is_better = False

    def values(self, answers: Answers) -> list[float]:
        return [type(self).of(text) for text in answers.texts]


class Repetition(TextMetric):
    name, label, scale, in_table = "repetition", "repeated 4-grams, %", 100, True
    of = texts.repeated_share


class Loops(TextMetric):
    name, label, scale = "loops", "words in a loop at the end, %", 100
    of = texts.loop_share


class Compression(TextMetric):
    name, label = "compression_ratio", "compression ratio"
    of = texts.compression_ratio


class StockPhrases(TextMetric):
    name, label, scale = "stock_phrases", "with a stock phrase, %", 100
    of = texts.has_phrase


class Formatting(TextMetric):
    name, label = "formatting", "formatting marks per 100 words"
    of = texts.marks_per_100_words


class Empty(TextMetric):
    name, label, scale = "empty", "empty, %", 100
    of = texts.is_empty


class Recurring(Metric):
    """Answers that hold what recurs across prompts."""

    scale, in_table, more_is_better = 100, False, False
    has: ClassVar[str]
    shared: ClassVar[str]

    def values(self, answers: Answers) -> list[float]:
        return [float(one) for one in getattr(_boilerplate_of(answers), self.has)]

    def recurring(self, answers: Answers) -> list[str]:
        found: Shared | tuple[Shared, ...] | None = getattr(_boilerplate_of(answers), self.shared)
        listed = found if isinstance(found, tuple) else [] if found is None else [found]
        return [f"{shared.text} ({100 * shared.share:.0f} % of prompts)" for shared in listed]


class Openings(Recurring):
    name, label = "openings", "with the commonest opening, %"
    has, shared = "opens", "opening"


class Closings(Recurring):
    name, label = "closings", "with the commonest closing, %"
    has, shared = "closes", "closing"


class SharedWords(Recurring):
    name, label = "shared_words", "with 8 words shared across prompts, %"
    has, shared = "holds", "ngrams"


class Distinct(Metric):
    """Distinct n-grams in percent, one number per block of prompts; both sides are cut to the words of the shorter."""

    in_table, more_is_better = False, True
    n: ClassVar[int]

    def pair(self, ours: Answers, theirs: Answers | None, *, seed: int) -> tuple[np.ndarray, np.ndarray | None] | None:
        sides = [side.texts for side in (ours, theirs) if side is not None]
        num_prompts = len(sides[0])
        num_blocks = min(_MAX_BLOCKS, num_prompts // _MIN_BLOCK)
        blocks = [[math.nan] * len(sides)]
        if num_blocks >= 2:
            order = np.random.default_rng(seed).permutation(num_prompts)
            blocks = []
            for numbers in np.array_split(order, num_blocks):
                words = [list(chain.from_iterable(side[number].split() for number in numbers)) for side in sides]
                blocks.append([_distinct(w[: min(map(len, words))], self.n) for w in words])
        columns = np.array(blocks)
        return columns[:, 0], columns[:, 1] if theirs is not None else None


class Distinct1(Distinct):
    name, label, n = "distinct_1", "distinct 1-grams, %", 1


class Distinct2(Distinct):
    name, label, n = "distinct_2", "distinct 2-grams, %", 2


BUILT_IN: tuple[type[Metric], ...] = (
    *(CorpusBleu, Perplexity, MeanLength, Repetition),
    *(Loops, Compression, StockPhrases, Formatting, Empty),
    *(Truncated, MeanThinking),
    *(Openings, Closings, SharedWords, Distinct1, Distinct2),
)


def all_metrics() -> list[Metric]:
    """Return the built-in metrics, then the plugins' by name.

    Raises:
        UsageError: two plugins claim one name, or one claims the name of a built-in metric.
    """
    return [*(cls() for cls in BUILT_IN), *plugin_metrics()]


def plugin_metrics() -> list[Metric]:
    """Return the metrics that plugins add. Raises as `all_metrics`."""
    known = {cls.name for cls in BUILT_IN}
    added: list[Metric] = []
    for name in sorted(registry().found["metric"]):
        cls = registry().find("metric", name)
        assert issubclass(cls, Metric)
        if name in known:
            owner = registry().found["metric"][name][0].distribution
            raise UsageError(f"the metric name {name!r} of {owner} is a built-in metric's: uninstall {owner}")
        added.append(cls())
    return added


def figures_of(answers: Answers) -> dict[str, Any]:
    """Return the figures of one model that stand in a verdict's table, by the metric's name."""
    return {metric.name: metric.figure(answers) for metric in all_metrics() if metric.in_table}


def unmeasured() -> dict[str, Any]:
    """Return the same without a model: every figure is None."""
    return {metric.name: None for metric in all_metrics() if metric.in_table}


def table_rows(ours: dict[str, Any], theirs: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return both models' figures side by side: (label, ours, theirs), without rows that neither side has.

    A figure of a plugin that is no longer installed is shown under its name.
    """
    known = {metric.name: metric.rows for metric in all_metrics()}
    shown: list[tuple[str, str, str]] = []
    for name in [*(name for name in known if name in ours | theirs), *((ours | theirs).keys() - known.keys())]:
        rows = known.get(name, lambda figure, name=name: [(name, "-" if figure is None else f"{figure:.1f}")])
        pairs = zip(rows(ours.get(name)), rows(theirs.get(name)), strict=True)
        shown += [(label, a, b) for (label, a), (_, b) in pairs if {a, b} != {"-"}]
    return shown


def _boilerplate_of(answers: Answers) -> Boilerplate:
    return _boilerplate(tuple(answers.texts), tuple(text_of(answer.row.prompt) for answer in answers.answers))


@functools.lru_cache(maxsize=2)  # three metrics ask for both sides' in turn
def _boilerplate(said: tuple[str, ...], prompts: tuple[str, ...]) -> Boilerplate:
    return boilerplate(said, prompts)


def _distinct(words: Sequence[str], n: int) -> float:
    ngrams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else math.nan
