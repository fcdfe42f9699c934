"""The mean that a few careful answers would have on all prompts, helped by cheap predictions on every one of them.

People vote on n of N prompts, a judge scores all N. With y the votes, f the judge's outcomes, pi_i the chance that
prompt i was asked about, and b, c from a regression of y on f weighted by 1 / pi,

    theta = c + b mean_N(f) + 1/N sum_asked e_i / pi_i                e_i = y_i - c - b f_i
    V     = 1/N^2 sum_asked (1 - pi_i) / pi_i^2 (e_i / (1 - h_i))^2 + var(y) / N (1 + r (m - 1))

h is the regression's leverage, as in HC3 (MacKinnon and White 1985). The first part of V is what asking about some
prompts alone leaves open, the second what the prompts themselves do: r is the correlation of two votes in one cluster
of prompts, from 0 to 1 (`_correlation`), and m the prompts of a cluster, the mean weighted by size. The interval is
Student's with n - 2 degrees of freedom (over clusters Satterthwaite's of both parts: the second has as relative
variance 2 / (G_eff - 1) and that of 1 + r (m - 1), as few votes say little of r; not where r is cut at 0, which would
hold the truth in 99 of 100 cases), on the log odds of theta, where it is less skewed, with its tails at 0.8 of their
nominal share: of 50 yes-or-no votes, of which few disagree with the judge, the plain one held the truth in 92 of 100
cases (bench/verdict_votes.py).
A judge that knows nothing of the votes gives b = 0 and costs nothing; with uniform asking the width is
sqrt(1 - r^2 (1 - n/N)) of that of the votes alone, r the correlation of y and f.
Source: prediction-powered inference with its power tuned (Angelopoulos et al. 2023, PPI++), which for a mean is the
regression estimator of survey sampling (Sarndal, Swensson and Wretman 1992); unequal chances as in active statistical
inference (Zrnic and Candes 2024).

Whom to ask about first is drawn beforehand (priority sampling, Duffield, Lund and Thorup 2007): prompt i has the key
u_i / w_i, u uniform from 0 to 1, and prompts are asked about by rising keys. After k of them, given the next key T,
pi_i = min(1, w_i T).
Shape letters: N prompts, K those asked about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from alignkit.statistics.resampling import Clusters

MIN_VOTES = 10  # fewer say nothing of their own spread
_CAUTION = 0.8  # of the nominal tails
_NOTHING = 1e-12  # a variance that is rounding
_EDGE = 0.02  # the log odds are taken no further out


@dataclass(frozen=True)
class Powered:
    """A mean with its interval, as shares from 0 to 1, and what the judge added.

    `slope` is b; `correlation` of votes and judge, weighted; `alone_low` and `alone_high` are of the votes without it.
    """

    mean: float
    low: float
    high: float
    level: float
    slope: float
    correlation: float
    alone_mean: float
    alone_low: float
    alone_high: float


def weights_of(disagreement_N: np.ndarray) -> np.ndarray:
    """How much each prompt is favoured, float64 [N] of mean 1, from how far the judges disagree on it.

    The best chance is proportional to the root of E[e_i^2] (Zrnic and Candes 2024). Judges that are right in a share
    a of cases, independently of each other, disagree in D = 2 a (1 - a) of them; with b = 2 a - 1 a yes-or-no vote
    leaves E[e^2] = D^2 / (2 (1 - D)) where two of them agree and (1 - D) / 2 where they do not: as D to 1 - D, rooted.
    No weight is below 1 / (2 (1 - D)), half of the uniform one: judges that err together are not relied on for more.

    Args:
        disagreement_N: the share of pairs of judges that name different outcomes, from 0 to 1; all 0 favours none.
    """
    mean = float(disagreement_N.mean()) if len(disagreement_N) else 0.0
    if not 0 < mean < 0.5:  # judges that disagree on every second pair say nothing
        return np.ones(len(disagreement_N))
    return (mean + (1 - 2 * mean) * disagreement_N) / (2 * mean * (1 - mean))


def keys_of(weight_N: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw the order in which prompts are asked about: by rising keys, float64 [N]."""
    return np.random.default_rng(seed).random(len(weight_N)) / weight_N


def chances(key_N: np.ndarray, weight_N: np.ndarray, num_asked: int) -> np.ndarray:
    """Chance that each prompt is among the first `num_asked`, given the next key; 1 where all were asked about.

    Of those among them; what it says of the others is not their chance, and nothing needs it.
    """
    if num_asked >= len(key_N):
        return np.ones(len(key_N))
    return np.minimum(1.0, weight_N * float(np.partition(key_N, num_asked)[num_asked]))


def prediction_powered(
    votes_K: np.ndarray,
    at_K: np.ndarray,
    judged_N: np.ndarray,
    chance_N: np.ndarray,
    *,
    level: float = 0.95,
    clusters: Clusters | None = None,
) -> Powered:
    """Estimate the mean vote over all prompts.

    Args:
        votes_K: float64 [K] from 0 to 1, at least MIN_VOTES.
        at_K: int [K], which prompts they are of.
        judged_N: float64 [N], the judge's outcomes.
        chance_N: float64 [N] above 0, that a prompt was asked about.
        clusters: of all N prompts, those that are no independent evidence of each other; default: none are.

    Raises:
        ValueError: too few votes.
    """
    if len(votes_K) < MIN_VOTES:
        raise ValueError(f"{len(votes_K)} votes: at least {MIN_VOTES} are needed")
    n, size = len(votes_K), len(judged_N)
    chance_K, judge_K = chance_N[at_K], judged_N[at_K]
    weight_K = 1 / chance_K / (1 / chance_K).sum()
    vote_mean, judge_mean = float(weight_K @ votes_K), float(weight_K @ judge_K)
    vote_K, judge_K = votes_K - vote_mean, judge_K - judge_mean
    vote_variance, judge_variance = float(weight_K @ vote_K**2), float(weight_K @ judge_K**2)
    covariance = float(weight_K @ (vote_K * judge_K))
    slope = covariance / judge_variance if judge_variance > _NOTHING else 0.0
    units = Clusters.single(size) if clusters is None else clusters
    alike, noise, shown = _correlation(vote_K, weight_K, units.number_P[at_K])
    of_clusters = 1 + alike * (size / units.effective - 1)
    of_prompts = vote_variance / max(shown, 0.5) / size * of_clusters
    # half the relative variance of `of_prompts`, which is the inverse of its degrees of freedom
    noise = noise * ((size / units.effective - 1) / of_clusters) ** 2 / 2 if alike else 0.0
    doubt = 1 / max(units.effective - 1, 1.0) + noise
    leverage_K = weight_K + (weight_K * judge_K**2 / judge_variance if judge_variance > _NOTHING else 0.0)

    def interval(b: float, leverage_K: np.ndarray, freedom: float) -> tuple[float, float, float]:
        left_K = vote_K - b * judge_K
        mean = vote_mean + b * (float(judged_N.mean()) - judge_mean) + float((left_K / chance_K).sum()) / size
        apart_K = left_K / np.maximum(1 - leverage_K, 0.1)
        spread = float(((1 - chance_K) / chance_K**2 * apart_K**2).sum()) / size**2
        error = math.sqrt(spread + of_prompts)
        if units.num < size and error > 0:
            known = spread**2 / freedom + of_prompts**2 * doubt
            freedom = min(freedom, error**4 / known)
        inside = min(max(mean, _EDGE), 1 - _EDGE)
        reach = float(t.ppf(1 - _CAUTION * (1 - level) / 2, freedom)) * error / (inside * (1 - inside))
        middle = math.log(inside / (1 - inside))
        low, high = (1 / (1 + math.exp(-max(min(x, 700.0), -700.0))) for x in (middle - reach, middle + reach))
        return mean, min(low, max(mean, 0.0)), max(high, min(mean, 1.0))

    mean, low, high = interval(slope, leverage_K, n - 2)
    alone_mean, alone_low, alone_high = interval(0.0, weight_K, n - 1)
    deviations = math.sqrt(vote_variance * judge_variance)
    return Powered(
        mean=mean,
        low=low,
        high=high,
        level=level,
        slope=slope,
        correlation=covariance / deviations if deviations > _NOTHING else 0.0,
        alone_mean=alone_mean,
        alone_low=alone_low,
        alone_high=alone_high,
    )


def _correlation(vote_K: np.ndarray, weight_K: np.ndarray, cluster_K: np.ndarray) -> tuple[float, float, float]:
    """Correlation r of two votes in one cluster, from 0 to 1, its variance, and the share of a vote's that is shown.

    R = mean product over all pairs of one cluster, over the variance. Both are of votes less their mean, which goes
    with the clusters that were asked about much: with a the weights, S_i what those of i's cluster sum to,

        A0 = sum a_i^2 (S_i - a_i), A1 = sum a_i (S_i - a_i)^2, W = sum a_i^2, P = sum a_i (S_i - a_i)
        E[variance] = s^2 (1 - W - r P)                     R = (r P - 2 (A0 + r A1) + P (W + r P)) / P (1 - W - r P)

    Args:
        vote_K: float64 [K], less their weighted mean.
        weight_K: float64 [K], sums to 1.
    """
    others_K = np.bincount(cluster_K, weight_K)[cluster_K] - weight_K
    squares, pairs = float((weight_K**2).sum()), float((weight_K * others_K).sum())
    variance = float(weight_K @ vote_K**2)
    if pairs <= _NOTHING or variance <= _NOTHING:
        return 0.0, 0.0, 1 - squares
    product = float((np.bincount(cluster_K, weight_K * vote_K) ** 2).sum() - ((weight_K * vote_K) ** 2).sum())
    ratio = product / pairs / variance
    a0, a1 = float((weight_K**2 * others_K).sum()), float((weight_K * others_K**2).sum())
    r = (ratio * pairs * (1 - squares) + 2 * a0 - squares * pairs) / (pairs - 2 * a1 + pairs**2 * (1 + ratio))
    r = min(max(r, 0.0), 1.0)
    noise = 2 * float((np.bincount(cluster_K, weight_K**2) ** 2).sum() - (weight_K**4).sum()) / pairs**2 * (1 - r) ** 2
    return r, noise, 1 - squares - r * pairs
