"""`alignkit data`: what a model would be trained on, token by token. Needs a tokenizer folder only."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.options import Config, Group, Json, Set, with_options
from alignkit.config import DataSection, ModelSection

if TYPE_CHECKING:
    from alignkit.data.lengths import ColumnLengths

data = typer.Typer(help="Look at data as the model will see it.")
Ids = Annotated[bool, typer.Option("--ids", help="show token ids beside the text")]
_ROWS = Group("Data", DataSection, ("data", "columns", "limit", "max_length", "truncation", "train_on"))
_TEXT = Group("Model", ModelSection, ("model", "chat_template", "system", "template_kwargs"))
_BAR_WIDTH = 40


@data.command("show")
@with_options(_ROWS, _TEXT)
def show(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    ids: Ids = False,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Show rows as tokens; what is scored (has a loss) stands out."""
    from alignkit import api

    for row in api.show_rows(config=Path(config) if config else None, set=set_ or [], **given):
        if json:
            print(json_module.dumps({key: row[key] for key in ("id", "prompt_ids", "completions")}))
        else:
            _show_row(row, ids=ids)


def _show_row(row: dict[str, Any], *, ids: bool) -> None:
    from rich.text import Text

    from alignkit.cli.terminal import console

    out = console()
    out.print(Text(f"row {row['id']}", style="bold"))
    prompt, *completions = row["tokens"]
    segments = [("prompt", row["prompt_ids"], prompt, [False] * len(prompt))]
    for number, (tokens, completion) in enumerate(zip(completions, row["completions"], strict=True), start=1):
        segments.append((f"completion {number}", completion["ids"], tokens, completion["scored"]))
    for title, token_ids, tokens, scored in segments:
        text = Text(f"  {title}: {len(tokens)} tokens, {sum(scored)} scored\n", style="dim")
        for token_id, token, is_scored in zip(token_ids, tokens, scored, strict=True):
            shown = f"{token}\N{MIDDLE DOT}{token_id} " if ids else token
            text.append(shown, style="not dim black on green" if is_scored else "dim")
        out.print(text, soft_wrap=True)


@data.command("lengths")
@with_options(Group("Data", DataSection, ("data", "columns", "limit")), _TEXT)
def lengths(
    *, ctx: typer.Context, given: dict[str, Any], json: Json = False, config: Config = None, set_: Set = None
) -> None:
    """Show how long the texts of each column are in tokens, and how many a row length would cut."""
    from alignkit import api

    columns = api.data_lengths(config=Path(config) if config else None, set=set_ or [], **given)
    if json:
        print(json_module.dumps([asdict(column) for column in columns]))
    else:
        _show_lengths(columns)


def _show_lengths(columns: Sequence[ColumnLengths]) -> None:
    from alignkit.cli.terminal import print_table

    titles = ("column", "texts", "mean", "min", "50 %", "90 %", "99 %", "max")
    rows = [[c.column, *(f"{n:,.0f}" for n in (c.count, c.mean, c.min, c.p50, c.p90, c.p99, c.max))] for c in columns]
    print_table(titles, [(row, "") for row in rows], right=titles[1:])
    for column in columns:
        print(f"\n{column.column}, tokens")
        for low, high, count in zip(column.edges, column.edges[1:], column.counts, strict=False):
            bar = "\N{FULL BLOCK}" * round(_BAR_WIDTH * count / max(column.counts))
            print(f"{f'{low:,} to {high - 1:,}':>18} {count:>8,} {bar}")
        cuts = (f"{limit:,}: {count:,} ({100 * count / column.count:.1f} %)" for limit, count in column.over.items())
        print(f"will be cut at {', at '.join(cuts)}")


def add_to(app: typer.Typer) -> None:
    app.add_typer(data, name="data")
