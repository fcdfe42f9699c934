"""The charts of a report: curves over training steps, and intervals beside a line of no difference.

Each chart is a plotly figure with a text that says the same in words, for readers who cannot see it. Colours of text,
axes and grid come from the page's style sheet, so that the charts follow its light or dark scheme.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import plotly.graph_objects as go
import plotly.io

from alignkit.errors import InputError
from alignkit.tracking import split_lines

MAX_POINTS = 1000  # of a series; more are averaged in equal parts, since a page holds every chart's numbers
COLOURS = ("#3b82f6", "#e8590c", "#0f9d76", "#b455d6", "#d6336c", "#a07a1c")  # at least 3:1 on white and on black
MUTED = "#8a8f98"

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
        group: charts of a group stand beside each other under its name.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
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


def curve_figure(curve: Curve) -> go.Figure:
    """Draw a line for each series; long ones are averaged (see MAX_POINTS)."""
    figure = go.Figure()
    for number, (name, (x, y)) in enumerate(curve.series.items()):
        x, y = _thinned(x, y)
        figure.add_scatter(
            x=[_rounded(v) for v in x],
            y=[_rounded(v) for v in y],
            name=_plain(name),
            mode="lines+markers" if len(x) <= 30 else "lines",
            line={"color": COLOURS[number % len(COLOURS)], "width": 2},
            marker={"size": 5},
            hovertemplate="%{x}: %{y:.4g}",
        )
    figure.update_layout(
        height=260 if len(curve.series) > 1 else 230,
        showlegend=len(curve.series) > 1,
        legend={"orientation": "h", "y": -0.3, "x": 0},
        hovermode="x unified" if len(curve.series) > 1 else "closest",
    )
    figure.update_xaxes(title_text=_plain(curve.x_label))
    figure.update_yaxes(title_text=_plain(curve.y_label))
    return _styled(figure)


def forest_figure(whiskers: Sequence[Whisker], *, line: float) -> go.Figure:
    """Draw a dot and its interval a row, first row on top, with a vertical line at `line`.

    Intervals that exclude the line are coloured, the others grey.
    """
    figure = go.Figure()
    ends = [line]
    for whisker in whiskers:
        low = whisker.value if whisker.low is None else whisker.low
        high = whisker.value if whisker.high is None else whisker.high
        excludes = low > line or high < line
        ends += [low, high]
        label = _plain(whisker.label)
        figure.add_scatter(
            x=[_rounded(whisker.value)],
            y=[label],
            mode="markers",
            marker={"size": 11, "color": COLOURS[0] if excludes else MUTED},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - whisker.value],
                "arrayminus": [whisker.value - low],
                "thickness": 2,
                "width": 6,
            },
            hovertemplate=f"{label}: {whisker.value:.2f} [{low:.2f}, {high:.2f}]<extra></extra>",
        )
    figure.add_vline(x=line, line={"color": MUTED, "width": 1.5, "dash": "dash"})
    figure.update_layout(height=56 + 38 * max(1, len(whiskers)), showlegend=False)
    room = 0.08 * (max(ends) - min(ends)) or 1.0
    figure.update_xaxes(range=[min(ends) - room, max(ends) + room])
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return _styled(figure)


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


def forest_text(whiskers: Sequence[Whisker], *, line: float, x_label: str) -> str:
    """Say in words what a chart of intervals shows."""
    rows = [
        f"{w.label} {w.value:.1f}" + ("" if w.low is None or w.high is None else f", {w.low:.1f} to {w.high:.1f}")
        for w in whiskers
    ]
    return "; ".join([f"{x_label}, with a line at {line:g}", *rows])


def to_html(figure: go.Figure, *, div_id: str) -> str:
    """Return the figure as HTML that needs plotly.js on its page and nothing else."""
    config = {"displaylogo": False, "displayModeBar": False, "responsive": True, "plotlyServerURL": ""}
    text: str = plotly.io.to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        config=config,
        div_id=div_id,
        default_width="100%",
        default_height=f"{figure.layout.height}px",
    )
    return text


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


def _styled(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
        margin={"l": 10, "r": 14, "t": 8, "b": 10},
        dragmode=False,
    )
    figure.update_xaxes(automargin=True, zeroline=False, title_standoff=8, fixedrange=True)
    figure.update_yaxes(automargin=True, zeroline=False, title_standoff=8, fixedrange=True)
    return figure


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Average neighbours in MAX_POINTS equal parts where there are more points; gaps are closed there."""
    if len(x) <= MAX_POINTS:
        return x, y
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    cuts = [part * len(points) // MAX_POINTS for part in range(MAX_POINTS + 1)]
    parts = [points[a:b] for a, b in pairwise(cuts) if b > a]
    return [fmean(a for a, _ in part) for part in parts], [fmean(b for _, b in part) for part in parts]


def _rounded(x: float) -> float | None:
    return float(f"{x:.6g}") if math.isfinite(x) else None


def _plain(text: str) -> str:
    """Plotly reads some HTML in its texts: model and metric names are no HTML."""
    return html.escape(text, quote=False)
