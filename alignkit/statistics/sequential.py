"""Looking at a growing sample several times at a level that holds over all looks: a group-sequential plan.

At the shares t_1 < ... < t_K = 1 of the planned sample, equal models are called different by look k with probability

    alpha(t) = 4 - 4 Phi(z(1 - alpha / 4) / sqrt(t)),        half of it on each side

after O'Brien and Fleming, spent as Lan and DeMets (1983): hardly anything early, so that the last look is nearly as
sharp as a single one. The bounds c_k of |Z_k| follow one after another: Z_k sqrt(t_k) is a Brownian motion that has not
crossed before (Armitage, McPherson and Rowe 1969). An interval of half-width c_k standard errors at each look is a
repeated confidence interval (Jennison and Turnbull 1989): all of them hold the truth together with probability
1 - alpha, whenever one stops and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

_POINTS = 501  # of the grid on which the motion's density is kept; bounds are right to 4 digits


def bounds_of(shares: Sequence[float], alpha: float) -> list[float]:
    """The bounds c_k in standard errors, two-sided.

    Args:
        shares: of the planned sample at each look, rising to 1.
        alpha: chance that equal models are called different at any of them.

    >>> [round(c, 2) for c in bounds_of((0.2, 0.4, 0.6, 0.8, 1.0), 0.05)]
    [4.88, 3.36, 2.68, 2.29, 2.03]
    """
    z = float(norm.ppf(1 - alpha / 4))
    bounds: list[float] = []
    motion = _Motion()
    spent = 0.0
    for share in shares:
        to_spend = 4 * float(norm.sf(z / math.sqrt(share)))

        def left(c: float, share: float = share, more: float = to_spend - spent) -> float:
            return motion.crossing(share, c) - more

        bounds.append(float(brentq(left, 0.5, 40.0, xtol=1e-10)))
        motion.go_on(share, bounds[-1])
        spent = to_spend
    return bounds


def stopping(shares: Sequence[float], bounds: Sequence[float], drift: float = 0.0) -> list[float]:
    """Chance that each look is the first beyond its bound.

    Args:
        drift: mean of Z at the whole sample: the true difference in its standard errors.
    """
    motion, chances = _Motion(drift), []
    for share, bound in zip(shares, bounds, strict=True):
        chances.append(motion.crossing(share, bound))
        motion.go_on(share, bound)
    return chances


class _Motion:
    """Where a Brownian motion with a drift is that stayed within its bounds, as a density on a grid."""

    def __init__(self, drift: float = 0.0) -> None:
        self.drift, self.share = drift, 0.0
        self.at, self.weight = np.zeros(1), np.ones(1)  # weight: density times the rule's step; sums to what is left

    def crossing(self, share: float, bound: float) -> float:
        """Chance to be beyond the bound (of Z) at this share, and not before."""
        return float(self.weight @ (1 - self._within(share, bound * math.sqrt(share))))

    def go_on(self, share: float, bound: float) -> None:
        """Keep what stays within the bound."""
        edge, step = bound * math.sqrt(share), share - self.share
        at, quadrature = np.polynomial.legendre.leggauss(_POINTS)
        edge = min(edge, 8.0 + abs(self.drift))  # nothing is further out
        at = at * edge
        moved = norm.pdf(at[:, None], self.at[None, :] + self.drift * step, math.sqrt(step))
        self.at, self.weight, self.share = at, quadrature * edge * (moved @ self.weight), share

    def _within(self, share: float, edge: float) -> np.ndarray:
        step = share - self.share
        mean, sd = self.at + self.drift * step, math.sqrt(step)
        return np.asarray(norm.cdf((edge - mean) / sd) - norm.cdf((-edge - mean) / sd))
