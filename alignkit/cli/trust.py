"""`alignkit trust`: agree to what a folder's files name, or take that back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignkit.config_source import FILE_NAME
from alignkit.errors import InputError, UsageError

if TYPE_CHECKING:
    from alignkit.trust import Named

Folder = Annotated[
    str,
    typer.Argument(metavar="[FOLDER]", help="a folder with alignkit.toml, a run's folder, or a configuration file"),
]
List = Annotated[bool, typer.Option("--list", help="show what was agreed to so far, and change nothing")]
Revoke = Annotated[bool, typer.Option("--revoke", help="take back what was agreed to for this folder")]


def trust(*, folder: Folder = ".", list_: List = False, revoke: Revoke = False) -> None:
    """Agree to the code, addresses, keys, costs and folders that a folder's files name; what is typed needs none."""
    from alignkit import trust as agreement
    from alignkit.display import on_one_line

    if list_ and revoke:
        raise UsageError("--list and --revoke exclude each other: the one shows, the other takes back")
    if list_:
        for known, agreed in sorted(agreement.recorded().items()):
            print(on_one_line(known))
            for name in agreed:
                print(f"  {on_one_line(name)}")
        return
    path = Path(folder)
    if revoke:
        place = path.parent if path.is_file() else path
        print(f"{on_one_line(place)}: {agreement.forget(place)} names taken back")
        return
    names = [one for file in _files(path) for one in _named(file)]
    if not names:
        print(f"{on_one_line(path)}: names nothing that needs agreement")
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        if not agreement.ask(names[0].folder, names):
            raise UsageError(f"{on_one_line(path)}: that was not agreed to; nothing was recorded")
    else:
        for one in names:
            print(one)
    agreement.record(names)
    print(f"recorded in {on_one_line(agreement.record_path())}")


def _files(path: Path) -> list[Path]:
    """The files of a folder whose word may count."""
    if path.is_file():
        return [path]
    found = [file for file in (path / FILE_NAME, path / "run.json") if file.is_file()]
    if not found:
        raise InputError(f"{path}: no folder with {FILE_NAME} or run.json, and no file; name one")
    return found


def _named(file: Path) -> list[Named]:
    from alignkit.config_file import judge_settings, run_settings
    from alignkit.trust import named

    return named(run_settings(file.parent) if file.name == "run.json" else judge_settings({}, file))


def add_to(app: typer.Typer) -> None:
    app.command("trust")(trust)
