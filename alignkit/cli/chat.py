"""`alignkit chat RUN [--vs RUN2]`: talk to one model, or put the same questions to two."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.options import SAMPLER, SAMPLING, TEXT, Command, Config, Group, Set, with_options
from alignkit.config.settings import JudgeSection
from alignkit.display import on_one_line, shown
from alignkit.errors import InputError, UsageError

if TYPE_CHECKING:
    from alignkit.judging.answers import Answering

Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="a run, a model folder or a hub name")]
HELP = """/help     these lines
/history  what was said since the start or /clear
/clear    forget what was said
/quit     end; so does Ctrl-D. Ctrl-C stops an answer"""
Messages = list[dict[str, str]]


@with_options(Group("Model", JudgeSection, ("vs",)), TEXT, SAMPLING, SAMPLER)
def chat(*, ctx: typer.Context, given: dict[str, Any], model: Model, config: Config = None, set_: Set = None) -> None:
    """Talk to a model in the terminal; with --vs two models hear the same questions. /help lists what can be typed."""
    from alignkit import api

    other = given.pop("vs", None)
    names = [model, *([str(other)] if other else [])]
    if len(names) > len(set(names)):
        raise UsageError(f"--vs {other}: that is the model itself; name another, or leave --vs out")
    path = Path(config) if config else None
    sessions = {}
    for name in names:
        _tell(f"loading {name}")
        sessions[name] = api.chat_session(name, config=path, set=set_ or [], **given)
    _tell(f"talking to {' and '.join(names)}; /help lists what can be typed")
    said: dict[str, Messages] = {name: [] for name in names}
    while (line := _read_line()) is not None and line != "/quit":
        if line == "/clear":
            said = {name: [] for name in names}
        elif line == "/help":
            _tell(HELP)
        elif line == "/history":
            _show_history(said)
        elif re.fullmatch("/[a-z]+", line):
            _tell(f"{line}: unknown; /help lists what can be typed")
        elif line:
            said = _turn(sessions, said, line) or said


def _turn(sessions: dict[str, Answering], said: dict[str, Messages], line: str) -> dict[str, Messages] | None:
    """Ask, print each answer while it is drawn, and return what was said with it; None where one was not given."""
    asked: dict[str, Messages] = {name: [*said[name], {"role": "user", "content": line}] for name in sessions}
    for name, session in sessions.items():
        if len(sessions) > 1:
            print(f"[{on_one_line(name)}]", flush=True)
        shows = _Shows()
        try:
            answer = session.reply(asked[name], seen=shows)
        except KeyboardInterrupt:
            print(flush=True)
            _tell("stopped; this question and its answers are forgotten")
            return None
        except InputError as error:
            _tell(f"{error}; /clear forgets what was said")
            return None
        shows(answer)
        print("\n" * (len(sessions) > 1), flush=True)
        asked[name].append({"role": "assistant", "content": answer})
    return asked


class _Shows:
    """Prints what is new of a text that grows."""

    def __init__(self) -> None:
        self.printed = ""

    def __call__(self, text: str) -> None:
        if text.startswith(self.printed):
            print(shown(text[len(self.printed) :]), end="", flush=True)
            self.printed = text


def _show_history(said: dict[str, Messages]) -> None:
    for name, messages in said.items():
        for message in messages:
            print(f"[{on_one_line(name if message['role'] == 'assistant' else 'you')}] {shown(message['content'])}")
    if not any(said.values()):
        _tell("nothing was said yet")


def _read_line() -> str | None:
    """Return the next line without spaces around it, or None at the end of the input.

    On a terminal it can be edited, and the lines before it come back with the arrow keys.
    """
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            import readline  # noqa: F401  # input() edits lines with it

            return input("> ").strip()
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return None
    return line.strip() if line else None


def _tell(text: str) -> None:
    """Say something that is no answer."""
    print(shown(text), file=sys.stderr, flush=True)


def add_to(app: typer.Typer) -> None:
    app.command("chat", cls=Command)(chat)
