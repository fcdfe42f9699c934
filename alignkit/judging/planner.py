"""How many prompts a verdict needs, decided before any is judged.

    n = (z(1 - alpha/2) + z(power))^2 s^2 / d^2 x deff + step / d        s^2 = (1 - ties) / 4 - d^2
    deff = 1 + (m - 1) icc

d is the difference from 50 % as a share, s the outcomes' standard deviation, m the prompts a cluster (the mean weighted
by size), icc the correlation of two outcomes in a cluster. The last term pays for an interval whose bounds are rates
that can occur (steps of 1 / n without ties, half of it with some); the number of effective clusters behind n also
gives Student's quantile in place of the normal one, by adding z^2 / 2 of them, and two more pay for rates near 0 and
100 %. z(1 - alpha/2) is the interval's, with its caution (resampling.py). With fewer than 10 effective clusters nothing
is planned.
Source: the sample size of a mean (Cohen 1988), the design effect of Kish 1965; checked by bench/verdict_calibration.py.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm

from alignkit.statistics.resampling import CAUTION

POWER = 0.8
DIFFERENCE = 5.0  # points; what the default number of prompts finds
MIN_CLUSTERS = 10  # effective ones; with fewer the interval's width is a guess
ICC = 0.05  # assumed of clusters before anything is known of them


def prompts_for(
    difference: float,
    *,
    ties: float = 0.0,
    power: float = POWER,
    level: float = 0.95,
    cluster_size: float = 1.0,
    icc: float = ICC,
) -> int:
    """Number of prompts at which a true win rate of 50 + `difference` is called better with the probability `power`.

    Args:
        difference: in points, above 0 and below 50 x (1 - ties).
        ties: share of prompts that will tie; 0, the default, asks for the most.
        cluster_size: prompts a cluster; 1 without clusters.
    """
    return math.ceil(_prompts(difference, ties, power, level, cluster_size, icc))


def detectable(
    num_prompts: int,
    *,
    ties: float = 0.0,
    power: float = POWER,
    level: float = 0.95,
    cluster_size: float = 1.0,
    icc: float = ICC,
) -> float | None:
    """Difference in points that so many prompts find with the probability `power`; None where none is large enough."""
    largest = 50 * (1 - ties) - 1e-6
    if cluster_size > 1 and num_prompts / cluster_size < MIN_CLUSTERS:
        return None
    if _prompts(largest, ties, power, level, cluster_size, icc) > num_prompts:
        return None
    return float(
        brentq(lambda d: _prompts(d, ties, power, level, cluster_size, icc) - num_prompts, 1e-3, largest, xtol=1e-6)
    )


def _prompts(difference: float, ties: float, power: float, level: float, cluster_size: float, icc: float) -> float:
    d = difference / 100
    z_level = float(norm.ppf(1 - CAUTION * (1 - level) / 2))
    variance = max((1 - ties) / 4 - d * d, 0.0)
    needed = (z_level + float(norm.ppf(power))) ** 2 * variance / d**2
    inflation = 1 + (cluster_size - 1) * icc
    return needed * inflation + cluster_size * (z_level**2 / 2 + 2) + (1.0 if ties == 0 else 0.5) / d
