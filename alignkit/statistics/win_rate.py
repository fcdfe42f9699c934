"""The win rate with its interval; the resampled unit is the prompt, or a cluster of prompts.

A prompt's outcome is 1 (win), 0.5 (tie), 0 (loss), a probability of winning between them where a judge gives one, or
nan (a score is missing). The win rate is the mean over the prompts that have one: ties count half, missing ones are
left out and counted, never scored as losses.

The interval is the expanded percentile bootstrap of resampling.py, over clusters where some are named. With
less to resample (under 30 prompts, or under 10 outcomes that differ from the commonest) a bootstrap says more than it
knows, and nothing at all on constant data: there it is the score interval of a difference of paired proportions (Tango
1998), which is Wilson's interval when nothing ties; a probability counts as a share of a win or a loss. It is of as
many outcomes as there are effective clusters, and of fewer than 30 prompts half a step wider at both ends.

Over few clusters (under 20 effective ones) it is Student's, on arcsin(sqrt(rate)), and holds at least what the score
interval of independent prompts holds: clusters that chance made alike are no sign of more evidence. A rate far from 50
is skewed: with 5 clusters at 75 % the plain interval at 96 % held the truth in 93 of 100 cases, on this scale in 94.6.
On it the rate's spread hardly depends on the rate (Anscombe 1948). Under 5 there is none: they say nothing of
other clusters. What they say of themselves is `win_rate(..., strata=)`.

Left out: the spread between training runs, which no resampling of prompts can show; it needs several seeds.
Shape letter: P prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t

from alignkit.statistics.intervals import (
    MIN_PROMPTS,
    error_over,
    is_little,
    score_interval,
    wins_and_losses,
    within_strata,
)
from alignkit.statistics.resampling import Clusters, few_clusters, resampled_interval, resampled_means

_ROUNDING = 1e-9  # of the larger score's size: 0.1 + 0.2 and 0.3 differ by 2e-16 of it


@dataclass(frozen=True)
class WinRate:
    """How often ours beats theirs, in percent, with a two-sided interval.

    `rate` is None without a prompt that both sides have a score for; below two such prompts there is no interval: it
    is 0 to 100 and `method` names the reason. `level` is a share (0.95). `num_prompts` = wins + ties + losses;
    `num_missing` prompts come on top of it. `standard_error` is in points, over clusters where some are
    named (`intervals.error_over`), and None below two of them.
    `num_clusters` and `num_effective` (equal clusters that are as informative) are None where every prompt stands for
    itself.
    """

    rate: float | None
    low: float
    high: float
    level: float
    method: str
    num_prompts: int
    num_wins: int
    num_ties: int
    num_losses: int
    num_missing: int
    standard_error: float | None = None
    num_clusters: int | None = None
    num_effective: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether anything is known of the rate beside what was seen."""
        return not self.method.startswith("none")


def outcomes(ours_P: np.ndarray, theirs_P: np.ndarray) -> np.ndarray:
    """Compare two models' scores prompt by prompt; scores that differ by less than rounding tie.

    Args:
        ours_P, theirs_P: float64 [P], one judge's scores in the same order, nan where missing.

    Returns:
        float64 [P] of 1 (ours is higher), 0.5, 0, and nan where either score is missing.
    """
    if len(ours_P) != len(theirs_P):
        raise ValueError(f"{len(ours_P)} scores of one side and {len(theirs_P)} of the other")
    with np.errstate(over="ignore", invalid="ignore"):  # two large scores may differ by more than any float
        difference_P, size_P = ours_P - theirs_P, np.maximum(np.abs(ours_P), np.abs(theirs_P))
    is_tie_P = (ours_P == theirs_P) | (np.abs(difference_P) < _ROUNDING * size_P)
    result_P = np.where(is_tie_P, 0.5, (difference_P > 0).astype(np.float64))
    return np.where(np.isnan(ours_P) | np.isnan(theirs_P), math.nan, result_P)


def win_rate(
    outcomes_P: np.ndarray,
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = 10_000,
    clusters: Clusters | None = None,
    strata: Clusters | None = None,
) -> WinRate:
    """Mean outcome in percent with its interval over prompts, or over clusters of them.

    Swapping the sides mirrors everything at 50.

    Args:
        outcomes_P: float64 [P] from 0 to 1, or nan, from `outcomes`; above 0.5 is a win, 0.5 a tie.
        seed: of the resampling; the same seed gives the same interval to the bit.
        level: share of such intervals that hold the true rate, between 0 and 1.
        clusters: of all prompts, those with nan too; default: every prompt by itself.
        strata: sources that the rate speaks of alone; `clusters` are then copies of prompts within them.
    """
    known_P = ~np.isnan(outcomes_P)
    present_P = outcomes_P[known_P]
    if len(present_P) and not 0 <= present_P.min() <= present_P.max() <= 1:
        raise ValueError("an outcome is a number from 0 to 1, or nan")
    n = len(present_P)
    units = Clusters.single(n) if clusters is None else clusters.where(known_P)
    if strata is None or n < 2:
        low, high, method = _interval(present_P, units, seed=seed, level=level, num_resamples=num_resamples)
    else:
        those = strata.where(known_P)
        low, high = within_strata(present_P, those, units, level)
        method = f"paired score interval (Tango 1998) within {those.num} strata"
    return WinRate(
        rate=100 * float(present_P.mean()) if n else None,
        low=100 * low,
        high=100 * high,
        level=level,
        method=method,
        num_prompts=n,
        num_wins=int((present_P > 0.5).sum()),
        num_ties=int((present_P == 0.5).sum()),
        num_losses=int((present_P < 0.5).sum()),
        num_missing=len(outcomes_P) - n,
        standard_error=100 * error_over(present_P, units) if n > 1 and units.num > 1 else None,
        num_clusters=units.num if units.num < n else None,
        num_effective=units.effective if units.num < n else None,
    )


def p_of_one_look(
    outcomes_P: np.ndarray, *, clusters: Clusters, strata: Clusters | None = None, least: float = 1e-9
) -> float:
    """Two-sided p-value against a rate of 50 where outcomes are little: by the level at which the interval excludes it.

    Args:
        outcomes_P: float64 [P] without nan.
        least: what is returned where it is less.
    """

    def excludes(p: float) -> bool:
        look = win_rate(outcomes_P, seed=0, level=1 - p, clusters=clusters, strata=strata)
        return not look.low <= 50 <= look.high

    low, high = least, 1.0
    if excludes(low):
        return low
    while high > low * 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if excludes(middle) else (middle, high)
    return high


def without_interval(rate: WinRate, reason: str) -> WinRate:
    """The same rate where nothing is to be said of its interval."""
    return replace(rate, low=0.0, high=100.0, method=f"none: {reason}")


def _interval(
    x_P: np.ndarray, units: Clusters, *, seed: int, level: float, num_resamples: int
) -> tuple[float, float, str]:
    n, over = len(x_P), "prompts" if units.num == len(x_P) else f"{units.num} clusters of prompts"
    if n < 2:
        return 0.0, 1.0, f"none: {n} prompt{'' if n == 1 else 's'} scored on both sides"
    if units.too_few:
        return 0.0, 1.0, f"none: {units.too_few}"
    wins, losses = wins_and_losses(x_P)
    mean = float(x_P.mean())
    little = is_little(x_P)
    if little or units.are_few:
        effective = units.effective / n if little else 1.0
        low, high = score_interval(wins * effective, losses * effective, n * effective, level)
        if n < MIN_PROMPTS:  # half a step: 5 wins of 5 happen to equal models in 6 of 100 cases
            low, high = max(0.0, low - 1 / (2 * n)), min(1.0, high + 1 / (2 * n))
        method = f"paired score interval (Tango 1998) over {over}"
        if units.are_few:
            student = _few_clusters(x_P, units, level)
            low, high = min(low, student[0]), max(high, student[1])
            method = f"Student's t over {over}, no shorter than independent prompts'"
        return min(low, mean), max(high, mean), method
    means_B = resampled_means(x_P, units, rng=np.random.default_rng(seed), num_resamples=num_resamples)
    low, high = resampled_interval(mean, means_B, units, level)
    return max(0.0, low), min(1.0, high), f"expanded percentile bootstrap over {over}, {num_resamples:,} resamples"


def _few_clusters(x_P: np.ndarray, clusters: Clusters, level: float) -> tuple[float, float]:
    """Student's interval on the scale of arcsin(sqrt(rate)), where the standard error is 1 / (2 s) times the rate's.

    s^2 is rate (1 - rate) as it is without bias: the observed one is too small by the observed rate's own variance.
    """
    if np.ptp(x_P) == 0:
        return float(x_P[0]), float(x_P[0])
    error, freedom = few_clusters(x_P, clusters)
    inside = min(max(float(x_P.mean()), 0.5 / len(x_P)), 1 - 0.5 / len(x_P))
    s2 = min(inside * (1 - inside) + error**2, 0.25)
    half = float(t.isf((1 - level) / 2, freedom)) * error / (2 * math.sqrt(s2))
    middle = math.asin(math.sqrt(inside))
    return math.sin(max(middle - half, 0.0)) ** 2, math.sin(min(middle + half, math.pi / 2)) ** 2
