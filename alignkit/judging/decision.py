"""The rule of a verdict: which answer an interval of the win rate gives, and at which level.

The rule, in this order, on the two-sided interval of the raw win rate (ties half, missing scores left out):

    there is no interval                -> not enough evidence
    the interval excludes 50            -> better, worse
    it lies within 50 +- margin         -> no difference that matters
    anything else                       -> not enough evidence

Better or worse comes before no difference: a small difference that is certain is called better or worse, its size
stands beside. Nothing else decides.

The level: whoever looks again has another chance of a false alarm. Over all looks at a pair, however many there are and
whenever they stop, equal models are called better or worse in at most 5 %: the first look has 4 %, the k-th after it
1 % x 6 / (pi^2 k^2), and these sum to 1 % (the union bound, so that it does not matter how the looks depend on each
other). Prompts added, another judge, clustering, margin or set of prompts make another look.

A look that could not have found what is looked for (planned power below 20 %) takes no share of the 5 %: it shows rates
and lengths, and is never called better, worse or no difference.
"""

from __future__ import annotations

import math
from typing import Literal

from scipy.stats import norm, t

from alignkit.judging.planner import LEVEL, detectable, planned_power, prompts_for, prompts_to_settle
from alignkit.statistics.intervals import MIN_PROMPTS
from alignkit.statistics.resampling import CAUTION, FEW_CLUSTERS
from alignkit.statistics.win_rate import WinRate

Answer = Literal["better", "worse", "no difference that matters", "not enough evidence"]
LATER = 0.01  # what all looks after the first may spend together
MIN_POWER = 0.2  # of a look that is counted


def decide(win_rate: WinRate, *, margin: float) -> Answer:
    """Apply the rule; `margin` in points."""
    if not win_rate.has_interval:
        return "not enough evidence"
    if win_rate.low > 50:
        return "better"
    if win_rate.high < 50:
        return "worse"
    if 50 - margin <= win_rate.low and win_rate.high <= 50 + margin:
        return "no difference that matters"
    return "not enough evidence"


def level_of(look: int | None) -> float:
    """The interval's level at the `look`-th look at a pair; None: the first."""
    if look is None or look <= 1:
        return LEVEL
    return 1 - LATER * 6 / (math.pi * (look - 1)) ** 2


def is_free(num_prompts: int, difference: float) -> bool:
    """Whether so many prompts, all independent evidence, could hardly find a difference in points at a first look."""
    return planned_power(num_prompts, difference) < MIN_POWER


def why_free(num_prompts: int, difference: float, too_few: str = "") -> str:
    """Say what such a look could have found, and what would make it one that counts.

    Args:
        too_few: why the clusters say nothing of others; more prompts of these would not help then.
    """
    found = planned_power(num_prompts, difference)
    if too_few:
        return (
            f"{num_prompts} prompts find a difference of {difference:g} points in {100 * found:.0f} of 100 cases, and "
            f"more like them would say nothing of other sources: {too_few}. Judge on prompts of more sources (--data), "
            "or at least "
            f"{prompts_for(difference, power=MIN_POWER)} with --cluster none, which speaks for these sources alone"
        )
    found_here = detectable(num_prompts, power=MIN_POWER)
    instead = (
        "" if found_here is None else f", or --difference {math.ceil(10 * found_here) / 10:g} if only more matters"
    )
    return (
        f"{num_prompts} prompts find a difference of {difference:g} points in {100 * found:.0f} of 100 cases; judge at "
        f"least {prompts_for(difference, power=MIN_POWER)} (--num-prompts, --data){instead}"
    )


def prompts_needed(win_rate: WinRate, *, margin: float, look: int | None = None) -> int | None:
    """How many prompts would settle it in 80 of 100 cases, those judged included (planner.py has the formulas).

    None with fewer than 30 scored prompts or without an interval, and where more than 20,000 would be needed.

    Args:
        look: this look's number; the next is judged at its own level.
    """
    if win_rate.rate is None or not win_rate.has_interval or win_rate.num_prompts < MIN_PROMPTS:
        return None
    effective = win_rate.num_effective or math.inf
    error = (win_rate.high - win_rate.low) / 2 / _quantile(win_rate.level, effective)
    if error <= 0:
        return None
    quantile = _quantile(level_of((look or 0) + 1), effective)
    return prompts_to_settle(win_rate.rate, error, win_rate.num_prompts, margin=margin, quantile=quantile)


def _quantile(level: float, effective: float) -> float:
    """Half-width of an interval in standard errors."""
    if effective < FEW_CLUSTERS:
        return -float(t.ppf((1 - level) / 2, effective - 1))
    return -float(norm.ppf(CAUTION * (1 - level) / 2))
