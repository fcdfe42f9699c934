"""Twenty looks at equal models, stopped at the first better or worse; and what other tools' rules do there.

aa_false_alarm_any_looks   new prompts, added prompts, other judges, other clusterings; the worst
rival_false_alarm          naive 5 % at every look; a mixture sequential ratio test with the variance estimated from
                           two samples on (its threshold 1 / 0.05); a point estimate of at least 52 %
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from alignkit.judging.decision import decide, level_of
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import win_rate
from bench.verdict_cells import MARGIN, NUM_RESAMPLES
from bench.verdict_draws import draw_latent, draw_outcomes, make_clusters, outcomes_of

NUM_LOOKS = 20
KINDS = ("new prompts", "added prompts", "other judges", "other clusterings")
RIVALS = ("naive", "mixture", "point")
MIXTURE = 0.1  # standard deviation of the mixed differences, as a share
GOALS = {"aa_false_alarm_any_looks": ("at most", 0.05)}


def settings() -> list[dict[str, Any]]:
    ours = [{"kind": kind, "prompts": 200, "ties": ties} for kind in KINDS for ties in (0.0, 0.4)]
    return ours + [{"kind": rival, "prompts": 200, "ties": 0.0} for rival in RIVALS]


def simulate(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    if setting["kind"] in RIVALS:
        return {"alarm": sum(_rival(setting["kind"], setting["prompts"], rng) for _ in range(num)) / num}
    alarms = [0] * NUM_LOOKS
    for number in range(num):
        for look, (outcome_P, clusters) in enumerate(_looks(setting["kind"], setting["prompts"], setting["ties"], rng)):
            level = level_of(look + 1)
            result = win_rate(outcome_P, seed=number, level=level, num_resamples=NUM_RESAMPLES, clusters=clusters)
            if decide(result, margin=MARGIN) in ("better", "worse"):
                alarms[look] += 1
                break
    return {"alarm": sum(alarms) / num, "first": alarms[0] / num}


def is_beyond(setting: dict[str, Any], shares: dict[str, Any]) -> bool:
    return bool(setting["kind"] in KINDS and shares["alarm"] > 0.05)


def figures(cells: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    worst = max(found["alarm"] for s, found in cells if s["kind"] in KINDS)
    rivals = {f"rival_false_alarm_{s['kind']}": found["alarm"] for s, found in cells if s["kind"] in RIVALS}
    return {"aa_false_alarm_any_looks": worst} | rivals


def _looks(kind: str, n: int, ties: float, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, Clusters]]:
    """The looks one after another: outcomes and what is resampled."""
    single = Clusters.single(n)
    if kind == "new prompts":
        for _ in range(NUM_LOOKS):
            yield draw_outcomes(single, 0.0, ties, 0.5, rng), single
    elif kind == "added prompts":
        every_P = draw_outcomes(Clusters.single(n * NUM_LOOKS // 2), 0.0, ties, 0.5, rng)
        for look in range(NUM_LOOKS):
            size = n + look * n // 2 if look < NUM_LOOKS - 2 else len(every_P)
            yield every_P[:size], Clusters.single(min(size, len(every_P)))
    elif kind == "other judges":
        shared_P = draw_latent(single, 0.0, rng)
        for _ in range(NUM_LOOKS):
            yield (
                outcomes_of(math.sqrt(0.6) * shared_P + math.sqrt(0.4) * draw_latent(single, 0.0, rng), ties, 0.5),
                single,
            )
    else:
        outcome_P = draw_outcomes(make_clusters(n, 20, unequal=False), 0.1, ties, 0.5, rng)
        for look in range(NUM_LOOKS):  # the first is right, the others are coarser and as right
            yield outcome_P, make_clusters(n, 20 - look // 2, unequal=False) if look == 0 else _coarser(n, look)


def _coarser(n: int, look: int) -> Clusters:
    """The same 20 clusters, some of them joined."""
    number_P = np.arange(n) * 20 // n
    return Clusters.of((number_P % max(6, 20 - look)).tolist())


def _rival(kind: str, n: int, rng: np.random.Generator) -> bool:
    """Whether another tool's rule cries out anywhere in 20 looks, with as many prompts added at each."""
    x_P = rng.integers(0, 2, n * NUM_LOOKS).astype(float)
    count_P = np.arange(1, len(x_P) + 1)
    mean_P = np.cumsum(x_P) / count_P
    variance_P = np.maximum(mean_P * (1 - mean_P), 1e-12) * count_P / np.maximum(count_P - 1, 1)
    if kind == "mixture":  # at every prompt from the second on
        of = variance_P + count_P * MIXTURE**2
        exponent_P = count_P**2 * MIXTURE**2 * (mean_P - 0.5) ** 2 / (2 * variance_P * of)
        log_ratio_P = 0.5 * np.log(variance_P / of) + exponent_P
        return bool((log_ratio_P[1:] > math.log(20)).any())
    at = slice(n - 1, None, n)
    if kind == "point":
        return bool((mean_P[at] >= 0.52).any())
    error_P = np.sqrt(variance_P / count_P)
    return bool((np.abs(mean_P[at] - 0.5) > norm.ppf(0.975) * error_P[at]).any())
