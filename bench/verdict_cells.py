"""One look at equal and unequal models: false alarms, coverage, power with few clusters and at the planned difference.

    aa_false_alarm       better or worse between equal models; the worst cell
    interval_coverage    intervals that hold the true rate, at 50, 60 and 75 %; the least
    power_few_clusters   power at 5, 6, 8, 10 and 20 effective clusters over that of the t test over clusters that knows
                         their correlation: what its standard error has to be multiplied by, and its degrees of freedom;
                         the least
    power_at_planned     better, where the difference is what the planner says so many prompts find in 80 of 100 cases;
                         the least and the most

Probabilities are outcomes too (`soft`), of equal models: drawn evenly, in quarters, near a half, or a little above a
half but for a few prompts that are lost. They count in the first two figures.
Refused cells (under five effective clusters) are left out of alarms and coverage, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

from alignkit.judging.decision import decide
from alignkit.judging.planner import LEVEL, detectable, prompts_for
from alignkit.statistics.resampling import Clusters, spread
from alignkit.statistics.win_rate import win_rate
from bench.verdict_draws import draw_outcomes, make_clusters, outcome_correlation, outcome_variance

NUM_RESAMPLES = 2000  # 10,000 in the product, which moves a bound by about 0.02 standard errors
MARGIN = 3.0
NUM_PROMPTS = (20, 100, 500, 2000)
NUM_CLUSTERS = (0, 2, 3, 4, 6, 8, 10, 20, 100)
CORRELATIONS = (0.0, 0.1, 0.3)
TIES = (0.0, 0.3, 0.6)
RATES = (50.0, 60.0, 75.0)
EFFECTIVE = (5, 6, 8, 10, 20)
GOALS = {
    "aa_false_alarm": ("at most", 0.055),
    "interval_coverage": ("at least", 0.94),
    "power_few_clusters": ("at least", 0.9),
    "power_at_planned": ("at least", 0.78),
    "power_at_planned_most": ("at most", 0.84),
}


def settings() -> list[dict[str, Any]]:
    """Every cell's setting."""
    looks = [
        {
            "kind": "look",
            "prompts": n,
            "clusters": g,
            "unequal": unequal,
            "correlation": rho,
            "ties": ties,
            "rate": rate,
        }
        for n in NUM_PROMPTS
        for g in NUM_CLUSTERS
        for unequal in ((False, True) if g else (False,))
        for rho in (CORRELATIONS if g else (0.0,))
        for ties in TIES
        for rate in RATES
        if g <= n / 2 and rate / 100 + ties / 2 < 1
    ]
    few = [
        {"kind": "power", "effective": e, "unequal": unequal, "correlation": rho, "ties": ties}
        for e in EFFECTIVE
        for unequal in (False, True)
        for rho in CORRELATIONS
        for ties in (0.0, 0.6)
    ]
    planned = [
        {"kind": "planned", "prompts": n, "clusters": g, "unequal": unequal, "correlation": 0.1, "ties": ties}
        for n in (100, 500, prompts_for(5.0), 2000)
        for g in (0, 10, 20, 100)
        for unequal in ((False, True) if g else (False,))
        for ties in TIES
        if g <= n / 2
    ]
    soft = [
        {"kind": "soft", "prompts": n, "draw": draw, "rate": 50.0}
        for n in (20, 40, 100, 200, 500)
        for draw in SOFT_DRAWS
    ]
    return looks + few + planned + soft


def simulate(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, Any] | None:
    """Shares of `num` simulated looks; None where nothing is planned."""
    kinds = {"look": _look, "power": _power, "planned": _planned, "soft": _soft}
    return kinds[setting["kind"]](setting, num, rng)


def is_beyond(setting: dict[str, Any], shares: dict[str, Any]) -> bool:
    """Whether a cell misses its goal."""
    if setting["kind"] == "power":
        return bool(shares["ratio"] < 0.9)
    if setting["kind"] == "planned":
        return not 0.78 <= shares["better"] <= 0.84
    if shares["refused"]:
        return False
    return bool(shares["covered"] < 0.94 or (setting["rate"] == 50 and shares["better"] + shares["worse"] > 0.055))


def figures(cells: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    """The worst of all cells, for each figure."""
    looks = [(s, found) for s, found in cells if s["kind"] in ("look", "soft") and not found["refused"]]
    planned = [found["better"] for s, found in cells if s["kind"] == "planned"]
    return {
        "aa_false_alarm": max(found["better"] + found["worse"] for s, found in looks if s["rate"] == 50),
        "interval_coverage": min(found["covered"] for _, found in looks),
        "power_few_clusters": min(found["ratio"] for s, found in cells if s["kind"] == "power"),
        "power_at_planned": min(planned),
        "power_at_planned_most": max(planned),
        "cells_refused": sum(bool(found.get("refused")) for _, found in cells),
    }


def _look(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, Any]:
    clusters = make_clusters(setting["prompts"], setting["clusters"], unequal=setting["unequal"])
    if clusters.too_few:
        return {"refused": 1.0}
    return {"refused": 0.0, **_shares(clusters, setting, setting["rate"], num, rng)}


def _planned(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, Any] | None:
    clusters = make_clusters(setting["prompts"], setting["clusters"], unequal=setting["unequal"])
    size = setting["prompts"] / clusters.effective
    rho = setting["correlation"] if setting["clusters"] else 0.0
    icc = outcome_correlation(rho, setting["ties"], 0.5)
    found = detectable(setting["prompts"], ties=setting["ties"], cluster_size=size, icc=icc)
    if found is None:
        return None
    return {"difference": found, **_shares(clusters, setting, 50 + found, num, rng)}


def _soft(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    n, draw = setting["prompts"], SOFT_DRAWS[setting["draw"]]
    clusters = make_clusters(n, 0, unequal=False)
    return {"refused": 0.0, **_judged((draw(n, rng) for _ in range(num)), clusters, 50.0, num)}


def _rarely_lost(share: float, n: int, rng: np.random.Generator) -> np.ndarray:
    noise_P = rng.uniform(-0.01, 0.01, n)
    return np.where(rng.random(n) < share, 0.5 / share + noise_P, 0.0)


SOFT_DRAWS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "even": lambda n, rng: rng.random(n),
    "quarters": lambda n, rng: rng.integers(0, 5, n) / 4,
    "near a half": lambda n, rng: 0.5 + rng.uniform(-0.02, 0.02, n),
    "one in six lost": partial(_rarely_lost, 5 / 6),
    "one in twenty lost": partial(_rarely_lost, 0.95),
    "one in fifty lost": partial(_rarely_lost, 0.98),
}


def _shares(
    clusters: Clusters, setting: dict[str, Any], rate: float, num: int, rng: np.random.Generator
) -> dict[str, float]:
    rho = setting["correlation"] if setting["clusters"] else 0.0
    drawn = (draw_outcomes(clusters, rho, setting["ties"], rate / 100, rng) for _ in range(num))
    return _judged(drawn, clusters, rate, num)


def _judged(drawn: Iterable[np.ndarray], clusters: Clusters, rate: float, num: int) -> dict[str, float]:
    better = worse = covered = 0
    for number, outcome_P in enumerate(drawn):
        result = win_rate(outcome_P, seed=number, level=LEVEL, num_resamples=NUM_RESAMPLES, clusters=clusters)
        answer = decide(result, margin=MARGIN)
        better += answer == "better"
        worse += answer == "worse"
        covered += result.low - 1e-9 <= rate <= result.high + 1e-9
    return {"better": better / num, "worse": worse / num, "covered": covered / num}


def _power(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    """Power where the test that knows the correlation has 80 %, over that test's on the same draws."""
    clusters = _clusters_of(setting["effective"], unequal=setting["unequal"])
    rho, ties = setting["correlation"], setting["ties"]
    largest = 0.5 - ties / 2 - 0.01

    def missing(difference: float) -> float:
        error, _, freedom, quantile = _known(clusters, rho, ties, 0.5 + difference)
        return float(nct.sf(quantile, freedom, difference / error)) - 0.8

    difference = brentq(missing, 0.01, largest) if missing(largest) > 0 else largest
    _, factor, _, quantile = _known(clusters, rho, ties, 0.5 + difference)
    found = known = 0
    for number in range(num):
        outcome_P = draw_outcomes(clusters, rho, ties, 0.5 + difference, rng)
        result = win_rate(outcome_P, seed=number, level=LEVEL, num_resamples=NUM_RESAMPLES, clusters=clusters)
        found += result.low > 50
        known += outcome_P.mean() - 0.5 > quantile * factor * spread(outcome_P, clusters)
    return {"ratio": found / max(known, 1), "power": found / num, "known": known / num, "points": 100 * difference}


def _known(clusters: Clusters, rho: float, ties: float, rate: float) -> tuple[float, float, float, float]:
    """True standard error, its ratio to `spread`'s mean, degrees of freedom and the quantile of the t test.

    The degrees of freedom are Bell and McCaffrey's (2002) for the true covariance of the clusters' means.
    """
    share_G = clusters.sizes_G / len(clusters.number_P)
    icc = outcome_correlation(rho, ties, round(rate, 3))
    variance_G = outcome_variance(ties, rate) * (1 + (clusters.sizes_G - 1) * icc) / clusters.sizes_G
    centred = np.eye(clusters.num) - share_G
    form = (centred.T * share_G**2) @ centred * variance_G
    variance, mean = float((share_G**2 * variance_G).sum()), float(np.trace(form))
    freedom = mean**2 / float((form * form.T).sum())
    return math.sqrt(variance), math.sqrt(variance / mean), freedom, float(t.ppf((1 + LEVEL) / 2, freedom))


def _clusters_of(effective: int, *, unequal: bool) -> Clusters:
    """As many equal clusters of 40 prompts, or more of geometric sizes that are at least as informative."""
    if not unequal:
        return make_clusters(40 * effective, effective, unequal=False)
    ratio = (effective - 1) / (effective + 1) + 0.02  # of infinitely many, (1 + ratio) / (1 - ratio) are effective
    size, names = 40.0 * effective * (1 - ratio), []
    while size >= 1:
        names += [len(set(names))] * round(size)
        size *= ratio
    return Clusters.of(names)
