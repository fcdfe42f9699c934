"""Guards: how often does a model pass that is worse by the margin, and how often one that is equal?

guard_wrong_pass    passes where the true loss is the margin; the most
guard_power         passes of equal models at the default margin; the least

Scores of several kinds: right or wrong answers, most of them alike (answers); losses in a few prompts and no gains
(rare); rules satisfied in part (graded); a judge's outcomes (judge); nats per token, normal (nats) and with a long tail
of losses, skewness -3.3 (skewed). Kinds of prompts are strata with half, a quarter, 15 and 10 % of the clusters, and in
nats one gains what the others lose. Where there are several kinds, clusters have one and three shares in turn.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from alignkit.judging.guards import bound_and_margin
from alignkit.statistics.resampling import Clusters
from bench.verdict_draws import draw_latent, outcomes_of

GOALS = {"guard_wrong_pass": ("at most", 0.05), "guard_power": ("at least", 0.78)}
SCORES: dict[str, str] = {
    "answers": "rules",
    "rare": "rules",
    "graded": "rules",
    "judge": "judge",
    "nats": "perplexity",
    "skewed": "perplexity",
}
KINDS = (0.5, 0.25, 0.15, 0.1)  # share of the clusters
SKEW = 0.75  # standard deviation of the lognormal's logarithm


def settings() -> list[dict[str, Any]]:
    return [
        {"score": score, "prompts": n, "clusters": g, "kinds": kinds, "correlation": rho, "loss": loss}
        for score in SCORES
        for n, g in ((100, 20), (300, 60), (1000, 100))
        for kinds in (1, len(KINDS))
        for rho in (0.0, 0.1, 0.3)
        for loss in ((0.0, 0.03, 0.1) if score == "rare" else (0.0, 0.05))
    ]


def simulate(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    """Shares of guards that pass, at the margin that is the loss, or at the default where there is none."""
    units, kinds = _design(setting["prompts"], setting["clusters"], setting["kinds"])
    by, loss = SCORES[setting["score"]], setting["loss"]
    passed, margins = 0, []
    for _ in range(num):
        latent_P = draw_latent(units, setting["correlation"], rng)
        difference_P = _difference(setting["score"], latent_P, loss, rng) + _shift(setting, kinds)
        low, default = bound_and_margin(difference_P, kinds, units, by=by)
        passed += low > -(loss or default)
        margins.append(100 * default)
    return {"passed": passed / num, "margin": float(np.median(margins))}


def is_beyond(setting: dict[str, Any], shares: dict[str, Any]) -> bool:
    return bool(shares["passed"] > 0.05 if setting["loss"] else shares["passed"] < 0.78)


def figures(cells: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    return {
        "guard_wrong_pass": max(shares["passed"] for s, shares in cells if s["loss"]),
        "guard_power": min(shares["passed"] for s, shares in cells if not s["loss"]),
    }


def _difference(score: str, latent_P: np.ndarray, loss: float, rng: np.random.Generator) -> np.ndarray:
    """Ours less theirs as a share, as a judge's outcome less a half, or in nats; its mean is -loss. float64 [P]."""
    if score == "answers":
        return _ternary(latent_P, 0.7, -loss)
    if score == "rare":
        return np.where(latent_P < norm.ppf(loss), -1.0, 0.0)
    if score == "graded":
        return _ternary(latent_P, 0.5, -1.5 * loss) * rng.choice([1 / 3, 2 / 3, 1.0], len(latent_P))
    if score == "judge":
        return _ternary(latent_P, 0.1, -2 * loss) / 2
    if score == "nats":
        return -loss + 0.3 * latent_P
    return -loss - 0.2 * (np.exp(SKEW * latent_P) - math.exp(SKEW**2 / 2))


def _ternary(latent_P: np.ndarray, ties: float, mean: float) -> np.ndarray:
    """1, 0 or -1."""
    return 2 * outcomes_of(latent_P, ties, (1 + mean) / 2) - 1


def _shift(setting: dict[str, Any], kinds: Clusters) -> np.ndarray | float:
    """What the first kind gains, and the others lose, in nats; nothing over all prompts. float64 [P]."""
    if SCORES[setting["score"]] != "perplexity" or kinds.num == 1:
        return 0.0
    is_first_P = kinds.number_P == 0
    return 0.2 * (is_first_P - is_first_P.mean())


@functools.cache
def _design(num_prompts: int, num_clusters: int, num_kinds: int) -> tuple[Clusters, Clusters]:
    """Clusters of prompts, and the kinds that the clusters are of."""
    weight_G = np.where(np.arange(num_clusters) % 2 == 0, 1.0, 3.0) if num_kinds > 1 else np.ones(num_clusters)
    end_G = np.round(np.cumsum(weight_G) / weight_G.sum() * num_prompts).astype(int)
    unit_P = np.searchsorted(end_G, np.arange(num_prompts), side="right")
    end_S = np.round(np.cumsum(KINDS if num_kinds > 1 else (1.0,)) * num_clusters).astype(int)
    kind_P = np.searchsorted(end_S, unit_P, side="right")
    return Clusters.of(unit_P.tolist()), Clusters.of(kind_P.tolist())
