"""How far each view of a pair is believed, and what share of the labels stands the wrong way round.

With l the weighted sum of a pair's views and e the share of labels that are flipped,

    P(labelled so)  = (1 - e) sigmoid(l) + e sigmoid(-l)
    P(flipped | l)  = e sigmoid(-l) / P(labelled so)

The weights and e are the mode of their posterior. The interval of e holds all values for which the best weights lower
the log-posterior by at most 1.92, half of the 95 % quantile of chi-square with one degree of freedom: e and the weights
make up for each other, so that the curvature of e alone would claim far too much.
Sources: Bootkrajang and Kaban 2012, Label-noise robust logistic regression, whose two noise rates are one here, because
swapping the answers of every pair must change nothing; Venzon and Moolgavkar 1988, A method for computing
profile-likelihood-based confidence intervals.
Shape letters: P pairs, V views, S sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize

from alignkit.statistics.logistic import sigmoid

_PRIOR = (3.0, 27.0)  # a Beta distribution's of e
_SHARED, _OWN = 0.1, 2.0  # ridge of the views' weights, and of each source's difference from them
_ALLOWED = 1.92
_BOUNDS = (1e-3, 0.499)  # of e
_CLOSE_ENOUGH = 1e-3  # to an end of the interval


@dataclass(frozen=True)
class NoisyLabels:
    """What a share of flipped labels means for each pair.

    Args:
        rate: e.
        added_PV: float64 [P, V], what each view adds to l.
        lost: the negative log-posterior, up to a constant.
    """

    rate: float
    added_PV: np.ndarray
    lost: float

    @property
    def flipped_P(self) -> np.ndarray:
        """Probability that the pair is flipped, float64 [P]."""
        agrees_P = sigmoid(self.added_PV.sum(1))
        flipped_P: np.ndarray = self.rate * (1 - agrees_P)
        return flipped_P / ((1 - self.rate) * agrees_P + flipped_P)


class Views:
    """What is said of each pair without a look at its own label.

    Args:
        views_PV: float64 [P, V], above 0 where a view takes the chosen answer to be the better one.
        source_P: int64 [P], the number of each pair's source.
    """

    def __init__(self, views_PV: np.ndarray, source_P: np.ndarray) -> None:
        num_known_V = np.maximum((views_PV != 0).sum(0), 1)
        scale_V = np.sqrt((views_PV**2).sum(0) / num_known_V)
        self._x_PV = views_PV / np.where(scale_V == 0, 1, scale_V)
        self._source_P = source_P
        self._num_sources, self._num_views = int(source_P.max()) + 1, views_PV.shape[1]
        self._begin = np.append(np.full((self._num_sources + 1) * self._num_views, 0.5), -1.5)

    def fit(self, rate: float | None = None) -> NoisyLabels:
        """Fit the views' weights in each source, none below 0, and e where it is not given."""
        begin = self._begin.copy()
        bounds: list[tuple[float | None, float | None]] = [(0, None)] * (len(begin) - 1)
        if rate is None:  # a view that seems to mislead has seen chance alone
            bounds.append((None, None))
        else:
            begin[-1] = np.log(2 * rate / (1 - 2 * rate))
            bounds.append((begin[-1], begin[-1]))
        found = minimize(self._lost, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
        self._begin = found.x  # where the next fit begins
        weight_SV = found.x[self._num_views : -1].reshape(self._num_sources, self._num_views)
        return NoisyLabels(
            rate=float(0.5 * sigmoid(found.x[-1:])[0]),
            added_PV=self._x_PV * weight_SV[self._source_P],
            lost=float(found.fun),
        )

    def interval(self, likeliest: NoisyLabels) -> tuple[NoisyLabels, NoisyLabels]:
        """Fit the least and the largest e that the labels leave possible, at 95 %."""

        def too_far(rate: float) -> float:
            return self.fit(rate).lost - likeliest.lost - _ALLOWED

        def end(bound: float) -> NoisyLabels:
            if too_far(bound) <= 0:
                return self.fit(bound)
            return self.fit(brentq(too_far, bound, likeliest.rate, xtol=_CLOSE_ENOUGH))

        return end(min(_BOUNDS[0], likeliest.rate)), end(max(_BOUNDS[1], likeliest.rate))

    def _lost(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log-posterior of the weights, of their middle, and of e = sigmoid(at[-1]) / 2, with its gradient."""
        source_P, num_sources, num_views = self._source_P, self._num_sources, self._num_views
        middle_V, half = at[:num_views], sigmoid(at[-1:])[0]
        weight_SV = at[num_views:-1].reshape(num_sources, num_views)
        e = max(0.5 * half, 1e-12)
        for_flips, against = _PRIOR
        q_P = sigmoid((self._x_PV * weight_SV[source_P]).sum(1))
        so_P = np.maximum((1 - e) * q_P + e * (1 - q_P), 1e-12)
        by_logit_P = (1 - 2 * e) * q_P * (1 - q_P) / so_P
        by_rate = float(((1 - 2 * q_P) / so_P).sum()) + for_flips / e - against / (1 - e)
        apart_SV = weight_SV - middle_V
        lost = -np.log(so_P).sum() - for_flips * np.log(e) - against * np.log(1 - e)
        lost += 0.5 * _SHARED * (middle_V**2).sum() + 0.5 * _OWN * (apart_SV**2).sum()
        added_PV = self._x_PV * by_logit_P[:, None]
        by_weight_SV = np.stack([np.bincount(source_P, column, minlength=num_sources) for column in added_PV.T], axis=1)
        slope = (
            _SHARED * middle_V - _OWN * apart_SV.sum(0),
            (_OWN * apart_SV - by_weight_SV).ravel(),
            [-by_rate * 0.5 * half * (1 - half)],
        )
        return float(lost), np.concatenate(slope)
