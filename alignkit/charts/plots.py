"""Charts as SVG, drawn by matplotlib: no script, printable, and in the page's own colours, light or dark.

A chart is drawn twice, for a wide screen and for a phone; the style sheet shows the one that fits. Its numbers stand
beside it, so that reading.js can say those under the pointer.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkit.charts.curves import Curve, Histogram, Whisker, thinned

Draw = Callable[[Axes, int], None]
COLOURS = ("#3b82f6", "#e8590c", "#0f9d76", "#b455d6", "#d6336c", "#a07a1c")  # at least 3:1 on white and on black
MUTED = "#8a8f98"
# Stand-ins that the page's variables replace: what is drawn in them follows the page's scheme.
_INK, _GRID = "#010203", "#040506"
_VARIABLES = {_INK: "var(--soft)", _GRID: "var(--line)"}
_IN_NOTEBOOKS = ("#5b6470", "#d9dee4")  # ink and grid, readable on white and on black
_SIZES = {"wide": 1140, "narrow": 340}  # CSS pixels
_HEIGHT = 250
_SHORT = 22  # characters of a row's name where the chart is narrow


def _style(ink: str, grid: str) -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",  # text stays text: it is found, read aloud and scaled
        "text.parse_math": False,  # a name with dollar signs is a name
        "font.size": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": grid,
        "axes.labelcolor": ink,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "grid.color": grid,
        "grid.linewidth": 0.8,
        "xtick.color": grid,
        "ytick.color": grid,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "text.color": ink,
        "legend.frameon": False,
        "legend.labelcolor": ink,
        "path.simplify": False,
    }


@dataclass(frozen=True)
class Drawing:
    """One chart at one width.

    Args:
        name: "wide" or "narrow".
        span: where the x axis lies in the picture, left and right as shares of its width, and its first and last value.
    """

    name: str
    svg: Markup
    span: tuple[float, float, float, float]


class NotebookFigure(Figure):
    """A figure that a notebook shows where a cell ends with it."""

    def _repr_svg_(self) -> str:
        text = StringIO()
        with _drawing_in(*_IN_NOTEBOOKS):
            self.savefig(text, format="svg")
        return text.getvalue()


def draw_curve(curve: Curve, *, salt: str) -> list[Drawing]:
    """Draw a line for each series; long ones are averaged (`MAX_POINTS`).

    Args:
        salt: another one for each chart of a page, so that no two share an id.
    """
    return _drawings(partial(_curve, curve), height=_HEIGHT, salt=salt)


def draw_histogram(histogram: Histogram, *, salt: str) -> list[Drawing]:
    """Draw the counts of each name as filled steps over one another."""
    return _drawings(partial(_histogram, histogram), height=_HEIGHT, salt=salt)


def draw_forest(whiskers: Sequence[Whisker], *, line: float, salt: str) -> list[Drawing]:
    """Draw a dot and its interval a row, first row on top, with a vertical line at `line`.

    Intervals that exclude the line are coloured, the others grey.
    """
    return _drawings(partial(_forest, whiskers, line), height=_forest_height(whiskers), salt=salt)


def curves_figure(curves: Sequence[Curve]) -> NotebookFigure:
    """Curves below each other, for a notebook."""
    return _notebook_figure([partial(_curve, curve) for curve in curves], [curve.title for curve in curves], _HEIGHT)


def forest_figure(whiskers: Sequence[Whisker], *, line: float, title: str) -> NotebookFigure:
    """Intervals beside a line, for a notebook."""
    return _notebook_figure([partial(_forest, whiskers, line)], [title], _forest_height(whiskers) + 20)


def _curve(curve: Curve, axes: Axes, width: int) -> None:
    lines = numbers_of(curve)
    for number, (name, (x, y)) in enumerate(lines.items()):
        values = [math.nan if value is None else value for value in y]
        marker = "o" if curve.is_scatter or len(x) <= 30 else ""
        axes.plot(
            x,
            values,
            label=name,
            color=COLOURS[number % len(COLOURS)],
            marker=marker,
            markersize=4,
            linestyle="none" if curve.is_scatter else "-",
        )
    for name, x_value in curve.marks.items():
        _vertical(axes, x_value)
        axes.annotate(name, (x_value, 1), (4, -2), ("data", "axes fraction"), "offset points", va="top", fontsize=11)
    axes.set_xlabel(curve.x_label)
    axes.set_ylabel(curve.y_label)
    axes.margins(x=0.08 if curve.is_scatter else 0.01)
    _legend(axes, lines, width)


def _histogram(histogram: Histogram, axes: Axes, width: int) -> None:
    for number, (name, (edges, counts)) in enumerate(histogram.counts.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(counts, edges, color=colour, linewidth=1.5, label=name)
    axes.set_xlabel(histogram.x_label)
    axes.set_ylabel(histogram.y_label)
    _legend(axes, histogram.counts, width)


def _forest(whiskers: Sequence[Whisker], line: float, axes: Axes, width: int) -> None:
    _vertical(axes, line)
    for row, whisker in enumerate(whiskers):
        low = whisker.value if whisker.low is None else whisker.low
        high = whisker.value if whisker.high is None else whisker.high
        colour = COLOURS[0] if low > line or high < line else MUTED
        axes.plot([low, high], [row, row], color=colour, linewidth=2, marker="|", markersize=9)
        axes.plot([whisker.value], [row], color=colour, marker="o", markersize=8)
    axes.set_yticks(range(len(whiskers)), [_short(whisker.label, width) for whisker in whiskers])
    axes.set_ylim(len(whiskers) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.08)


def _forest_height(whiskers: Sequence[Whisker]) -> int:
    return 56 + 34 * max(1, len(whiskers))


def _vertical(axes: Axes, x: float) -> None:
    axes.axvline(x, color=mpl.rcParams["text.color"], linewidth=1, linestyle=(0, (4, 3)))


def numbers_of(curve: Curve) -> dict[str, tuple[list[float], list[float | None]]]:
    """The points that are drawn, by name of the series; None where a value is not finite."""
    shown = {}
    for name, (x, y) in curve.series.items():
        x, y = thinned(x, y)
        shown[name] = ([float(f"{v:.6g}") for v in x], [float(f"{v:.5g}") if math.isfinite(v) else None for v in y])
    return shown


def _legend(axes: Axes, names: Mapping[str, Any], width: int) -> None:
    if len(names) < 2:
        return
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(names), width // 150))
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns, borderaxespad=0)


def _short(label: str, width: int) -> str:
    most = _SHORT if width < 600 else 3 * _SHORT
    return label if len(label) <= most else label[: most - 3] + "..."


def _drawings(draw: Draw, *, height: int, salt: str) -> list[Drawing]:
    return [_drawing(draw, name, width, height, f"{salt}-{name}") for name, width in _SIZES.items()]


def _drawing(draw: Draw, name: str, width: int, height: int, salt: str) -> Drawing:
    with _drawing_in(_INK, _GRID, salt):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        axes = figure.add_subplot()
        draw(axes, width)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
        box = axes.get_position()
        low, high = axes.get_xlim()
    return Drawing(name, Markup(_for_a_page(text.getvalue())), (box.x0, box.x1, float(low), float(high)))


def _notebook_figure(parts: Sequence[Draw], titles: Sequence[str], height: int) -> NotebookFigure:
    width = _SIZES["wide"] * 2 // 3
    with _drawing_in(*_IN_NOTEBOOKS):
        figure = NotebookFigure(figsize=(width / 72, height * len(parts) / 72), dpi=72, layout="constrained")
        for place, (draw, title) in enumerate(zip(parts, titles, strict=True), start=1):
            axes = figure.add_subplot(len(parts), 1, place)
            draw(axes, width)
            axes.set_title(title, loc="left", fontsize=12, pad=24)
    return figure


@contextmanager
def _drawing_in(ink: str, grid: str, salt: str | None = None) -> Iterator[None]:
    with mpl.rc_context(_style(ink, grid) | {"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the measuring font lacks; the browser has its own
        yield


def _for_a_page(svg: str) -> str:
    """The picture alone: without a header, styles for the whole page, or ids that other pictures have as well."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style type=\"text/css\">.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r" d=\"[^\"]*\"", lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)  # hundredths of a pixel
    return re.sub(r" ?\n", " ", re.sub(r">\s+<", "><", svg))


def as_json(series: Mapping[str, tuple[Iterable[float], Iterable[float | None]]]) -> str:
    """The numbers beside a chart, for reading.js."""
    return json.dumps([[name, list(x), list(y)] for name, (x, y) in series.items()], separators=(",", ":"))
