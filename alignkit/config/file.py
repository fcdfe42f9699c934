"""Lays the layers of options over each other and validates the result: `resolve` and `judge_settings`.

Later wins: the classes' defaults, the configuration of `--like RUN`, alignkit.toml ([train], then [train.METHOD]), the
method's preset, `--set KEY=VALUE`, options named on the command line or in Python. A preset is typed for one run and
so wins over the file. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from alignkit.config import fields as config_fields
from alignkit.config import source as config_source
from alignkit.config.layers import (
    PLUGIN_TABLES,
    Given,
    Layer,
    Places,
    file_layer,
    like_layer,
    options_layer,
    plugin_configs,
    preset_layer,
    resumed_layers,
    settings_layer,
    started_from,
)
from alignkit.config.settings import (
    SECTIONS,
    DataSection,
    JudgeSection,
    ModelSection,
    RolloutsSection,
    RunOptions,
    TournamentSection,
)
from alignkit.display import shortened
from alignkit.errors import UsageError
from alignkit.methods import Method, MethodConfig
from alignkit.registry import registry
from alignkit.runs import FILE as RUN_FILE
from alignkit.runs import holds_run, newest_unfinished, read_run

__all__ = ["Resolved", "Settings", "dump", "find", "judge_settings", "resolve", "schema"]
find = config_source.find
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Settings:
    """The resolved sections, and where each given value came from (by dotted path; what is absent is a default).

    `from_files` holds, by path, the values that stand in a file and that nothing typed has replaced.
    """

    model: ModelSection
    data: DataSection
    rollouts: RolloutsSection
    judge: JudgeSection
    judges: dict[str, dict[str, Any]]
    sources: dict[str, str]
    from_files: Layer


@dataclass(frozen=True)
class Resolved(Settings):
    """The settings of one `alignkit train METHOD`, resolved. `judges` are the [judge.NAME] tables, by name."""

    method_name: str
    method: MethodConfig
    run: RunOptions
    config_file: Path | None = None


def resolve(
    method_cls: type[Method],
    *,
    options: Mapping[str, object],
    config: Path | None,
    settings: Sequence[str] = (),
    like: Path | None = None,
) -> Resolved:
    """Resolve every option of one training run.

    Args:
        options: Python names of options given explicitly ("learning_rate", "model", "max_length", "out", ...); "preset"
            names one of the method's.
        config: the file to read instead of ./alignkit.toml.
        settings: texts KEY=VALUE; KEY is dotted as in the file ("train.grpo.beta") or an option's plain name.
        like: a run's folder whose configuration comes before the file's.

    Raises:
        UsageError: an unknown key or a value that is not allowed, with where it was given and what is allowed.
        InputError: a file that cannot be read.
    """
    name = method_cls.name
    _refuse_shadowing(method_cls)
    places = option_places(method_cls)
    typed, known = dict(options), dict[str, str]()
    run_folder = _goes_on(typed, name)
    if run_folder is None:
        layers = [like_layer(like, name)] if like is not None else []
        layers.append(_file(config))
    else:
        if like is not None:
            raise UsageError(f"--like with --resume: {run_folder} goes on with its own options; leave --like out")
        config = config or started_from(run_folder)
        layers, known = resumed_layers(run_folder, name, _file(config))
    if isinstance(preset := typed.get("preset"), str):
        layers.append(preset_layer(preset, method_cls))
    layers += [settings_layer(settings, places), options_layer(typed, places)]
    given: dict[str, Given] = {}
    for layer in layers:
        given |= {path[1]: value for path, value in layer.items() if path[0] == "train" and len(path) == 2}
        given |= {path[2]: value for path, value in layer.items() if path[:2] == ("train", name) and len(path) == 3}
    method = _validate(method_cls.Config, given)
    run = _validate(RunOptions, {path[0]: value for layer in layers for path, value in layer.items() if len(path) == 1})
    common = _sections(layers)
    sources = common.sources | {f"train.{name}.{key}": value.place for key, value in given.items()}
    if run_folder is not None:  # what the run holds came from where it came from when the run began
        own = str(run_folder / RUN_FILE)
        sources = known | {key: place for key, place in sources.items() if place != own}
    return Resolved(
        **vars(replace(common, sources=sources)), method_name=name, method=method, run=run, config_file=find(config)
    )


def option_places(method_cls: type[Method]) -> Places:
    """Every option of `alignkit train METHOD` by its Python name, with its place in the file."""
    tables: dict[str, tuple[tuple[str, ...], type[BaseModel]]] = {"run": ((), RunOptions)}
    for section in ("rollouts", "data", "model"):
        tables[section] = ((section,), SECTIONS[section])
    tables["method"] = (("train", method_cls.name), method_cls.Config)
    return {key: (*prefix, key) for prefix, model in tables.values() for key in model.model_fields}


def _goes_on(options: dict[str, object], method: str) -> Path | None:
    """The run that --resume goes on with, by --out or the method's newest unfinished one; `out` then names it."""
    if options.get("resume") is not True:
        return None
    out = options.get("out")
    folder = Path(out) if isinstance(out, str) else newest_unfinished(method) if out is None else None
    if folder is None or not holds_run(folder):
        return None
    options["out"] = str(folder)
    return folder if read_run(folder).method == method else None  # another method's is refused where it is opened


def judge_settings(
    options: Mapping[str, object], config: Path | None = None, *, settings: Sequence[str] = ()
) -> Settings:
    """Resolve what judging, generating and evaluating need: all sections without a method. Raises as `resolve`."""
    order = ("rollouts", "data", "model", "judge")
    places = {key: (section, key) for section in order for key in SECTIONS[section].model_fields}
    return _sections([_file(config), settings_layer(settings, places), options_layer(options, places)])


def run_settings(run: Path) -> Settings:
    """What the configuration in a run's folder says, as `--like` reads it. Raises as `resolve`."""
    return _sections([like_layer(run, None)])


def dump(resolved: Resolved) -> dict[str, Any]:
    """Return the configuration with the file's structure and JSON types; `--like` reads it back."""
    tables: dict[str, Any] = {name: getattr(resolved, name).model_dump(mode="json") for name in SECTIONS}
    tables["judge"] |= to_jsonable_python(resolved.judges)
    return tables | {"train": {resolved.method_name: resolved.method.model_dump(mode="json")}}


def schema() -> dict[str, Any]:
    """Return the JSON schema of alignkit.toml, with a table for every installed method and judge."""
    from pydantic.json_schema import models_json_schema

    plugins = {table: plugin_configs(kind) for table, kind in PLUGIN_TABLES.items()}
    models: list[type[BaseModel]] = [*SECTIONS.values(), MethodConfig, TournamentSection]
    models += [model for configs in plugins.values() for model in configs.values() if model not in models]
    mode: Literal["validation"] = "validation"
    references, definitions = models_json_schema([(model, mode) for model in dict.fromkeys(models)])
    named = {model: references[model, mode] for model in models}
    properties = {name: named[section] for name, section in SECTIONS.items() if name != "judge"}
    for table, shared in (("train", MethodConfig), ("judge", JudgeSection)):
        own = definitions["$defs"][named[shared]["$ref"].rpartition("/")[2]]["properties"]
        inner = own | {name: named[model] for name, model in plugins[table].items()}
        properties[table] = {"type": "object", "properties": inner, "additionalProperties": False}
    properties["tournament"] = named[TournamentSection]
    properties["entrants"] = {"type": "object", "additionalProperties": {"type": "object"}}
    top = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": config_source.FILE_NAME,
        "type": "object",
    }
    return top | {"properties": properties, "additionalProperties": False} | definitions


def _sections(layers: Sequence[Layer]) -> Settings:
    merged: dict[str, dict[str, Given]] = {}
    judges: dict[str, dict[str, Given]] = {}
    for layer in layers:
        for path, given in layer.items():
            if path[0] == "judge" and len(path) == 3:
                judges.setdefault(path[1], {})[path[2]] = given
            elif path[0] in SECTIONS and len(path) == 2:
                merged.setdefault(path[0], {})[path[1]] = given
    for name, options in judges.items():
        _validate(registry().find("judge", name).Config, options)
    sections: dict[str, Any] = {name: _validate(model, merged.get(name, {})) for name, model in SECTIONS.items()}
    sources = {f"{name}.{key}": given.place for name, table in merged.items() for key, given in table.items()}
    sources |= {f"judge.{name}.{key}": given.place for name, table in judges.items() for key, given in table.items()}
    values = {name: {key: given.value for key, given in table.items()} for name, table in judges.items()}
    held = {path: given for layer in layers for path, given in layer.items()}
    from_files = {path: given for path, given in held.items() if given.file is not None}
    return Settings(**sections, judges=values, sources=sources, from_files=from_files)


def _file(config: Path | None) -> Layer:
    """Read the file and validate every [train] and [train.METHOD] table, also of methods not used now."""
    path = find(config)
    layer = file_layer(None if path is None else config_source.read(path))
    shared = {path[1]: given for path, given in layer.items() if path[0] == "train" and len(path) == 2}
    _validate(MethodConfig, shared)
    for method in {path[1] for path in layer if path[0] == "train" and len(path) == 3}:
        own = {path[2]: given for path, given in layer.items() if path[:2] == ("train", method) and len(path) == 3}
        _validate(registry().find("method", method).Config, shared | own, partial=True)
    return layer


def _validate(model: type[_Model], given: Mapping[str, Given], *, partial: bool = False) -> _Model:
    """Build a section or config; text is never taken for a number, nor true for 1."""
    try:
        values = json.dumps({key: to_jsonable_python(value.value) for key, value in given.items()})
        return model.model_validate_json(values, strict=True)
    except PydanticSerializationError as error:
        raise UsageError(
            f"an option of {', '.join(g.label for g in given.values())} cannot be stored: {error}"
        ) from error
    except ValidationError as invalid:
        errors = [e for e in invalid.errors(include_url=False) if not (partial and e["type"] == "missing")]
        if not errors:
            return model.model_construct()
        raise UsageError(_message(model, given, error=errors[0])) from invalid


def _message(model: type[BaseModel], given: Mapping[str, Given], *, error: Any) -> str:
    key = str(error["loc"][0]) if error["loc"] else ""
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if key not in model.model_fields:
        return f"{', '.join(value.label for value in given.values()) or model.__name__}: {said}"
    field = model.model_fields[key]
    if key not in given:
        return f"{key!r} must be given ({config_fields.allowed(field)})"
    if error["type"] in ("value_error", "assertion_error"):
        return f"{given[key].label}: {_shown(given[key].value)} was given: {said}"
    finite = " (no nan or infinity)" if error["type"] == "finite_number" else ""
    allowed = config_fields.allowed(field) + finite
    return f"{given[key].label}: {_shown(given[key].value)} was given, {allowed} is allowed"


def _shown(value: object) -> str:
    return shortened(json.dumps(to_jsonable_python(value), ensure_ascii=False), 80)


def _refuse_shadowing(method_cls: type[Method]) -> None:
    """A method's option may not hide one of a section: nothing would read the section's."""
    sections = (ModelSection, DataSection, RolloutsSection, RunOptions)
    taken = ["config", "set", "like", "progress", *(key for section in sections for key in section.model_fields)]
    clash = sorted(set(method_cls.Config.model_fields) & set(taken))
    if clash:
        raise TypeError(f"method {method_cls.name!r}: its option {clash[0]!r} is already one of alignkit's: rename it")
