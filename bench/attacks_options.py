"""Every option of every command at values that nobody means."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from bench.attacks_ground import Ground, Tried, training

VALUES = ("-1", "0", "nan", "inf", "1e30", "1" + "0" * 25, "x" * 5000)
_LEFT_OUT = {"help", "version", "install_completion", "show_completion", "watch"}
_SLOW = {("doctor",), ("demo",), ("chat",)}  # no options that are read before minutes of work, or a conversation


def options(ground: Ground, values: tuple[str, ...] = VALUES) -> Tried:
    """Give each option that takes a value each of these; the other options stay at what makes a short command."""
    tried = Tried("options")
    seen: set[tuple[tuple[str, ...], str]] = set()
    for path, flag in _options():
        if path in _SLOW or (path, flag) in seen:
            continue
        seen.add((path, flag))
        for value in values:
            place = ground.place()
            command = _base(path, ground)
            ended = ground.alignkit([*command, f"{flag}={value}"], place)
            tried.note(ended.problem(f"{' '.join(path)} {flag}={value[:30]}"))
            shutil.rmtree(place)
    return tried


def _options() -> Iterator[tuple[tuple[str, ...], str]]:
    import typer

    from alignkit.cli.main import app

    yield from _below(typer.main.get_command(app), ())


def _below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    import click

    context = click.Context(command)
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _below(command.get_command(context, name), (*path, name))
        return
    shared = {"sft"} if path[:1] == ("train",) else set()
    for parameter in command.params:
        takes_value = getattr(parameter, "is_flag", True) is False
        if parameter.name in _LEFT_OUT or not takes_value:
            continue
        if shared and path[1] not in shared and not _is_own(path[1], parameter.name):
            continue  # what all methods share is tried on sft alone
        yield path, max(parameter.opts, key=len)


def _is_own(method: str, name: str) -> bool:
    from alignkit.registry import registry

    sft: Any = registry().find("method", "sft")
    own: Any = registry().find("method", method)
    rollouts = (
        {"reward", "max_missing", "sampler", "score_timeout_s", "generate_timeout_s"} if method == "grpo" else set()
    )
    return name in rollouts or name in set(own.Config.model_fields) - set(sft.Config.model_fields)


def _base(path: tuple[str, ...], ground: Ground) -> list[str]:
    """A command that would end in seconds with the option left out."""
    rows, model = ["--data", str(ground.rows)], ["--model", str(ground.model)]
    small = ["--max-new-tokens", "2", "--num-prompts", "2"]
    if path[0] == "train":
        return training(path[1], ground, "out", steps=1)
    if path[0] == "judge":
        judge = ["--judge", f"{ground.rewards}:letters", *small]
        return ["judge", str(ground.model), "--vs", str(ground.other), *rows, *judge]
    if path[0] in ("generate", "evaluate"):
        return [path[0], str(ground.model), *rows, *small]
    if path[0] == "data":
        return ["data", path[1], *rows, *model]
    if path[0] == "probe":
        return ["probe", f"{ground.rewards}:letters"]
    return list(path)
