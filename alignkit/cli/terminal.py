"""Standard output for people: wide when it is read by another program, so that no table loses text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignkit.display import on_one_line, shown

_PIPED_WIDTH = 200


def console() -> Console:
    """Return a console on standard output."""
    fixed = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_PIPED_WIDTH if fixed else None, highlight=False)


def say(text: object) -> None:
    """Print a result for people on standard output; what would steer the terminal is shown escaped."""
    print(shown(text), flush=True)


def print_to_end(text: str) -> None:
    """Print a result; where its reader went away, as in `judge | head`, the command goes on and its exit code holds."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_table(titles: Sequence[str], rows: Iterable[tuple[Sequence[str], str]], *, right: Sequence[str] = ()) -> None:
    """Print rows of (cells, style); titles named in `right` are columns of numbers."""
    table = Table(show_header=any(titles))
    for title in titles:
        table.add_column(Text(on_one_line(title)), justify="right" if title in right else "left", overflow="fold")
    for cells, style in rows:
        table.add_row(*(Text(shown(cell)) for cell in cells), style=style or None)
    console().print(table)
