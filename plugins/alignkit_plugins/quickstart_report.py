"""OUT/report.html of `alignkit demo`: the table, the runs' curves, and answers beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.plugin import Missing, Row, Scored
from alignkit_plugins.dpo import DPO
from alignkit_plugins.grpo import GRPO
from alignkit_plugins.reward import Reward
from alignkit_plugins.sft import SFT
from alignkit_plugins.sft_lenpen import SFTLengthPenalty

if TYPE_CHECKING:
    from alignkit.plugin import Answers, Column

_METHODS = (SFT, SFTLengthPenalty, DPO, GRPO, Reward)
_SHOWN = 12


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
    from alignkit.plugin import Example, Section, read_curves, write_report

    columns, off_columns = _columns()
    curves = [
        curve
        for method in _METHODS
        for curve in read_curves(out / method.name / "metrics.jsonl", group=method.name, metrics=method.curves)
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
        "Off-task", note="Own prompts outside the grammar: what training did elsewhere.", table=off_columns, rows=rows
    )
    write_report(
        out / "report.html",
        title="alignkit quickstart",
        note=note,
        table=columns,
        rows=rows,
        curves=curves,
        examples=examples,
        sections=[off_task],
    )


def _value(score: Scored | Missing) -> float | None:
    return score.value if isinstance(score, Scored) else None


def _columns() -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """The columns of the table, and of the section on prompts outside the grammar."""
    from alignkit.plugin import Column

    table = (
        Column("entrant", "entrant"),
        Column("start", "start"),
        Column(
            "win_rate",
            "win % against base",
            low="low",
            high="high",
            line=50,
            note="ties half; 95 % interval over the templates of the prompts",
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
        Column(
            "steps_clipped", "steps clipped, %", digits=0, note="whose gradient was longer than 1 and was scaled down"
        ),
        Column("minutes", "minutes", note="training, validation included"),
        Column("peak_mib", "peak MiB", digits=0),
    )
    off_task = (
        Column("entrant", "entrant"),
        Column("own_length", "mean length", note="tokens"),
        Column("own_repetition", "repetition", digits=3),
        Column("own_perplexity", "perplexity", note="of plain reference answers"),
    )
    return table, off_task
