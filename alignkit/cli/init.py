"""`alignkit init`: writes alignkit.toml with a reason beside each number.

`--NAME` takes the preset of that name (alignkit/presets.py); without one the numbers fit this machine.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from alignkit.config.source import FILE_NAME
from alignkit.display import as_typed, on_one_line
from alignkit.errors import UsageError
from alignkit.storage import new_file

if TYPE_CHECKING:
    from alignkit.methods import Method

Model = Annotated[str | None, typer.Option("--model", help="fit the numbers to this model")]
Data = Annotated[str | None, typer.Option("--data", help="the rows to train on")]
Out = Annotated[str, typer.Option("--out", metavar="FILE", help="the file to write")]
Force = Annotated[bool, typer.Option("--force", help="replace an existing file")]
_PRESETS = "presets"  # where `ctx.meta` keeps the names that were typed


class _Init(TyperCommand):
    """Has one switch for each preset that a plugin adds; those that were typed are noted in `ctx.meta`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [*_switches(), *super().get_params(ctx)]


def _switches() -> list[Any]:
    from alignkit.registry import registry

    def presets(**_: bool) -> None: ...

    kind = inspect.Parameter.KEYWORD_ONLY
    presets.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name.replace("-", "_"), kind, default=False, annotation=Annotated[bool, option])
            for name in registry().names("preset")
            if (option := typer.Option(f"--{name}", help=registry().find("preset", name).help))
        ]
    )
    single = typer.Typer(add_completion=False)
    single.command()(presets)
    switches: list[Any] = typer.main.get_command(single).params
    for switch in switches:
        switch.expose_value, switch.callback = False, _note  # the command's function does not know their names
    return switches


def _note(ctx: Any, switch: Any, is_on: bool) -> None:
    if is_on:
        ctx.meta.setdefault(_PRESETS, []).append(switch.opts[0].removeprefix("--"))


def init(
    ctx: typer.Context, *, model: Model = None, data: Data = None, out: Out = FILE_NAME, force: Force = False
) -> None:
    """Write alignkit.toml: for this machine, or a preset's set-up."""
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit.cli import setups

    path = Path(out)
    names = ctx.meta.get(_PRESETS, [])
    if len(names) > 1:
        raise UsageError(f"--{names[0]} and --{names[1]} exclude each other: each names a whole set-up")
    found = setups.of_preset(names[0], model, data) if names else setups.for_this_machine(model, data)
    if path.exists() and not force:
        raise UsageError(f"{path} exists: name another with --out, or replace it with --force")
    progress.stop()
    _write(path, setups.text(found))
    _agree_to_own(path)
    for line in [*found.notes, *([] if names or not data else _memory(path, model))]:
        print(on_one_line(line), file=sys.stderr)
    print(on_one_line(path))
    if names:  # a preset's notes say how it goes on
        return
    config = [] if out == FILE_NAME else ["--config", str(path)]
    for method in _on_rows_alone()[:1]:
        train = as_typed(["alignkit", "train", method.name, *config])
        print(f"next: {train}, or another method (`alignkit train --help`)", file=sys.stderr)


def _on_rows_alone() -> list[type[Method]]:
    """Return the methods that take the policy and rows; others need more."""
    from alignkit.registry import registry

    methods = [registry().find("method", name) for name in registry().names("method")]
    return [cls for cls in methods if not (cls.needs or cls.draws())]


def _memory(file: Path, model: str | None) -> list[str]:
    """What training with a file takes, where its model is on this machine."""
    from alignkit import api
    from alignkit.errors import AlignkitError
    from alignkit.runs import places

    plain = _on_rows_alone()
    if not plain or model is None or not any((place / "config.json").exists() for place in places(model)):
        return []
    try:
        lines = api.plan(plain[0].name, config=file)
    except AlignkitError as error:
        return [error.line]
    return [" ".join(line.split()) for line in lines if line.startswith(("memory", "disk"))]


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
    app.command("init", cls=_Init)(init)
