"""`alignkit trust`: agree to what a folder's files name, or take that back."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignkit.config.source import FILE_NAME
from alignkit.errors import InputError, UsageError
from alignkit.runs import FILE as RUN_FILE

if TYPE_CHECKING:
    from alignkit.trust import Named

Folder = Annotated[
    str | None,
    typer.Argument(
        metavar="[FOLDER]",
        help="a folder with alignkit.toml (for commands started in it), or a run's folder or a configuration file of "
        "another name (for commands started here); without one, this folder",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE", help="agree to FILE as commands with --config FILE, started here, read it"
    ),
]
List = Annotated[bool, typer.Option("--list", help="show what was agreed to so far, and change nothing")]
Revoke = Annotated[bool, typer.Option("--revoke", help="take back what was agreed to for this folder")]


def trust(*, folder: Folder = None, config: Config = None, list_: List = False, revoke: Revoke = False) -> None:
    """Agree to the code, addresses, keys, costs and folders that a folder's files name; what is typed needs none."""
    from alignkit import trust as agreement
    from alignkit.display import on_one_line

    if list_ and revoke:
        raise UsageError("--list and --revoke exclude each other: the one shows, the other takes back")
    if folder is not None and config is not None:
        raise UsageError("FOLDER and --config exclude each other: agree to one after the other")
    if list_:
        _list()
        return
    path = Path(config or folder or ".")
    if revoke:
        place = Path(os.path.realpath(path.parent if path.is_file() else path))
        count = agreement.forget(place)
        print(f"taken back: {count} name{'' if count == 1 else 's'} in {on_one_line(place)}")
        return
    names = (
        _as_config(path) if config is not None else [one for file in _files(path) for one in agreement.named_by(file)]
    )
    if not names:
        print(f"{on_one_line(path)}: names nothing that needs agreement")
        return
    there = [one for one in names if not one.is_absent]
    absent = [agreement.absence(one) for one in names if one.is_absent]
    if not there:
        raise InputError("; ".join([*absent[:1], *([f"and {len(absent) - 1} more"] if absent[1:] else [])]))
    for line in absent:
        print(f"not recorded: {line}", file=sys.stderr)
    if sys.stdin.isatty() and sys.stderr.isatty():
        if not agreement.ask(there[0].folder, there):
            raise UsageError(f"{on_one_line(path)}: that was not agreed to; nothing was recorded")
    else:
        for one in there:
            print(one)
    agreement.record(there)
    print(f"recorded in {on_one_line(agreement.record_path())}")


def _list() -> None:
    from alignkit.display import on_one_line
    from alignkit.trust import recorded

    agreed = sorted(recorded().items())
    if not agreed:
        print("nothing was agreed to so far")
    for folder, names in agreed:
        print(on_one_line(folder))
        for name in names:
            print(f"  {on_one_line(name)}")


def _files(path: Path) -> list[Path]:
    """The files of a folder whose word may count."""
    if path.is_file():
        return [path]
    found = [file for file in (path / FILE_NAME, path / RUN_FILE) if file.is_file()]
    if not found:
        raise InputError(f"{path}: no folder with {FILE_NAME} or {RUN_FILE}, and no file; name one")
    return found


def _as_config(file: Path) -> list[Named]:
    from alignkit.config.file import judge_settings
    from alignkit.trust import named

    return named(judge_settings({}, file))


def add_to(app: typer.Typer) -> None:
    app.command("trust")(trust)
