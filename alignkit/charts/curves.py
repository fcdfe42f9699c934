"""What a chart shows: curves over training steps, histograms, and intervals beside a line of no difference.

Each has a text that says the same in words, for readers who cannot see the chart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from alignkit.errors import InputError
from alignkit.tracking import split_lines

MAX_POINTS = 500  # of a series; more are averaged in equal parts, since a page holds every chart's numbers

_METRICS = {
    "loss": ("Training loss", "nats"),
    "validation/loss": ("Validation loss", "nats"),
    "reward": ("Reward of the samples", "reward"),
    "validation/reward": ("Validation reward", "reward"),
    "validation/beats_reference": ("Held-out share that beats the reference", "share, ties half"),
    "kl": ("KL to the reference, samples", "nats per completion"),
    "validation/kl": ("KL to the reference, validation", "nats per token"),
    "accuracy": ("Training accuracy", "share, ties half"),
    "validation/accuracy": ("Validation accuracy", "share, ties half"),
    "margin": ("Reward margin", "reward"),
    "desirable_reward": ("Reward of good answers", "reward"),
    "undesirable_reward": ("Reward of bad answers", "reward"),
    "z_0": ("z_0, the KL from other prompts' answers", "nats per completion"),
    "excess_tokens": ("Excess over the reference's length", "tokens"),
    "reward_length_correlation": ("Correlation of reward and length within groups", "correlation"),
    "reward_explained_by_form": ("Share of the reward's rise that length and repetition pay for", "share"),
    "samples_length": ("Length of the samples", "tokens"),
    "samples/length": ("Length of shown samples", "tokens"),
    "validation/length": ("Length of validation samples", "tokens"),
}
MAIN_METRICS = tuple(_METRICS)


@dataclass(frozen=True)
class Curve:
    """One chart of one or more lines.

    Args:
        series: (x, y) by name, equally long; values that are not finite leave a gap.
        group: charts of a group stand under its name.
        marks: x by name of what happened there; each is a vertical line.
        is_scatter: whether the points stand alone, without a line through them.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    group: str = ""
    marks: Mapping[str, float] = field(default_factory=dict)
    is_scatter: bool = False


@dataclass(frozen=True)
class Histogram:
    """One chart of counts by bin.

    Args:
        counts: (edges [bins + 1], counts [bins]) by name.
        group: as of `Curve`.
    """

    title: str
    x_label: str
    y_label: str
    counts: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    group: str = ""


@dataclass(frozen=True)
class Whisker:
    """A number with its interval, or without (None)."""

    label: str
    value: float
    low: float | None
    high: float | None


def read_curves(metrics_file: Path, *, group: str, metrics: Sequence[str] | None = None) -> list[Curve]:
    """Read one chart for each metric of a run's metrics.jsonl.

    Args:
        group: the run's name.
        metrics: only these, in this order; default: all, the best known first, the others by name.

    Raises:
        InputError: the file cannot be read, or a line other than a torn last one is no metric.
    """
    found = read_metrics(metrics_file)
    if metrics is None:
        metrics = [*MAIN_METRICS, *sorted(set(found) - set(MAIN_METRICS))]
    curves = []
    for name in metrics:
        if name in found:
            title, unit = _METRICS.get(name, (name.replace("_", " "), ""))
            points = sorted(found[name].items())
            series = {group: ([step for step, _ in points], [value for _, value in points])}
            curves.append(Curve(title, "optimizer step", unit, series, group))
    return curves


def curve_text(curve: Curve) -> str:
    """Say in words what a chart of curves shows."""
    parts = [f"{curve.title} by {curve.x_label}"]
    for name, (x, y) in curve.series.items():
        points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
        if not points:
            parts.append(f"{name}: no values")
            continue
        (first_x, first), (last_x, last) = points[0], points[-1]
        values = [b for _, b in points]
        parts.append(
            f"{name}: {first:.4g} at {first_x:g}, {last:.4g} at {last_x:g}, "
            f"lowest {min(values):.4g}, highest {max(values):.4g}"
        )
    return "; ".join(parts)


def histogram_text(histogram: Histogram) -> str:
    """Say in words what a histogram shows."""
    parts = [f"{histogram.title}: {histogram.y_label} by {histogram.x_label}"]
    for name, (edges, counts) in histogram.counts.items():
        if not sum(counts):
            parts.append(f"{name}: none")
            continue
        most = max(range(len(counts)), key=lambda n: counts[n])
        parts.append(
            f"{name}: {sum(counts):g} in all, most ({counts[most]:g}) from {edges[most]:g} to {edges[most + 1]:g}"
        )
    return "; ".join(parts)


def forest_text(whiskers: Sequence[Whisker], *, line: float, x_label: str) -> str:
    """Say in words what a chart of intervals shows."""
    rows = [
        f"{w.label} {w.value:.1f}" + ("" if w.low is None or w.high is None else f", {w.low:.1f} to {w.high:.1f}")
        for w in whiskers
    ]
    return "; ".join([f"{x_label}, with a line at {line:g}", *rows])


def read_metrics(metrics_file: Path) -> dict[str, dict[int, float]]:
    """Value by step by metric; a step that was written twice, before and after a resume, has its last value."""
    try:
        lines = split_lines(metrics_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{metrics_file}: cannot be read: {error}") from error
    found: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            metric = json.loads(line)
            found.setdefault(str(metric["name"]), {})[int(metric["step"])] = float(metric["value"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if number == len(lines):
                break  # torn by the end of its process
            raise InputError(f"{metrics_file}, line {number}: no metric with step, name and value ({error})") from error
    return found


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Average neighbours in MAX_POINTS equal parts where there are more points; gaps are closed there."""
    if len(x) <= MAX_POINTS:
        return x, y
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    cuts = [part * len(points) // MAX_POINTS for part in range(MAX_POINTS + 1)]
    parts = [points[a:b] for a, b in pairwise(cuts) if b > a]
    return [fmean(a for a, _ in part) for part in parts], [fmean(b for _, b in part) for part in parts]
