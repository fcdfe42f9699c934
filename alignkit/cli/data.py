"""`alignkit data`: what a model would be trained on, token by token. Needs a tokenizer folder only."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.audit import add_audit_command
from alignkit.cli.commands import Commands
from alignkit.cli.data_volume import add_volume_commands
from alignkit.cli.options import Command, Config, Group, Json, Method, Set, with_options
from alignkit.config.settings import DataSection, ModelSection
from alignkit.display import on_one_line, shown

data = typer.Typer(cls=Commands, help="Look at data as the model will see it.")
Ids = Annotated[bool, typer.Option("--ids", help="show token ids beside the text")]
_ROWS = Group(
    "Data", DataSection, ("data", "columns", "ignore_fields", "limit", "max_length", "truncation", "train_on")
)
_TEXT = Group("Model", ModelSection, ("model", "chat_template", "system", "template_kwargs"))


@data.command("show", cls=Command)
@with_options(_ROWS, _TEXT)
def show(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    method: Method = None,
    ids: Ids = False,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Show rows as tokens; what is scored (has a loss) stands out."""
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api

    rows = api.show_rows(method=method, config=Path(config) if config else None, set=set_ or [], **given)
    num_rows = 0
    for row in rows:
        progress.stop()
        num_rows += 1
        if "skipped" in row:
            print(on_one_line(f"{row['where']}{_id(row)} is not shown: {row['skipped']}"), file=sys.stderr)
        elif json:
            keys = ("id", "prompt_ids", "completions", *(["note"] if row["note"] else []))
            print(json_module.dumps({key: row[key] for key in keys}))
        else:
            _show_row(row, ids=ids)
    if num_rows == api.SHOWN_ROWS and given.get("limit") is None:
        print(f"the first {num_rows} rows; --limit N shows more", file=sys.stderr)


def _id(row: dict[str, Any]) -> str:
    return f", row {row['id']}" if row["name"] != row["where"] else ""


def _show_row(row: dict[str, Any], *, ids: bool) -> None:
    from rich.text import Text

    from alignkit.cli.terminal import console

    out = console()
    title = row["where"] + _id(row) + (f" ({row['note']})" if row["note"] else "")
    out.print(Text(on_one_line(title), style="bold"))
    prompt, *completions = row["tokens"]
    segments = [("prompt", row["prompt_ids"], prompt, [False] * len(prompt))]
    for number, (tokens, completion) in enumerate(zip(completions, row["completions"], strict=True), start=1):
        title = f"completion {number}" + (f", label {completion['label']:g}" if "label" in completion else "")
        segments.append((title, completion["ids"], tokens, completion["scored"]))
    for title, token_ids, tokens, scored in segments:
        text = Text(f"  {title}: {len(tokens)} tokens, {sum(scored)} scored\n", style="dim")
        for token_id, token, is_scored in zip(token_ids, tokens, scored, strict=True):
            said = f"{shown(token)}\N{MIDDLE DOT}{token_id} " if ids else shown(token)
            text.append(said, style="not dim black on green" if is_scored else "dim")
        out.print(text, soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    add_volume_commands(data)
    add_audit_command(data)
    app.add_typer(data, name="data")
