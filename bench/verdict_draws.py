"""Simulated judgements: outcomes of two models on prompts in clusters, with a known true win rate.

Within a cluster outcomes are correlated through a normal effect behind a threshold: `correlation` is that of the latent
numbers. Unequal clusters have geometric sizes, each 0.8 of the one before, as sources have.
Shape letters: P prompts, G clusters.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.stats import multivariate_normal, norm

from alignkit.statistics.resampling import Clusters

SHRINKS_BY = 0.8


@functools.cache
def make_clusters(num_prompts: int, num_clusters: int, *, unequal: bool) -> Clusters:
    """Clusters of all prompts; 0 clusters: every prompt by itself."""
    if not num_clusters:
        return Clusters.single(num_prompts)
    weight_G = SHRINKS_BY ** np.arange(num_clusters) if unequal else np.ones(num_clusters)
    end_G = np.round(np.cumsum(weight_G) / weight_G.sum() * num_prompts).astype(int)
    return Clusters.of(np.searchsorted(end_G, np.arange(num_prompts), side="right").tolist())


def draw_latent(clusters: Clusters, correlation: float, rng: np.random.Generator) -> np.ndarray:
    """Standard normal numbers [P], correlated within clusters."""
    latent_P = rng.standard_normal(len(clusters.number_P))
    if correlation:
        effect_G = rng.standard_normal(clusters.num)
        latent_P = math.sqrt(1 - correlation) * latent_P + math.sqrt(correlation) * effect_G[clusters.number_P]
    return latent_P


def outcomes_of(latent_P: np.ndarray, ties: float, rate: float) -> np.ndarray:
    """Outcomes 1, 0.5, 0 with the mean `rate` (a share) and a share `ties` of ties."""
    wins = rate - ties / 2
    return np.where(latent_P < norm.ppf(wins), 1.0, np.where(latent_P < norm.ppf(min(wins + ties, 1.0)), 0.5, 0.0))


def draw_outcomes(
    clusters: Clusters, correlation: float, ties: float, rate: float, rng: np.random.Generator
) -> np.ndarray:
    return outcomes_of(draw_latent(clusters, correlation, rng), ties, rate)


@functools.cache
def outcome_correlation(correlation: float, ties: float, rate: float) -> float:
    """Correlation of two outcomes in one cluster."""
    if not correlation:
        return 0.0
    cuts = [float(norm.ppf(rate - ties / 2)), float(norm.ppf(min(rate + ties / 2, 1.0)))]
    joint = multivariate_normal(mean=[0, 0], cov=[[1, correlation], [correlation, 1]])
    both = sum(float(joint.cdf([a, b])) for a in cuts for b in cuts) / 4  # an outcome is the mean of two indicators
    return (both - rate**2) / outcome_variance(ties, rate)


def outcome_variance(ties: float, rate: float) -> float:
    """Variance of one outcome."""
    return (1 - ties) / 4 - (rate - 0.5) ** 2
