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
    from alignkit.cli.own_rows import OwnRows

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
    if path.exists() and not force:
        raise UsageError(f"{path} exists: name another with --out, or replace it with --force")
    rows = None
    if names:
        found = setups.of_preset(names[0], model, data)
    else:
        found, rows = setups.for_this_machine(model, data)
    _write(path, setups.text(found))
    _agree_to_own(path)
    method = _first_method(rows, model)
    named = next((str(line.value) for line in found.tables["model"] if line.key == "model"), None)
    memory = [] if rows is None or method is None else _memory(path, method, named, rows)
    progress.stop()
    for line in [*found.notes, *memory]:
        print(on_one_line(line), file=sys.stderr)
    print(on_one_line(path))
    if names:  # a preset's notes say how it goes on
        return
    config = [] if out == FILE_NAME else ["--config", str(path)]
    if method is not None:
        reward = ["--reward", "FILE.py:FUNCTION"] if rows is not None and rows.kind == "prompts" else []
        train = as_typed(["alignkit", "train", method, *config, *reward])
        print(f"next: {train}, or another method (`alignkit train --help`)", file=sys.stderr)


def _first_method(rows: OwnRows | None, model: str | None) -> str | None:
    """The method that begins with such rows: prompts alone are sampled, a run goes on with pairs.

    Else it is the first that needs the policy and rows alone; None: there is none.
    """
    from alignkit.registry import registry
    from alignkit.runs import FILE, places

    is_run = model is not None and any((place / FILE).exists() for place in places(model))
    on_pairs = rows is not None and rows.kind == "pairs" and is_run
    on_prompts = rows is not None and rows.kind == "prompts"
    methods = [registry().find("method", name) for name in registry().names("method")]
    policies = [cls for cls in methods if "scalar_head" not in cls.needs]
    fitting = [cls for cls in policies if on_prompts and cls.trains_on.is_sampled]
    fitting += [cls for cls in policies if on_pairs and len(cls.trains_on.completions) == 2]
    fitting += [cls for cls in policies if not (cls.needs or cls.draws())]
    return fitting[0].name if fitting else None


def _memory(file: Path, method: str, model: str | None, rows: OwnRows) -> list[str]:
    """What training with a file takes, where its model is on this machine."""
    from alignkit import api
    from alignkit.cli.own_rows import is_here
    from alignkit.errors import AlignkitError

    if model is None or not is_here(model):
        return []
    try:
        lines = api.plan(method, config=file, longest=rows.longest)
    except AlignkitError as error:
        return [error.line]
    return [f"{method}: {' '.join(line.split())}" for line in lines if line.startswith(("memory", "disk"))]


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
