"""The win rate that a model of length reads off at equal length, for own prompts and an own baseline.

    P(ours wins prompt p) = sigmoid(b0 + b1 tanh(dl_p / sd(dl)))      dl = characters of theirs - characters of ours
    length-adjusted win rate = 100 x sigmoid(b0): what is predicted where both answers are equally long

A logistic regression on outcomes 1, 0.5, 0 (a tie is half a win), refitted in each resample, sd(dl) included. It is the
idea of AlpacaEval's length control without its tables (length_control.py), hence another name for another number.
It assumes that length acts on the log-odds through this one curve, the same for every prompt, and that what else
differs between the models does not depend on length. Neither can be seen in the judgements, so this is a model's
reading and not what a judge said of equally long answers. It fails where quality and length share a cause. Take two
kinds of prompts: on one ours is the better and mostly the longer answer, on the other it is worse, and length has no
effect on the judge. The curve then takes the wins of the first kind for the work of length. Simulated with 800
prompts and a truth of 50.0 the estimate is 44.9 on average, and the 95 % interval holds the truth in 29 of 100 cases.
Where nearly all answers of one model are the longer ones, dl = 0 lies outside the data and nothing but the assumed
curve would give the number: then there is none.
A weak normal prior (ridge 0.02) keeps b0 and b1 finite where every longer answer wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkit.judging.length_control import standardised_length
from alignkit.statistics.logistic import fit_resamples, sigmoid
from alignkit.statistics.resampling import Clusters, resampled_counts, resampled_interval

MIN_SHARE = 0.1  # of the pairs in which ours is longer, and in which it is shorter
MIN_PAIRS = 10  # the same as a number of pairs
_RIDGE = 0.02


@dataclass(frozen=True)
class Adjusted:
    """The model's win rate at equal length in percent with its interval, or None and why there is no number."""

    rate: float | None
    low: float | None
    high: float | None
    reason: str = ""


def length_adjusted(
    outcome_P: np.ndarray,
    delta_chars_P: np.ndarray,
    clusters: Clusters,
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = 10_000,
) -> Adjusted:
    """Fit the model and its interval over the same resampled units as the win rate's.

    Args:
        outcome_P: float64 from 0 to 1, without nan.
        delta_chars_P: characters of the baseline's answer - of ours.
    """
    reason = _why_not(outcome_P, delta_chars_P)
    if reason or clusters.too_few:
        return Adjusted(None, None, None, reason or clusters.too_few)
    ones_PB = np.ones((len(outcome_P), 1))
    rate = float(_rates(outcome_P, delta_chars_P, ones_PB, start_K=np.zeros(2), refinements=4)[0])
    start_K = np.array([0.0, np.log(rate / (100 - rate))])
    counts = resampled_counts(clusters, rng=np.random.default_rng(seed), num_resamples=num_resamples)
    rates = [_rates(outcome_P, delta_chars_P, weight_PB, start_K=start_K) for weight_PB in counts]
    low, high = resampled_interval(rate, np.concatenate(rates), clusters, level)
    return Adjusted(rate, max(0.0, low), min(100.0, high))


def _rates(
    outcome_P: np.ndarray,
    delta_chars_P: np.ndarray,
    weight_PB: np.ndarray,
    *,
    start_K: np.ndarray,
    refinements: int = 1,
) -> np.ndarray:
    own_PB, ones_PK = standardised_length(delta_chars_P, weight_PB), np.ones((len(outcome_P), 1))
    for _ in range(refinements):
        w_KB = fit_resamples(own_PB, ones_PK, outcome_P, weight_PB, start_K=start_K, slope_K=np.zeros(2), ridge=_RIDGE)
        start_K = w_KB[:, 0]
    return 100 * sigmoid(w_KB[1])


def _why_not(outcome_P: np.ndarray, delta_chars_P: np.ndarray) -> str:
    needed = max(MIN_PAIRS, int(np.ceil(MIN_SHARE * len(outcome_P))))
    longer, shorter = int((delta_chars_P < 0).sum()), int((delta_chars_P > 0).sum())
    if min(longer, shorter) < needed:
        rare = "longer or shorter" if max(longer, shorter) < needed else "shorter" if shorter < longer else "longer"
        return (
            f"too few answers are {rare} than the baseline's: longer on {longer}, shorter on {shorter} of "
            f"{len(outcome_P)} answers, at least {needed} of each are needed"
        )
    if np.ptp(outcome_P) == 0:
        return "every prompt has the same outcome"
    return ""
