"""The report of a training run: its curves, its settings and the lengths of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.charts.curves import Curve, Histogram, read_curves, read_metrics
from alignkit.data.looking.lengths import DIFFERENCE, LIMITS, ROW
from alignkit.reports.page import Column, Section, write_report
from alignkit.runs import Part, read_run

LENGTHS = (
    Column("column", "column"),
    Column("count", "texts", digits=0),
    *(
        Column(key, label, digits=0)
        for key, label in (
            ("mean", "mean"),
            ("min", "min"),
            ("p50", "50 %"),
            ("p90", "90 %"),
            ("p99", "99 %"),
            ("max", "max"),
        )
    ),
    *(Column(f"over {limit}", f"longer than {limit:,}", digits=0) for limit in LIMITS),
)
_HELD_OUT = "held_out/"


def write_training_report(run: Path, *, method: str, settings: Mapping[str, Any], curves: Sequence[str] = ()) -> None:
    """Write RUN/report.html: the curves of its metrics and its settings.

    Args:
        curves: metrics to draw, in this order; () draws all.
    """
    drawn: list[Curve | Histogram] = [*read_curves(run / "metrics.jsonl", group=method, metrics=curves or None)]
    rows = [{"option": key, "value": str(value)} for key, value in settings.items() if value is not None]
    sections = [Section("Settings", table=(Column("option", "option"), Column("value", "value")), rows=rows)]
    parts = read_run(run).rows
    sections.insert(0, _rows({"training": parts.training, "validation": parts.validation}))
    columns = [lengths.model_dump() for lengths in parts.training.lengths]
    if columns:
        drawn = [*drawn, _length_chart(columns)]
        sections.insert(0, _lengths(columns))
    if held_out := _held_out(run / "metrics.jsonl"):
        figures = (Column("name", "measure"), Column("value", "value", low="low", high="high", digits=3))
        sections.insert(
            0, Section("Held-out pairs: does it read more than the look of an answer?", table=figures, rows=held_out)
        )
    note = f"One {method} run. Whether the model became better is another question: alignkit judge {run}."
    write_report(run / "report.html", title=f"{run.name}: {method}", note=note, curves=drawn, sections=sections)


def _held_out(metrics: Path) -> list[dict[str, Any]]:
    """A reward model's figures on held-out pairs, each with its interval where it has one."""
    last = {
        name: by_step[max(by_step)] for name, by_step in read_metrics(metrics).items() if name.startswith(_HELD_OUT)
    }
    names = [name for name in last if not name.endswith(("_low", "_high"))]
    return [
        {"name": name.removeprefix(_HELD_OUT).replace("_", " "), "value": last[name]}
        | {end: last.get(f"{name}_{end}") for end in ("low", "high")}
        for name in names
    ]


def _rows(parts: Mapping[str, Part]) -> Section:
    """What became of the rows: trained on, left out on purpose and skipped, by reason."""
    found = {name: Counter({"used": part.used}) for name, part in parts.items()}
    for name, part in parts.items():
        found[name].update(f"left out on purpose: {reason}" for reason in part.left_out.values())
        found[name].update(f"skipped: {reason}" for reason in part.skipped.values())
    reasons = dict.fromkeys(reason for counts in found.values() for reason in counts)
    rows = [{"what": what} | {name: counts[what] for name, counts in found.items()} for what in reasons]
    return Section("Rows", table=(Column("what", "rows"), *(Column(name, name, digits=0) for name in parts)), rows=rows)


def _lengths(columns: Sequence[Mapping[str, Any]]) -> Section:
    rows = [{**column, **{f"over {limit}": count for limit, count in column["over"].items()}} for column in columns]
    note = f"Tokens of the training rows before any cut; a limit on rows cuts {ROW}."
    return Section("Lengths", note=note, table=LENGTHS, rows=rows)


def _length_chart(columns: Sequence[Mapping[str, Any]]) -> Histogram:
    counts = {c["column"]: (c["edges"], c["counts"]) for c in columns if c["column"] != DIFFERENCE}
    return Histogram("Lengths of the training rows", "tokens", "texts", counts, group="data")
