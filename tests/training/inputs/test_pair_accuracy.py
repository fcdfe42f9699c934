"""Held-out figures of a reward model: hand-computed cases, an independent fit, numbers of real preference rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from places import OWN_ROWS, REAL_ROWS, lines_of
from scipy.optimize import minimize
from scipy.stats import binomtest, ttest_1samp

from alignkit.data.reading.rows import Row, to_row, unusable_reason
from alignkit.training.inputs.pair_accuracy import (
    calibration_error,
    difference_over,
    fit_surface,
    pair_accuracy,
    share_over,
    surface_features,
)
from alignkit.units import Pairs


def row(prompt: str, chosen: str, rejected: str) -> Row:
    return to_row({"prompt": prompt, "chosen": chosen, "rejected": rejected}, where="test")


def test_figures_are_those_computed_by_hand() -> None:
    rows = [row("a", "long answer", "no"), row("b", "yes", "longer"), row("c", "1234", "5678"), row("d", "xy", "z")]
    found = pair_accuracy(np.array([2.0, 1.0, -1.0, 0.0]), rows, [])
    assert found.accuracy.mean == (1 + 1 + 0 + 0.5) / 4
    assert found.longer == (1 + 0 + 0.5 + 1) / 4
    assert found.over_longer.mean == 0.0  # the mean of 0, 1, -0.5 and -0.5
    assert found.surface is None and found.over_surface is None
    x, y = np.array([2.0, 1, -1, 0]), [math.log(12 / 3), math.log(4 / 7), 0.0, math.log(3 / 2)]
    assert found.length_correlation == pytest.approx(float(x @ y) / math.sqrt(float(x @ x) * float(np.dot(y, y))))
    assert "does not show that it reads more" in found.lines()[0]
    assert found.metrics()["held_out/accuracy"] == 0.625 and "held_out/surface" not in found.metrics()


def test_the_interval_of_a_difference_is_students_and_pairs_of_one_prompt_are_one_unit() -> None:
    x = np.random.default_rng(0).choice([-1.0, -0.5, 0, 0.5, 1], size=40)
    found = difference_over(x, list(range(40)))
    wanted = ttest_1samp(x, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    doubled = difference_over(np.repeat(x, 2), [n // 2 for n in range(80)])
    assert (doubled.low, doubled.high) == pytest.approx((found.low, found.high))
    far = difference_over(np.array([1.0] * 9 + [0.0]), list(range(10)))
    assert 0 < far.low < 0.9 and far.high == 1


def test_the_interval_of_a_share_is_wilsons_and_within_0_and_1() -> None:
    for wins, n in ((37, 60), (10, 12), (11, 12), (12, 12), (0, 12)):
        x = np.array([1.0] * wins + [0.0] * (n - wins))
        wanted = binomtest(wins, n).proportion_ci(method="wilson")
        found = share_over(x, list(range(n)))
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-4)
        assert 0 <= found.low <= found.mean <= found.high <= 1
        doubled = share_over(np.repeat(x, 2), [k // 2 for k in range(2 * n)])
        assert (doubled.low, doubled.high) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("prompts", ["abc", "abcabcabcabc"])
def test_too_few_prompts_have_no_interval_and_say_so(prompts: str) -> None:
    rows = [row(prompt, "long answer", "no") for prompt in prompts]
    found = pair_accuracy(np.array([1.0] * (len(rows) - 1) + [0.0]), rows, [])
    said = found.lines()[0]
    assert "too few for intervals" in said and f"of {len(rows)} pairs in the right order" in said
    assert "[" not in said and "nan" not in said
    assert not [name for name in found.metrics() if name.endswith(("_low", "_high"))]


def test_calibration_is_the_gap_of_confidence_and_share_right() -> None:
    sure = math.log(9)  # sigma = 0.9
    assert calibration_error(np.array([sure] * 9 + [-sure])) == pytest.approx(9 * 0.1 / 10 + 0.9 / 10)  # bins of one
    rng = np.random.default_rng(0)
    margin = rng.normal(size=20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-np.abs(margin)))
    assert calibration_error(np.where(right, np.abs(margin), -np.abs(margin))) < 0.02


def test_the_surface_model_is_at_its_optimum() -> None:
    rng = np.random.default_rng(1)
    words = "red green blue one two three river\n- item sun".split(" ")
    texts = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(400)]
    rows = [row(f"Say {n} red", *sorted(texts[n : n + 2], key=lambda x: len(x) * rng.random())) for n in range(398)]
    weight, scale = fit_surface(rows)
    x = np.stack([surface_features(one) for one in rows]) / scale

    def objective(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -x @ w).sum() + 0.5 * w @ w)

    assert objective(weight) <= minimize(objective, np.zeros(len(weight)), method="BFGS").fun + 1e-6


@pytest.mark.parametrize(
    ("source", "longer", "surface"),
    [
        ("ultrafeedback_binarized", 0.559, 0.571),
        ("pandalm-testset", 0.666, 0.668),
        ("hh_rlhf_helpful_test", 0.553, 0.596),
    ],
)
def test_real_preference_rows_give_their_known_baselines(source: str, longer: float, surface: float) -> None:
    """Ties left out; the surface model by 5 folds over prompts. Its features are near, not the same: 3 points."""
    lines = lines_of(REAL_ROWS)
    rows = [
        to_row(line, where="shared")
        for line in lines
        if line["source"] == source and not {"score-tie", "chosen-equals-rejected"} & set(line["tags"])
    ]
    folds = [rows[k::5] for k in range(5)]
    figures = [
        pair_accuracy(np.zeros(len(folds[k])), folds[k], [r for other in range(5) if other != k for r in folds[other]])
        for k in range(5)
    ]
    total = sum(one.num_pairs for one in figures)
    found_longer = sum(one.longer * one.num_pairs for one in figures) / total
    found_surface = sum((one.surface or 0) * one.num_pairs for one in figures) / total
    assert found_longer == pytest.approx(longer, abs=0.002)
    assert found_surface == pytest.approx(surface, abs=0.03)


def test_rows_of_our_own_give_their_counted_baselines() -> None:
    """Of the 18 pairs that are no tie, 13.5 have the longer answer chosen."""
    rows = [to_row(line, where="own") for line in lines_of(OWN_ROWS)]
    rows = [row for row in rows if unusable_reason(row, Pairs()) is None]
    assert len(rows) == 18 and sum(row.is_reversed for row in rows) == 1
    folds = [rows[k::3] for k in range(3)]
    found = [
        pair_accuracy(np.zeros(len(folds[k])), folds[k], [r for other in range(3) if other != k for r in folds[other]])
        for k in range(3)
    ]
    assert sum(one.longer * one.num_pairs for one in found) == pytest.approx(13.5)
    assert all(one.surface is not None and 0 <= one.surface <= 1 for one in found)
