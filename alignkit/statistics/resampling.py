"""Bootstrap over prompts, or over clusters of prompts that are no independent evidence of each other.

Prompts of one source or template tend to be won or lost together, and so do copies of one prompt: a whole cluster is
drawn or not. The interval is the expanded percentile interval (Hesterberg 2015, The American Statistician 69:371-386):
the bootstrap's spread is too small by a factor known from the clusters' sizes, and normal quantiles are too short for
few clusters, so that the percentiles are taken further out:

    level of a tail = Phi(t(0.92 alpha / 2; G_eff - 1) / sqrt(1 + S2 - 2 S3 / S2))   w_c = size of cluster c / prompts
    G_eff = 1 / S2, S2 = sum w_c^2, S3 = sum w_c^3         (prompts by themselves: G_eff = n, the root is (n - 1) / n)

t is Student's quantile; G_eff is the number of equal clusters that would be as informative (Carter, Schnepel and
Steigerwald 2017). The factor 0.92 is ours: with many correlated clusters the percentiles covered 94.9 % at a level of
95 % (bench/verdict_calibration.py), and a verdict should never be surer than it says. A bound is a rate that occurs
among the resamples, the outer one where the level falls between two.

No resample lies beyond the best and the worst cluster, so that with few clusters no percentile is far enough out: three
that are all won would be certain, and between equal models that happens in one case of four. Below 20 effective
clusters the interval is Student's (`few_clusters`); below 5 nothing is said of others.

How far the spread between few clusters falls short of a mean's variance, and how many degrees of freedom it has, depend
on how strongly prompts of a cluster go together. That is estimated from the same spread. With n_c the size of cluster
c, s^2 the variance of a prompt and r the correlation of two of a cluster,

    v_c = r + (1 - r) / n_c                       variance of cluster c's mean, over s^2; the mean's is sum w_c^2 v_c
    Q = sum_c w_c^2 (mean of c - mean)^2          of expectation s^2 E, E = sum_c u_c (1 + S2 - 2 w_c), u_c = w_c^2 v_c
    se^2 = Q sum w_c^2 v_c / E                    at the r from 0 to 1 with Q = s^2 E, which is linear in r
    d = E^2 / (sum_cd u_c u_d (S2 - w_c - w_d)^2 + sum_c u_c^2 (1 + 2 S2 - 4 w_c))

d are the degrees of freedom of Bell and McCaffrey (2002, Survey Methodology 28:169-181). At an r that is itself
estimated, from unequal clusters, they are too few: equal models are called different in 2.5 to 3.3 % of cases at 4 %.
With G_eff - 1 it is 4.9 %. Their mean keeps the 4 %. Of equal clusters both are G - 1.
Shape letters: P prompts, G clusters, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

CAUTION = 0.92  # of the nominal tails: with it the worst simulated setting still covers what its level says
FEW_CAUTION = 0.8  # the same for Student's t over few clusters whose means may be skewed in any way
MIN_CLUSTERS = 5  # effective ones; with fewer there is no interval
FEW_CLUSTERS = 20  # effective ones; with fewer the interval is Student's
MAX_KINDS = 64  # with more kinds of clusters (sum and size), clusters are drawn one by one
_MIN_BEYOND = 10  # resamples beyond a bound; a percentile with fewer is a guess
_DRAWN_AT_ONCE = 1 << 21  # numbers held in memory at once


@dataclass(frozen=True)
class Clusters:
    """Which prompts are drawn together. `number_P` int, 0 .. `num` - 1."""

    number_P: np.ndarray
    num: int

    @classmethod
    def of(cls, names: Sequence[Hashable]) -> Clusters:
        """Prompts with equal names are one cluster; numbered by first appearance."""
        numbers: dict[Hashable, int] = {}
        number_P = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
        return cls(number_P, len(numbers))

    @classmethod
    def single(cls, num_prompts: int) -> Clusters:
        """Every prompt by itself."""
        return cls(np.arange(num_prompts), num_prompts)

    def where(self, mask_P: np.ndarray) -> Clusters:
        """The clusters of some of the prompts."""
        return Clusters.of(self.number_P[mask_P].tolist())

    @property
    def sizes_G(self) -> np.ndarray:
        return np.bincount(self.number_P, minlength=self.num)

    @property
    def effective(self) -> float:
        """Number of equal clusters that would be as informative: n^2 / sum of squared sizes."""
        return float(len(self.number_P) ** 2 / (self.sizes_G.astype(float) ** 2).sum()) if self.num else 0.0

    @property
    def too_few(self) -> str:
        """Why they say nothing of other clusters; empty where they do. Prompts by themselves are never too few."""
        if self.num == len(self.number_P) or self.effective > MIN_CLUSTERS - 1e-6:
            return ""
        alike = "" if np.ptp(self.sizes_G) == 0 else f", as informative as {self.effective:.1f} equal ones"
        return f"only {self.num} clusters of prompts{alike}: at least {MIN_CLUSTERS} are needed"

    @property
    def are_few(self) -> bool:
        """Whether the interval is Student's. Prompts by themselves are never few clusters."""
        return self.num < len(self.number_P) and self.effective < FEW_CLUSTERS


def tail(clusters: Clusters, level: float) -> float | None:
    """Share of the resampled means beyond each bound of the two-sided interval; None where nothing can be said.

    Args:
        level: of the interval, 0.95 for example.
    """
    if clusters.too_few or clusters.effective <= 1.5 or _shrinkage(clusters) <= 0:
        return None
    quantile = t.ppf(CAUTION * (1 - level) / 2, clusters.effective - 1)
    return float(norm.cdf(quantile / math.sqrt(_shrinkage(clusters))))


def few_clusters(x_P: np.ndarray, clusters: Clusters) -> tuple[float, float]:
    """Standard error of a mean over few clusters, and its degrees of freedom (the module's text has the formulas).

    Args:
        x_P: float64 [P], not all the same number.
    """
    size_G = clusters.sizes_G.astype(float)
    share_G = size_G / len(x_P)
    s2 = float((share_G**2).sum())
    shown_G = share_G**2 * (1 + s2 - 2 * share_G)  # of a cluster's variance, what Q shows
    spread_now, apart, alike = spread(x_P, clusters), float((shown_G / size_G).sum()), float(shown_G.sum())
    r = min(max((spread_now**2 / float(x_P.var(ddof=1)) - apart) / (alike - apart), 0.0), 1.0)
    variance_G = r + (1 - r) / size_G
    expected, parts_G = float((shown_G * variance_G).sum()), share_G**2 * variance_G
    u0, u1, u2 = (float((parts_G * share_G**k).sum()) for k in range(3))
    between = s2**2 * u0**2 - 4 * s2 * u0 * u1 + 2 * u0 * u2 + 2 * u1**2  # the double sum of d
    freedom = expected**2 / (between + float((parts_G**2 * (1 + 2 * s2 - 4 * share_G)).sum()))
    return spread_now * math.sqrt(u0 / expected), (freedom + clusters.effective - 1) / 2


def spread(x_P: np.ndarray, clusters: Clusters) -> float:
    """What resampling clusters makes of a mean's standard error: sqrt(sum_c (sum of (x - mean) in c)^2) / P."""
    sums_G = np.bincount(clusters.number_P, x_P - x_P.mean(), minlength=clusters.num)
    return math.sqrt(float((sums_G**2).sum())) / len(x_P)


def variance_over(x_P: np.ndarray, units: Clusters, strata: Clusters | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Variance of means over clusters with its degrees of freedom; [...] twice.

    sum_c (sum of (x - mean) in c)^2 / P^2 over the share that clusters show of it (`spread`), G_eff - 1. With strata it
    is that of `intervals.within_strata`, each stratum about its own mean, with Satterthwaite's degrees of freedom.

    Args:
        x_P: float64 [..., P] without nan; the last axis is prompts.
        units: at least two, within a stratum where there are some; a single one of a stratum is joined with another
            before (`joined_singles`).
    """
    num = x_P.shape[-1]
    if strata is None:
        sums_G = _sums(x_P - x_P.mean(-1, keepdims=True), units)
        variance = (sums_G**2).sum(-1) / num**2 / _shrinkage(units)
        return variance, np.full_like(variance, max(units.effective - 1, 1.0))
    stratum_P = strata.number_P
    centred = x_P - (_sums(x_P, strata) / strata.sizes_G)[..., stratum_P]
    first_G = np.unique(units.number_P, return_index=True)[1]
    of_stratum_G = Clusters(stratum_P[first_G], strata.num)
    units_S = of_stratum_G.sizes_G.astype(float)
    variance_S = _sums(_sums(centred, units) ** 2, of_stratum_G) / num**2 * units_S / np.maximum(units_S - 1, 1)
    variance = variance_S.sum(-1)
    doubt = (variance_S**2 / np.maximum(units_S - 1, 1)).sum(-1)
    return variance, np.where(doubt > 0, variance**2 / np.where(doubt > 0, doubt, 1.0), units.num - strata.num)


def joined_singles(strata: Clusters, units: Clusters) -> Clusters:
    """Strata with a single unit taken together, or with the smallest other one: one unit says nothing of its spread."""
    pairs = np.unique(np.stack([strata.number_P, units.number_P]), axis=1)
    units_S = np.bincount(pairs[0], minlength=strata.num)
    single_S = units_S == 1
    if not single_S.any():
        return strata
    target = int(np.flatnonzero(single_S)[0])
    joined_S = np.where(single_S, target, np.arange(strata.num))
    if single_S.sum() == 1 and strata.num > 1:
        others = np.where(single_S, np.iinfo(np.int64).max, units_S)
        joined_S[target] = int(np.argmin(others))
    return Clusters.of(joined_S[strata.number_P].tolist())


def _sums(x_P: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Sums over each cluster; float64 [..., G]."""
    if clusters.num == x_P.shape[-1]:
        order = np.argsort(clusters.number_P)
        return x_P[..., order]
    order = np.argsort(clusters.number_P, kind="stable")
    starts = np.cumsum(clusters.sizes_G) - clusters.sizes_G
    result: np.ndarray = np.add.reduceat(x_P[..., order], starts, axis=-1)
    return result


def _shrinkage(clusters: Clusters) -> float:
    """Share of a mean's variance over clusters that resampling them shows, if all clusters' means vary alike."""
    share_G = clusters.sizes_G / len(clusters.number_P)
    s2, s3 = float((share_G**2).sum()), float((share_G**3).sum())
    return 1 + s2 - 2 * s3 / s2


def resampled_means(x_P: np.ndarray, clusters: Clusters, *, rng: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Means of `num_resamples` resamples, each of as many clusters as there are; float64 [B].

    Clusters with the same sum and size are alike: where there are few such kinds, only how often each kind is drawn is
    drawn, which has the same distribution.
    """
    sums_G = np.bincount(clusters.number_P, x_P, minlength=clusters.num)
    sizes_G = clusters.sizes_G
    kinds, first, counts = np.unique(np.stack([sums_G, sizes_G]), axis=1, return_index=True, return_counts=True)
    if len(counts) <= MAX_KINDS:
        order = np.argsort(first)  # of first appearance, so that swapping the sides mirrors the resamples
        kinds, counts = kinds[:, order], counts[order]
        drawn = rng.multinomial(clusters.num, counts / counts.sum(), size=num_resamples)
        return (drawn @ kinds[0]) / (drawn @ kinds[1])
    means = []
    size = max(1, _DRAWN_AT_ONCE // clusters.num)
    for at in range(0, num_resamples, size):
        index = rng.integers(0, clusters.num, size=(min(size, num_resamples - at), clusters.num), dtype=np.int32)
        sizes_B = sizes_G[0] * clusters.num if np.ptp(sizes_G) == 0 else np.take(sizes_G, index).sum(1)
        means.append(np.take(sums_G, index).sum(1) / sizes_B)
    return np.concatenate(means)


def resampled_counts(clusters: Clusters, *, rng: np.random.Generator, num_resamples: int) -> Iterator[np.ndarray]:
    """Yield how often each prompt is in each resample, float32 [P, some of B], until there were `num_resamples`."""
    size = max(1, (_DRAWN_AT_ONCE >> 3) // max(clusters.num, len(clusters.number_P)))
    for at in range(0, num_resamples, size):
        num = min(size, num_resamples - at)
        index = rng.integers(0, clusters.num, size=(num, clusters.num)) + clusters.num * np.arange(num)[:, None]
        counts_BG = np.bincount(index.ravel(), minlength=num * clusters.num).reshape(num, clusters.num)
        yield np.ascontiguousarray(counts_BG.T[clusters.number_P], dtype=np.float32)


def resampled_interval(value: float, values_B: np.ndarray, clusters: Clusters, level: float) -> tuple[float, float]:
    """Interval of any number that was computed on resampled clusters; it holds the number itself.

    Args:
        values_B: float [B], in the unit of `value`.
        clusters: not too few (`Clusters.too_few`).
    """
    share = tail(clusters, level)
    if share is None:
        raise ValueError("too few clusters for an interval")
    if clusters.are_few:
        error = float(values_B.std()) / math.sqrt(_shrinkage(clusters))
        half = -float(t.ppf(FEW_CAUTION * (1 - level) / 2, clusters.effective - 1)) * error
        low, high = value - half, value + half
    else:
        low, high = bounds(values_B, share)
        if share * len(values_B) < _MIN_BEYOND:  # no percentile is far enough out: the tail is a normal one's
            half = -float(norm.ppf(share)) * float(values_B.std())
            low, high = min(low, value - half), max(high, value + half)
    return min(low, value), max(high, value)


def bounds(means_B: np.ndarray, share: float) -> tuple[float, float]:
    """The resampled means with at most a share `share` of all beyond them."""
    ordered_B = np.sort(means_B)
    beyond = int(share * len(ordered_B))
    return float(ordered_B[beyond]), float(ordered_B[len(ordered_B) - 1 - beyond])
