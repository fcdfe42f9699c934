"""The command `alignkit demo`: the whole path on this machine, ending with a table."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

Seed = Annotated[int, typer.Option("--seed", min=0, help="seed of data order and sampling")]
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="where the runs, table.json and report.html go")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
_COLUMNS = {
    "entrant": "entrant",
    "win_rate": "win % vs base",
    "vs_start": "points vs own start",
    "bleu4": "BLEU-4",
    "perplexity": "perplexity",
    "mean_length": "mean length",
    "excess_length": "excess length",
    "excess_vs_sft": "excess vs sft",
    "repetition": "repetition",
    "second_opinion": "second opinion, win %",
    "steps_clipped": "steps clipped, %",
    "minutes": "minutes",
    "peak_mib": "peak MiB",
}
_OFF_TASK = {"own_length": "length", "own_repetition": "repetition", "own_perplexity": "perplexity"}
_INTERVALS = {
    "win_rate": ("low", "high"),
    "vs_start": ("vs_start_low", "vs_start_high"),
    "excess_vs_sft": ("excess_vs_sft_low", "excess_vs_sft_high"),
    "second_opinion": ("second_low", "second_high"),
}


def demo(seed: Seed = 16, out: Out = "runs/quickstart", json: Json = False) -> None:
    """Train SFT, SFT + length penalty, DPO and GRPO on demo tasks and compare them."""
    from alignkit.plugin import RichProgress
    from alignkit_plugins.quickstart import run_quickstart

    progress = RichProgress()
    try:
        table = run_quickstart(seed=seed, out=Path(out), progress=progress)
    finally:
        progress.stop()
    if json:
        print(json_module.dumps(table))
        return
    show(table)
    print(f"{out}/table.json  {out}/report.html")


def show(entrants: list[dict[str, Any]]) -> None:
    """Print the table with what has to be said about it; an interval stands in brackets behind its number."""
    from alignkit.plugin import print_table
    from alignkit_plugins.quickstart import notes

    rows = [
        ([_cell(entrant[key], *(entrant[end] for end in _INTERVALS.get(key, ()))) for key in _COLUMNS], "")
        for entrant in entrants
    ]
    titles = tuple(_COLUMNS.values())
    print_table(titles, rows, right=titles[1:])
    print(notes(entrants))
    for entrant in entrants:
        numbers = ", ".join(f"{label} {entrant[key]:.3g}" for key, label in _OFF_TASK.items())
        print(f"off-task, own prompts outside the grammar: {entrant['entrant']}: {numbers}")


def _cell(value: Any, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "-"
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return text if low is None or high is None else f"{text} [{low:.1f}, {high:.1f}]"
