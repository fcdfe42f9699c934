"""Which answer is the better one, told by a model that has not seen the pair's prompt: cross-fitted scores.

Every pair is a difference d = features(chosen) - features(rejected), and a model without an intercept says

    P(chosen is better) = sigmoid(d . w_s)              w_s = w + v_s, s the pair's source      (Bradley and Terry 1952)

`w` is shared, `v_s` is what one source has of its own; both are held small by a ridge. The pairs' prompts are divided
into folds; a pair's score is d . w_s of a fit to the other folds. It does not depend on how the pair itself is
labelled: swapping its answers changes the score's sign and nothing else.
Shape letters: P pairs, K features, S sources, F folds, B buckets.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from alignkit.statistics.logistic import sigmoid
from alignkit.statistics.resampling import Clusters

FOLDS = 5
_SHARED, _OWN = 10.0, 2.0  # ridge for each feature of w and of v_s; features have a mean square of 1
_GRAM_RIDGE = 10.0  # of the dual: rows have length 1
_GRAM_SHARED = 0.3  # of the kernel, beside 1 for pairs of one source
_NEWTON_STEPS = 8
_MAX_CG_STEPS = 60
_RESIDUAL = 1e-2  # relative; far below what labels this noisy say


def fold_of(prompts: Clusters, seed: int = 0) -> np.ndarray:
    """Divide prompts into folds, int64 [P]: pairs of one prompt are in one fold."""
    drawn = np.random.default_rng(seed).permutation(prompts.num) % FOLDS
    fold_P: np.ndarray = drawn[prompts.number_P]
    return fold_P


def dense_parts(x_PK: np.ndarray, source_P: np.ndarray, fold_P: np.ndarray) -> np.ndarray:
    """Score pairs by logistic regression on a few features, fitted by Newton's method, feature by feature.

    Args:
        x_PK: float32 [P, K], differences; every column's mean square is about 1.
        source_P, fold_P: int [P], from 0.

    Returns:
        float32 [P, K], what each feature adds; a row's sum is the log-odds that the chosen answer is the better one.
    """
    parts_PK = np.zeros_like(x_PK)
    by_source = [np.flatnonzero(source_P == s) for s in range(int(source_P.max(initial=-1)) + 1)]
    for fold in range(FOLDS):
        weights_SK = _newton(x_PK, [rows[fold_P[rows] != fold] for rows in by_source])
        for rows, weight_K in zip(by_source, weights_SK, strict=True):
            held = rows[fold_P[rows] == fold]
            parts_PK[held] = x_PK[held] * weight_K
    return parts_PK


def scores_by_other_sources(x_PK: np.ndarray, source_P: np.ndarray) -> np.ndarray | None:
    """Score pairs by logistic regressions on the other sources alone, float64 [P]; None for a single source.

    Args:
        x_PK, source_P: as for `dense_parts`.
    """
    num_sources = int(source_P.max(initial=-1)) + 1
    if num_sources < 2:
        return None
    score_P = np.zeros(len(x_PK))
    for source in range(num_sources):
        (weight_K,) = _newton(x_PK, [np.flatnonzero(source_P != source)])
        score_P[source_P == source] = x_PK[source_P == source] @ weight_K
    return score_P


def _newton(x_PK: np.ndarray, by_source: list[np.ndarray]) -> np.ndarray:
    """Fit w + v_s on the pairs of each source, float64 [S, K]; every pair's label is 1, its differences have the sign.

    The Hessian is an arrow: each v_s meets itself and w alone, so that it is eliminated source by source.
    """
    num, k = len(by_source), x_PK.shape[1]
    parts = [x_PK[rows] for rows in by_source]
    shared_K, own_SK = np.zeros(k), np.zeros((num, k))
    eye = np.eye(k)
    for _ in range(_NEWTON_STEPS):
        schur_KK, right_K = _SHARED * k * eye, -_SHARED * k * shared_K
        solved = []
        for x, own_K in zip(parts, own_SK, strict=True):
            p = sigmoid(-(x @ (shared_K + own_K)))  # of the other answer
            gradient_K = x.T @ p  # of the log-likelihood
            curve_KK = (x * (p * (1 - p))[:, None].astype(x.dtype)).T.astype(np.float64) @ x
            inverse_KK = np.linalg.inv(curve_KK + _OWN * k * eye)
            left_KK, left_K = curve_KK @ inverse_KK, gradient_K - _OWN * k * own_K
            schur_KK = schur_KK + curve_KK - left_KK @ curve_KK
            right_K = right_K + gradient_K - left_KK @ left_K
            solved.append((inverse_KK, curve_KK, left_K))
        step_K = np.linalg.solve(schur_KK, right_K)
        shared_K = shared_K + step_K
        for s, (inverse_KK, curve_KK, left_K) in enumerate(solved):
            own_SK[s] += inverse_KK @ (left_K - curve_KK @ step_K)
        if np.abs(step_K).max() < 1e-5:
            break
    weights_SK: np.ndarray = shared_K + own_SK
    return weights_SK


def sparse_scores(x_PB: sparse.csr_array, source_P: np.ndarray, fold_P: np.ndarray) -> np.ndarray:
    """Score pairs by ridge regression of the label 1 on many sparse features, all folds at once.

    For signals as weak as words', squared loss and logistic loss agree to first order, and the squared one is linear.
    The dual is solved by conjugate gradients: (K + ridge I) a = 1 on the training pairs, K = x (0.3 + same source) x'.

    Args:
        x_PB: float32 [P, B], differences; rows of length 1 or 0.

    Returns:
        float64 [P], positive where the chosen answer seems better; no probability.
    """
    by_source = [np.flatnonzero(source_P == s) for s in range(int(source_P.max(initial=-1)) + 1)]
    parts = [x_PB[rows] for rows in by_source]
    is_trained_PF = (fold_P[:, None] != np.arange(FOLDS)).astype(np.float32)

    def kernel(a_PF: np.ndarray) -> np.ndarray:
        back = [x.T @ a_PF[rows] for x, rows in zip(parts, by_source, strict=True)]
        shared_BF = _GRAM_SHARED * sum(back)
        out_PF = np.empty_like(a_PF)
        for x, rows, own_BF in zip(parts, by_source, back, strict=True):
            out_PF[rows] = x @ (shared_BF + own_BF)
        return out_PF

    a_PF = np.zeros_like(is_trained_PF)
    rest_PF, way_PF = is_trained_PF.copy(), is_trained_PF.copy()
    begin_F = square_F = (rest_PF**2).sum(0)
    for _ in range(_MAX_CG_STEPS):
        moved_PF = is_trained_PF * kernel(way_PF) + _GRAM_RIDGE * way_PF
        size_F = square_F / np.maximum((way_PF * moved_PF).sum(0), 1e-30)
        a_PF += size_F * way_PF
        rest_PF -= size_F * moved_PF
        next_F = (rest_PF**2).sum(0)
        if (next_F <= _RESIDUAL**2 * begin_F).all():
            break
        way_PF = rest_PF + next_F / np.maximum(square_F, 1e-30) * way_PF
        square_F = next_F
    return kernel(a_PF)[np.arange(len(fold_P)), fold_P].astype(np.float64)
