"""How many prompts a verdict needs: before any is judged, and after a look that settled nothing.

    power = Phi( |d| sqrt(n' / (s^2 deff)) - z(1 - alpha/2) )       s^2 = (1 - ties) / 4 - d^2
    n' = n - z^2 / 2 - 2 - step / d                                 deff = 1 + (m - 1) icc

d is the difference from 50 % as a share, s the outcomes' standard deviation, m the prompts per cluster (the mean
weighted by size), icc the correlation of two outcomes in a cluster. n' pays for an interval whose bounds are
rates that can occur (steps of 1 / n without ties, half of it with some), for Student's quantile in place of the normal
one (z^2 / 2) and for rates near 0 and 100 % (two more). z(1 - alpha/2) is the interval's, with its caution
(resampling.py). Over clusters it is the power of Student's t itself, n' without z^2 / 2; below 20 of them that of the
interval on the scale of arcsin(sqrt(rate)) (win_rate.py), where d is worth sqrt(1 / 4 - d^2) arcsin(2 d) and n' = n.
With fewer than 10 effective clusters nothing is planned.
Source: the sample size of a mean (Cohen 1988), the design effect of Kish 1965; checked by bench/verdict_calibration.py.

After a look with the rate r over n prompts and the standard error e, the true rate is held for normal with the mean
50 + k (r - 50) and the variance k e^2, k = 1 / (1 + e^2 / 10^2): before anything is known two models are held to differ
by 0 +- 10 points. With prompts added until there are N, the next rate is then normal too,

    mean = (n r + (N - n) (50 + k (r - 50))) / N     variance = n e^2 (N - n) / N^2 + ((N - n) / N)^2 k e^2

and N is the least number at which it is called better or worse or lies within the margin in 80 of 100 cases, judged at
the level of the next look.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, norm, t

from alignkit.statistics.resampling import CAUTION, FEW_CLUSTERS

POWER = 0.8
DIFFERENCE = 5.0  # points; what the default number of prompts finds
LEVEL = 0.96  # of the interval of a first look
MIN_CLUSTERS = 10  # effective ones; with fewer the interval's width is a guess
ICC = 0.05  # assumed of clusters before anything is known of them
PRIOR_POINTS = 10.0  # how much two models' win rates are held to differ from 50, before anything is known
MOST = 20_000  # prompts; a larger number is not planned


def prompts_for(
    difference: float,
    *,
    ties: float = 0.0,
    power: float = POWER,
    level: float = LEVEL,
    cluster_size: float = 1.0,
    icc: float = ICC,
) -> int:
    """Number of prompts at which a true win rate of 50 + `difference` is called better with the probability `power`.

    Args:
        difference: in points, above 0 and below 50 x (1 - ties).
        ties: share of prompts that will tie; 0, the default, asks for the most.
        cluster_size: prompts per cluster; 1 without clusters.
    """

    def missing(num_prompts: float) -> float:
        return (
            planned_power(num_prompts, difference, ties=ties, level=level, cluster_size=cluster_size, icc=icc) - power
        )

    enough = 64.0
    while missing(enough) < 0:
        enough *= 2
    return math.ceil(brentq(missing, 1.0, enough, xtol=1e-6))


def detectable(
    num_prompts: int,
    *,
    ties: float = 0.0,
    power: float = POWER,
    level: float = LEVEL,
    cluster_size: float = 1.0,
    icc: float = ICC,
) -> float | None:
    """Difference in points that so many prompts find with the probability `power`; None where none is large enough."""

    def missing(difference: float) -> float:
        how = {"ties": ties, "level": level, "cluster_size": cluster_size, "icc": icc}
        return planned_power(num_prompts, difference, **how) - power

    largest = 50 * (1 - ties) - 1e-6
    if (cluster_size > 1 and num_prompts / cluster_size < MIN_CLUSTERS) or missing(largest) < 0:
        return None
    return float(brentq(missing, 1e-3, largest, xtol=1e-6))


def planned_power(
    num_prompts: float,
    difference: float,
    *,
    ties: float = 0.0,
    level: float = LEVEL,
    cluster_size: float = 1.0,
    icc: float = ICC,
) -> float:
    """Probability that a true win rate of 50 + `difference` is called better; arguments as for `prompts_for`."""
    d, steps = difference / 100, 1.0 if ties == 0 else 0.5
    variance = max((1 - ties) / 4 - d * d, 1e-12) * (1 + (cluster_size - 1) * icc)
    if cluster_size > 1:
        freedom = num_prompts / cluster_size - 1
        if freedom < 1:
            return 0.0
        seen, left, caution = d, num_prompts - 2 - steps / d, CAUTION
        if freedom + 1 < FEW_CLUSTERS:
            seen, left, caution = math.asin(2 * d) * math.sqrt(max(0.25 - d * d, 0.0)), num_prompts, 1.0
        quantile = t.ppf(1 - caution * (1 - level) / 2, freedom)
        return float(nct.sf(quantile, freedom, seen * math.sqrt(max(left, 0.0) / variance)))
    z = float(norm.ppf(1 - CAUTION * (1 - level) / 2))
    left = num_prompts - z**2 / 2 - 2 - steps / d
    return float(norm.cdf(d * math.sqrt(max(left, 0.0) / variance) - z)) if left > 0 else 0.0


def prompts_to_settle(rate: float, error: float, num_prompts: int, *, margin: float, quantile: float) -> int | None:
    """Number of prompts, those judged included, that settle a question in 80 of 100 cases; None: more than 20,000.

    Args:
        rate, error: of the look that settled nothing, in percent and points.
        margin: in points.
        quantile: half-width of the next look's interval in standard errors.
    """

    def settled(total: float) -> float:
        shrunk = 1 / (1 + error**2 / PRIOR_POINTS**2)
        added = (total - num_prompts) / total
        mean = (rate - 50) * (1 - added + added * shrunk)
        spread = math.sqrt(num_prompts * error**2 * added / total + added**2 * shrunk * error**2)
        half = quantile * error * math.sqrt(num_prompts / total)
        found = float(norm.sf((half - mean) / spread) + norm.cdf((-half - mean) / spread))
        inner = margin - half
        within = float(norm.cdf((inner - mean) / spread) - norm.cdf((-inner - mean) / spread)) if inner > 0 else 0.0
        return found + within - POWER

    grid = np.geomspace(num_prompts + 1, max(MOST, num_prompts + 2), 200)
    reached = next((at for at in range(len(grid)) if settled(float(grid[at])) >= 0), None)
    if reached is None:
        return None
    if reached == 0:
        return num_prompts + 1
    return math.ceil(brentq(settled, float(grid[reached - 1]), float(grid[reached])))
