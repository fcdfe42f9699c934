"""Votes of people on some prompts, a judge on all: is the win rate that people would give inside its interval?

votes_coverage      50 votes of 1,000 prompts, a judge with a length bias; uniform and active asking; prompts by
                    themselves, and in 20 and 100 clusters, equal and unequal; the least
votes_width_75, _90 mean width over that of the votes alone, uniform asking, a yes/no judge that agrees with people in
                    75 and 90 % of cases, over the bound sqrt(1 - r^2 (1 - n/N)), 0.87 and 0.63
votes_active_75     mean width of active asking over that of uniform asking, the same judge of 75 % and a second one as
                    good that errs independently; who knew each error beforehand would reach 0.87
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.statistics.prediction_powered import chances, keys_of, prediction_powered, weights_of
from bench.verdict_draws import draw_outcomes, make_clusters

NUM_PROMPTS, NUM_VOTES = 1000, 50
GOALS = {"votes_coverage": ("at least", 0.94), "votes_width_75": ("at most", 1.05), "votes_width_90": ("at most", 1.05)}


def settings() -> list[dict[str, Any]]:
    kinds = [{"kind": kind, "rate": rate} for kind in ("biased", 0.75, 0.9) for rate in (0.5, 0.6, 0.75)]
    kinds += [
        {"kind": "biased", "rate": rate, "clusters": num, "unequal": unequal, "correlation": rho}
        for rate in (0.5, 0.6, 0.75)
        for num in (20, 100)
        for unequal in (False, True)
        for rho in (0.1, 0.3)
    ]
    return [kind | {"active": active} for kind in kinds for active in (False, True)]


def simulate(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    covered, widths, alone = 0, [], []
    clusters = make_clusters(NUM_PROMPTS, setting.get("clusters", 0), unequal=setting.get("unequal", False))
    for number in range(num):
        vote_N = draw_outcomes(clusters, setting.get("correlation", 0.0), 0.0, setting["rate"], rng)
        judge_N, second_N = _judged(vote_N, setting["kind"], rng)
        weight_N = weights_of(np.abs(judge_N - second_N) if setting["active"] else np.zeros(NUM_PROMPTS))
        key_N = keys_of(weight_N, seed=number)
        at_K = np.argsort(key_N)[:NUM_VOTES]
        found = prediction_powered(vote_N[at_K], at_K, judge_N, chances(key_N, weight_N, NUM_VOTES), clusters=clusters)
        covered += found.low <= setting["rate"] <= found.high
        widths.append(found.high - found.low)
        alone.append(found.alone_high - found.alone_low)
    return {"covered": covered / num, "width": float(np.mean(widths)), "alone": float(np.mean(alone))}


def is_beyond(setting: dict[str, Any], shares: dict[str, Any]) -> bool:
    return bool(shares["covered"] < 0.94)


def figures(cells: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    found = {"votes_coverage": min(shares["covered"] for _, shares in cells)}
    at_half = {(s["kind"], s["active"]): shares for s, shares in cells if s["rate"] == 0.5 and "clusters" not in s}
    for agreement in (0.75, 0.9):
        if (shares := at_half.get((agreement, False))) is not None:
            bound = math.sqrt(1 - (2 * agreement - 1) ** 2 * (1 - NUM_VOTES / NUM_PROMPTS))
            found[f"votes_width_{100 * agreement:.0f}"] = shares["width"] / shares["alone"] / bound
    if (0.75, True) in at_half and (0.75, False) in at_half:
        found["votes_active_75"] = at_half[0.75, True]["width"] / at_half[0.75, False]["width"]
    return found


def _judged(vote_N: np.ndarray, kind: str | float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The judge's outcomes and a second judge's, both [N]."""
    if kind == "biased":  # judges see quality through noise; the first adds what it thinks of length
        quality_JN = np.where(vote_N > 0, 1.0, -1.0) + rng.standard_normal((2, NUM_PROMPTS))
        length_N = 0.4 + rng.standard_normal(NUM_PROMPTS)
        return (quality_JN[0] + length_N > 0).astype(float), (quality_JN[1] > 0).astype(float)
    wrong_JN = rng.random((2, NUM_PROMPTS)) < 1 - float(kind)
    judge_N, second_N = np.where(wrong_JN, 1 - vote_N, vote_N)
    return judge_N, second_N
