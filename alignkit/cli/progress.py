"""Draws progress on standard error: a bar with the time left on a terminal, else a plain line every ten seconds."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from alignkit.display import on_one_line

_PLAIN_INTERVAL_S = 10.0


class RichProgress:
    """The `alignkit.progress.Progress` of the command line; usable again after `stop`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._description = ""
        self._total: int | None = None
        self._done = 0
        self._began_s = self._printed_s = 0.0

    def start(self, description: str, total: int | None) -> None:
        """Begin a task of `total` units."""
        self.stop()
        description = on_one_line(description)
        self._description, self._total, self._done = description, total, 0
        self._began_s = self._printed_s = time.monotonic()
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}", markup=False),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(description, total=total, shown="")
            self._bar.start()

    def advance(self, n: int = 1, **shown: float | str) -> None:
        """Count `n` finished units and show numbers beside them."""
        self._done += n
        text = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
        )
        text = on_one_line(text)
        if self._bar is not None:
            self._bar.update(self._task, advance=n)
            if text:
                self._bar.update(self._task, shown=text)
        elif self._description and time.monotonic() - self._printed_s >= _PLAIN_INTERVAL_S:
            self._printed_s = time.monotonic()
            self.note("  ".join(part for part in (f"{self._description} {self._how_far()}", text) if part))

    def stop(self) -> None:
        """End the task; nothing of a bar is left on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._description = ""

    def note(self, line: str) -> None:
        """Print one line above the bar."""
        if self._bar is not None:
            self._bar.console.print(on_one_line(line), markup=False, highlight=False)
        else:
            print(on_one_line(line), file=sys.stderr, flush=True)

    def _how_far(self) -> str:
        elapsed_s = time.monotonic() - self._began_s
        if self._total is None or self._done == 0:
            return f"{self._done}, {elapsed_s:.0f} s"
        left_s = elapsed_s / self._done * max(0, self._total - self._done)
        return f"{self._done}/{self._total}, {elapsed_s:.0f} s, about {left_s:.0f} s left"
