"""`alignkit demo`: the whole path on this machine, ending with a table."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.options import Json

Seed = Annotated[int, typer.Option("--seed", min=0, help="seed of data order and sampling")]
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="where the runs, table.json and report.html go")]
_COLUMNS = {
    "entrant": "entrant",
    "win_rate": "win % vs base",
    "vs_start": "points vs own start",
    "bleu4": "BLEU-4",
    "perplexity": "perplexity",
    "mean_length": "mean length",
    "excess_length": "excess length",
    "minutes": "minutes",
    "peak_mib": "peak MiB",
}


def demo(seed: Seed = 16, out: Out = "runs/quickstart", json: Json = False) -> None:
    """Train SFT, SFT + length penalty, DPO and GRPO on demo tasks and compare them."""
    from alignkit.cli.progress import RichProgress
    from alignkit.quickstart import run_quickstart

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
    """Print the table; an interval stands in brackets behind its number."""
    from alignkit.cli.terminal import print_table

    intervals = {"win_rate": ("low", "high"), "vs_start": ("vs_start_low", "vs_start_high")}
    rows = [
        ([_cell(entrant[key], *(entrant[end] for end in intervals.get(key, ()))) for key in _COLUMNS], "")
        for entrant in entrants
    ]
    titles = tuple(_COLUMNS.values())
    print_table(titles, rows, right=titles[1:])


def _cell(value: Any, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "-"
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return text if low is None or high is None else f"{text} [{low:.1f}, {high:.1f}]"


def add_to(app: typer.Typer) -> None:
    app.command("demo")(demo)
