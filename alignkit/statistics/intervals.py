"""Intervals of means and shares, each at a two-sided level, each by one function.

    score_interval    a difference of paired proportions (Tango 1998); Wilson's (1927) where nothing ties
    wilson            a share of n, which need be no whole number (scipy's takes counts alone)
    wilson_over       the same over clusters
    student           a mean with its standard error
    mean_interval     one number per prompt: the bias-corrected and accelerated bootstrap (Efron 1987) from 30 prompts
                      on, Student's t below; over clusters of prompts the expanded percentile bootstrap, Student's t
                      over few of them
    within_strata     the mean outcome of the sources at hand alone, which no other source's outcomes are inferred from
    lower_bound       one bound of the mean of any paired difference, over clusters within strata
    error_over        the standard error of a mean over clusters

Shape letters: P prompts, G clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit
from scipy.stats import bootstrap, norm, t

from alignkit.statistics.resampling import (
    FEW_CAUTION,
    Clusters,
    few_clusters,
    joined_singles,
    resampled_interval,
    resampled_means,
    spread,
    variance_over,
)

MIN_PROMPTS = 30  # fewer are not resampled
MIN_UNCOMMON = 10  # outcomes that differ from the commonest; with fewer the resamples are nearly all alike
_DRAWN_AT_ONCE = 1 << 22  # numbers the bootstrap holds in memory at once


@dataclass(frozen=True)
class MeanInterval:
    """A mean with a two-sided interval, in the unit of the data.

    `mean` is None without a number, `low` and `high` below two of them. `num_missing` numbers were nan.
    """

    mean: float | None
    low: float | None
    high: float | None
    level: float
    method: str
    num_prompts: int
    num_missing: int


def mean_interval(
    x_P: np.ndarray, *, seed: int, level: float = 0.95, num_resamples: int = 10_000, clusters: Clusters | None = None
) -> MeanInterval:
    """Mean of one number per prompt, such as a paired difference, with its interval over prompts or clusters of them.

    Args:
        x_P: float64 [P], in any unit; nan is left out and counted.
        seed, level, num_resamples, clusters: as for `win_rate`.
    """
    present_P = np.asarray(x_P, dtype=np.float64)
    known_P = ~np.isnan(present_P)
    present_P = present_P[known_P]
    n = len(present_P)
    units = Clusters.single(n) if clusters is None else clusters.where(known_P)
    mean = float(present_P.mean()) if n else None
    low: float | None = None
    high: float | None = None
    if n < 2:
        method = f"none: {n} number{'' if n == 1 else 's'}"
    elif np.ptp(present_P) == 0:
        low, high, method = mean, mean, "none: every prompt has the same number"
    elif units.too_few:
        method = f"none: {units.too_few}"
    elif units.are_few:
        error, freedom = few_clusters(present_P, units)
        half = float(t.ppf(1 - FEW_CAUTION * (1 - level) / 2, freedom)) * error
        low, high = float(present_P.mean()) - half, float(present_P.mean()) + half
        method = f"Student's t over {units.num} clusters of prompts"
    elif units.num < n:
        means_B = resampled_means(present_P, units, rng=np.random.default_rng(seed), num_resamples=num_resamples)
        low, high = resampled_interval(float(present_P.mean()), means_B, units, level)
        method = f"expanded percentile bootstrap over {units.num} clusters of prompts, {num_resamples:,} resamples"
    elif n < MIN_PROMPTS:
        low, high = student(float(present_P.mean()), float(present_P.std(ddof=1)) / math.sqrt(n), n, level)
        method = "Student's t"
    else:
        low, high = _bootstrap(present_P, seed=seed, level=level, num_resamples=num_resamples)
        method = f"BCa bootstrap over prompts, {num_resamples:,} resamples"
    return MeanInterval(mean, low, high, level, method, n, len(x_P) - n)


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share of n, from 0 to 1.

    >>> [round(100 * x, 1) for x in wilson(0.5, 10)]
    [23.7, 76.3]
    """
    z = float(norm.isf((1 - level) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # it holds the share, to the bit


def wilson_over(outcome_P: np.ndarray, clusters: Clusters, level: float = 0.95) -> tuple[float, float]:
    """Interval of a mean of outcomes from 0 to 1: Wilson's, of so many independent prompts as have its standard error.

    Args:
        clusters: prompts that are no independent evidence of each other.
    """
    mean, num = float(outcome_P.mean()), float(len(outcome_P))
    error = error_over(outcome_P, clusters) if clusters.num > 1 else math.inf
    is_known = error > 0 and 0 < mean < 1
    num = min(num, mean * (1 - mean) / error**2) if is_known else float(clusters.num)
    return wilson(mean, max(num, 1.0), level)


def student(mean: float, error: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a mean of n independent units, at least 2, whose standard error is `error`."""
    half = float(t.isf((1 - level) / 2, n - 1)) * error
    return mean - half, mean + half


def error_over(x_P: np.ndarray, clusters: Clusters) -> float:
    """Standard error of the mean over clusters: se^2 = G / (G - 1) sum_g (sum of (x - mean) in g)^2 / P^2."""
    return math.sqrt(clusters.num / (clusters.num - 1)) * spread(x_P, clusters)


def within_strata(x_P: np.ndarray, strata: Clusters, units: Clusters, level: float) -> tuple[float, float]:
    """Interval of the mean outcome, from 0 to 1, over these strata: other prompts of theirs, in the same shares.

    The score interval of as many prompts as are as informative, n (se of independent prompts / se)^2 (z / t)^2 with the
    standard error of `error_within`, as Korn and Graubard (1998) do for shares in surveys. Where fewer than 10 outcomes
    differ from the commonest their spread is a guess: units count as wholly alike within.

    Args:
        x_P: float64 [P], at least two.
        units: prompts that are no independent evidence of each other, copies of one for example, within a stratum.
    """
    n, mean = len(x_P), float(x_P.mean())
    error, freedom, _ = error_within(x_P, strata, units)
    wins, losses = wins_and_losses(x_P)
    independent = ((wins + losses) / 4 - n * (mean - 0.5) ** 2) / (n - 1) / n
    effective = units.effective / n
    if error > 0 and independent > 0 and num_uncommon(x_P) >= MIN_UNCOMMON:
        tail = (1 - level) / 2
        effective = independent / error**2 * float(norm.isf(tail) / t.isf(tail, freedom)) ** 2
    low, high = score_interval(wins * effective, losses * effective, n * effective, level)
    return min(low, mean), max(high, mean)


def error_within(x_P: np.ndarray, strata: Clusters, units: Clusters) -> tuple[float, float, float]:
    """Standard error of a mean over units drawn within strata, its degrees of freedom (Satterthwaite's), its skewness.

    se^2 = sum_s U_s / (U_s - 1) sum_{u in s} (sum of (x - mean of s) in u)^2 / P^2. A stratum with a single unit says
    nothing of its spread: such strata are taken together, or with the smallest other one. Without spread all are 0.

    Args:
        x_P: float64 [P], at least two numbers, in any unit.
        units: each within one stratum.
    """
    joined = joined_singles(strata, units)
    variance, freedom = (float(one) for one in variance_over(x_P, units, joined))
    if np.ptp(x_P) == 0 or variance <= 0:
        return 0.0, 0.0, 0.0
    mean_S = np.bincount(joined.number_P, x_P) / joined.sizes_G
    sum_G = np.bincount(units.number_P, x_P - mean_S[joined.number_P])
    return math.sqrt(variance), freedom, float((sum_G**3).sum() / (sum_G**2).sum() ** 1.5)


def lower_bound(mean: float, spread: tuple[float, float, float], tail: float) -> float:
    """Lower bound of a mean: Student's, further out where rare losses are large.

    mean - se (3 / g) ((1 + g (t - g / 6))^(1/3) - 1), g = 2 x the mean's skewness where that is negative; else
    mean - se t. Source: Hall 1992, Journal of the Royal Statistical Society B 54:221-228. The 2 is ours: few units show
    about half of their skewness (bench/verdict_guards.py).

    Args:
        spread: standard error, degrees of freedom and skewness, from `error_within`.
        tail: share of such bounds that may lie above the true mean.
    """
    error, freedom, skewness = spread
    if error == 0:
        return mean
    quantile, g = -float(stdtrit(freedom, tail)), 2 * min(skewness, 0.0)
    if g < -1e-6:
        quantile = 3 / g * (float(np.cbrt(1 + g * (quantile - g / 6))) - 1)
    return mean - quantile * error


def num_uncommon(x_P: np.ndarray) -> float:
    """Number of outcomes that differ from the commonest; with few of them a spread is a guess.

    Of probabilities between win, tie and loss no two need be the same. There it is n / skewness^2, which is as good as
    the number for rare wins or losses, and at most the wins and losses that the probabilities add up to: equal models
    would have so many outcomes on the other side, seen or not.

    Args:
        x_P: float64 [P], from 0 to 1, at least one.
    """
    if not is_soft(x_P):
        return float(len(x_P) - int(np.unique(x_P, return_counts=True)[1].max()))
    added, centred_P = sum(wins_and_losses(x_P)), x_P - x_P.mean()
    variance = float((centred_P**2).mean())
    if variance == 0:
        return 0.0
    skewness = float((centred_P**3).mean()) / variance**1.5
    return min(added, len(x_P) / max(skewness**2, 1e-12))


def is_little(x_P: np.ndarray) -> bool:
    """Whether so few outcomes are known, or differ, that an interval is one of counts (`score_interval`)."""
    return len(x_P) < MIN_PROMPTS or num_uncommon(x_P) < MIN_UNCOMMON


def is_soft(x_P: np.ndarray) -> bool:
    """Whether some outcome is a probability, between a win, a tie and a loss."""
    return not bool(np.isin(x_P, (0.0, 0.5, 1.0)).all())


def wins_and_losses(x_P: np.ndarray) -> tuple[float, float]:
    """Wins and losses of outcomes, from 0 to 1. A probability is a share of a win or a loss, and of a tie for the rest.

    That has the same mean and at least the spread (Hoeffding 1956), so that an interval of counts holds for it too.
    """
    return float(np.maximum(2 * x_P - 1, 0).sum()), float(np.maximum(1 - 2 * x_P, 0).sum())


def score_interval(num_wins: float, num_losses: float, n: float, level: float) -> tuple[float, float]:
    """Interval of the mean outcome, from 0 to 1: all differences d of win and loss shares that a score test keeps.

    z(d) = (wins - losses - n d) / sqrt(n (2 q + d (1 - d))), with q the likeliest loss share given d.
    Source: Tango 1998, Statistics in Medicine 17:891-908, with d in [-1, 1] mapped to (1 + d) / 2.
    """
    z = float(norm.isf((1 - level) / 2))

    def score(d: float) -> float:
        b = -num_wins - num_losses + (2 * n - num_wins + num_losses) * d
        c = -num_losses * d * (1 - d)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        return (num_wins - num_losses - n * d) / math.sqrt(max(n * (2 * q + d * (1 - d)), 1e-12))

    estimate = (num_wins - num_losses) / n
    low = -1.0 if num_losses == n else brentq(lambda d: score(d) - z, -1.0, estimate, xtol=1e-12)
    high = 1.0 if num_wins == n else brentq(lambda d: score(d) + z, estimate, 1.0, xtol=1e-12)
    return (1 + low) / 2, (1 + high) / 2


def _bootstrap(x_P: np.ndarray, *, seed: int, level: float, num_resamples: int) -> tuple[float, float]:
    result = bootstrap(
        (x_P,),
        np.mean,
        vectorized=True,
        method="BCa",
        confidence_level=level,
        n_resamples=num_resamples,
        batch=max(1, _DRAWN_AT_ONCE // len(x_P)),
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ArithmeticError(f"no bootstrap interval of {len(x_P)} numbers between {x_P.min()} and {x_P.max()}")
    return low, high
