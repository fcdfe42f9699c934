"""`alignkit init`: writes alignkit.toml with a reason beside each number."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from alignkit.config.source import FILE_NAME
from alignkit.display import on_one_line
from alignkit.errors import UsageError
from alignkit.storage import new_file

Paper = Annotated[bool, typer.Option("--paper", help="the paper's model, data, judge and numbers")]
Offline = Annotated[bool, typer.Option("--offline", help="what needs no network and no GPU")]
Model = Annotated[
    str | None,
    typer.Option("--model", help="fit the numbers to this model; default: Qwen2.5-0.5B, offline SmolLM2-135M"),
]
Data = Annotated[str | None, typer.Option("--data", help="the rows to train on")]
Out = Annotated[str, typer.Option("--out", metavar="FILE", help="the file to write")]
Force = Annotated[bool, typer.Option("--force", help="replace an existing file")]


def init(
    *,
    paper: Paper = False,
    offline: Offline = False,
    model: Model = None,
    data: Data = None,
    out: Out = FILE_NAME,
    force: Force = False,
) -> None:
    """Write alignkit.toml: for this machine, for the paper's set-up, or for no network."""
    from alignkit.cli import setups

    path = Path(out)
    if paper and offline:
        raise UsageError("--paper and --offline exclude each other: the paper's model and data come from the hub")
    if paper and (model or data):
        raise UsageError(
            "--paper names the model and the data itself: leave --model and --data out, or leave out --paper"
        )
    if path.exists() and not force:
        raise UsageError(f"{path} exists: name another with --out, or replace it with --force")
    if paper:
        text, said = setups.paper()
    elif offline:
        text, said = setups.offline(model=model, data=data)
    else:
        text, said = setups.for_this_machine(model=model, data=data)
    _write(path, text)
    _agree_to_own(path)
    for line in said:
        print(on_one_line(line), file=sys.stderr)
    print(on_one_line(path))


def _write(path: Path, text: str) -> None:
    try:
        with new_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}); name another file") from error


def _agree_to_own(path: Path) -> None:
    """Record what the new file names: its user asked for it."""
    from alignkit.config.file import judge_settings
    from alignkit.trust import named, record

    record(named(judge_settings({}, path)))


def add_to(app: typer.Typer) -> None:
    app.command("init")(init)
