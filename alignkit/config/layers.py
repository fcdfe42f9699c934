"""The places an option's value can come from, each as one layer: values by their path in alignkit.toml.

A path is (section, key), (section, plugin, key) for [train.METHOD] and [judge.NAME], or (key,) for the options of one
run, which are not in the file. Keys that nothing reads are refused here, with the nearest one that something does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alignkit.config import fields as config_fields
from alignkit.config import source as config_source
from alignkit.config.settings import SECTIONS
from alignkit.errors import AlignkitError, InputError, UsageError, nearest
from alignkit.methods import Method, MethodConfig
from alignkit.registry import registry
from alignkit.runs import FILE, find_run, read_config
from alignkit.storage import read_object

PLUGIN_TABLES = {"train": "method", "judge": "judge"}  # [train.METHOD] and [judge.NAME]: whose options they hold
TOURNAMENT = ("tournament", "entrants")  # tables that alignkit/tournaments reads
Places = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Given:
    """A value, the name it was given by, and the place: "alignkit.toml:7", "preset letter", "--set" or "option".

    `file` is the file whose word it is: what stands in a file counts for less than what its user typed (trust.py).
    """

    value: object
    name: str
    place: str
    file: Path | None = None

    @property
    def label(self) -> str:
        return self.name if self.place == "option" else f"{self.place}: {self.name}"


Layer = dict[tuple[str, ...], Given]


def file_layer(source: config_source.Source | None) -> Layer:
    """Every value of alignkit.toml."""
    return {} if source is None else _flatten(source.tables, source.place, file=source.path)


def like_layer(run: Path, method: str | None) -> Layer:
    """Every value another run was resolved to; another method's options are left out, with None no method's are.

    Raises:
        InputError: `run` is neither a run's folder nor a name under runs/.
    """
    folder = find_run(run)
    if folder is None:
        raise InputError(f"--like {run}: not a run's folder (it has no run.json); `alignkit runs` lists them")
    path, tables = read_config(folder)
    trained = tables.get("train", {}) if isinstance(tables, dict) else None
    if not isinstance(tables, dict) or not isinstance(trained, dict):
        raise InputError(f"{path}: holds no readable configuration; take another run for --like")
    own = trained if method is None else {method: trained[method]} if trained.get(method) is not None else {}
    return _flatten(tables | {"train": own}, lambda *_: str(path), file=path)


def resumed_layers(run: Path, method: str, file: Layer) -> tuple[list[Layer], dict[str, str]]:
    """What a run that goes on begins with: all that it was resolved to, and what its file says by now.

    A key that was typed when it began counted for more than the file, and still does. Runs of older versions do not
    say what was typed.

    Returns: the layers, and where each value that was given came from when the run began.
    """
    content = read_object(run / FILE)
    known = content.get("sources")
    sources: dict[str, str] = known if isinstance(known, dict) else {}
    typed = {key for key, place in sources.items() if place in ("option", "--set") or place.startswith("preset ")}
    own = like_layer(run, method)
    own |= {(key,): Given(content[key], key, str(run / FILE)) for key in ("preset", "track") if content.get(key)}

    def name(path: tuple[str, ...]) -> str:
        return ".".join(("train", method, path[1]) if path[0] == "train" and len(path) == 2 else path)

    return [own, {path: given for path, given in file.items() if name(path) not in typed}], sources


def started_from(run: Path) -> Path | None:
    """The file that a run's --config named when it began, where it still is."""
    named = read_object(run / FILE).get("config_file")
    return Path(named) if isinstance(named, str) and Path(named).is_file() else None


def preset_layer(name: str, method: type[Method]) -> Layer:
    """Every option that a method's preset sets.

    Raises:
        UsageError: the method has no preset of that name.
    """
    if not method.presets:
        raise UsageError(f"--preset {name}: method {method.name!r} has no presets; leave it out")
    if name not in method.presets:
        known = list(method.presets)
        raise UsageError(f"--preset {name}: method {method.name!r} has no preset of that name{_hint(name, known)}")
    for key in method.presets[name]:
        if key not in method.Config.model_fields:
            raise TypeError(f"method {method.name!r}: its preset {name!r} sets {key!r}, which is none of its options")
    place = f"preset {name}"
    return {("train", method.name, key): Given(value, key, place) for key, value in method.presets[name].items()}


def settings_layer(settings: Sequence[str], places: Places) -> Layer:
    """Every `--set KEY=VALUE`; a KEY without dots is looked up in `places`.

    Raises:
        UsageError: no "=", an unknown key, or a key of a method that is not being trained.
    """
    layer: Layer = {}
    train_tables = {place[:2] for place in places.values() if place[0] == "train"}
    for text in settings:
        key, equals, value = text.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals:
            raise UsageError(f"--set {text}: no '='; write --set KEY=VALUE, for example --set train.learning_rate=1e-5")
        if len(path) == 1:
            if len(places.get(path[0], ())) < 2:
                known = [name for name, place in places.items() if len(place) > 1]
                raise UsageError(f"--set {text}: {path[0]!r} is not a known key{_hint(path[0], known)}")
            path = places[path[0]]
        tables: dict[str, Any] = {path[-1]: value}
        for part in reversed(path[:-1]):
            tables = {part: tables}
        for place, given in _flatten(tables, lambda *_: "--set").items():
            if place[0] == "train" and not (train_tables if len(place) == 2 else place[:2] in train_tables):
                raise UsageError(f"--set {text}: nothing reads {'.'.join(place[:-1])} here; leave it out")
            layer[place] = replace(given, value=config_fields.parse(value, _field(place).annotation), name=key.strip())
    return layer


def options_layer(options: Mapping[str, object], places: Places) -> Layer:
    """Every option named on the command line or in Python.

    Raises:
        UsageError: an unknown one.
    """
    for name in options:
        if name not in places:
            raise UsageError(f"unknown option {name!r}{_hint(name, list(places))}")
    return {places[name]: Given(value, "--" + name.replace("_", "-"), "option") for name, value in options.items()}


def _flatten(tables: Mapping[str, Any], place: Callable[..., str], *, file: Path | None = None) -> Layer:
    """Return every value of the file's structure by its path, refusing keys that nothing reads."""
    layer: Layer = {}
    for table, values in tables.items():
        if table in TOURNAMENT:
            continue
        if table not in (*SECTIONS, "train"):
            raise _unknown(place(table), (table,), known=[*SECTIONS, "train"])
        if not isinstance(values, dict):
            raise UsageError(f"{place(table)}: {table} is a table: write [{table}] and its keys below it")
        fields = _fields(table)
        for key, value in values.items():
            if key in fields:
                layer[table, key] = Given(value, f"{table}.{key}", place(table, key), file)
                continue
            if table not in PLUGIN_TABLES or not isinstance(value, dict):
                raise _unknown(place(table, key), (table, key), known=list(fields))
            try:
                own = _fields(table, key)
            except AlignkitError as error:
                raise UsageError(f"{place(table, key)}: [{table}.{key}]: {error}") from error
            for option in value:
                if option not in own:
                    raise _unknown(place(table, key, option), (table, key, option), known=list(own))
                name = f"{table}.{key}.{option}"
                layer[table, key, option] = Given(value[option], name, place(table, key, option), file)
    return layer


def _unknown(place: str, path: tuple[str, ...], *, known: list[str]) -> UsageError:
    """Say that nothing reads a key, and which table does or which key is nearest."""
    key = path[-1]
    tables: list[tuple[str, ...]] = [(name,) for name in (*SECTIONS, "train")]
    tables += [(table, name) for table, kind in PLUGIN_TABLES.items() for name in plugin_configs(kind)]
    owners = [f"[{'.'.join(table)}]" for table in tables if key in _fields(*table)]
    hint = f"; it belongs in {' or '.join(owners)}" if owners and len(path) <= 2 else _hint(key, known)
    return UsageError(f"{place}: {'.'.join(path)} is not a known key{hint}")


def _hint(name: str, known: list[str]) -> str:
    return nearest(name, known) or f"; known: {', '.join(sorted(known)) or 'none'}"


def _fields(table: str, plugin: str | None = None) -> dict[str, FieldInfo]:
    if plugin is not None:
        return registry().find(PLUGIN_TABLES[table], plugin).Config.model_fields
    return MethodConfig.model_fields if table == "train" else SECTIONS[table].model_fields


def _field(path: tuple[str, ...]) -> FieldInfo:
    return _fields(*path[:-1])[path[-1]]


def plugin_configs(kind: str) -> dict[str, type[BaseModel]]:
    """Return the Config class of every method or judge, by name."""
    return {name: registry().find(kind, name).Config for name in registry().names(kind)}
