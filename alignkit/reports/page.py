"""The HTML report: one file that holds everything it shows, and asks no network for anything.

Model text is escaped by the templates; the page's content policy forbids every request besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

import alignkit
from alignkit.charts.curves import MAX_POINTS, Curve, Histogram, Whisker, curve_text, forest_text, histogram_text
from alignkit.charts.plots import Drawing, as_json, draw_curve, draw_forest, draw_histogram, numbers_of
from alignkit.judging import health, verdict_text
from alignkit.judging.verdict import Verdict
from alignkit.storage import write_atomically

__all__ = ["Column", "Curve", "Example", "Histogram", "Section", "write_report"]


@dataclass(frozen=True)
class Column:
    """One column of a table; the first of a table names its rows.

    Args:
        key: of the rows' values: text, number, or None (shown as a dash).
        digits: after the decimal point.
        low, high: keys of an interval, shown under the number.
        line: with it the column is also drawn, each row's interval beside a line at this value.
        note: what the number is, shown when pointing at the header and under the chart.
    """

    key: str
    label: str
    digits: int = 1
    low: str | None = None
    high: str | None = None
    line: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Example:
    """One prompt and what each entrant answered, with scores where there are any.

    Args:
        tokens: by entrant, where known.
        outcome: "win", "tie", "loss" or "missing" of the first entrant, by which the page filters; or "".
        heading: what is said before the prompt where the example is closed.
        note: what is said of it under the answers.
    """

    prompt: str
    completions: Mapping[str, str]
    reference: str | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    outcome: str = ""
    heading: str = ""
    note: str = ""

    @property
    def length(self) -> int:
        """Tokens of the longest answer."""
        return max(self.tokens.values(), default=0)

    @property
    def gap(self) -> int:
        """Tokens between the longest and the shortest answer."""
        return self.length - min(self.tokens.values(), default=0)


@dataclass(frozen=True)
class Section:
    """A further part of the page: a text, a table where it has columns, and examples that open."""

    title: str
    note: str = ""
    table: Sequence[Column] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    examples: Sequence[Example] = ()


def write_report(
    path: Path,
    *,
    title: str,
    note: str,
    points: Sequence[tuple[str, str]] = (),
    table: Sequence[Column] = (),
    rows: Sequence[Mapping[str, Any]] = (),
    curves: Sequence[Curve | Histogram] = (),
    examples: Sequence[Example] = (),
    verdicts: Sequence[Verdict] = (),
    sections: Sequence[Section] = (),
    answers_title: str = "Examples",
    private: bool = False,
    refresh_s: int | None = None,
) -> None:
    """Write the page whole or not at all; parts without content are left out.

    Args:
        note: the first line under the table, or under the title where there is no table.
        points: what is most worth knowing, (what, a sentence or two), before everything else.
        table, rows: the main table; every row has the key of every column.
        verdicts: the first is shown, the others under a heading that opens.
        curves: charts in the order of their groups' first appearance.
        answers_title: the heading over the examples.
        private: the page is its owner's alone to read, as a run's folder is; else the umask says whose it is.
        refresh_s: the page loads itself again after so many seconds: it is written anew meanwhile.

    Raises:
        KeyError: a row lacks a column's key.
        RunStopped: the disk refuses.
    """
    charts = _Charts()
    template = _environment().get_template("report.html.jinja")
    text = template.render(
        title=title,
        note=note,
        points=points,
        table=_table(table, rows),
        forests=[charts.forest(column, table[0], rows) for column in table if column.line is not None],
        curve_groups=[(group, [charts.curve(curve) for curve in members]) for group, members in _grouped(curves)],
        examples=examples,
        outcomes=[o for o in ("win", "tie", "loss", "missing") if any(e.outcome == o for e in examples)],
        answers_title=answers_title,
        refresh_s=refresh_s,
        verdicts=[_verdict(verdict) for verdict in verdicts],
        sections=[(section, _table(section.table, section.rows)) for section in sections],
        max_points=MAX_POINTS,
        is_thinned=any(
            len(x) > MAX_POINTS for curve in curves if isinstance(curve, Curve) for x, _ in curve.series.values()
        ),
        version=alignkit.__version__,
    )
    write_atomically(Path(path), text, private=private)


@dataclass(frozen=True)
class _Chart:
    title: str
    note: str
    text: str
    drawings: list[Drawing]
    x_label: str = ""
    series: str = ""


class _Charts:
    """Draws charts; no two of them share an id on the page."""

    def __init__(self) -> None:
        self._count = 0

    def curve(self, curve: Curve | Histogram) -> _Chart:
        if isinstance(curve, Histogram):
            return _Chart(curve.title, "", histogram_text(curve), draw_histogram(curve, salt=self._salt()))
        drawings = draw_curve(curve, salt=self._salt())
        return _Chart(curve.title, "", curve_text(curve), drawings, curve.x_label, as_json(numbers_of(curve)))

    def forest(self, column: Column, names: Column, rows: Sequence[Mapping[str, Any]]) -> _Chart:
        assert column.line is not None
        whiskers = [
            Whisker(str(row[names.key]), row[column.key], _bound(row, column.low), _bound(row, column.high))
            for row in rows
            if _is_number(row[column.key])
        ]
        text = forest_text(whiskers, line=column.line, x_label=column.label)
        return _Chart(column.label, column.note, text, draw_forest(whiskers, line=column.line, salt=self._salt()))

    def _salt(self) -> str:
        self._count += 1
        return f"chart-{self._count}"


@dataclass(frozen=True)
class _Cell:
    text: str
    interval: str
    is_number: bool


def _table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Cells as they are shown; None without columns."""
    if not columns:
        return None
    cells = [[_cell(column, row) for column in columns] for row in rows]
    numeric = [any(row[n].is_number for row in cells) for n in range(len(columns))]
    return {"columns": list(zip(columns, numeric, strict=True)), "rows": cells}


def _cell(column: Column, row: Mapping[str, Any]) -> _Cell:
    value = row[column.key]
    if isinstance(value, str):
        return _Cell(value, "", False)
    if not _is_number(value):
        return _Cell("\N{EN DASH}", "", False)
    low, high = _bound(row, column.low), _bound(row, column.high)
    interval = "" if low is None or high is None else f"{_shown(low, column.digits)} to {_shown(high, column.digits)}"
    return _Cell(_shown(value, column.digits), interval, True)


def _bound(row: Mapping[str, Any], key: str | None) -> float | None:
    value = None if key is None else row[key]
    return value if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _shown(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _grouped(curves: Sequence[Curve | Histogram]) -> list[tuple[str, list[Curve | Histogram]]]:
    groups: dict[str, list[Curve | Histogram]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    return list(groups.items())


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "headline": verdict_text.headline(verdict),
        "rule": verdict_text.rule(verdict),
        "facts": verdict_text.facts(verdict),
        "table": verdict_text.table(verdict),
        "health": health.lines(verdict.health),
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alignkit.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda value: f"{value:.3g}"
    return environment
