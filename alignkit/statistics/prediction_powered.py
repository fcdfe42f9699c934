"""The mean that a few careful answers would have on all prompts, helped by cheap predictions on every one of them.

People vote on n of N prompts, a judge scores all N. With y the votes, f the judge's outcomes, pi_i the chance that
prompt i was asked about, and b, c from a regression of y on f weighted by 1 / pi,

    theta = c + b mean_N(f) + 1/N sum_asked e_i / pi_i                e_i = y_i - c - b f_i
    V     = 1/N^2 sum_asked (1 - pi_i) / pi_i^2 (e_i / (1 - h_i))^2 + var(y) / N

h is the regression's leverage, as in HC3 (MacKinnon and White 1985). The first part of V is what asking about some
prompts alone leaves open, the second what the prompts themselves do. The interval is Student's with n - 2 degrees of
freedom, on the log odds of theta, where it is less skewed, with its tails at 0.8 of their nominal share: of 50
yes-or-no votes, of which few disagree with the judge, the plain one held the truth in 92 of 100 cases
(bench/verdict_votes.py).
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

FLOOR = 0.2  # of the uniform chance; no pair is asked about less often
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
    """How much each prompt is favoured, float64 [N] of mean 1, from how unsure the judges are of it; FLOOR at least.

    Args:
        disagreement_N: at least 0; all 0 favours none.
    """
    total = float(disagreement_N.sum())
    share_N = disagreement_N / total * len(disagreement_N) if total > 0 else np.ones(len(disagreement_N))
    return FLOOR + (1 - FLOOR) * share_N


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
    votes_K: np.ndarray, at_K: np.ndarray, judged_N: np.ndarray, chance_N: np.ndarray, *, level: float = 0.95
) -> Powered:
    """Estimate the mean vote over all prompts.

    Args:
        votes_K: float64 [K] from 0 to 1, at least MIN_VOTES.
        at_K: int [K], which prompts they are of.
        judged_N: float64 [N], the judge's outcomes.
        chance_N: float64 [N] above 0, that a prompt was asked about.

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
    leverage_K = weight_K + (weight_K * judge_K**2 / judge_variance if judge_variance > _NOTHING else 0.0)

    def interval(b: float, leverage_K: np.ndarray, freedom: int) -> tuple[float, float, float]:
        left_K = vote_K - b * judge_K
        mean = vote_mean + b * (float(judged_N.mean()) - judge_mean) + float((left_K / chance_K).sum()) / size
        apart_K = left_K / np.maximum(1 - leverage_K, 0.1)
        spread = float(((1 - chance_K) / chance_K**2 * apart_K**2).sum()) / size**2
        error = math.sqrt(spread + vote_variance * n / (n - 1) / size)
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
