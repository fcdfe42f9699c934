"""The rule of a verdict: which answer an interval of the win rate gives, and how many prompts would settle it.

The rule, in this order, on the two-sided 95 % interval of the raw win rate (ties half, missing scores left out):

    the interval excludes 50            -> better, worse
    it lies within 50 +- margin         -> no difference that matters
    anything else                       -> not enough evidence

The first comes before the second: a small difference that is certain is called better or worse, its size stands beside.
Nothing else decides. The k-th look at the same pair is judged at the level 1 - 0.05 / k.
"""

from __future__ import annotations

import math
from typing import Literal

from scipy.stats import norm

from alignkit.judging.planner import POWER
from alignkit.statistics.win_rate import WinRate

Answer = Literal["better", "worse", "no difference that matters", "not enough evidence"]
LEVEL = 0.95


def decide(win_rate: WinRate, *, margin: float) -> Answer:
    """Apply the rule; `margin` in points."""
    if win_rate.low > 50:
        return "better"
    if win_rate.high < 50:
        return "worse"
    if 50 - margin <= win_rate.low and win_rate.high <= 50 + margin:
        return "no difference that matters"
    return "not enough evidence"


def level_of(look: int | None) -> float:
    """The interval's level at the `look`-th look at a pair: the 5 % are split, 1 - 0.05 / look."""
    return 1 - (1 - LEVEL) / (look or 1)


def prompts_needed(win_rate: WinRate, *, margin: float) -> int | None:
    """How many prompts would settle it in 80 of 100 cases, if the rate and the spread of outcomes stay as they are.

    An interval's half-width h = z se shrinks with the square root of the number of prompts n. It has to shrink until
    (1 + z_power / z) h is below |rate - 50|, or below margin - |rate - 50| so that the interval fits into the margin;
    the wider of these targets w is reached first, at n ((1 + z_power / z) h / w)^2 prompts. None with fewer than two
    scored prompts, or where no number would do.
    """
    n = win_rate.num_prompts
    if win_rate.rate is None or n < 2:
        return None
    difference = abs(win_rate.rate - 50)
    target = max(difference, margin - difference)
    if target <= 0:
        return None
    half_width = (win_rate.high - win_rate.low) / 2
    widening = 1 + float(norm.ppf(POWER)) / float(norm.ppf((1 + win_rate.level) / 2))
    return max(n + 1, math.ceil(n * (widening * half_width / target) ** 2))
