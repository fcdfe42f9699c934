"""Judging in rounds: what it saves, what its interval holds, and what power it costs.

early_saving_60, _55   median share of 821 prompts (a single look at 95 % takes them to find 5 points) that is judged at
                       a true rate of 60 and 55 %
early_coverage         intervals shown at the stop that hold the true rate, rates from 50 to 60 %; the least
early_power_lost       power of one look at all prompts less that of the rounds, at 55 %
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.judging.decision import decide
from alignkit.judging.planner import LEVEL
from alignkit.judging.rounds import levels_of, rounds_of
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import win_rate
from bench.verdict_cells import MARGIN, NUM_RESAMPLES
from bench.verdict_draws import draw_outcomes

CAP = 821
GOALS = {
    "early_saving_60": ("at most", 0.6),
    "early_saving_55": ("at most", 0.85),
    "early_coverage": ("at least", 0.94),
    "early_power_lost": ("at most", 0.03),
}


def settings() -> list[dict[str, Any]]:
    return [{"kind": "rounds", "rate": rate, "ties": ties} for rate in range(50, 61) for ties in (0.0, 0.3)]


def simulate(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    cap, rate = CAP, float(setting["rate"])
    levels, single = levels_of(LEVEL), Clusters.single(cap)
    used, covered, better, whole = [], 0, 0, 0
    for number in range(num):
        outcome_P = draw_outcomes(single, 0.0, setting["ties"], rate / 100, rng)
        judged: list[int] = []
        for level, part in zip(levels, rounds_of(cap, seed=number), strict=True):
            judged += part.tolist()
            result = win_rate(outcome_P[judged], seed=number, level=level, num_resamples=NUM_RESAMPLES)
            answer = decide(result, margin=MARGIN)
            if answer != "not enough evidence":
                break
        used.append(len(judged))
        covered += result.low - 1e-9 <= rate <= result.high + 1e-9
        better += answer == "better"
        at_once = win_rate(outcome_P, seed=number, level=LEVEL, num_resamples=NUM_RESAMPLES)
        whole += decide(at_once, margin=MARGIN) == "better"
    return {
        "median": float(np.median(used)),
        "mean": float(np.mean(used)),
        "covered": covered / num,
        "better": better / num,
        "better_at_once": whole / num,
    }


def is_beyond(setting: dict[str, Any], shares: dict[str, Any]) -> bool:
    return bool(shares["covered"] < 0.94)


def figures(cells: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    plain = {s["rate"]: found for s, found in cells if s["ties"] == 0.0}
    found = {"early_coverage": min(shares["covered"] for _, shares in cells)}
    found |= {f"early_saving_{rate}": plain[rate]["median"] / CAP for rate in (60, 55) if rate in plain}
    if 55 in plain:
        found["early_power_lost"] = plain[55]["better_at_once"] - plain[55]["better"]
    return found
