"""`alignkit plugins`: what is installed, a new one, and whether one keeps the contract."""

from __future__ import annotations

import json as json_module
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from alignkit.cli.commands import Commands
from alignkit.cli.options import Json
from alignkit.display import on_one_line
from alignkit.errors import UsageError

_WIDTH_WITH_MODULES = 110  # columns of a terminal
plugins = typer.Typer(cls=Commands, help="What plugins add: methods, judges, data sets, samplers, trackers.")


@plugins.command("list")
def list_plugins(json: Json = False) -> None:
    """List every plugin, and those that cannot be loaded with the reason."""
    from alignkit.registry import registry

    keys = ("kind", "name", "distribution", "version", "module", "error")
    rows = [{key: getattr(plugin, key) for key in keys} for plugin in registry().plugins()]
    claims = [(row["kind"], row["name"]) for row in rows if not row["error"]]
    for row in rows:
        if claims.count((row["kind"], row["name"])) > 1:
            row["error"] = f"the {row['kind']} name {row['name']!r} is claimed more than once: uninstall one of them"
    if json:
        print(json_module.dumps(rows))
    else:
        _show(rows, keys[:-1])


@plugins.command("new")
def new_plugin(
    name: Annotated[str, typer.Argument(help="what users will type, such as my-method")],
    kind: Annotated[Literal["method", "judge", "dataset", "tracker"], typer.Option(help="what it adds")] = "method",
) -> None:
    """Write a small package with one class, its entry point and a test that passes."""
    from alignkit.cli.new_plugin import files

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} is no name of a plugin: give it small letters, digits and hyphens, as my-method")
    folder = Path(f"alignkit-{name}")
    if folder.exists():
        raise UsageError(f"{folder} exists: name another, or remove it")
    try:
        folder.mkdir()
        for path, text in files(name, kind).items():
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror})") from error
    print(folder)
    print(f"next: pip install -e {folder} && alignkit plugins test {name}")


@plugins.command("test")
def check_installed(
    name: Annotated[str | None, typer.Argument(help="a name, or a distribution; default: everything installed")] = None,
) -> None:
    """Check that installed plugins keep the contract; exit 1 where one does not."""
    from alignkit.registry import registry
    from alignkit.testing import check

    chosen = [p for p in registry().plugins() if name is None or name in (p.name, p.distribution)]
    if not chosen:
        raise UsageError(f"no plugin or distribution is named {name!r}; see `alignkit plugins list`")
    has_failed = False
    for plugin in chosen:
        found = [plugin.error] if plugin.error else check(plugin)
        has_failed = has_failed or bool(found)
        what = f"{plugin.kind} {plugin.name} of {plugin.distribution}"
        for line in found or ["ok"]:
            print(on_one_line(f"{what}: {line}"))
    if has_failed:
        raise typer.Exit(1)


def _show(rows: list[dict[str, str | None]], keys: tuple[str, ...]) -> None:
    from alignkit.cli.terminal import console, print_table

    if is_narrow := console().width < _WIDTH_WITH_MODULES:
        keys = tuple(key for key in keys if key != "module")
    print_table(keys, [([row[key] or "" for key in keys], "red" if row["error"] else "") for row in rows])
    if is_narrow:
        print("a wider terminal, or --json, has the module of each too")
    for row in rows:
        if row["error"]:
            said = on_one_line(f"{row['module']} of {row['distribution']}: {row['error']}")
            console().print(said, style="red", markup=False)


def add_to(app: typer.Typer) -> None:
    app.add_typer(plugins, name="plugins")
