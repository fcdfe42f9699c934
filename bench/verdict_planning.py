"""Do as many prompts as a verdict asks for settle it in 80 of 100 cases?

settled_at_needed   true rates are drawn from what the planner holds before anything is known (50 +- 10 points),
                    first looks of 100 to 500 prompts that settled nothing are judged again at the number that was
                    printed: the share settled, over all and in each third of the numbers; the least and the most.
                    Numbers above 20,000 are counted apart
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.judging.decision import decide, level_of, prompts_needed
from alignkit.judging.planner import PRIOR_POINTS
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import win_rate
from bench.verdict_cells import MARGIN, NUM_RESAMPLES
from bench.verdict_draws import draw_outcomes

GOALS = {"settled_at_needed": ("at least", 0.75), "settled_at_needed_most": ("at most", 0.85)}


def settings() -> list[dict[str, Any]]:
    return [{"kind": "needed", "ties": ties} for ties in (0.0, 0.3)]


def simulate(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    ties = setting["ties"]
    numbers, settled, beyond = [], [], 0
    while len(numbers) + beyond < num:
        n = int(rng.integers(100, 501))
        rate = 0.5 + PRIOR_POINTS / 100 * rng.standard_normal()
        if not ties / 2 + 0.01 < rate < 1 - ties / 2 - 0.01:
            continue
        first_P = draw_outcomes(Clusters.single(n), 0.0, ties, rate, rng)
        seen = win_rate(first_P, seed=len(numbers), level=level_of(1), num_resamples=NUM_RESAMPLES)
        if decide(seen, margin=MARGIN) != "not enough evidence":
            continue
        needed = prompts_needed(seen, margin=MARGIN, look=1)
        if needed is None:
            beyond += 1
            continue
        all_P = np.concatenate([first_P, draw_outcomes(Clusters.single(needed - n), 0.0, ties, rate, rng)])
        again = win_rate(all_P, seed=len(numbers), level=level_of(2), num_resamples=NUM_RESAMPLES)
        numbers.append(needed)
        settled.append(decide(again, margin=MARGIN) != "not enough evidence")
    order = np.argsort(numbers, kind="stable")
    thirds = [float(np.mean(np.array(settled)[part])) for part in np.array_split(order, 3)]
    return {
        "all": float(np.mean(settled)),
        "low_third": thirds[0],
        "middle_third": thirds[1],
        "high_third": thirds[2],
        "beyond_20000": beyond / num,
        "median_needed": float(np.median(numbers)),
    }


def is_beyond(setting: dict[str, Any], shares: dict[str, Any]) -> bool:
    return not all(0.75 <= share <= 0.85 for share in _settled(shares))


def figures(cells: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    found = [share for _, shares in cells for share in _settled(shares)]
    return {"settled_at_needed": min(found), "settled_at_needed_most": max(found)}


def _settled(shares: dict[str, Any]) -> list[float]:
    return [shares[name] for name in ("all", "low_third", "middle_third", "high_third")]
