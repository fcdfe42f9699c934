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
Shape letters: P prompts, G clusters, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

CAUTION = 0.92  # of the nominal tails: with it the worst simulated setting still covers what its level says
MAX_KINDS = 64  # with more kinds of clusters (sum and size), clusters are drawn one by one
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


def tail(clusters: Clusters, level: float) -> float | None:
    """Share of the resampled means beyond each bound of the two-sided interval; None where nothing can be said.

    Args:
        level: of the interval, 0.95 for example.
    """
    share_G = clusters.sizes_G / len(clusters.number_P)
    s2, s3 = float((share_G**2).sum()), float((share_G**3).sum())
    shrinkage = 1 + s2 - 2 * s3 / s2
    if clusters.effective <= 1.5 or shrinkage <= 0:
        return None
    return float(norm.cdf(t.ppf(CAUTION * (1 - level) / 2, clusters.effective - 1) / math.sqrt(shrinkage)))


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


def bounds(means_B: np.ndarray, share: float) -> tuple[float, float]:
    """The resampled means with at most a share `share` of all beyond them."""
    ordered_B = np.sort(means_B)
    beyond = int(share * len(ordered_B))
    return float(ordered_B[beyond]), float(ordered_B[len(ordered_B) - 1 - beyond])
