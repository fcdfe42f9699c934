"""Command-line options made from pydantic fields, so that an option exists once: as a key of the configuration.

Only options that the user typed are passed on; the configuration decides the others.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alignkit.config import fields as config_fields

_METAVARS = {"int": "N", "float": "NUMBER", "str": "TEXT", "dict": "KEY=VALUE"}
Config = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="read this file instead of ./alignkit.toml")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="set any key of alignkit.toml, as train.learning_rate=1e-5; repeatable"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@dataclass(frozen=True)
class Group:
    """Fields of one pydantic model shown together in --help; `names` picks some of them (default: all)."""

    panel: str
    model: type[BaseModel]
    names: tuple[str, ...] | None = None

    def fields(self) -> dict[str, FieldInfo]:
        fields = self.model.model_fields
        return {name: fields[name] for name in (fields if self.names is None else self.names)}


def with_options(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field; what the user typed of them arrives as its `given: dict`.

    The command takes `ctx: typer.Context` and `given` beside its own parameters.
    """
    fields: dict[str, FieldInfo] = {}
    parameters: list[inspect.Parameter] = []
    for group in groups:
        for name, field in group.fields().items():
            fields[name] = field
            parameters.append(_parameter(name, field, group.panel))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters

        @functools.wraps(command)
        def run(**values: Any) -> None:
            ctx: typer.Context = values["ctx"]
            typed = {name: values.pop(name) for name in fields}
            given = {name: _value(name, fields[name], typed[name]) for name in fields if _was_typed(ctx, name)}
            command(**values, given=given)

        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, p in own.items() if name != "given"]
        run.__signature__ = inspect.Signature(parameters + keyword)  # type: ignore[attr-defined]
        run.__annotations__ = {}
        return run

    return decorate


def _parameter(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    """Make one option. Numbers and tables arrive as text, so that one place says what is allowed: `config_file`."""
    sort = config_fields.kind(field.annotation)
    dashed = name.replace("_", "-")
    metavar: str | None = _METAVARS.get(sort)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    kind: Any = {"bool": bool, "dict": list[str], "list": list[str]}.get(sort, str)
    if sort == "choice":
        kind = Literal[tuple(config_fields.choices(field.annotation))]
    elif sort in ("int", "float"):
        default = None if default is None else f"{default:g}" if isinstance(default, float) else str(default)
    elif sort == "dict":
        default = [f"{key}={value}" for key, value in (default or {}).items()]
    elif sort == "list" and _is_numeric(field):
        kind, metavar, default = str, "NUMBER,NUMBER,...", ",".join(f"{x:g}" for x in default or ()) or None
    elif sort == "list":
        metavar, default = "TEXT", [str(element) for element in default or ()]
    option = typer.Option(
        f"--{dashed}/--no-{dashed}" if sort == "bool" else f"--{dashed}",
        help=_help(field),
        rich_help_panel=panel,
        metavar=metavar,
        show_default=default not in (None, [], False),
    )
    annotated: Any = Annotated[kind | None if default is None else kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotated)


def _is_numeric(field: FieldInfo) -> bool:
    return config_fields.kind(config_fields.element(field.annotation)) in ("int", "float")


def _help(field: FieldInfo) -> str:
    """Return the field's description and range; square brackets are text, not rich's markup."""
    limits = config_fields.limits(field)
    text = f"{field.description or ''}; {limits}" if limits else field.description or ""
    return text.replace("[", r"\[")


def _was_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _value(name: str, field: FieldInfo, typed: Any) -> object:
    """Read what was typed; a number that is none stays text, which the configuration refuses."""
    if config_fields.kind(field.annotation) != "dict":
        return config_fields.parse(typed, field.annotation) if isinstance(typed, str) else typed
    try:
        return config_fields.pairs(typed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--" + name.replace("_", "-")) from error
