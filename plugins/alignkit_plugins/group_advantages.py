"""Rewards of groups -> advantages: with which baseline, in which unit. P prompts, G group.

A(y_i) = (R(y_i) - b_i) / s. Both parts are named pure functions in a table, each chosen by one option:

    baseline     b    leave-one-out: mean of the other samples (Eq. 6; RLOO, Ahmadian et al. 2024)
                      group-mean: mean of the whole group, the sample itself in it (Shao et al. 2024, Liu et al. 2025)
                      within-temperature: mean of the other samples drawn at the same temperature
    scale        s    none: 1 (Eq. 6; Dr. GRPO, Liu et al. 2025)
                      group-deviation: the group's standard deviation (n - 1), floored (Shao et al. 2024 has no floor)

nan is a missing reward: it is no one's sibling, and stays nan. Group-mean's advantage is (k-1)/k times leave-one-out's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from alignkit.plugin import leave_one_out_baseline

if TYPE_CHECKING:
    import numpy as np


def group_advantages(
    rewards_PG: np.ndarray, *, temperatures: Sequence[float], baseline: str, scale: str, min_deviation: float
) -> np.ndarray:
    """Return float64 [P, G]; nan where the reward is missing, or has no sibling to be compared with.

    Args:
        rewards_PG: float64, nan where missing.
        temperatures: of the G samples.
        min_deviation: floor of the deviation, in units of the reward.
    """
    centred_PG = rewards_PG - BASELINES[baseline](rewards_PG, temperatures)
    return centred_PG / SCALES[scale](rewards_PG, min_deviation)


def group_mean_baseline(rewards_PG: np.ndarray) -> np.ndarray:
    """Mean of the group's present rewards, [P, 1]; nan where fewer than two are present."""
    import numpy as np

    size_P1 = (~np.isnan(rewards_PG)).sum(1, keepdims=True)
    return np.where(size_P1 > 1, np.nansum(rewards_PG, 1, keepdims=True) / np.maximum(size_P1, 1), np.nan)


def within_temperature_baseline(rewards_PG: np.ndarray, temperatures: Sequence[float]) -> np.ndarray:
    """Mean of the other samples of the same temperature, [P, G]; nan where there is none."""
    import numpy as np

    baseline_PG = np.full(rewards_PG.shape, np.nan)
    temperature_G = np.asarray(temperatures)
    for temperature in dict.fromkeys(temperatures):
        same_G = temperature_G == temperature
        baseline_PG[:, same_G] = leave_one_out_baseline(rewards_PG[:, same_G])
    return baseline_PG


def floored_deviation(rewards_PG: np.ndarray, floor: float) -> np.ndarray:
    """Standard deviation (divisor n - 1) of each group's present values, at least `floor`, [P, 1]."""
    import numpy as np

    size_P1 = (~np.isnan(rewards_PG)).sum(1, keepdims=True)
    mean_P1 = np.nansum(rewards_PG, 1, keepdims=True) / np.maximum(size_P1, 1)
    squares_P1 = np.nansum((rewards_PG - mean_P1) ** 2, 1, keepdims=True)
    return np.maximum(np.sqrt(squares_P1 / np.maximum(size_P1 - 1, 1)), floor)


BASELINES: dict[str, Callable[[np.ndarray, Sequence[float]], np.ndarray]] = {
    "leave-one-out": lambda rewards_PG, temperatures: leave_one_out_baseline(rewards_PG),
    "group-mean": lambda rewards_PG, temperatures: group_mean_baseline(rewards_PG),
    "within-temperature": within_temperature_baseline,
}
SCALES: dict[str, Callable[[np.ndarray, float], np.ndarray | float]] = {
    "none": lambda rewards_PG, floor: 1.0,
    "group-deviation": floored_deviation,
}
