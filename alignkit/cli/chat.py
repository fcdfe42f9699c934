"""`alignkit chat RUN [--vs RUN2]`: talk to one model, or to two beside each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.options import SAMPLER, SAMPLING, TEXT, Command, Config, Group, Set, with_options
from alignkit.config.settings import JudgeSection

Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="a run, a model folder or a hub name")]
_MIN_COLUMNS_WIDTH = 100


@with_options(Group("Model", JudgeSection, ("vs",)), TEXT, SAMPLING, SAMPLER)
def chat(*, ctx: typer.Context, given: dict[str, Any], model: Model, config: Config = None, set_: Set = None) -> None:
    """Talk to a model in the terminal; /clear forgets what was said, /quit ends. Two models hear the same questions."""
    from alignkit import api

    other = given.pop("vs", None)
    names = [model, *([str(other)] if other else [])]
    path = Path(config) if config else None
    sessions = {name: api.chat_session(name, config=path, set=set_ or [], **given) for name in dict.fromkeys(names)}
    said: dict[str, list[dict[str, str]]] = {name: [] for name in sessions}
    while (line := _read_line()) is not None and line != "/quit":
        if line == "/clear":
            said = {name: [] for name in sessions}
        elif line:
            for name, session in sessions.items():
                said[name].append({"role": "user", "content": line})
                said[name].append({"role": "assistant", "content": session.reply(said[name])})
            _show({name: messages[-1]["content"] for name, messages in said.items()})


def _read_line() -> str | None:
    """Return the next line without spaces around it, or None at the end of the input; the prompt goes to stderr."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def _show(answers: dict[str, str]) -> None:
    from alignkit.cli.terminal import console, print_table, say

    if len(answers) == 1:
        say(*answers.values())
    elif console().is_terminal and console().width >= _MIN_COLUMNS_WIDTH:
        print_table(tuple(answers), [(tuple(answers.values()), "")])
    else:
        for name, answer in answers.items():
            say(f"[{name}]\n{answer}\n")


def add_to(app: typer.Typer) -> None:
    app.command("chat", cls=Command)(chat)
