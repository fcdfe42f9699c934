"""AlpacaEval 2's length-controlled win rate, with AlpacaEval's own tables.

    P(model wins row i) = sigmoid(w1 tanh(dl_i / sd(dl)) + w2 difficulty_i + w3 1[not gamed])
    dl = characters of the baseline's answer - characters of the model's, sd over the model's rows (n - 1)
    length-controlled win rate = 100 x mean over rows of sigmoid(w2 difficulty_i + w3): the length term set to 0

Fitted with an L1 penalty on the model's rows (weight 1) and on regularisation rows, the baseline against two
length-gamed versions of itself (weight 0.2 / 2 each, "not gamed" = 0), which tie down w1 and w2. The penalty's C is the
best of ten from 1e-4 to 1e4 by the held-out log loss of five folds.
Source: Dubois et al. 2024, arXiv 2404.04475; estimator `length_controlled_v1` of alpaca_eval 0.6.6. The two tables are
AlpacaEval's and are not shipped here; for other prompts or another baseline there are none: see length_adjusted.py.
Differences: the optimum is exact (liblinear stops at 1e-4), and folds are dealt from the last row to the first, where
scikit-learn's order of equal groups depends on the machine. Both move a rate by less than 0.1 point.
Shape letters: P judged rows, R regularisation rows, K = 3 columns (length, difficulty, not gamed), B resamples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from alignkit.statistics.logistic import fit_l1, fit_resamples, log_loss, sigmoid

_C_GRID = np.logspace(-4, 4, 10)
_NUM_FOLDS = 5
_REGULARISATION_WEIGHT = 0.2 / 2  # of each of the two gamed versions' rows
_RIDGE = 1e-3  # of resamples only: keeps w3 finite where every judged row of one is lost


@dataclass(frozen=True)
class Tables:
    """AlpacaEval's two tables.

    `difficulty` float64 by instruction; regularisation rows: `length_R` = dl / sd(dl), `difficulty_R`, and `label_R`,
    the probability that the gamed version wins.
    """

    difficulty: np.ndarray
    length_R: np.ndarray
    difficulty_R: np.ndarray
    label_R: np.ndarray


@dataclass(frozen=True)
class LengthControlled:
    """The length-controlled win rate in percent, the C that the folds chose, and the weights (w1, w2, w3)."""

    rate: float
    C: float
    weights: tuple[float, float, float]


def length_controlled(
    preference_P: np.ndarray, delta_chars_P: np.ndarray, row_P: np.ndarray, tables: Tables
) -> LengthControlled:
    """Fit the estimator.

    Args:
        preference_P: float64, probability that the model wins, in [0, 1]; a tie is 0.5.
        delta_chars_P: characters of the baseline's answer - of the model's.
        row_P: int, each row's place in `tables.difficulty`.
    """
    difficulty_P = tables.difficulty[row_P]
    x_PK = _design(delta_chars_P / np.std(delta_chars_P, ddof=1), difficulty_P, gamed=False)
    x_RK = _design(tables.length_R, tables.difficulty_R, gamed=True)
    x, y = np.concatenate([x_RK, x_PK]), np.concatenate([tables.label_R, preference_P])
    weight = np.concatenate([np.full(len(x_RK), _REGULARISATION_WEIGHT), np.ones(len(x_PK))])
    C = _choose_C(x, y, weight)
    w_K = fit_l1(x, y, weight, C=C, start_K=np.zeros(3))
    rate = 100 * float(sigmoid(w_K[1] * difficulty_P + w_K[2]).mean())
    return LengthControlled(rate, C, (float(w_K[0]), float(w_K[1]), float(w_K[2])))


def length_controlled_resamples(
    preference_P: np.ndarray,
    delta_chars_P: np.ndarray,
    row_P: np.ndarray,
    tables: Tables,
    *,
    counts: Iterable[np.ndarray],
    fitted: LengthControlled,
) -> np.ndarray:
    """Fit again in every resample of the judged rows and return the rates, float64 [B] in percent.

    The regularisation rows and C stay as they are; the L1 term's gradient keeps the signs of the fitted weights, so
    that all resamples are fitted at once.

    Args:
        counts: blocks [P, some of B] of how often each row is in each resample, from `resampled_counts`.
    """
    difficulty_P = tables.difficulty[row_P]
    x_RK = _design(tables.length_R, tables.difficulty_R, gamed=True)
    shared = np.concatenate([x_RK[:, 1:], np.stack([difficulty_P, np.ones(len(row_P))], axis=1)])
    y, start_K = np.concatenate([tables.label_R, preference_P]), np.array(fitted.weights)
    rates = []
    for weight_PB in counts:
        num = weight_PB.shape[1]
        own = np.concatenate([np.repeat(x_RK[:, :1], num, axis=1), standardised_length(delta_chars_P, weight_PB)])
        weight = np.concatenate([np.full((len(x_RK), num), _REGULARISATION_WEIGHT), weight_PB])
        w_KB = fit_resamples(own, shared, y, weight, start_K=start_K, slope_K=np.sign(start_K) / fitted.C, ridge=_RIDGE)
        p_PB = sigmoid(np.outer(difficulty_P, w_KB[1]) + w_KB[2])
        rates.append(100 * (weight_PB * p_PB).sum(0) / weight_PB.sum(0))
    return np.concatenate(rates)


def standardised_length(delta_chars_P: np.ndarray, weight_PB: np.ndarray) -> np.ndarray:
    """tanh(dl / sd(dl)) with each resample's own standard deviation, float32 [P, B]; 0 where all lengths are equal."""
    scale = float(np.abs(delta_chars_P).max()) or 1.0
    delta_P = delta_chars_P / scale
    n_B = weight_PB.sum(0, dtype=np.float64)
    mean_B = delta_P @ weight_PB / n_B
    variance_B = np.maximum(delta_P**2 @ weight_PB - n_B * mean_B**2, 0.0) / np.maximum(n_B - 1, 1)
    inverse_B = np.where(variance_B > 1e-12, 1 / np.sqrt(np.maximum(variance_B, 1e-12)), 0.0).astype(np.float32)
    tanh_PB: np.ndarray = np.tanh(delta_P.astype(np.float32)[:, None] * inverse_B)
    return tanh_PB


def _design(length: np.ndarray, difficulty: np.ndarray, *, gamed: bool) -> np.ndarray:
    return np.stack([np.tanh(length), difficulty, np.full(len(length), 0.0 if gamed else 1.0)], axis=1)


def _choose_C(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Return the C with the least mean over folds of the held-out log loss."""
    fold = np.arange(len(y))[::-1] % _NUM_FOLDS
    losses = np.zeros(len(_C_GRID))
    for number in range(_NUM_FOLDS):
        train, held = fold != number, fold == number
        w_K = np.zeros(3)
        for at, C in enumerate(_C_GRID):
            w_K = fit_l1(x[train], y[train], weight[train], C=float(C), start_K=w_K)
            losses[at] += log_loss(x[held], y[held], weight[held], w_K) / held.sum()
    return float(_C_GRID[int(losses.argmin())])
