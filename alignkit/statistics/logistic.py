"""Logistic regression of win probabilities on a few columns, for one data set or many resamples of it at once.

    minimise  sum_p s_p [softplus(x_p . w) - y_p (x_p . w)]  +  penalty        y_p in [0, 1] may be a probability

A soft label y with weight s is the same as two rows, label 1 with weight s y and label 0 with s (1 - y). The design
matrices here have two or three columns, so that Newton's method and coordinate descent reach the optimum to 1e-10 in a
few steps; no solver library's tolerance enters a published number.
Shape letters: P prompts (rows), K columns, B resamples.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

_MAX_NEWTON_STEPS = 100
_TOLERANCE = 1e-10
_LAST_STEP = 2e-3  # of a resample's fit: Newton's error after it is about its square


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def fit_l1(x_PK: np.ndarray, y_P: np.ndarray, weight_P: np.ndarray, *, C: float, start_K: np.ndarray) -> np.ndarray:
    """Minimise C x the weighted log loss + the sum of |w|: L1-regularised logistic regression without an intercept.

    Newton steps on the loss's quadratic, each solved under the L1 term by coordinate descent (Friedman, Hastie and
    Tibshirani 2010), halved until the objective falls.

    Args:
        x_PK, y_P, weight_P: float64; `y_P` in [0, 1].
        C: inverse strength of the penalty, as in scikit-learn and liblinear.
        start_K: where to begin.

    Returns:
        w, float64 [K].

    Raises:
        ArithmeticError: no optimum was found.
    """
    w_K = start_K.astype(np.float64)
    objective = _objective(x_PK, y_P, weight_P, w_K, C)
    for _ in range(_MAX_NEWTON_STEPS):
        p_P = sigmoid(x_PK @ w_K)
        gradient_K = C * (x_PK.T @ (weight_P * (p_P - y_P)))
        hessian_KK = C * _curvature(x_PK, weight_P, w_K)
        step_K = _soft_threshold_step(w_K, gradient_K, hessian_KK)
        size = 1.0
        while (tried := _objective(x_PK, y_P, weight_P, w_K + size * step_K, C)) > objective and size > 1e-8:
            size /= 2
        moved = size * np.abs(step_K).max()
        if tried <= objective:
            w_K, objective = w_K + size * step_K, tried
        if moved < _TOLERANCE or tried > objective:
            return w_K
    raise ArithmeticError(f"the logistic fit did not settle in {_MAX_NEWTON_STEPS} steps; its last weights are {w_K}")


def fit_ridge(x_PK: np.ndarray, y_P: np.ndarray, *, ridge: float) -> np.ndarray:
    """Minimise the log loss + ridge / 2 x sum w^2 by scipy's trust-region Newton method; there is no intercept.

    Args:
        x_PK, y_P: float64; `y_P` in [0, 1].

    Returns:
        w, float64 [K], where every element of the gradient is below 1e-6.
    """
    ones_P = np.ones(len(y_P))
    found = minimize(
        lambda w_K: log_loss(x_PK, y_P, ones_P, w_K) + ridge / 2 * float(w_K @ w_K),
        np.zeros(x_PK.shape[1]),
        jac=lambda w_K: x_PK.T @ (sigmoid(x_PK @ w_K) - y_P) + ridge * w_K,
        hess=lambda w_K: _curvature(x_PK, ones_P, w_K) + ridge * np.eye(x_PK.shape[1]),
        method="trust-exact",
        options={"gtol": 1e-8},
    )
    w_K: np.ndarray = found.x
    return w_K


def fit_resamples(
    own_PB: np.ndarray,
    shared_PK: np.ndarray,
    y_P: np.ndarray,
    weight_PB: np.ndarray,
    *,
    start_K: np.ndarray,
    slope_K: np.ndarray,
    ridge: float,
) -> np.ndarray:
    """Minimise the weighted log loss + slope . w + ridge / 2 sum w^2 in every resample at once, in float32.

    Args:
        own_PB: the first column, which differs between resamples.
        shared_PK: the other columns, K - 1 of them.
        weight_PB: how often each row is in each resample.
        start_K: the fit to the data itself, a few Newton steps from any resample's.
        slope_K: a constant gradient, such as an L1 penalty's at the signs of `start_K`.
        ridge: above 0, so that a separable resample has an optimum too.

    Returns:
        w, float64 [K, B], to about 1e-5.

    Raises:
        ArithmeticError: no optimum was found.
    """
    num_columns, num_resamples = len(start_K), weight_PB.shape[1]
    own_PB, shared_PK, weight_PB = (np.asarray(a, dtype=np.float32) for a in (own_PB, shared_PK, weight_PB))
    half_P = (np.asarray(y_P, dtype=np.float32) - np.float32(0.5))[:, None]
    pairs = [(i, j) for i in range(num_columns - 1) for j in range(i, num_columns - 1)]
    products_PK = np.stack([shared_PK[:, i] * shared_PK[:, j] for i, j in pairs], axis=1)
    w_BK = np.repeat(start_K[None].astype(np.float64), num_resamples, axis=0)
    for number in range(_MAX_NEWTON_STEPS):
        w = w_BK.astype(np.float32)
        h_PB = shared_PK @ w[:, 1:].T
        h_PB += own_PB * w[:, 0]
        h_PB *= np.float32(0.5)
        np.tanh(h_PB, out=h_PB)  # p = (1 + h) / 2
        error_PB = weight_PB * (h_PB * np.float32(0.5) - half_P)
        curve_PB = weight_PB * (np.float32(0.25) - np.float32(0.25) * h_PB * h_PB)
        gradient_BK = np.concatenate(
            [np.einsum("pb,pb->b", own_PB, error_PB)[:, None], (shared_PK.T @ error_PB).T], axis=1
        )
        hessian_BKK = np.empty((num_resamples, num_columns, num_columns))
        own_curve_PB = own_PB * curve_PB
        hessian_BKK[:, 0, 0] = np.einsum("pb,pb->b", own_PB, own_curve_PB)
        hessian_BKK[:, 0, 1:] = hessian_BKK[:, 1:, 0] = (shared_PK.T @ own_curve_PB).T
        for (i, j), column_B in zip(pairs, products_PK.T @ curve_PB, strict=True):
            hessian_BKK[:, 1 + i, 1 + j] = hessian_BKK[:, 1 + j, 1 + i] = column_B
        hessian_BKK += ridge * np.eye(num_columns)
        step_BK = np.linalg.solve(hessian_BKK, (gradient_BK + slope_K + ridge * w_BK)[:, :, None])[:, :, 0]
        farthest = 2 / (1 + number // 10)  # never far at once, and less where the steps do not settle
        step_BK *= np.minimum(1, farthest / np.maximum(np.abs(step_BK).max(1), 1e-300))[:, None]
        w_BK -= step_BK
        if np.abs(step_BK).max() < _LAST_STEP:
            return np.ascontiguousarray(w_BK.T)
    raise ArithmeticError(f"a resample's logistic fit did not settle in {_MAX_NEWTON_STEPS} steps")


def log_loss(x_PK: np.ndarray, y_P: np.ndarray, weight_P: np.ndarray, w_K: np.ndarray) -> float:
    """Sum over rows of weight x -(y log p + (1 - y) log(1 - p)), in nats."""
    eta_P = x_PK @ w_K
    return float(weight_P @ (np.logaddexp(0, eta_P) - y_P * eta_P))


def _objective(x_PK: np.ndarray, y_P: np.ndarray, weight_P: np.ndarray, w_K: np.ndarray, C: float) -> float:
    return C * log_loss(x_PK, y_P, weight_P, w_K) + float(np.abs(w_K).sum())


def _curvature(x_PK: np.ndarray, weight_P: np.ndarray, w_K: np.ndarray) -> np.ndarray:
    """Second derivatives of the weighted log loss, [K, K]."""
    p_P = sigmoid(x_PK @ w_K)
    curvature_KK: np.ndarray = (x_PK.T * (weight_P * p_P * (1 - p_P))) @ x_PK
    return curvature_KK


def _soft_threshold_step(w_K: np.ndarray, gradient_K: np.ndarray, hessian_KK: np.ndarray) -> np.ndarray:
    """Minimise gradient . d + d' hessian d / 2 + sum |w + d| over d, one coordinate after another."""
    d_K = np.zeros_like(w_K)
    for _ in range(1000):
        largest = 0.0
        for k in range(len(w_K)):
            curve = max(hessian_KK[k, k], 1e-12)
            slope = gradient_K[k] + hessian_KK[k] @ d_K
            at = w_K[k] + d_K[k] - slope / curve
            new = np.sign(at) * max(abs(at) - 1 / curve, 0.0) - w_K[k]
            largest, d_K[k] = max(largest, abs(new - d_K[k])), new
        if largest < _TOLERANCE / 10:
            break
    return d_K
