"""Win rates, mean differences and their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, norm, t

from alignkit.config.settings import JudgeSection
from alignkit.judging import planner
from alignkit.judging.scores import values
from alignkit.scoring.judge import Missing, Scored
from alignkit.statistics import intervals, resampling
from alignkit.statistics.intervals import mean_interval
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import outcomes, win_rate

MISSING = Missing("no answer")
outcome_lists = st.lists(st.sampled_from([1.0, 0.5, 0.0, math.nan]), max_size=80)


def made(num_wins: int, num_ties: int, num_losses: int) -> np.ndarray:
    return np.array([1.0] * num_wins + [0.5] * num_ties + [0.0] * num_losses)


def test_outcomes_are_wins_ties_losses_and_missing() -> None:
    ours = [Scored(2.0), Scored(1.0), Scored(-3.0), MISSING, Scored(1.0)]
    theirs = [Scored(1.0), Scored(1.0), Scored(-2.0), Scored(0.0), MISSING]
    np.testing.assert_array_equal(outcomes(values(ours), values(theirs)), [1.0, 0.5, 0.0, math.nan, math.nan])


def test_scores_that_differ_by_rounding_tie_and_large_or_tiny_ones_do_not() -> None:
    ours_P = np.array([0.1 + 0.2, 1e300, -1e300, 1e-300, 0.0, 1.0, math.inf])
    theirs_P = np.array([0.3, -1e300, 1e300, 2e-300, 0.0, 1.0 + 1e-6, math.inf])
    np.testing.assert_array_equal(outcomes(ours_P, theirs_P), [0.5, 1.0, 0.0, 0.0, 0.5, 0.0, 0.5])


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores of one side and 1"):
        outcomes(np.ones(2), np.ones(1))


def test_ties_count_half_and_missing_scores_count_nothing() -> None:
    result = win_rate(np.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0, math.nan, math.nan]), seed=0)
    assert result.rate == 50.0
    assert (result.num_prompts, result.num_missing) == (8, 2)
    assert (result.num_wins, result.num_ties, result.num_losses) == (3, 2, 3)


def test_numbers_that_are_no_outcome_are_refused() -> None:
    with pytest.raises(ValueError, match="an outcome is"):
        win_rate(np.array([1.0, 1.7]), seed=0)


def test_bootstrap_interval_equals_a_plain_bootstrap() -> None:
    outcomes_P = made(90, 60, 50)
    rng = np.random.default_rng(7)
    means = [100 * rng.choice(outcomes_P, size=len(outcomes_P)).mean() for _ in range(10_000)]
    result = win_rate(outcomes_P, seed=0)
    assert result.rate == 60.0
    assert result.method == "expanded percentile bootstrap over prompts, 10,000 resamples"
    np.testing.assert_allclose([result.low, result.high], np.percentile(means, [2.5, 97.5]), atol=0.35)


def test_interval_of_two_thousand_prompts_has_the_normal_half_width() -> None:
    result = win_rate(made(1040, 0, 960), seed=0)
    half_width = 100 * norm.ppf(0.975) * math.sqrt(0.52 * 0.48 / 2000)
    np.testing.assert_allclose([result.low, result.high], [52 - half_width, 52 + half_width], atol=0.15)
    assert result.low < 50 < result.high


@pytest.mark.parametrize(("num_wins", "n"), [(5, 5), (0, 5), (40, 40), (3, 4), (29, 30), (1, 200)])
def test_without_ties_the_score_interval_is_wilsons(num_wins: int, n: int) -> None:
    z2 = norm.ppf(0.975) ** 2
    centre = (num_wins + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (num_wins * (n - num_wins) / n + z2 / 4)) / (n + z2)
    result = win_rate(made(num_wins, 0, n - num_wins), seed=0)
    assert result.method == "paired score interval (Tango 1998) over prompts"
    half += 1 / (2 * n) if n < 30 else 0  # half a step: 5 of 5 are no evidence yet
    expected = [100 * max(centre - half, 0), 100 * min(centre + half, 1)]
    np.testing.assert_allclose([result.low, result.high], expected, atol=1e-6)


@pytest.mark.parametrize("n", [5, 8, 12, 16, 20, 29])
def test_equal_models_are_seldom_called_different_on_few_prompts(n: int) -> None:
    alarms = [win_rate(made(wins, 0, n - wins), seed=0, level=0.96) for wins in range(n + 1)]
    chance_W = binom.pmf(np.arange(n + 1), n, 0.5)
    assert sum(p for p, one in zip(chance_W, alarms, strict=True) if not one.low <= 50 <= one.high) < 0.05


def test_only_ties_give_an_interval_around_50_that_shrinks_with_prompts() -> None:
    few, many = win_rate(made(0, 20, 0), seed=0), win_rate(made(0, 200, 0), seed=0)
    z2 = norm.ppf(0.975) ** 2
    for result, n in ((few, 20), (many, 200)):
        assert result.rate == 50
        step = 100 / (2 * n) if n < 30 else 0
        np.testing.assert_allclose([50 - result.low, result.high - 50], 50 * z2 / (n + z2) + step, atol=1e-6)


def test_three_wins_among_ties_do_not_exclude_50() -> None:
    assert win_rate(made(3, 97, 0), seed=0).low < 50


@pytest.mark.parametrize(("level", "z"), [(0.9, 1.6449), (0.99, 2.5758)])
def test_the_level_sets_the_width(level: float, z: float) -> None:
    result = win_rate(made(500, 0, 500), seed=0, level=level)
    assert result.high - result.low == pytest.approx(200 * z * math.sqrt(0.25 / 1000), rel=0.05)


@pytest.mark.parametrize(
    ("numbers", "rate", "method"),
    [
        ([], None, "none: 0 prompts scored on both sides"),
        ([math.nan, math.nan], None, "none: 0 prompts scored on both sides"),
        ([1.0, math.nan], 100.0, "none: 1 prompt scored on both sides"),
    ],
)
def test_below_two_prompts_there_is_no_interval(numbers: list[float], rate: float | None, method: str) -> None:
    result = win_rate(np.array(numbers), seed=0)
    assert (result.rate, result.low, result.high, result.method) == (rate, 0.0, 100.0, method)


@settings(max_examples=60, deadline=None)
@given(numbers=outcome_lists, seed=st.integers(0, 9))
def test_swapping_the_sides_mirrors_rate_and_interval(numbers: list[float], seed: int) -> None:
    x_P = np.array(numbers)
    ours, theirs = win_rate(x_P, seed=seed, num_resamples=500), win_rate(1 - x_P, seed=seed, num_resamples=500)
    assert (ours.rate is None) == (theirs.rate is None)
    if ours.rate is not None and theirs.rate is not None:
        assert theirs.rate == pytest.approx(100 - ours.rate)
    assert theirs.low == pytest.approx(100 - ours.high, abs=1e-6)
    assert theirs.high == pytest.approx(100 - ours.low, abs=1e-6)
    assert (ours.num_wins, ours.num_losses, ours.num_missing) == (
        theirs.num_losses,
        theirs.num_wins,
        theirs.num_missing,
    )


@settings(max_examples=60, deadline=None)
@given(numbers=outcome_lists)
def test_the_interval_holds_the_rate_and_stays_within_0_and_100(numbers: list[float]) -> None:
    result = win_rate(np.array(numbers), seed=0, num_resamples=500)
    assert 0 <= result.low <= result.high <= 100
    if result.rate is not None:
        assert result.low - 1e-9 <= result.rate <= result.high + 1e-9


def test_the_same_seed_gives_the_same_interval_and_another_a_near_one() -> None:
    x_P = made(70, 20, 50)
    one, again, other = win_rate(x_P, seed=1), win_rate(x_P, seed=1), win_rate(x_P, seed=2)
    assert one == again
    assert one.low == pytest.approx(other.low, abs=0.6)


@pytest.mark.parametrize("p_wins_ties_losses", [(0.3, 0.4, 0.3), (0.05, 0.92, 0.03), (0.7, 0.1, 0.2)])
def test_intervals_hold_the_true_rate_about_95_times_in_100(p_wins_ties_losses: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    true_rate = 100 * (p_wins_ties_losses[0] + p_wins_ties_losses[1] / 2)
    tries = [rng.choice([1.0, 0.5, 0.0], p=p_wins_ties_losses, size=60) for _ in range(400)]
    intervals = [win_rate(x_P, seed=n, num_resamples=999) for n, x_P in enumerate(tries)]
    held = sum(result.low <= true_rate <= result.high for result in intervals)
    assert 365 <= held <= 396  # 380 +- 3.5 standard deviations


def test_mean_interval_of_many_numbers_is_the_normal_one() -> None:
    x_P = np.random.default_rng(0).normal(-4.0, 10.0, size=500)
    result = mean_interval(np.append(x_P, math.nan), seed=0)
    half_width = 1.96 * x_P.std(ddof=1) / math.sqrt(500)
    assert result.mean == pytest.approx(x_P.mean())
    assert (result.num_prompts, result.num_missing) == (500, 1)
    np.testing.assert_allclose([result.low, result.high], x_P.mean() + np.array([-half_width, half_width]), atol=0.1)


def test_mean_interval_of_few_numbers_is_students() -> None:
    result = mean_interval(np.array([1.0, 2.0, 3.0]), seed=0)  # sd 1, t(0.975, 2) = 4.3027
    assert result.mean == 2.0
    np.testing.assert_allclose(
        [result.low, result.high], [2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)], atol=1e-4
    )
    assert result.method == "Student's t"


@pytest.mark.parametrize(
    ("numbers", "mean", "bound"),
    [([], None, None), ([3.0], 3.0, None), ([math.nan], None, None), ([2.0] * 40, 2.0, 2.0)],
)
def test_mean_interval_says_where_there_is_none(numbers: list[float], mean: float | None, bound: float | None) -> None:
    result = mean_interval(np.array(numbers), seed=0)
    assert (result.mean, result.low, result.high) == (mean, bound, bound)
    assert result.method.startswith("none: ")


def test_probabilities_of_winning_are_outcomes_too() -> None:
    result = win_rate(np.array([0.9, 0.5, 0.2, math.nan] * 20), seed=0)
    assert (result.num_wins, result.num_ties, result.num_losses, result.num_missing) == (20, 20, 20, 20)
    assert result.rate == pytest.approx(100 * 1.6 / 3)


def test_clusters_that_agree_within_count_once_each() -> None:
    ones_G = np.array([1.0] * 24 + [0.0] * 16)  # 40 clusters of 10 prompts with one outcome each
    names = np.repeat(np.arange(40), 10).tolist()
    apart = win_rate(ones_G, seed=0)
    together = win_rate(np.repeat(ones_G, 10), seed=0, clusters=Clusters.of(names))
    assert (together.rate, together.num_clusters, apart.num_clusters) == (60.0, 40, None)
    np.testing.assert_allclose([together.low, together.high], [apart.low, apart.high], atol=1e-9)
    alone = win_rate(np.repeat(ones_G, 10), seed=0)
    assert together.high - together.low > 2.8 * (alone.high - alone.low)


def test_probabilities_near_a_half_are_hardly_evidence() -> None:
    barely = win_rate(np.full(100, 0.50005), seed=0, level=0.96)  # a hundredth of a win
    ties = win_rate(np.full(100, 0.5), seed=0, level=0.96)
    assert barely.rate == pytest.approx(50.005)
    np.testing.assert_allclose([barely.low, barely.high], [ties.low, ties.high], atol=0.1)
    assert ties.low < 49 < 51 < ties.high
    few = win_rate(np.array([0.8] * 17 + [0.05] * 3), seed=0, level=0.96)
    assert few.low < 50 < few.high


@pytest.mark.parametrize(("n", "share"), [(20, 5 / 6), (60, 0.93), (100, 0.95), (200, 0.97), (200, 5 / 6)])
def test_probabilities_that_are_rarely_low_call_equal_models_nothing(n: int, share: float) -> None:
    rng, wrong = np.random.default_rng(n), 0
    for seed in range(200):  # true mean 50; of the same number of outcomes 3 to 9 in 10 sets were called better before
        noise_P = rng.uniform(-0.01, 0.01, n) if seed % 2 else np.zeros(n)
        outcome_P = np.where(rng.random(n) < share, np.clip(0.5 / share + noise_P, 0, 1), 0.0)
        result = win_rate(outcome_P, seed=seed, level=0.96, num_resamples=300)
        wrong += result.low > 50 or result.high < 50
    assert wrong <= 18  # of 200 at 4 % more come in 0.1 of 100 cases


def test_all_wins_in_few_clusters_are_worth_few_outcomes() -> None:
    clusters = Clusters.of(np.repeat(np.arange(5), 40).tolist())
    result = win_rate(np.ones(200), seed=0, clusters=clusters)
    assert result.low == pytest.approx(100 * 5 / (5 + norm.ppf(0.975) ** 2))  # Wilson's bound of 5 of 5
    one = win_rate(np.array([1.0, 0.0] * 50), seed=0, clusters=Clusters.of([0] * 100))
    assert (one.low, one.high) == (0.0, 100.0)
    assert one.method.startswith("none: ")


def test_few_clusters_are_judged_by_student_s_t_of_their_means() -> None:
    means_G = np.array([0.4, 0.5, 0.6, 0.6, 0.7, 0.8])
    x_P = np.concatenate([np.repeat([1.0, 0.0], [round(50 * m), round(50 * (1 - m))]) for m in means_G])
    result = win_rate(x_P, seed=0, level=0.96, clusters=Clusters.of(np.repeat(np.arange(6), 50).tolist()))
    error = means_G.std(ddof=1) / math.sqrt(6)
    half, s2 = error * t.ppf(0.98, 5), 0.6 * 0.4 + error**2  # the rate's p (1 - p) without bias
    assert (result.rate, result.num_effective) == (pytest.approx(60.0), pytest.approx(6.0))
    for bound, side in ((result.low, -1), (result.high, 1)):  # on the scale of arcsin(sqrt(rate))
        moved = math.asin(math.sqrt(bound / 100)) - math.asin(math.sqrt(0.6))
        assert moved == pytest.approx(side * half / (2 * math.sqrt(s2)))
    assert result.method == "Student's t over 6 clusters of prompts, no shorter than independent prompts'"


def test_unequal_clusters_have_the_error_and_freedom_of_how_alike_their_prompts_are() -> None:
    sizes, rng = np.array([60, 30, 20, 10, 10, 5, 5]), np.random.default_rng(0)
    number_P, clusters = np.repeat(np.arange(7), sizes), Clusters.of(np.repeat(np.arange(7), sizes).tolist())
    share_G = sizes / sizes.sum()
    left_GG = share_G[:, None] * (np.eye(7) - share_G)  # a cluster's part of what is left, from the clusters' means

    def parts(r: float) -> tuple[np.ndarray, np.ndarray]:
        covariance_GG = np.diag(r + (1 - r) / sizes)
        return covariance_GG, left_GG @ covariance_GG @ left_GG.T

    effect_G = rng.standard_normal(7)
    for effect in (0.0, 1.0, 2.0):
        x_P = rng.standard_normal(140) + effect * effect_G[number_P]
        shown = resampling.spread(x_P, clusters) ** 2 / x_P.var(ddof=1)
        is_alike = np.trace(parts(0)[1]) < shown
        r = brentq(lambda r, shown=shown: np.trace(parts(r)[1]) - shown, 0, 1) if is_alike else 0.0
        assert is_alike == (effect > 0)
        covariance_GG, form_GG = parts(r)
        freedom = np.trace(form_GG) ** 2 / np.trace(form_GG @ form_GG)  # Bell and McCaffrey's
        variance = x_P.var(ddof=1) * (share_G @ covariance_GG @ share_G)
        error, found = resampling.few_clusters(x_P, clusters)
        assert found == pytest.approx((freedom + clusters.effective - 1) / 2)
        assert error == pytest.approx(math.sqrt(variance)) or (r == 0 and error < math.sqrt(variance))


def test_clusters_that_chance_made_alike_are_no_better_evidence_than_independent_prompts() -> None:
    alike = np.tile(np.repeat([1.0, 0.0], [6, 4]), 10)  # every cluster 60 %
    result = win_rate(alike, seed=0, clusters=Clusters.of(np.repeat(np.arange(10), 10).tolist()))
    low, high = intervals.score_interval(60, 40, 100, 0.95)
    assert (result.low, result.high) == (pytest.approx(100 * low), pytest.approx(100 * high))


@pytest.mark.parametrize("sizes", [(100, 100, 100), (200, 30, 30, 30, 30), (100, 100, 100, 99)])
def test_under_five_effective_clusters_nothing_is_said_of_others(sizes: tuple[int, ...]) -> None:
    names = [name for name, size in enumerate(sizes) for _ in range(size)]
    x_P = np.concatenate([np.repeat([1.0, 0.0], [size - size // 3, size // 3]) for size in sizes])
    result = win_rate(x_P, seed=0, clusters=Clusters.of(names))
    assert (result.low, result.high, result.has_interval) == (0.0, 100.0, False)
    assert f"only {len(sizes)} clusters of prompts" in result.method
    here = win_rate(x_P, seed=0, strata=Clusters.of(names))
    assert here.rate == result.rate and 55 < here.low < here.high < 80


def test_within_strata_the_spread_between_them_is_no_uncertainty() -> None:
    # 100 prompts of a source always won, 100 of one that is won half the time: only the second is uncertain
    x_P, strata = np.concatenate([np.ones(100), np.repeat([1.0, 0.0], 50)]), np.repeat([0, 1], 100)
    here = win_rate(x_P, seed=0, strata=Clusters.of(strata.tolist()))
    whole = win_rate(x_P, seed=0)
    error = math.sqrt(0.25 * 100 / 99 / 100) / 2  # of the mean, by the second stratum alone, a half of all
    assert (here.high - here.low) / 2 == pytest.approx(100 * error * t.ppf(0.975, 99), rel=0.02)
    assert here.high - here.low < 0.85 * (whole.high - whole.low)


def test_strata_of_a_single_prompt_are_taken_together() -> None:
    x_P = np.tile([1.0, 0.0, 1.0, 0.5], 10)
    single, one = win_rate(x_P, seed=0, strata=Clusters.single(40)), win_rate(x_P, seed=0, strata=Clusters.of([0] * 40))
    assert (single.low, single.high) == (one.low, one.high)
    lonely = win_rate(x_P, seed=0, strata=Clusters.of([0] * 39 + [1]))
    assert (lonely.low, lonely.high) == (one.low, one.high)


def test_a_mean_over_clusters_has_the_interval_of_their_means() -> None:
    rng = np.random.default_rng(5)
    x_P = np.repeat(rng.normal(0, 1, 40), 5)  # nothing varies within
    apart = mean_interval(x_P, seed=0)
    together = mean_interval(x_P, seed=0, clusters=Clusters.of(np.repeat(np.arange(40), 5).tolist()))
    assert apart.low is not None and apart.high is not None and together.low is not None and together.high is not None
    assert together.high - together.low == pytest.approx(math.sqrt(5) * (apart.high - apart.low), rel=0.1)
    few = mean_interval(x_P[:30], seed=0, clusters=Clusters.of(np.repeat(np.arange(6), 5).tolist()))
    half = x_P[:30:5].std(ddof=1) / math.sqrt(6) * t.ppf(1 - 0.8 * 0.025, 5)
    assert few.low is not None and few.high is not None and (few.high - few.low) / 2 == pytest.approx(half)
    none = mean_interval(x_P[:15], seed=0, clusters=Clusters.of(np.repeat(np.arange(3), 5).tolist()))
    assert (none.low, none.method) == (None, "none: only 3 clusters of prompts: at least 5 are needed")


@pytest.mark.parametrize(("num_clusters", "correlation"), [(5, 0.0), (5, 0.3), (8, 0.1), (12, 0.3)])
def test_equal_models_are_seldom_called_different_over_few_clusters(num_clusters: int, correlation: float) -> None:
    rng, alarms = np.random.default_rng(num_clusters), 0
    clusters = Clusters.of(np.repeat(np.arange(num_clusters), 20).tolist())
    for _ in range(600):
        effect_P = np.repeat(rng.standard_normal(num_clusters), 20)
        latent_P = math.sqrt(1 - correlation) * rng.standard_normal(20 * num_clusters)
        x_P = (latent_P + math.sqrt(correlation) * effect_P > 0).astype(float)
        result = win_rate(x_P, seed=0, level=0.96, clusters=clusters)
        alarms += result.low > 50 or result.high < 50
    assert alarms / 600 < 0.06


def test_drawing_kinds_of_clusters_is_drawing_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x_P, clusters = made(90, 60, 50), Clusters.of(rng.integers(0, 60, 200).tolist())
    x_P = rng.permutation(x_P)
    monkeypatch.setattr(resampling, "MAX_KINDS", 10_000)
    by_kind = resampling.resampled_means(x_P, clusters, rng=np.random.default_rng(0), num_resamples=20_000)
    monkeypatch.setattr(resampling, "MAX_KINDS", 0)
    one_by_one = resampling.resampled_means(x_P, clusters, rng=np.random.default_rng(0), num_resamples=20_000)
    assert by_kind.std() == pytest.approx(one_by_one.std(), rel=0.03)
    np.testing.assert_allclose(
        np.quantile(by_kind, [0.02, 0.5, 0.98]), np.quantile(one_by_one, [0.02, 0.5, 0.98]), atol=2e-3
    )


def test_counts_of_prompts_give_the_resampled_means() -> None:
    x_P, clusters = made(20, 10, 10), Clusters.of(np.repeat(np.arange(10), 4).tolist())
    counts_PB = np.concatenate(
        list(resampling.resampled_counts(clusters, rng=np.random.default_rng(0), num_resamples=3000)), axis=1
    )
    assert counts_PB.shape == (40, 3000)
    assert (counts_PB.sum(0) == 40).all()
    assert (counts_PB[0] == counts_PB[3]).all()
    means_B = x_P @ counts_PB / counts_PB.sum(0)
    direct_B = resampling.resampled_means(x_P, clusters, rng=np.random.default_rng(1), num_resamples=3000)
    assert means_B.std() == pytest.approx(direct_B.std(), rel=0.06)


@pytest.mark.parametrize("ties", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("num_prompts", [50, 200, 2000])
def test_the_planner_and_its_inverse_agree(num_prompts: int, ties: float) -> None:
    difference = planner.detectable(num_prompts, ties=ties)
    assert difference is not None
    assert planner.prompts_for(difference, ties=ties) in (num_prompts, num_prompts + 1)


def test_the_planner_knows_the_textbook_number_and_asks_more_of_clusters() -> None:
    # (2.05 + 0.84)^2 (0.25 - 0.05^2) / 0.05^2 = 830; with 2.088 for the interval's caution 850, and what attainable
    # bounds and Student's t cost
    assert 850 <= planner.prompts_for(5.0) <= 850 + 25
    assert planner.prompts_for(5.0, cluster_size=11, icc=0.1) > 2 * 850
    assert planner.prompts_for(5.0, ties=0.6) < 0.42 * 850
    assert planner.detectable(3) is None
    said = JudgeSection.model_fields["num_prompts"].description  # a number, so that the help needs no scipy
    assert said is not None and f"({planner.prompts_for(planner.DIFFERENCE)})" in said
