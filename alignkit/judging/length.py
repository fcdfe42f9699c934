"""What a verdict says about length: whether the judge may have rewarded longer answers rather than better ones.

Beside the rate at equal length (length_adjusted.py, length_control.py), without any model: the raw rate on pairs within
10 % of equal length, the rate by how much longer ours is, the share of wins that went to the longer answer, and within
prompts the correlation of the difference in score with the log ratio of lengths (scores of different prompts are not
comparable, differences within a prompt are). Lengths are characters, without thinking.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import rankdata

from alignkit.judging.length_adjusted import Adjusted, length_adjusted
from alignkit.judging.length_control import Tables, length_controlled, length_controlled_resamples
from alignkit.statistics.resampling import Clusters, resampled_counts, resampled_interval
from alignkit.statistics.win_rate import WinRate, win_rate

NEAR = 0.1  # lengths that differ by at most this share of the longer one count as equal
_EDGES = (0.5, 0.9, 1 / 0.9, 2.0)  # of the ratio ours / theirs
_LABELS = ("under half as long", "shorter", "within 10 %", "longer", "over twice as long")
_MIN_CORRELATED = 10


class Bucket(BaseModel):
    """Raw win rate on the pairs with one range of length ratios, in percent; no interval below two pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_prompts: int
    rate: float | None
    low: float
    high: float


class LengthFacts(BaseModel):
    """Everything about length in one verdict; rates in percent, correlations from -1 to 1, None where undefined."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    estimator: str = Field(
        description="length_adjusted_win_rate, or length_controlled_win_rate with AlpacaEval's tables"
    )
    rate: float | None
    low: float | None
    high: float | None
    reason: str = Field("", description="why there is no rate at equal length")
    near_equal: Bucket = Field(description="pairs within 10 % of equal length")
    buckets: tuple[Bucket, ...]
    longer_wins: float | None = Field(description="share of decided pairs of unequal length that the longer one won")
    num_decided: int = Field(description="decided pairs of unequal length")
    pearson: float | None = Field(description="of score difference and log length ratio, within prompts")
    spearman: float | None


@dataclass(frozen=True)
class Pairs:
    """Judged pairs. All [P]: `outcome` from 0 to 1 or nan, lengths in characters, `difference` of the scores."""

    outcome_P: np.ndarray
    ours_chars_P: np.ndarray
    theirs_chars_P: np.ndarray
    difference_P: np.ndarray
    clusters: Clusters

    def known(self) -> Pairs:
        """Those with an outcome."""
        known_P = ~np.isnan(self.outcome_P)
        return Pairs(
            self.outcome_P[known_P],
            self.ours_chars_P[known_P],
            self.theirs_chars_P[known_P],
            self.difference_P[known_P],
            self.clusters.where(known_P),
        )


def length_facts(
    pairs: Pairs,
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = 10_000,
    tables: Tables | None = None,
    row_P: np.ndarray | None = None,
) -> LengthFacts | None:
    """Measure everything about length; None with fewer than two judged pairs.

    Args:
        tables, row_P: AlpacaEval's tables and each pair's place in them, for its own estimator.
    """
    known_P = ~np.isnan(pairs.outcome_P)
    pairs = pairs.known()
    if len(pairs.outcome_P) < 2:
        return None
    delta_P = pairs.theirs_chars_P - pairs.ours_chars_P
    if tables is None or row_P is None:
        adjusted = length_adjusted(
            pairs.outcome_P, delta_P, pairs.clusters, seed=seed, level=level, num_resamples=num_resamples
        )
    else:
        adjusted = _controlled(pairs, delta_P, row_P[known_P], tables, seed, level, num_resamples)
    rated = _rater(pairs, seed=seed, level=level)
    longest_P = np.maximum(pairs.ours_chars_P, pairs.theirs_chars_P)
    ratio_P = (pairs.ours_chars_P + 1) / (pairs.theirs_chars_P + 1)
    bucket_P = np.digitize(ratio_P, _EDGES)
    decided_P = (pairs.outcome_P != 0.5) & (delta_P != 0)
    longer_P = (pairs.outcome_P > 0.5) == (delta_P < 0)
    pearson, spearman = _correlations(pairs.difference_P, np.log(ratio_P))
    return LengthFacts(
        estimator="length_adjusted_win_rate" if tables is None else "length_controlled_win_rate",
        rate=adjusted.rate,
        low=adjusted.low,
        high=adjusted.high,
        reason=adjusted.reason,
        near_equal=rated("within 10 %", np.abs(delta_P) <= NEAR * longest_P),
        buckets=tuple(rated(label, bucket_P == number) for number, label in enumerate(_LABELS)),
        longer_wins=float(longer_P[decided_P].mean()) if decided_P.any() else None,
        num_decided=int(decided_P.sum()),
        pearson=pearson,
        spearman=spearman,
    )


def agrees(facts: LengthFacts | None, answer: str) -> bool | None:
    """Whether the rate at equal length is on the verdict's side too, with its interval; None where nothing is known.

    Only better and worse can be contradicted.
    """
    if facts is None or facts.low is None or facts.high is None or answer not in ("better", "worse"):
        return None
    return facts.low > 50 if answer == "better" else facts.high < 50


def _controlled(
    pairs: Pairs, delta_P: np.ndarray, row_P: np.ndarray, tables: Tables, seed: int, level: float, num_resamples: int
) -> Adjusted:
    if np.ptp(delta_P) == 0:
        return Adjusted(None, None, None, "every pair has the same difference in length")
    fitted = length_controlled(pairs.outcome_P, delta_P, row_P, tables)
    if pairs.clusters.too_few:
        return Adjusted(fitted.rate, 0.0, 100.0)
    counts = resampled_counts(pairs.clusters, rng=np.random.default_rng(seed), num_resamples=num_resamples)
    rates_B = length_controlled_resamples(pairs.outcome_P, delta_P, row_P, tables, counts=counts, fitted=fitted)
    low, high = resampled_interval(fitted.rate, rates_B, pairs.clusters, level)
    return Adjusted(fitted.rate, max(0.0, low), min(100.0, high))


def _rater(pairs: Pairs, *, seed: int, level: float) -> Callable[[str, np.ndarray], Bucket]:
    def rated(name: str, mask_P: np.ndarray) -> Bucket:
        rate: WinRate = win_rate(
            pairs.outcome_P[mask_P], seed=seed, level=level, num_resamples=2000, clusters=pairs.clusters.where(mask_P)
        )
        return Bucket(name=name, num_prompts=rate.num_prompts, rate=rate.rate, low=rate.low, high=rate.high)

    return rated


def _correlations(difference_P: np.ndarray, log_ratio_P: np.ndarray) -> tuple[float | None, float | None]:
    known_P = np.isfinite(difference_P)
    a_P, b_P = difference_P[known_P], log_ratio_P[known_P]
    if len(a_P) < _MIN_CORRELATED or np.ptp(a_P) == 0 or np.ptp(b_P) == 0:
        return None, None
    pearson = float(np.corrcoef(a_P, b_P)[0, 1])
    spearman = float(np.corrcoef(rankdata(a_P), rankdata(b_P))[0, 1])
    return (pearson, spearman) if math.isfinite(pearson) and math.isfinite(spearman) else (None, None)
