"""Means over seeds and prompts: against the analysis of variance, by loops, and on simulated tournaments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from alignkit.statistics.crossed import (
    adjusted,
    all_pairs_steps,
    crossed,
    errors,
    half_width,
    is_noisier,
    pooled_freedom,
    seed_correlation,
    tails,
)
from alignkit.statistics.resampling import CAUTION, Clusters, variance_over


def test_the_variance_is_the_two_way_layouts_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    y_SP = rng.normal(size=(4, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(4, 30))
    found = crossed(y_SP, Clusters.single(30))

    seed, prompt = y_SP.mean(1), y_SP.mean(0)
    ms_seeds = 30 * ((seed - y_SP.mean()) ** 2).sum() / 3
    ms_prompts = 4 * ((prompt - y_SP.mean()) ** 2).sum() / 29
    residual = y_SP - seed[:, None] - prompt + y_SP.mean()
    ms_residual = (residual**2).sum() / (3 * 29)
    assert found.mean == pytest.approx(y_SP.mean())
    assert found.prompts + (found.between - found.interaction) / 4 == pytest.approx(
        (ms_seeds + ms_prompts - ms_residual) / (4 * 30)
    )
    assert found.prompts_freedom == 29


def test_clusters_are_summed_before_they_are_squared() -> None:
    rng = np.random.default_rng(1)
    number_P = rng.permutation(np.repeat(np.arange(6), 4))
    units = Clusters(number_P, 6)
    y = rng.normal(size=(2, 3, 24))
    found = crossed(y, units)
    for at in range(2):
        mean_P = y[at].mean(0)
        by_hand = sum((mean_P - mean_P.mean())[number_P == g].sum() ** 2 for g in range(6)) / 24**2 * 6 / 5
        assert found.prompts[at] == pytest.approx(by_hand)
        rest = y[at] - mean_P - y[at].mean(1, keepdims=True) + y[at].mean()
        by_hand = sum(rest[s, number_P == g].sum() ** 2 for s in range(3) for g in range(6)) / 24**2 * 6 / 5 / 2
        assert found.interaction[at] == pytest.approx(by_hand)
        assert found.between[at] == pytest.approx(np.var(y[at].mean(1), ddof=1))


def test_a_stratum_varies_about_its_own_mean() -> None:
    strata = Clusters.of(["a"] * 10 + ["b"] * 10)
    x_P = np.concatenate([np.zeros(10), np.ones(10)])
    assert variance_over(x_P, Clusters.single(20), strata)[0] == 0
    assert variance_over(x_P, Clusters.single(20))[0] == pytest.approx(0.25 * 20 / 19 / 20)
    x_P = np.arange(20.0) % 5
    variance, freedom = variance_over(x_P, Clusters.single(20), strata)
    assert variance == pytest.approx(2 * np.var(np.arange(10) % 5, ddof=1) * 10 / 20**2)
    assert freedom == pytest.approx(18)


def test_what_one_seed_does_to_both_entrants_is_no_error_of_their_difference() -> None:
    rng = np.random.default_rng(2)
    run_S, prompt_P = rng.normal(size=(3, 1)), rng.normal(size=40)
    a, b = run_S + prompt_P + 1.0, run_S + prompt_P
    difference = crossed(a - b, Clusters.single(40))
    assert difference.mean == pytest.approx(1) and difference.between == pytest.approx(0)
    assert seed_correlation(np.stack([a.mean(1), b.mean(1)])) == pytest.approx(1)


def test_one_seed_says_nothing_of_seeds_and_borrows_what_the_others_say() -> None:
    units = Clusters.single(20)
    rng = np.random.default_rng(3)
    alone = crossed(rng.normal(size=(1, 1, 20)), units)
    variance, freedom = errors(
        alone, np.eye(1), np.zeros(1, int), num_seeds_K=np.ones(1, int), rho=0.0, noisier_E=np.zeros(1, bool)
    )
    assert variance == alone.prompts and freedom == 19

    three = crossed(np.linspace(-3, 3, 3)[:, None] + rng.normal(size=(1, 3, 20)), units)
    both = type(alone)(
        *(
            np.concatenate([getattr(x, f) for x in (alone, three)])
            for f in ("mean", "prompts", "prompts_freedom", "between", "interaction")
        ),
        run_mean_S=three.run_mean_S,
    )
    variance, freedom = errors(
        both, np.eye(2), np.zeros(2, int), num_seeds_K=np.array([1, 3]), rho=0.0, noisier_E=np.zeros(2, bool)
    )
    seeds = float((three.between - three.interaction)[0])
    assert seeds > 1
    assert variance == pytest.approx([both.prompts[0] + seeds, both.prompts[1] + seeds / 3])
    assert 2 <= freedom[1] < freedom[0] < 2.1


def test_an_untrained_entrant_has_no_seeds_part() -> None:
    rng = np.random.default_rng(4)
    parts = crossed(rng.normal(size=(2, 3, 1)) * [[[0]], [[5]]] + rng.normal(size=(2, 1, 50)), Clusters.single(50))
    variance, freedom = errors(
        parts,
        np.array([[0.0], [1.0]]),
        np.zeros(2, int),
        num_seeds_K=np.full(2, 3),
        rho=0.0,
        noisier_E=np.zeros(1, bool),
    )
    assert variance[0] == parts.prompts[0] and freedom[0] == pytest.approx(49)
    assert variance[1] > 10 * parts.prompts[1] and freedom[1] < 3


def test_an_entrant_whose_runs_spread_more_keeps_its_own_variance() -> None:
    between = np.array([1.0, 1.2, 0.8, 30.0])
    assert is_noisier(between, np.full(4, 3)).tolist() == [False, False, False, True]
    assert not is_noisier(np.array([1.0, 1.2, 0.8, 3.0]), np.full(4, 3)).any()
    assert not is_noisier(np.array([0.0, 30.0]), np.array([1, 1])).any()


def test_degrees_of_freedom_count_what_is_shared() -> None:
    pairs = np.array([[1.0, -1, 0, 0], [1, 0, -1, 0], [1, 0, 0, -1], [0, 1, -1, 0], [0, 1, 0, -1], [0, 0, 1, -1]])
    assert pooled_freedom(pairs, 0.0) == pytest.approx(3) and pooled_freedom(pairs, 0.9) == pytest.approx(3)
    assert pooled_freedom(np.eye(4), 0.0) == 4 and pooled_freedom(np.eye(4), 1.0) == pytest.approx(1, rel=1e-5)
    assert pooled_freedom(np.eye(4), 0.5) == pytest.approx(4 / (1 + 3 * 0.25))


def test_holm_and_shaffer() -> None:
    p = np.array([0.04, 0.01, 0.02, 0.5, 0.9, 0.011])
    assert adjusted(p, np.arange(6, 0, -1)) == pytest.approx([0.12, 0.06, 0.08, 1, 1, 0.06])
    assert adjusted(p, all_pairs_steps(4)) == pytest.approx([0.12, 0.06, 0.06, 1, 1, 0.06])
    assert all_pairs_steps(5).tolist() == [10, 6, 6, 6, 6, 4, 4, 3, 2, 1]
    assert all_pairs_steps(2).tolist() == [1]


def test_a_p_value_and_its_interval_say_the_same() -> None:
    units = Clusters.single(100)
    half = float(half_width(np.array(4.0), np.array(7.0), units, 0.95))
    assert half == pytest.approx(2 * t.isf(CAUTION * 0.025, 7))
    assert tails(np.array(half), np.array(4.0), np.array(7.0), units) == pytest.approx(0.05)
    assert tails(np.zeros(1), np.zeros(1), np.ones(1), units) == 1


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_intervals_hold_and_equal_entrants_stay_equal(shared: float) -> None:
    rng = np.random.default_rng(5)
    sets, entrants, seeds, clusters = 3000, 4, 3, 12
    units = Clusters.of(np.repeat(np.arange(clusters), 4).tolist())
    run = math.sqrt(shared) * rng.normal(size=(sets, 1, seeds, 1))
    run = run + math.sqrt(1 - shared) * rng.normal(size=(sets, entrants, seeds, 1))
    cluster = np.repeat(rng.normal(size=(sets, entrants, 1, clusters)), 4, axis=-1)
    y = 0.4 * run + cluster + 2 * rng.normal(size=(sets, entrants, seeds, units.num * 4))
    cell = crossed(y, units)
    rho, noisier = seed_correlation(cell.run_mean_S), is_noisier(cell.between, np.full(entrants, seeds))
    given = {"num_seeds_K": np.full(entrants, seeds), "rho": rho, "noisier_E": noisier}
    variance, freedom = errors(cell, np.eye(entrants), np.zeros(entrants, int), **given)
    held = np.abs(cell.mean) <= half_width(variance, freedom, units, 0.95)
    assert held.mean() >= 0.94

    pairs = [(a, b) for a in range(entrants) for b in range(a + 1, entrants)]
    contrasts = np.array([np.eye(entrants)[a] - np.eye(entrants)[b] for a, b in pairs])
    difference = crossed(np.stack([y[:, a] - y[:, b] for a, b in pairs], 1), units)
    given["num_seeds_K"] = np.full(len(pairs), seeds)
    variance, freedom = errors(difference, contrasts, np.zeros(len(pairs), int), **given)
    p = tails(difference.mean, variance, freedom, units)
    alarms = (adjusted(p, all_pairs_steps(entrants)) <= 0.05).any(1).mean()
    assert 0.005 <= alarms <= 0.055
