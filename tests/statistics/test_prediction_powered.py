"""A few votes and a judge on all prompts: the estimate, its interval, and who is asked."""

import math

import numpy as np
import pytest

from alignkit.statistics.prediction_powered import chances, keys_of, prediction_powered, weights_of
from alignkit.statistics.resampling import Clusters


def test_with_uniform_asking_it_is_the_regression_estimator() -> None:
    rng = np.random.default_rng(0)
    judge_N = rng.random(400)
    at_K = rng.permutation(400)[:60]
    votes_K = np.clip(judge_N[at_K] + 0.3 * rng.standard_normal(60), 0, 1)
    found = prediction_powered(votes_K, at_K, judge_N, np.full(400, 60 / 400))
    slope, constant = np.polyfit(judge_N[at_K], votes_K, 1)
    assert found.mean == pytest.approx(constant + slope * judge_N.mean())
    assert (found.slope, found.alone_mean) == (pytest.approx(slope), pytest.approx(votes_K.mean()))
    assert found.correlation == pytest.approx(np.corrcoef(judge_N[at_K], votes_K)[0, 1])
    assert found.low < found.mean < found.high
    assert found.high - found.low < found.alone_high - found.alone_low


def test_a_judge_that_knows_everything_leaves_the_spread_of_the_prompts_alone() -> None:
    judge_N = np.tile([1.0, 0.0], 500)
    found = prediction_powered(judge_N[:50], np.arange(50), judge_N, np.full(1000, 0.05))
    error = math.sqrt(0.25 * 50 / 49 / 1000)
    assert (found.mean, found.correlation) == (pytest.approx(0.5), pytest.approx(1.0))
    assert (found.high - found.low) / 2 == pytest.approx(2.13 * error, rel=0.02)


def test_a_judge_that_says_the_same_of_all_adds_nothing_and_breaks_nothing() -> None:
    votes_K = np.tile([1.0, 0.0, 1.0], 10)
    found = prediction_powered(votes_K, np.arange(30), np.ones(200), np.full(200, 0.15))
    assert (found.slope, found.correlation, found.mean) == (0.0, 0.0, pytest.approx(2 / 3))
    all_won = prediction_powered(np.ones(30), np.arange(30), np.ones(200), np.full(200, 0.15))
    assert all_won.mean == 1.0 and all_won.low <= 1.0 <= all_won.high + 1e-12
    with pytest.raises(ValueError, match="9 votes: at least 10"):
        prediction_powered(np.ones(9), np.arange(9), np.ones(20), np.ones(20))


def test_no_pair_is_asked_about_less_often_than_half_the_uniform_chance() -> None:
    weight_N = weights_of(np.array([1.0] + [0.0] * 99))
    assert weight_N.mean() == pytest.approx(1.0) and 0.5 < weight_N.min() < 0.51
    assert weights_of(np.zeros(5)).tolist() == weights_of(np.array([0.0, 1.0] * 2)).tolist()[:1] * 5 == [1.0] * 5


def test_pairs_are_favoured_by_the_error_that_a_second_judge_shows() -> None:
    rng = np.random.default_rng(0)
    for right in (0.75, 0.9):
        wrong_JN = rng.random((2, 400_000)) > right
        left_N = np.where(wrong_JN[0], right, 1 - right)  # |vote - c - b judge| with b = 2 right - 1
        apart_N = wrong_JN[0] != wrong_JN[1]
        weight_N = weights_of(apart_N.astype(float))
        error, expected = (
            np.sqrt((left_N[apart_N] ** 2).mean() / (left_N[~apart_N] ** 2).mean()),
            weight_N[apart_N][0] / weight_N[~apart_N][0],
        )
        assert expected == pytest.approx(error, rel=0.02)


def test_pairs_are_asked_about_as_often_as_their_chances_say() -> None:
    weight_N = np.array([0.2] * 50 + [1.8] * 50)
    asked_N, worth_N = np.zeros(100), np.zeros(100)  # an answer is worth one over its chance: one prompt on average
    for seed in range(4000):
        key_N = keys_of(weight_N, seed=seed)
        at_K = np.argsort(key_N)[:20]
        asked_N[at_K] += 1
        worth_N[at_K] += 1 / chances(key_N, weight_N, 20)[at_K]
    assert worth_N[:50].mean() / 4000 == pytest.approx(1.0, abs=0.04)
    assert worth_N[50:].mean() / 4000 == pytest.approx(1.0, abs=0.01)
    assert asked_N[50:].mean() > 5 * asked_N[:50].mean()
    assert chances(keys_of(weight_N, seed=0), weight_N, 100).tolist() == [1.0] * 100


def test_asking_more_about_some_does_not_move_the_estimate() -> None:
    rng = np.random.default_rng(1)
    hard_N = np.arange(600) % 3 == 0  # people find ours better there, and the judge does not see it
    weight_N = np.where(hard_N, 2.4, 0.3)
    means = []
    for seed in range(1500):
        vote_N = (rng.random(600) < np.where(hard_N, 0.8, 0.4)).astype(float)
        judge_N = (rng.random(600) < 0.5).astype(float)
        key_N = keys_of(weight_N, seed=seed)
        at_K = np.argsort(key_N)[:80]
        means.append(prediction_powered(vote_N[at_K], at_K, judge_N, chances(key_N, weight_N, 80)).mean)
    assert np.mean(means) == pytest.approx(1 / 3 * 0.8 + 2 / 3 * 0.4, abs=0.012)


def test_votes_in_few_unequal_clusters_hold_the_truth_as_often_as_they_say() -> None:
    sizes = [round(200 * 0.8**number) for number in range(20)]  # as informative as 8.8 equal ones
    clusters = Clusters.of([number for number, size in enumerate(sizes) for _ in range(size)])
    rng, size, held, held_alone = np.random.default_rng(2), sum(sizes), 0, 0
    chance_N = np.full(size, 50 / size)
    for _ in range(1000):  # the judge knows nothing; a cluster's prompts are won in 80 or in 20 % of cases
        rate_N = np.where(rng.random(20) < 0.5, 0.8, 0.2)[clusters.number_P]
        vote_N, judge_N = (rng.random(size) < rate_N).astype(float), (rng.random(size) < 0.5).astype(float)
        at_K = rng.permutation(size)[:50]
        found = prediction_powered(vote_N[at_K], at_K, judge_N, chance_N, clusters=clusters)
        held += found.low <= 0.5 <= found.high
        alone = prediction_powered(vote_N[at_K], at_K, judge_N, chance_N)
        held_alone += alone.low <= 0.5 <= alone.high
    assert held / 1000 >= 0.93
    assert held_alone / 1000 < 0.85  # as if every prompt were evidence by itself
