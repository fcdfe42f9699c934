"""Who wins a prompt, by two models' scores: rounding in the last digits of a score decides nothing."""

from __future__ import annotations

import numpy as np

from alignkit.statistics.win_rate import outcomes

ROUNDING = 1e-9  # of the larger score's size: 0.1 + 0.2 and 0.3 differ by 2e-16 of it


def outcomes_of(ours_P: np.ndarray, theirs_P: np.ndarray) -> np.ndarray:
    """Compare two models' scores; those that differ by less than rounding are a tie.

    Args:
        ours_P, theirs_P: float64 [P], one judge's scores in the same order, nan where missing.

    Returns:
        float64 [P], as `statistics.win_rate.outcomes`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        difference_P, size_P = np.abs(ours_P - theirs_P), np.maximum(np.abs(ours_P), np.abs(theirs_P))
    return outcomes(ours_P, np.where(difference_P < ROUNDING * size_P, ours_P, theirs_P))
