"""`alignkit plugins`: what is installed."""

from __future__ import annotations

import json as json_module

import typer

from alignkit.cli.options import Json
from alignkit.display import on_one_line

plugins = typer.Typer(help="What plugins add: methods, judges, data sets, samplers, trackers.")


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


def _show(rows: list[dict[str, str | None]], keys: tuple[str, ...]) -> None:
    from alignkit.cli.terminal import console, print_table

    print_table(keys, [([row[key] or "" for key in keys], "red" if row["error"] else "") for row in rows])
    for row in rows:
        if row["error"]:
            said = on_one_line(f"{row['module']} of {row['distribution']}: {row['error']}")
            console().print(said, style="red", markup=False)


def add_to(app: typer.Typer) -> None:
    app.add_typer(plugins, name="plugins")
