"""Every command that the docs and the messages say to type is one: its words are parsed as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from alignkit.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted([*(ROOT / "alignkit").rglob("*.py"), *(ROOT / "plugins/alignkit_plugins").rglob("*.py")])
STANDS_FOR = {"METHOD": "sft", "N": "3", "COMMAND": "judge", "PORT": "8000", "KIND": "method"}
ABOUT = re.compile(r"\.\.\.|…|\{|\}|<|>|\$|\*|\[|\bNAME\b|--resume RUN|\bsimpo\b")
"""Words that stand for others: such a line says how a command looks, not what is typed. simpo is a plugin's."""
IN_DOCS = re.compile(r"`(alignkit [^`\n]+)`|^(?: {4}|\$ )(alignkit (?:[^\n\\]|\\\n)+)", re.M)
IN_SOURCES = re.compile(r"`(alignkit [^`\n\"]+)`")


def hints() -> dict[str, str]:
    """Each command with the first place that it stands at."""
    found: dict[str, str] = {}
    for files, pattern in ((DOCS, IN_DOCS), (SOURCES, IN_SOURCES)):
        for file in files:
            text = file.read_text(encoding="utf-8")
            for match in pattern.finditer(text):
                command = next(filter(None, match.groups())).replace("\\\n", " ")
                command = re.split(r"  +|\s[#|&;]|\s2>", command)[0].strip()
                if not ABOUT.search(command):
                    line = text.count("\n", 0, match.start()) + 1
                    found.setdefault(command, f"{file.relative_to(ROOT)}:{line}")
    return found


HINTS = hints()


def test_there_are_hints() -> None:
    assert len(HINTS) > 60 and len({place.partition(":")[0] for place in HINTS.values()}) > 12


@pytest.mark.parametrize("command", HINTS)
def test_what_is_said_to_type_can_be_typed(command: str) -> None:
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command)][1:]
    try:
        context: Any = typer.main.get_command(app).make_context("alignkit", words)
        while hasattr(context.command, "resolve_command") and (words := [*context._protected_args, *context.args]):
            name, single, rest = context.command.resolve_command(context, words)
            context = single.make_context(name, rest, parent=context)
    except Exception as error:
        # --help-all ends here; and a command may be named without what it needs beside
        if type(error).__name__ not in ("Exit", "MissingParameter"):
            raise
