"""Scores by models that have not seen the pair."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize

from alignkit.audit.cross_fit import FOLDS, dense_parts, fold_of, sparse_scores
from alignkit.statistics.resampling import Clusters

P, K = 300, 4
SHARED, OWN = 10.0 * K, 2.0 * K  # the ridges of cross_fit.py


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences, sources and folds; the first feature speaks for the chosen one, in source 1 against it."""
    rng = np.random.default_rng(0)
    x_PK = rng.normal(size=(P, K)).astype(np.float32)
    source_P = rng.integers(0, 2, P)
    x_PK[:, 0] += np.where(source_P == 0, 0.8, -0.8)
    return x_PK, source_P, fold_of(Clusters.single(P))


def test_pairs_of_one_prompt_are_in_one_fold() -> None:
    prompts = Clusters.of([number // 3 for number in range(60)])
    fold_P = fold_of(prompts)
    assert (fold_P.reshape(-1, 3) == fold_P[::3, None]).all()
    assert np.bincount(fold_P).tolist() == [12] * FOLDS


def test_dense_scores_are_those_of_a_general_optimizer(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x_PK, source_P, fold_P = drawn
    parts_PK = dense_parts(x_PK, source_P, fold_P)
    trained, held = fold_P != 0, fold_P == 0

    def objective(at: np.ndarray) -> float:
        shared_K, own_SK = at[:K], at[K:].reshape(2, K)
        logit_P = (x_PK * (shared_K + own_SK[source_P])).sum(1)[trained]
        return float(np.logaddexp(0, -logit_P).sum() + SHARED / 2 * (shared_K**2).sum() + OWN / 2 * (own_SK**2).sum())

    found = minimize(objective, np.zeros(3 * K), method="BFGS").x
    expected_PK = x_PK * (found[:K] + found[K:].reshape(2, K)[source_P])
    np.testing.assert_allclose(parts_PK[held], expected_PK[held], atol=1e-3)
    assert np.abs(expected_PK).max() > 0.5


def test_sparse_scores_are_those_of_the_kernel_solved_whole(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x_PK, source_P, fold_P = drawn
    x_PK = x_PK / np.linalg.norm(x_PK, axis=1, keepdims=True)
    scores_P = sparse_scores(sparse.csr_array(x_PK), source_P, fold_P)
    kernel_PP = (x_PK @ x_PK.T) * (0.3 + (source_P[:, None] == source_P))
    for fold in range(FOLDS):
        trained, held = np.flatnonzero(fold_P != fold), np.flatnonzero(fold_P == fold)
        dual = np.linalg.solve(kernel_PP[np.ix_(trained, trained)] + 10 * np.eye(len(trained)), np.ones(len(trained)))
        np.testing.assert_allclose(scores_P[held], kernel_PP[np.ix_(held, trained)] @ dual, atol=0.02)
    assert np.abs(scores_P).max() > 0.3


def test_a_pair_that_is_swapped_changes_its_score_s_sign_alone(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    x_PK, source_P, fold_P = drawn
    swapped_PK = x_PK.copy()
    swapped_PK[7] *= -1
    for scores in (
        lambda x: dense_parts(x, source_P, fold_P).sum(1),
        lambda x: sparse_scores(sparse.csr_array(x), source_P, fold_P),
    ):
        before_P, after_P = scores(x_PK), scores(swapped_PK)
        assert after_P[7] == pytest.approx(-before_P[7], abs=1e-6)
        assert before_P[7] != 0
