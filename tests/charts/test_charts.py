"""Charts: each number stands where it belongs, and says the same in words."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from alignkit.charts.curves import MAX_POINTS, Curve, Histogram, Whisker, curve_text, histogram_text, read_curves
from alignkit.charts.plots import Drawing, draw_curve, draw_forest, draw_histogram, numbers_of
from alignkit.errors import InputError


def test_long_series_are_averaged_without_losing_their_mean() -> None:
    values = list(np.random.default_rng(0).normal(size=4 * MAX_POINTS))
    _, shown = numbers_of(Curve("t", "x", "y", {"a": (list(range(len(values))), values)}))["a"]
    assert len(shown) == MAX_POINTS
    assert np.mean(np.array(shown, float)) == pytest.approx(np.mean(values), abs=1e-4)
    assert shown[0] == pytest.approx(np.mean(values[:4]), rel=1e-4)


def test_values_that_are_not_finite_are_gaps() -> None:
    curve = Curve("t", "x", "y", {"a": ([1, 2, 3], [1.0, float("inf"), 3.0]), "b": ([1], [float("nan")])})
    assert numbers_of(curve)["a"] == ([1, 2, 3], [1.0, None, 3.0])
    assert curve_text(curve) == "t by x; a: 1 at 1, 3 at 3, lowest 1, highest 3; b: no values"
    assert "nan" not in draw_curve(curve, salt="")[0].svg


def x_of(drawing: Drawing, value: float) -> float:
    """Where a value stands in the picture, CSS pixels."""
    left, right, low, high = drawing.span
    width = float(re.findall(r'viewBox="0 0 (\S+) ', drawing.svg)[0])
    return width * (left + (value - low) / (high - low) * (right - left))


@pytest.mark.parametrize("number", [0, 1])
def test_forest_whiskers_reach_their_bounds_and_colour_what_excludes_the_line(number: int) -> None:
    whiskers = [Whisker("sft", 58.0, 55.0, 62.5), Whisker("dpo", 51.0, 49.0, 53.0), Whisker("grpo", 50.0, None, None)]
    drawing = draw_forest(whiskers, line=50, salt="f")[number]
    line = r'd="M (\S+) (\S+) L (\S+) (\S+) "[^>]*stroke: (#3b82f6|#8a8f98); stroke-width: 2;'
    paths = re.findall(line, drawing.svg)
    ends = [(float(a), float(b), colour) for a, _, b, _, colour in paths]
    wanted = [(55, 62.5, "#3b82f6"), (49, 53, "#8a8f98"), (50, 50, "#8a8f98")]
    for (low, high, colour), (a, b, wanted_colour) in zip(ends, wanted, strict=True):
        assert (low, high) == (pytest.approx(x_of(drawing, a), abs=0.1), pytest.approx(x_of(drawing, b), abs=0.1))
        assert colour == wanted_colour


def test_the_kept_step_is_a_line_at_its_place_and_says_so() -> None:
    curve = Curve("t", "step", "y", {"a": ([0, 100], [1.0, 2.0])}, marks={"kept": 25.0})
    drawing = draw_curve(curve, salt="m")[0]
    assert ">kept</text>" in drawing.svg
    (dashed,) = re.findall(r'd="M (\S+) \S+ L \1 \S+ "[^>]*stroke-dasharray', drawing.svg)
    assert float(dashed) == pytest.approx(x_of(drawing, 25.0), abs=0.1)


def test_a_histogram_is_drawn_as_bins() -> None:
    histogram = Histogram("Lengths", "tokens", "texts", {"prompt": ([0, 10, 20], [1, 3]), "none": ([0, 1], [0])})
    drawing = draw_histogram(histogram, salt="h")[0]
    corners = {float(x) for x in re.findall(r"[ML] (\S+) ", drawing.svg)}
    assert all(min(abs(x - x_of(drawing, edge)) for x in corners) < 0.1 for edge in (0, 10, 20))
    assert histogram_text(histogram) == "Lengths: texts by tokens; prompt: 4 in all, most (3) from 10 to 20; none: none"


def test_curves_are_read_from_a_runs_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    logged = [(1, "zeta", 9.0), (1, "validation/loss", 3.0), (1, "loss", 2.5), (2, "loss", 2.0), (2, "loss", 1.5)]
    lines = [json.dumps({"step": s, "name": n, "value": v, "tokens": 10}) for s, n, v in logged]
    file.write_text("\n".join(lines) + '\n{"step": 3, "na', encoding="utf-8")  # torn by a kill
    curves = read_curves(file, group="sft")
    assert [curve.title for curve in curves] == ["Training loss", "Validation loss", "zeta"]
    assert curves[0].series == {"sft": ([1, 2], [2.5, 1.5])}  # step 2 was done again after a resume
    assert [curve.title for curve in read_curves(file, group="sft", metrics=["zeta", "absent"])] == ["zeta"]


def test_broken_metrics_are_named_by_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 1, "name": "loss", "value": 1}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 1: "):
        read_curves(file, group="sft")
    with pytest.raises(InputError, match="cannot be read"):
        read_curves(tmp_path / "absent.jsonl", group="sft")
