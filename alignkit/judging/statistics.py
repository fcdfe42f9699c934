"""Win rates and mean differences with intervals; the resampled unit is the prompt, or a cluster of prompts.

A prompt's outcome is 1 (win), 0.5 (tie), 0 (loss), a probability of winning between them where a judge gives one, or
nan (a score is missing). The win rate is the mean over the prompts that have one: ties count half, missing ones are
left out and counted, never scored as losses.

Interval of a win rate: the expanded percentile bootstrap of resampling.py, over clusters where some are named. With
less to resample (under 30 prompts, or under 10 outcomes that differ from the commonest) a bootstrap says more than it
knows, and nothing at all on constant data: there it is the score interval of a difference of paired proportions (Tango
1998), which is Wilson's interval when nothing ties; of as many outcomes as there are effective clusters.

Interval of a mean: the bias-corrected and accelerated bootstrap (Efron 1987) from 30 prompts on, Student's t below.

Left out: the spread between training runs, which no resampling of prompts can show; it needs several seeds.
Shape letter: P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import bootstrap, norm, t

from alignkit.scoring.judge import Missing, Scored
from alignkit.statistics.resampling import Clusters, bounds, resampled_means, tail

MIN_PROMPTS = 30  # fewer are not resampled
MIN_UNCOMMON = 10  # outcomes that differ from the commonest; with fewer the resamples are nearly all alike
_DRAWN_AT_ONCE = 1 << 22  # numbers the bootstrap holds in memory at once


@dataclass(frozen=True)
class WinRate:
    """How often ours beats theirs, in percent, with a two-sided interval.

    `rate` is None without a prompt that both sides have a score for; below two such prompts there is no interval: it
    is 0 to 100 and `method` says so. `level` is a share (0.95). `num_prompts` = wins + ties + losses; `num_missing`
    prompts come on top of it. `standard_error` = sd (n - 1) / sqrt(n) in points, as if prompts were independent.
    `num_clusters` is None where every prompt stands for itself.
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


def outcomes(
    ours: Sequence[Scored | Missing], theirs: Sequence[Scored | Missing], *, tie_tolerance: float = 0.0
) -> np.ndarray:
    """Compare two models' scores prompt by prompt.

    Args:
        ours, theirs: one answer of the same judge for each prompt, in the same order.
        tie_tolerance: scores at most this far apart are a tie, in the judge's unit.

    Returns:
        float64 [P] of 1 (ours is higher), 0.5, 0, and nan where either score is missing.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} scores of one side and {len(theirs)} of the other")
    return np.array([_outcome(a, b, tie_tolerance) for a, b in zip(ours, theirs, strict=True)], dtype=np.float64)


def win_rate(
    outcomes_P: np.ndarray,
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = 10_000,
    clusters: Clusters | None = None,
) -> WinRate:
    """Mean outcome in percent with its interval over prompts, or over clusters of them.

    Swapping the sides mirrors everything at 50.

    Args:
        outcomes_P: float64 [P] from 0 to 1, or nan, from `outcomes`; above 0.5 is a win, 0.5 a tie.
        seed: of the resampling; the same seed gives the same interval to the bit.
        level: share of such intervals that hold the true rate, between 0 and 1.
        clusters: of all prompts, those with nan too; default: every prompt by itself.
    """
    known_P = ~np.isnan(outcomes_P)
    present_P = outcomes_P[known_P]
    if len(present_P) and not 0 <= present_P.min() <= present_P.max() <= 1:
        raise ValueError("an outcome is a number from 0 to 1, or nan")
    n = len(present_P)
    units = Clusters.single(n) if clusters is None else clusters.where(known_P)
    low, high, method = _interval(present_P, units, seed=seed, level=level, num_resamples=num_resamples)
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
        standard_error=100 * float(present_P.std(ddof=1)) / math.sqrt(n) if n > 1 else None,
        num_clusters=units.num if units.num < n else None,
    )


def mean_interval(x_P: np.ndarray, *, seed: int, level: float = 0.95, num_resamples: int = 10_000) -> MeanInterval:
    """Mean of one number a prompt, such as a paired difference, with its interval over prompts.

    Args:
        x_P: float64 [P], in any unit; nan is left out and counted.
        seed, level, num_resamples: as for `win_rate`.
    """
    present_P = np.asarray(x_P, dtype=np.float64)
    present_P = present_P[~np.isnan(present_P)]
    n = len(present_P)
    mean = float(present_P.mean()) if n else None
    low: float | None = None
    high: float | None = None
    if n < 2:
        method = f"none: {n} number{'' if n == 1 else 's'}"
    elif np.ptp(present_P) == 0:
        low, high, method = mean, mean, "none: every prompt has the same number"
    elif n < MIN_PROMPTS:
        reach = float(t.ppf((1 + level) / 2, n - 1) * present_P.std(ddof=1) / math.sqrt(n))
        low, high, method = float(present_P.mean()) - reach, float(present_P.mean()) + reach, "Student's t"
    else:
        low, high = _bootstrap(present_P, seed=seed, level=level, num_resamples=num_resamples)
        method = _bootstrap_name(num_resamples)
    return MeanInterval(mean, low, high, level, method, n, len(x_P) - n)


def _outcome(ours: Scored | Missing, theirs: Scored | Missing, tie_tolerance: float) -> float:
    if isinstance(ours, Missing) or isinstance(theirs, Missing):
        return math.nan
    if abs(ours.value - theirs.value) <= tie_tolerance:
        return 0.5
    return 1.0 if ours.value > theirs.value else 0.0


def _interval(
    x_P: np.ndarray, units: Clusters, *, seed: int, level: float, num_resamples: int
) -> tuple[float, float, str]:
    n, over = len(x_P), "prompts" if units.num == len(x_P) else f"{units.num} clusters of prompts"
    if n < 2:
        return 0.0, 1.0, f"none: {n} prompt{'' if n == 1 else 's'} scored on both sides"
    share = tail(units, level)
    if share is None:
        return 0.0, 1.0, f"none: nearly all prompts are in one of {units.num} clusters"
    wins, losses = int((x_P > 0.5).sum()), int((x_P < 0.5).sum())
    if n < MIN_PROMPTS or n - np.unique(x_P, return_counts=True)[1].max() < MIN_UNCOMMON:
        effective = units.effective / n
        low, high = _score_interval(wins * effective, losses * effective, n * effective, level)
        mean = float(x_P.mean())  # of soft outcomes it is not the mean of wins and ties; the interval holds both
        return min(low, mean), max(high, mean), f"paired score interval (Tango 1998) over {over}"
    means_B = resampled_means(x_P, units, rng=np.random.default_rng(seed), num_resamples=num_resamples)
    return *bounds(means_B, share), f"expanded percentile bootstrap over {over}, {num_resamples:,} resamples"


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


def _bootstrap_name(num_resamples: int) -> str:
    return f"BCa bootstrap over prompts, {num_resamples:,} resamples"


def _score_interval(num_wins: float, num_losses: float, n: float, level: float) -> tuple[float, float]:
    """Interval of the mean outcome: all differences d of win and loss shares that a score test does not refuse.

    z(d) = (wins - losses - n d) / sqrt(n (2 q + d (1 - d))), with q the likeliest loss share given d.
    Source: Tango 1998, Statistics in Medicine 17:891-908, with d in [-1, 1] mapped to (1 + d) / 2.
    """
    z = float(norm.ppf((1 + level) / 2))

    def score(d: float) -> float:
        b = -num_wins - num_losses + (2 * n - num_wins + num_losses) * d
        c = -num_losses * d * (1 - d)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        return (num_wins - num_losses - n * d) / math.sqrt(max(n * (2 * q + d * (1 - d)), 1e-12))

    estimate = (num_wins - num_losses) / n
    low = -1.0 if num_losses == n else brentq(lambda d: score(d) - z, -1.0, estimate, xtol=1e-12)
    high = 1.0 if num_wins == n else brentq(lambda d: score(d) + z, estimate, 1.0, xtol=1e-12)
    return (1 + low) / 2, (1 + high) / 2
