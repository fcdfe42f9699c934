"""`alignkit config`: what alignkit.toml may hold, and what the options come to."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.commands import Commands
from alignkit.cli.options import Config, Json, Set

config = typer.Typer(cls=Commands, help="What alignkit.toml may hold, and what holds now.")
Preset = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="a preset of the method, over the file")]
Method = Annotated[
    str | None, typer.Argument(metavar="[METHOD]", help="show this method's options too; default: all methods")
]


@config.command("schema")
def show_schema() -> None:
    """Print the JSON schema of alignkit.toml, every installed method and judge included."""
    from alignkit.config.file import schema

    print(json_module.dumps(schema(), indent=2))


@config.command("show")
def show(
    *, method: Method = None, preset: Preset = None, config: Config = None, set_: Set = None, json: Json = False
) -> None:
    """Print every value and where it comes from: default, FILE:LINE, preset NAME, or --set."""
    rows = _rows(method, Path(config) if config else None, set_ or [], preset)
    if json:
        print(json_module.dumps(rows))
        return
    from alignkit.cli.terminal import print_table

    cells = [(row["key"], json_module.dumps(row["value"], ensure_ascii=False), row["from"]) for row in rows]
    print_table(("key", "value", "from"), [(row, "dim" if row[2] == "default" else "") for row in cells])


def _rows(
    method: str | None, config: Path | None, settings: list[str], preset: str | None = None
) -> list[dict[str, Any]]:
    """Each key's value and place. A preset that only some of the methods shown have is theirs alone."""
    from alignkit.config.file import dump, resolve
    from alignkit.errors import UsageError
    from alignkit.registry import registry

    rows: dict[str, dict[str, Any]] = {}
    names = [method] if method else registry().names("method")
    classes: dict[str, Any] = {name: registry().find("method", name) for name in names}
    if preset is not None and not method and not any(preset in cls.presets for cls in classes.values()):
        raise UsageError(f"--preset {preset}: no method has a preset of that name; name the method to see which it has")
    for name, cls in classes.items():
        usable = settings if method else [text for text in settings if not _is_of_another(text, name)]
        applies = preset is not None and (method or preset in cls.presets)
        resolved = resolve(cls, options={"preset": preset} if applies else {}, config=config, settings=usable)
        for key, value in _flat(dump(resolved)):
            rows[key] = {"key": key, "value": value, "from": resolved.sources.get(key, "default")}
    return list(rows.values())


def _is_of_another(setting: str, method: str) -> bool:
    parts = setting.partition("=")[0].split(".")
    return len(parts) == 3 and parts[0] == "train" and parts[1] != method


def _flat(tables: dict[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for table, values in tables.items():
        for key, value in values.items():
            nested = isinstance(value, dict) and (table, key) not in {("model", "template_kwargs"), ("data", "columns")}
            inner = value.items() if nested else []
            flat += [(f"{table}.{key}.{option}", v) for option, v in inner] if nested else [(f"{table}.{key}", value)]
    return flat


def add_to(app: typer.Typer) -> None:
    app.add_typer(config, name="config")
