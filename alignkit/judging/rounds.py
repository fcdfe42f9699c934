"""Judging in rounds, to stop as soon as a question is settled.

A fifth of the prompts is answered and judged at a time, in an order drawn by the seed. After each round the rule is
applied to the interval of that round, whose level comes from the share of the 5 % that this look has
(statistics/sequential.py): all five intervals hold the true rate together, so that one may stop at any of them, for any
reason.

Prompts of one cluster come in different rounds. The rates of two rounds then have more in common than the plan assumes,
which makes its bounds a little too wide, never too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from alignkit.judging.answers import Answers
from alignkit.judging.planner import ICC
from alignkit.judging.scores import BothScores, values
from alignkit.statistics.resampling import CAUTION, FEW_CLUSTERS, Clusters
from alignkit.statistics.sequential import bounds_of, stopping
from alignkit.statistics.win_rate import outcomes

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
MIN_PROMPTS = 100  # fewer make rounds in which nothing could be settled
_HIGHEST = 1 - 1e-15  # a level; the first round of a later look would be nearer to 1 than a float can say


@dataclass(frozen=True)
class Judged:
    """Both models' answers to some of the prompts and their scores, in the order of the prompts.

    `number_P` int [P]: which of the planned prompts they are.
    """

    number_P: np.ndarray
    ours: Answers
    theirs: Answers
    scored: BothScores

    @property
    def outcome_P(self) -> np.ndarray:
        """float64 [P], as `statistics.win_rate.outcomes`."""
        return outcomes(values(self.scored.ours), values(self.scored.theirs))

    def with_more(self, more: Judged) -> Judged:
        """Both rounds together."""
        number_P = np.concatenate([self.number_P, more.number_P])
        order = np.argsort(number_P, kind="stable").tolist()
        a, b = self.scored, more.scored
        both = BothScores(
            [(a.ours + b.ours)[n] for n in order],
            [(a.theirs + b.theirs)[n] for n in order],
            a.num_compared + b.num_compared,
            a.num_flipped + b.num_flipped,
            a.num_first + b.num_first,
        )
        ours, theirs = _joined(self.ours, more.ours, order), _joined(self.theirs, more.theirs, order)
        return Judged(number_P[order], ours, theirs, both)


def rounds_of(num_prompts: int, *, seed: int) -> list[np.ndarray]:
    """Which prompts each round adds, int [P of the round], each prompt in one round."""
    order = np.random.default_rng(seed).permutation(num_prompts)
    ends = [round(share * num_prompts) for share in SHARES]
    return [np.sort(order[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def why_whole(clusters: Clusters) -> str:
    """Why these prompts are judged all at once; empty where rounds are possible."""
    n = len(clusters.number_P)
    if n < MIN_PROMPTS:
        return f"{n} prompts are too few to stop early: at least {MIN_PROMPTS} are needed"
    if clusters.effective < FEW_CLUSTERS:
        return (
            f"the prompts are in {clusters.num} clusters, too few to stop early: at least {FEW_CLUSTERS} of equal size "
            "are needed"
        )
    return ""


def levels_of(level: float) -> list[float]:
    """Level of the interval after each round, so that all together hold at `level`."""
    return [min(1 - 2 * float(norm.sf(c)), _HIGHEST) for c in bounds_of(SHARES, 1 - level)]


def expected_prompts(clusters: Clusters, difference: float, level: float) -> int:
    """Number of prompts that will be judged on average if the true difference is this one, in points."""
    n = len(clusters.number_P)
    deff = 1 + (n / clusters.effective - 1) * ICC
    drift = difference / 100 / math.sqrt((0.25 - (difference / 100) ** 2) * deff / n)
    chances = stopping(SHARES, bounds_of(SHARES, CAUTION * (1 - level)), drift)
    chances[-1] += 1 - sum(chances)  # what nothing stopped
    return round(n * sum(share * chance for share, chance in zip(SHARES, chances, strict=True)))


def _joined(one: Answers, other: Answers, order: list[int]) -> Answers:
    both = [*one.answers, *other.answers]
    tokens = one.num_reference_tokens + other.num_reference_tokens
    known = [side for side in (one, other) if side.num_reference_tokens]
    mean = sum(math.log(side.perplexity) * side.num_reference_tokens for side in known) / max(tokens, 1)
    perplexity = math.exp(mean) if known else math.nan
    return replace(one, answers=tuple(both[n] for n in order), perplexity=perplexity, num_reference_tokens=tokens)
