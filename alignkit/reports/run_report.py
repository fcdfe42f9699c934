"""The report of a run: its verdicts, the answers they rest on, what it was, its curves, settings and rows."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkit.charts.curves import Curve, Histogram, read_curves, read_metrics
from alignkit.data.looking.lengths import DIFFERENCE, LIMITS, ROW
from alignkit.display import counted, duration
from alignkit.judging import verdict_files
from alignkit.judging.judged_answers import JudgedAnswers, read_answers
from alignkit.judging.verdict import Verdict
from alignkit.reports.page import Column, Example, Section, write_report
from alignkit.runs import Part, RunRecord, read_run

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


def write_run_report(run: Path, *, curves: Sequence[str] = ()) -> Path:
    """Write RUN/report.html from what lies in the run's folder: a finished run, or one that is still training.

    The newest verdict comes first, then the answers that it was reached on, what the run was, and its curves with a
    line at the step whose weights were kept.

    Args:
        curves: metrics to draw, in this order; () draws all.

    Raises:
        InputError: run.json or metrics.jsonl cannot be read.
        RunStopped: the disk refuses.
    """
    record = read_run(run)
    verdicts = verdict_files.read_with_files(run)[::-1]
    drawn = _curves(run, record, curves)
    sections = [_facts(run, record)]
    if held_out := _held_out(run / "metrics.jsonl"):
        figures = (Column("name", "measure"), Column("value", "value", low="low", high="high", digits=3))
        sections.append(
            Section("Held-out pairs: does it read more than the look of an answer?", table=figures, rows=held_out)
        )
    parts = record.rows
    columns = [lengths.model_dump() for lengths in parts.training.lengths]
    if columns:
        drawn.append(_length_chart(columns))
        sections.append(_lengths(columns))
    sections.append(_rows({"training": parts.training, "validation": parts.validation}))
    options = [{"option": key, "value": str(value)} for key, value in record.options.items() if value is not None]
    sections.append(Section("Settings", table=(Column("option", "option"), Column("value", "value")), rows=options))
    examples: list[Example] = []
    if verdicts:
        file, newest = verdicts[0]
        examples = [_example(newest, answers) for answers in read_answers(file)]
        note = f"{record.method} from {record.start}, {counted(len(verdicts), 'verdict')}; the newest first."
    else:
        note = f"Nobody has judged this model yet; whether it became better: alignkit judge {shlex.quote(str(run))}"
    write_report(
        run / "report.html",
        title=run.name if run.name == record.method else f"{run.name}: {record.method}",
        note=note,
        curves=drawn,
        sections=sections,
        verdicts=[verdict for _, verdict in verdicts],
        examples=examples,
        answers_title="Answers",
        private=True,
    )
    return run / "report.html"


def _curves(run: Path, record: RunRecord, metrics: Sequence[str]) -> list[Curve | Histogram]:
    end = record.end
    marks = {}
    if end is not None and end.kept_step != end.steps:
        marks[f"kept: step {end.kept_step}"] = float(end.kept_step)
    found = read_curves(run / "metrics.jsonl", group=record.method, metrics=metrics or None)
    return [replace(curve, marks=marks) for curve in found]


def _facts(run: Path, record: RunRecord) -> Section:
    """What the run was: model, data, how long, how much memory, and the commands that come next."""
    facts = [
        ("model", record.start),
        ("method", record.method),
        ("data", record.config.data.data),
        ("rows", f"{record.rows.training.used:,} for training, {record.rows.validation.used:,} for validation"),
    ]
    folder = shlex.quote(str(run))
    if (end := record.end) is None:
        facts += [("state", "not finished"), ("go on", f"alignkit train --resume {folder}")]
    else:
        kept = "" if end.kept_step == end.steps else f", the weights of step {end.kept_step:,} are kept"
        facts.append(("steps", f"{end.steps:,}{kept}"))
        if end.wall_seconds is not None:
            facts.append(("time", duration(end.wall_seconds + end.earlier_seconds)))
        if end.seconds > 0:
            facts.append(("speed", f"{end.tokens / end.seconds:,.0f} tokens per second in training"))
        planned = "" if end.planned_mib is None else f", planned {end.planned_mib:,.0f}"
        facts.append(("memory", f"{end.peak_mib:,.0f} MiB at the peak{planned}"))
        facts += [("judge it", f"alignkit judge {folder}"), ("talk to it", f"alignkit chat {folder}")]
    rows = [{"name": name, "value": value} for name, value in facts]
    return Section("This run", table=(Column("name", "what"), Column("value", "")), rows=rows)


def _example(verdict: Verdict, answers: JudgedAnswers) -> Example:
    return Example(
        prompt=answers.prompt,
        completions={verdict.run: answers.ours, verdict.vs: answers.theirs},
        reference=answers.reference,
        scores={verdict.run: answers.our_score, verdict.vs: answers.their_score},
        tokens={verdict.run: answers.our_tokens, verdict.vs: answers.their_tokens},
        outcome=_outcome(answers.outcome),
    )


def _outcome(outcome: float | None) -> str:
    if outcome is None:
        return "missing"
    return "win" if outcome > 0.5 else "loss" if outcome < 0.5 else "tie"


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
