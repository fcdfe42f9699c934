"""Command-line options made from pydantic fields, so that an option exists once: as a key of the configuration.

Only options that the user typed are passed on; the configuration decides the others.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from alignkit.config import fields as config_fields
from alignkit.config.settings import DataSection, JudgeSection, ModelSection, RolloutsSection
from alignkit.options import Tier, tier

_METAVARS = {"int": "N", "float": "NUMBER", "str": "TEXT", "dict": "KEY=VALUE"}
_NAMES_WIDTH = 26  # columns of --help's names; a longer name stands on a line of its own, whole
_HELP_WIDTH = 100
Config = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="read this file instead of ./alignkit.toml")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="set any key of alignkit.toml, as train.learning_rate=1e-5; repeatable"
    ),
]
Method = Annotated[
    str | None,
    typer.Option("--method", metavar="METHOD", help="only what METHOD trains on with its options (--set ties=half)"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@dataclass(frozen=True)
class Group:
    """Fields of one pydantic model that --help shows together.

    Args:
        panel: the title above them.
        names: which fields; None takes all.
        default: the tier of fields that have no marker (alignkit/options.py). None makes a flag of every field here
            and shows it, whatever its marker: commands that name their few fields show them all.
    """

    panel: str
    model: type[BaseModel]
    names: tuple[str, ...] | None = None
    default: Tier | None = None

    def fields(self) -> dict[str, FieldInfo]:
        fields = self.model.model_fields
        return {name: fields[name] for name in (fields if self.names is None else self.names)}

    def tier(self, name: str) -> Tier:
        return "help" if self.default is None else tier(self.model, name) or self.default

    def in_tier(self, *tiers: Tier) -> Iterator[tuple[str, FieldInfo]]:
        return ((name, field) for name, field in self.fields().items() if self.tier(name) in tiers)


# The options of everything that generates text; their defaults come from [judge], [model], [data] and [rollouts].
SAMPLING = Group(
    "Sampling", JudgeSection, ("temperature", "top_p", "num_beams", "length_penalty", "max_new_tokens", "seed")
)
SAMPLER = Group("Sampling", RolloutsSection, ("sampler",))
TEXT = Group("Model", ModelSection, ("chat_template", "system", "template_kwargs", "precision"))
ROWS = Group(
    "Data", DataSection, ("data", "columns", "ignore_fields", "split", "limit", "max_length", "truncation", "train_on")
)
NUM_PROMPTS = Group("Data", JudgeSection, ("num_prompts",))
THINKING = Group("Sampling", JudgeSection, ("strip_thinking",))


class Command(TyperCommand):
    """A command whose --help never cuts a name: one section per panel, text only.

    `keys` are the options without a flag, by their path in alignkit.toml: `--help-all` lists them, `--set` takes them.
    """

    keys: Mapping[str, FieldInfo]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"max_content_width": _HELP_WIDTH, "help_option_names": ["-h", "--help"]}
        super().__init__(*args, **kwargs | {"rich_markup_mode": None, "context_settings": settings})
        self.keys = {}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                title = getattr(parameter, "rich_help_panel", None) or f"{parameter.param_type_name}s".capitalize()
                panels.setdefault(title, []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=_NAMES_WIDTH)

    def show_all(self, ctx: Any) -> None:
        """Print --help with the hidden options, and the keys."""
        for parameter in self.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        print(ctx.get_help())
        formatter = ctx.make_formatter()
        with formatter.section("Keys without an option; type --set KEY=VALUE, or write them into alignkit.toml"):
            formatter.write_dl([(key, _help_of_key(field)) for key, field in self.keys.items()], col_max=_NAMES_WIDTH)
        print(formatter.getvalue().rstrip())


def _show_all(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        ctx.command.show_all(ctx)  # type: ignore[attr-defined]
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", is_eager=True, callback=_show_all, help="show every option, and the keys without one"),
]


def with_options(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field; what the user typed of them arrives as its `given: dict`.

    The command takes `ctx: typer.Context` and `given` beside its own parameters. Options of the tier help-all are
    there, but hidden.
    """
    fields: dict[str, FieldInfo] = {}
    parameters: list[inspect.Parameter] = []
    for group in groups:
        for name, field in group.in_tier("help", "help-all"):
            fields[name] = field
            parameters.append(_parameter(name, field, group.panel, hidden=group.tier(name) == "help-all"))

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


def _parameter(name: str, field: FieldInfo, panel: str, *, hidden: bool) -> inspect.Parameter:
    """Make one option. Numbers and tables arrive as text, so that one place says what is allowed: config/file.py."""
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
        hidden=hidden,
    )
    annotated: Any = Annotated[kind | None if default is None else kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotated)


def _is_numeric(field: FieldInfo) -> bool:
    return config_fields.kind(config_fields.element(field.annotation)) in ("int", "float")


def _help_of_key(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    ends = "" if default in (None, [], False) else f"  [default: {shown}]"
    return f"{field.description}; {config_fields.allowed(field)}{ends}"


def _help(field: FieldInfo) -> str:
    """Return the field's description and range."""
    return "; ".join(part for part in (field.description or "", config_fields.limits(field)) if part)


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
