"""Reports of runs: one training run's curves, and the quickstart's table with everything beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.data.looking.lengths import DIFFERENCE, LIMITS, ROW
from alignkit.data.reading.rows import Row
from alignkit.judging.answers import Answers
from alignkit.reports.page import Column, Example, Section, write_report
from alignkit.reports.plots import Curve, read_curves, read_metrics
from alignkit.runs import read_run
from alignkit.scoring.judge import Missing, Scored

CURVES = {
    "sft": ("loss", "validation/loss"),
    "sft-lenpen": ("loss", "validation/loss", "excess_tokens", "samples_length"),
    "dpo": ("loss", "validation/loss", "validation/kl", "margin", "accuracy"),
    "grpo": (
        "loss",
        "reward",
        "validation/reward",
        "validation/beats_reference",
        "validation/kl",
        "samples_length",
        "reward_length_correlation",
        "reward_explained_by_form",
    ),
    "reward": ("loss", "accuracy", "validation/accuracy"),
}

TABLE = (
    Column("entrant", "entrant"),
    Column("start", "start"),
    Column(
        "win_rate", "win % against base", low="low", high="high", line=50, note="ties half; 95 % interval over prompts"
    ),
    Column(
        "vs_start",
        "points against its own start",
        low="vs_start_low",
        high="vs_start_high",
        line=0,
        note="head-to-head win rate against the model it started from, minus 50; 95 % interval",
    ),
    Column("bleu4", "BLEU-4"),
    Column("perplexity", "perplexity", note="of the reference answers"),
    Column("mean_length", "mean length", note="tokens, end token included"),
    Column("excess_length", "excess length", note="mean of max(0, length - reference length), tokens"),
    Column(
        "excess_vs_sft",
        "excess against sft",
        low="excess_vs_sft_low",
        high="excess_vs_sft_high",
        line=0,
        note="paired difference in tokens; below 0 is shorter; 95 % interval",
    ),
    Column("repetition", "repetition", digits=3, note="share of repeated 4-grams"),
    Column(
        "second_opinion",
        "second opinion, win %",
        low="second_low",
        high="second_high",
        note="a reward model trained on the demo pairs",
    ),
    Column("steps_clipped", "steps clipped, %", digits=0, note="whose gradient was longer than 1 and was scaled down"),
    Column("minutes", "minutes", note="training, validation included"),
    Column("peak_mib", "peak MiB", digits=0),
)
OFF_TASK = (
    Column("entrant", "entrant"),
    Column("own_length", "mean length", note="tokens"),
    Column("own_repetition", "repetition", digits=3),
    Column("own_perplexity", "perplexity", note="of plain reference answers"),
)
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
_SHOWN = 12
_HELD_OUT = "held_out/"


def write_training_report(run: Path, *, method: str, settings: Mapping[str, Any]) -> None:
    """Write RUN/report.html: the curves of its metrics and its settings."""
    curves = read_curves(run / "metrics.jsonl", group=method, metrics=CURVES.get(method))
    rows = [{"option": key, "value": str(value)} for key, value in settings.items() if value is not None]
    sections = [Section("Settings", table=(Column("option", "option"), Column("value", "value")), rows=rows)]
    columns = [lengths.model_dump() for lengths in read_run(run).rows.training.lengths]
    if columns:
        curves = [*curves, _length_chart(columns)]
        sections.insert(0, _lengths(columns))
    if held_out := _held_out(run / "metrics.jsonl"):
        figures = (Column("name", "measure"), Column("value", "value", low="low", high="high", digits=3))
        sections.insert(
            0, Section("Held-out pairs: does it read more than the look of an answer?", table=figures, rows=held_out)
        )
    note = f"One {method} run. Whether the model became better is another question: alignkit judge {run}."
    write_report(run / "report.html", title=f"{run.name}: {method}", note=note, curves=curves, sections=sections)


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


def _lengths(columns: Sequence[Mapping[str, Any]]) -> Section:
    rows = [{**column, **{f"over {limit}": count for limit, count in column["over"].items()}} for column in columns]
    note = f"Tokens of the training rows before any cut; a limit on rows cuts {ROW}."
    return Section("Lengths", note=note, table=LENGTHS, rows=rows)


def _length_chart(columns: Sequence[Mapping[str, Any]]) -> Curve:
    """How many texts of each column are how long: a point at each bin's lower end."""
    series = {c["column"]: (c["edges"][:-1], c["counts"]) for c in columns if c["column"] != DIFFERENCE}
    return Curve("Lengths of the training rows", "tokens", "texts", series, group="data")


def write_quickstart_report(
    out: Path,
    *,
    rows: Sequence[Mapping[str, Any]],
    prompts: Sequence[Row],
    answers: Mapping[str, Answers],
    scores: Mapping[str, Sequence[Scored | Missing]],
    note: str,
) -> None:
    """Write OUT/report.html: table, off-task line, curves of every run, and answers beside each other."""
    curves = [
        curve
        for name, metrics in CURVES.items()
        for curve in read_curves(out / name / "metrics.jsonl", group=name, metrics=metrics)
    ]
    examples = [
        Example(
            prompt=row.prompt[-1]["content"],
            completions={name: given.answers[number].text for name, given in answers.items()},
            reference=row.reference,
            scores={name: _value(given[number]) for name, given in scores.items()},
        )
        for number, row in list(enumerate(prompts))[:_SHOWN]
    ]
    off_task = Section(
        "Off-task", note="Own prompts outside the grammar: what training did elsewhere.", table=OFF_TASK, rows=rows
    )
    write_report(
        out / "report.html",
        title="alignkit quickstart",
        note=note,
        table=TABLE,
        rows=rows,
        curves=curves,
        examples=examples,
        sections=[off_task],
    )


def _value(score: Scored | Missing) -> float | None:
    return score.value if isinstance(score, Scored) else None
