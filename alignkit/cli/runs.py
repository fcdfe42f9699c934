"""`alignkit runs`: which runs there are, how two of them differ, and how one is removed with all that it holds."""

from __future__ import annotations

import json as json_module
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.commands import Commands
from alignkit.cli.options import Json
from alignkit.display import on_one_line
from alignkit.errors import InputError, UsageError

runs = typer.Typer(
    cls=Commands, help="List the runs, compare two of them, or remove some.", invoke_without_command=True
)
Two = Annotated[str, typer.Argument(metavar="RUN", help="a run's folder, or its name under runs/")]
Some = Annotated[list[str], typer.Argument(metavar="RUN...", help="runs' folders, or their names under runs/")]
Yes = Annotated[bool, typer.Option("--yes", help="remove without asking")]


@runs.callback()
def list_runs(ctx: typer.Context, json: Json = False) -> None:
    """List the runs under runs/, the newest first: state, best validation, last verdict, disk."""
    if ctx.invoked_subcommand is not None:
        return
    from alignkit.runs import FILE, RUNS

    files = sorted(RUNS.glob(f"*/{FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    rows = [_row(file.parent) for file in files]
    if json:
        print(json_module.dumps(rows))
        return
    if not rows:
        print(f"no runs under {RUNS.resolve()}; `alignkit train sft` makes one")
        return
    from alignkit.cli.terminal import print_table

    titles = ("run", "method", "state", "best validation", "verdict", "disk")
    cells = [
        [row["run"], row["method"], row["state"], row["best"], row["verdict"], _size(row["bytes"])] for row in rows
    ]
    print_table(titles, [(row, "") for row in cells], right=("disk",))


@runs.command("compare")
def compare(one: Two, other: Two, json: Json = False) -> None:
    """Show in which settings two runs differ, and what came of it."""
    names = (one, other)
    folders = [_found(name) for name in names]
    sides = [dict(_facts(folder)) for folder in folders]
    keys = [key for key in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(key) != sides[1].get(key)]
    rows = [{"setting": key, "a": sides[0].get(key), "b": sides[1].get(key)} for key in keys]
    if json:
        print(json_module.dumps(rows))
        return
    if not rows:
        print(f"{on_one_line(one)} and {on_one_line(other)} do not differ in their settings or results")
        return
    from alignkit.cli.terminal import print_table

    cells: list[tuple[Sequence[str], str]] = [((str(r["setting"]), _text(r["a"]), _text(r["b"])), "") for r in rows]
    print_table(("", *names), cells)


@runs.command("remove")
def remove(names: Some, yes: Yes = False) -> None:
    """Remove runs: their checkpoints, model, samples, metrics and verdicts."""
    from alignkit.training.checkpoints.run_folder import RunFolder

    folders = list(dict.fromkeys(_found(name) for name in names))
    for folder in folders:
        print(on_one_line(f"{folder}: {_state(folder)}, {_size(_bytes(folder))}"))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nothing was removed: say --yes where nobody can be asked")
        typer.confirm("remove all of it?", abort=True)
    for folder in folders:
        run = RunFolder(folder)
        run.lock()
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise InputError(f"{error.filename or folder}: cannot be removed: {error.strerror or error}") from error
        finally:
            run.unlock()
        print(on_one_line(f"removed {folder}"))


def _found(name: str) -> Path:
    from alignkit.runs import find_run, nearest_run

    folder = find_run(name)
    if folder is None:
        raise InputError(f"{name}: no run of that name{nearest_run(name)}; `alignkit runs` lists what there is")
    return folder


def _row(folder: Path) -> dict[str, Any]:
    from alignkit.judging import verdict_files
    from alignkit.runs import read_run
    from alignkit.training.run.summary import best_validation

    row = {"run": folder.name, "method": "", "state": "", "best": "", "verdict": "", "bytes": _bytes(folder)}
    try:
        row["method"] = read_run(folder).method
    except InputError:
        return row | {"state": "damaged"}
    best = best_validation(folder)
    verdicts = verdict_files.read(folder)
    return row | {
        "state": _state(folder),
        "best": "" if best is None else f"{best.name} {best.value:.4g} (step {best.step})",
        "verdict": "" if not verdicts else f"{verdicts[-1].answer} {verdicts[-1].win_rate.rate:.0f} %",
    }


def _state(folder: Path) -> str:
    """Finished, running, or where it stopped."""
    from alignkit.runs import is_being_written, is_finished, read_run

    try:
        record = read_run(folder)
    except InputError:
        return "damaged"
    if is_being_written(folder):
        return "running"
    if is_finished(folder, record):
        return f"finished, {record.finished['steps']} steps" if record.finished else "finished"
    steps = sorted(int(path.name[5:]) for path in folder.glob("checkpoints/step-*") if path.name[5:].isdigit())
    return f"stopped, saved at step {steps[-1]}" if steps else "stopped, nothing saved"


def _facts(folder: Path) -> Iterator[tuple[str, Any]]:
    """What a run was trained with and what came of it, by name."""
    from alignkit.runs import read_run
    from alignkit.training.run.summary import best_validation

    record = read_run(folder)
    yield "method", record.method
    config = record.content["config"]
    yield from _flat({name: table for name, table in config.items() if name != "train"}, "")
    yield from _flat(record.options, "")
    yield "training rows", record.rows.training.used
    best = best_validation(folder)
    if best is not None:
        yield from ((f"best {best.name}", best.value), ("best step", best.step))
    if (end := record.end) is not None:
        yield "steps", end.steps
        if end.wall_seconds is not None:
            yield "time, s", round(end.wall_seconds + end.earlier_seconds, 1)
        yield "peak memory, MiB", round(end.peak_mib)


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def _size(count: int) -> str:
    """
    >>> _size(3_000_000), _size(5 * 2**30)
    ('3 MiB', '5.0 GiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def add_to(app: typer.Typer) -> None:
    app.add_typer(runs, name="runs")
