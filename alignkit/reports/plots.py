"""Charts as SVG, drawn by matplotlib: no script, printable, and in the page's own colours, light or dark.

A chart is drawn twice, for a wide screen and for a phone; the style sheet shows the one that fits. Its numbers stand
beside it, so that reading.js can say those under the pointer.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkit.reports.curves import Curve, Histogram, Whisker, thinned

COLOURS = ("#3b82f6", "#e8590c", "#0f9d76", "#b455d6", "#d6336c", "#a07a1c")  # at least 3:1 on white and on black
MUTED = "#8a8f98"
# Stand-ins that the page's variables replace: what is drawn in them follows the page's scheme.
_INK, _GRID, _PAPER = "#010203", "#040506", "#070809"
_VARIABLES = {_INK: "var(--soft)", _GRID: "var(--line)", _PAPER: "var(--paper)"}
_SIZES = {"wide": 1140, "narrow": 340}  # CSS pixels
_HEIGHT = 250
_SHORT = 22  # characters of a row's name where the chart is narrow
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it is found, read aloud and scaled
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
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


def draw_curve(curve: Curve, *, salt: str) -> list[Drawing]:
    """Draw a line for each series; long ones are averaged (`MAX_POINTS`).

    Args:
        salt: another one for each chart of a page, so that no two share an id.
    """
    lines = numbers_of(curve)

    def draw(axes: Axes, width: int) -> None:
        for number, (name, (x, y)) in enumerate(lines.items()):
            values = [math.nan if value is None else value for value in y]
            marker = "o" if len(x) <= 30 else ""
            axes.plot(x, values, label=name, color=COLOURS[number % len(COLOURS)], marker=marker, markersize=4)
        for name, x_value in curve.marks.items():
            axes.axvline(x_value, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                name, (x_value, 1), (4, -2), ("data", "axes fraction"), "offset points", va="top", fontsize=11
            )
        axes.set_xlabel(curve.x_label)
        axes.set_ylabel(curve.y_label)
        axes.margins(x=0.01)
        if len(lines) > 1:
            _legend(axes, lines, width)

    return _drawings(draw, height=_HEIGHT, salt=salt)


def draw_histogram(histogram: Histogram, *, salt: str) -> list[Drawing]:
    """Draw the counts of each name as filled steps over one another."""

    def draw(axes: Axes, width: int) -> None:
        for number, (name, (edges, counts)) in enumerate(histogram.counts.items()):
            colour = COLOURS[number % len(COLOURS)]
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(counts, edges, color=colour, linewidth=1.5, label=name)
        axes.set_xlabel(histogram.x_label)
        axes.set_ylabel(histogram.y_label)
        if len(histogram.counts) > 1:
            _legend(axes, histogram.counts, width)

    return _drawings(draw, height=_HEIGHT, salt=salt)


def draw_forest(whiskers: Sequence[Whisker], *, line: float, salt: str) -> list[Drawing]:
    """Draw a dot and its interval a row, first row on top, with a vertical line at `line`.

    Intervals that exclude the line are coloured, the others grey.
    """

    def draw(axes: Axes, width: int) -> None:
        axes.axvline(line, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
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

    return _drawings(draw, height=56 + 34 * max(1, len(whiskers)), salt=salt)


def numbers_of(curve: Curve) -> dict[str, tuple[list[float], list[float | None]]]:
    """The points that are drawn, by name of the series; None where a value is not finite."""
    shown = {}
    for name, (x, y) in curve.series.items():
        x, y = thinned(x, y)
        shown[name] = ([float(f"{v:.6g}") for v in x], [float(f"{v:.5g}") if math.isfinite(v) else None for v in y])
    return shown


def _legend(axes: Axes, names: Mapping[str, Any], width: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(names), width // 150))
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns, borderaxespad=0)


def _short(label: str, width: int) -> str:
    most = _SHORT if width < 600 else 3 * _SHORT
    return label if len(label) <= most else label[: most - 3] + "..."


def _drawings(draw: Any, *, height: int, salt: str) -> list[Drawing]:
    return [_drawing(draw, name, width, height, f"{salt}-{name}") for name, width in _SIZES.items()]


def _drawing(draw: Any, name: str, width: int, height: int, salt: str) -> Drawing:
    with mpl.rc_context(_STYLE | {"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the measuring font lacks; the browser has its own
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        axes = figure.add_subplot()
        draw(axes, width)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
        box = axes.get_position()
        low, high = axes.get_xlim()
    return Drawing(name, Markup(_for_a_page(text.getvalue())), (box.x0, box.x1, float(low), float(high)))


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
