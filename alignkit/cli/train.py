"""`alignkit train METHOD`: the methods are what plugins add, their options what their Config says."""

from __future__ import annotations

import inspect
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alignkit.cli.commands import Commands
from alignkit.cli.options import Command, Config, Group, HelpAll, Set, with_options
from alignkit.config.settings import DataSection, ModelSection, RolloutsSection, RunOptions
from alignkit.display import as_typed, on_one_line
from alignkit.errors import UsageError
from alignkit.methods import MethodConfig
from alignkit.progress import Progress, is_first_rank

Like = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="RUN",
        rich_help_panel="Run",
        hidden=True,  # until --help-all
        help="start from this run's configuration; options change it",
    ),
]


Shows = Annotated[
    Literal["auto", "plain", "json"],
    typer.Option(
        "--progress",
        rich_help_panel="Run",
        hidden=True,
        help="auto draws on a terminal, else prints lines; plain prints lines; json prints JSON, one object per line",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", rich_help_panel="Run", hidden=True, help="show all numbers of a step, not the first four"
    ),
]


class Methods(Commands):
    """One command a method, made from its class when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        from alignkit.registry import registry

        return registry().names("method")

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from alignkit.registry import registry

        if ctx.resilient_parsing and cmd_name not in self.list_commands(ctx):
            return None
        return _command(registry().find("method", cmd_name))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parsed: list[str] = super().parse_args(ctx, _with_run(args))
        return parsed


def _with_run(args: list[str]) -> list[str]:
    """Lay `--resume RUN`, with or without the method before it, out as METHOD --resume --out RUN.

    Raises:
        UsageError: there is no such run.
    """
    from alignkit.runs import find_run, nearest_run, newest_unfinished, read_run

    args = [word for arg in args for word in (("--resume", arg[9:]) if arg.startswith("--resume=") else (arg,))]
    if "--resume" not in args:
        return args
    at = args.index("--resume")
    is_named = at + 1 < len(args) and not args[at + 1].startswith("-")
    has_method = not args[0].startswith("-")
    if has_method and not is_named:
        return args
    name = args[at + 1] if is_named else next((b for a, b in pairwise(args) if a == "--out"), None)
    run = find_run(name) if name is not None else newest_unfinished()
    if run is None:
        what = (
            f"{name}: no run of that name{nearest_run(name)}"
            if name is not None
            else "no run under runs/ is unfinished"
        )
        raise UsageError(f"--resume: {what}; `alignkit runs` lists what there is")
    rest = args[:at] + args[at + 1 + is_named :]
    if is_named and "--out" in rest:
        raise UsageError(f"--resume {name}: the run goes on in its own folder; leave --out out")
    method = [] if has_method else [read_run(run).method]
    return [*method, *rest, "--resume", *(["--out", str(run)] if "--out" not in rest else [])]


def add_to(app: typer.Typer) -> None:
    methods = typer.Typer(
        cls=Methods,
        help="Train a model with a method; `alignkit train METHOD --help` shows its options, "
        "`alignkit train --resume RUN` goes on with a run.",
    )
    app.add_typer(methods, name="train", no_args_is_help=False, subcommand_metavar="METHOD [OPTIONS]")


def _command(method: Any) -> Any:
    own = tuple(name for name in method.Config.model_fields if name not in MethodConfig.model_fields)
    tables = {
        f"train.{method.name}": Group("Method", method.Config, own, default="help"),
        "train": Group("Training", method.Config, tuple(MethodConfig.model_fields), default="help-all"),
        "model": Group("Model", ModelSection, default="help-all"),
        "data": Group("Data", DataSection, default="help-all"),
        "rollouts": Group("Rollouts", RolloutsSection, default="help-all"),
    }
    run = Group("Run", RunOptions, default="help-all")

    def train(
        ctx: typer.Context,
        given: dict[str, Any],
        like: Like = None,
        config: Config = None,
        set_: Set = None,
        progress: Shows = "auto",
        verbose: Verbose = False,
        help_all: HelpAll = False,
    ) -> None:
        start = Path(like) if like else None
        if given.pop("plan", False):
            _plan(method.name, config=Path(config) if config else None, set=set_ or [], like=start, **given)
            return
        from alignkit.cli.progress import make_progress

        shows = make_progress(progress, verbose=verbose)
        _train(method.name, shows, config=Path(config) if config else None, set=set_ or [], like=start, **given)

    train.__doc__ = _about(method)
    single = typer.Typer(add_completion=False)
    single.command(method.name, cls=Command)(with_options(*tables.values(), run)(train))
    command: Any = typer.main.get_command(single)
    command.keys = {
        f"{table}.{name}": field for table, group in tables.items() for name, field in group.in_tier("no-flag")
    }
    return command


def _about(method: Any) -> str:
    """Return the first paragraph of the class's documentation, or of its module's."""
    text = method.__doc__ or sys.modules[method.__module__].__doc__ or f"Train with {method.name}."
    return inspect.cleandoc(text).partition("\n\n")[0]


def _plan(method: str, **options: Any) -> None:
    from alignkit import api

    lines = api.plan(method, **options)
    if is_first_rank():
        print(*map(on_one_line, lines), sep="\n")


def _train(method: str, progress: Progress, **options: Any) -> None:
    if is_first_rank():
        progress.phase("starting")  # before torch is imported, which takes seconds
    try:
        from alignkit import api

        run = api.train(method, progress=progress, **options)
    finally:
        if is_first_rank():
            progress.stop()
    if not is_first_rank():
        return
    print(on_one_line(run.path))
    print(on_one_line(f"next: {_next_command(method, run.path, run.info['config'])}"))


def _next_command(method: str, path: Path, config: dict[str, Any]) -> str:
    """Return what one does with the run, as it is typed: a policy is judged, a reward model rewards its own start."""
    from alignkit.judging.auto import choosable
    from alignkit.registry import registry
    from alignkit.training.run.resume import typed_option

    def typed(section: str, *keys: str) -> list[str]:
        return [word for key in keys for word in typed_option(key, config[section].get(key))]

    methods = {name: registry().find("method", name) for name in registry().names("method")}
    rewarded = [name for name, cls in methods.items() if cls.trains_on.is_sampled]
    is_reward = "scalar_head" in methods[method].needs
    if not is_reward or not rewarded:
        judge = [] if choosable(path) else ["--judge", "FILE.py:FUNCTION"]
        return as_typed(["alignkit", "judge", str(path), *typed("model", "chat_template"), *judge])
    text = typed("model", "model", "chat_template", "system", "template_kwargs")
    rows = typed("data", "data", "columns", "ignore_fields")
    return as_typed(["alignkit", "train", rewarded[0], *text, *rows, "--reward", str(path)])
