"""Draws progress on standard error: two lines on a terminal, plain lines elsewhere, or JSON for programs.

sft step 120/400 ━━━━━━━━━━─────────────────────  4:10, 9:43 left
loss 1.284 █▆▅▄▃▃▂▂▂▁▁▁  accuracy 0.71  1,581 tokens/s
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from alignkit.display import LogFormatter, at_words, on_one_line
from alignkit.progress import Progress, drawings

_PLAIN_INTERVAL_S = 10.0
_MOST = 4  # numbers beside a task, unless all are asked for
_SPARKS, _SPARKLINE = "▁▂▃▄▅▆▇█", 12
_MIN_BAR = 8
_RECENT = 50  # advances that the time left is estimated from
_UNITS = {"tokens_per_s": "tokens/s", "scored_tokens_per_s": "scored tokens/s", "memory_mib": "MiB", "seconds": "s"}


_STARTED: list[RichProgress] = []


def make_progress(kind: Literal["auto", "plain", "json"], *, verbose: bool) -> Progress:
    """Return the progress that `--progress KIND` asks for; "auto" draws on a terminal and prints lines elsewhere."""
    return JsonProgress() if kind == "json" else RichProgress(verbose=verbose, draws=None if kind == "auto" else False)


def starting() -> RichProgress:
    """Return the command's progress, which on a terminal says at once that it is starting: torch takes seconds.

    It ends with the command, whatever that raises (`stop_started`).
    """
    progress = RichProgress()
    _STARTED.append(progress)
    if progress.draws:
        progress.phase("starting")
    return progress


def stop_started() -> None:
    """End what `starting` began, before a command's error is printed."""
    while _STARTED:
        _STARTED.pop().stop()


class _Count:
    """How far a task or a phase is, and how long it still takes."""

    def __init__(self, description: str, total: int | None, done: int = 0) -> None:
        self.description, self.total, self.done = on_one_line(description), total, done
        self.began_s = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self.began_s, done)], maxlen=_RECENT)

    def reach(self, done: int) -> None:
        self.done = done
        self._recent.append((time.monotonic(), done))

    def begins(self) -> None:
        """Count from now, where nothing was done yet: what came before tells nothing about a unit's time."""
        if len(self._recent) == 1:
            self._recent[0] = (time.monotonic(), self.done)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s

    @property
    def left_s(self) -> float | None:
        """Estimated seconds to the end; None where nothing is known."""
        (first_s, first), (last_s, last) = self._recent[0], self._recent[-1]
        if self.total is None or last <= first:
            return None
        left = (last_s - first_s) / (last - first) * max(0, self.total - last)
        return max(0.0, left - (time.monotonic() - last_s))

    @property
    def text(self) -> str:
        return f"{self.description} {self.done:,}/{self.total:,}" if self.total else self.description


class RichProgress:
    """The `alignkit.progress.Progress` of the command line; usable again after `stop`.

    Args:
        verbose: every number is shown, not only the first four.
        draws: on a terminal, in place; default: where standard error is one.
    """

    def __init__(self, *, verbose: bool = False, draws: bool | None = None) -> None:
        self._console = Console(stderr=True)
        self.draws = self._console.is_terminal if draws is None else draws
        self._verbose = verbose
        self._live: Live | None = None
        self._task: _Count | None = None
        self._phase: _Count | None = None
        self._shown: Mapping[str, float | str] = {}
        self._history: list[float] = []
        self._said: set[str] = set()  # phases; two that take turns are named once
        self._printed_s = 0.0
        self._stopped: threading.Event | None = None  # of the thread that says that work goes on

    def start(self, description: str, total: int | None, done: int = 0) -> None:
        """Begin a task of `total` units, of which `done` are done."""
        self._task, self._phase = _Count(description, total, done), None
        self._shown, self._history, self._said = {}, [], set()
        self._printed_s = time.monotonic()
        if total is None and not self.draws:
            self._print(self._task.description)
        self._draw()

    def advance(self, n: int = 1, **shown: float | str) -> None:
        """Count `n` finished units and show numbers beside them."""
        if self._task is None:
            return
        self._task.reach(self._task.done + n)
        if shown:
            self._shown = shown
            first = next(iter(shown.values()))
            if isinstance(first, float) and math.isfinite(first):
                self._history.append(first)
        if self._live is None and time.monotonic() - self._printed_s >= _PLAIN_INTERVAL_S:
            self._print("  ".join(part for part in (_how_far(self._task), self._numbers()) if part))

    def phase(self, description: str, done: int = 0, total: int | None = None) -> None:
        """Show what is done now, in place of the task's own count where there is none yet."""
        if not description:
            self._phase = None
            if self._task is not None:
                self._task.begins()
            return
        if self._phase is None or self._phase.description != description or done < self._phase.done:
            self._phase = _Count(description, total)
            self._draw()
            is_first = self._task is None or self._task.total is None
            is_new = description not in self._said or time.monotonic() - self._printed_s >= _PLAIN_INTERVAL_S
            if self._live is None and is_first and is_new:
                self._said.add(description)
                self._print(description)
        if done:
            self._phase.reach(done)
            if self._live is None and time.monotonic() - self._printed_s >= _PLAIN_INTERVAL_S:
                self._print(_how_far(self._phase))

    def stop(self) -> None:
        """End the task; nothing of what was drawn is left on the screen."""
        if self._stopped is not None:
            self._stopped.set()
            self._stopped = None
        self._take_away()
        self._task = self._phase = None

    def _take_away(self) -> None:
        """Leave the terminal to others until there is something else to draw."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            drawings.remove(self._take_away)

    def note(self, line: str) -> None:
        """Print one line above what is drawn."""
        if self._live is not None:
            line = at_words(on_one_line(line), self._console.width)
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._print(line)

    def _print(self, line: str) -> None:
        self._printed_s = time.monotonic()
        print(on_one_line(line), file=sys.stderr, flush=True)

    def say_that_it_goes_on(self) -> None:
        """Name work of unknown length again: whoever reads a pipe must not take it for dead."""
        count = self._phase or self._task
        if count is not None and count.total is None and time.monotonic() - self._printed_s >= _PLAIN_INTERVAL_S / 2:
            self._print(_how_far(count))

    def _draw(self) -> None:
        if not self.draws and self._stopped is None:
            self._stopped = threading.Event()
            threading.Thread(target=_go_on_saying, args=(weakref.ref(self), self._stopped), daemon=True).start()
        if self.draws and self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._lines,
                transient=True,
                refresh_per_second=4,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
            drawings.append(self._take_away)

    def _lines(self) -> Group:
        """Two lines of the terminal's width: where it is, and the numbers."""
        width = self._console.width
        task, phase = self._task, self._phase
        lead = "  ".join(count.text for count in (task, phase) if count is not None)
        count = phase if phase is not None and (task is None or task.total is None) else task
        lines = [_line(lead, count, width)] if count is not None else []
        if numbers := self._numbers(width):
            lines.append(Text(numbers, no_wrap=True, overflow="ellipsis"))
        return Group(*lines)

    def _numbers(self, width: int | None = None) -> str:
        """The numbers beside a task; where they are drawn, no more than fit, the first with its curve."""
        parts = [_number(name, value) for name, value in self._shown.items()]
        if not self._verbose:
            parts = parts[:_MOST]
        if width is None:
            return "  ".join(parts)
        if len(self._history) > 1:
            parts[0] += f" {sparkline(self._history)}"
        while not self._verbose and len(parts) > 1 and len("  ".join(parts)) > width:
            parts.pop()
        return "  ".join(parts)


class JsonProgress:
    """Progress as JSON lines on standard error, and log lines as well: {"event": "step", "done": 3, ...}.

    Events: start (a task), step (units of it are done), phase, note, log and stop.
    """

    def __init__(self) -> None:
        self._description, self._done = "", 0
        self._total: int | None = None
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_JsonLines())

    def start(self, description: str, total: int | None, done: int = 0) -> None:
        self._description, self._total, self._done = description, total, done
        self._say("start")

    def advance(self, n: int = 1, **shown: float | str) -> None:
        self._done += n
        self._say("step", numbers=shown)

    def phase(self, description: str, done: int = 0, total: int | None = None) -> None:
        _write({"event": "phase", "phase": description, "done": done, "total": total})

    def stop(self) -> None:
        _write({"event": "stop"})

    def note(self, line: str) -> None:
        _write({"event": "note", "text": line})

    def _say(self, event: str, **more: object) -> None:
        _write({"event": event, "task": self._description, "done": self._done, "total": self._total} | more)


class _JsonLines(LogFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"event": "log", "level": record.levelname.lower(), "text": super().format(record)})


def _write(event: Mapping[str, object]) -> None:
    print(json.dumps(event, default=str), file=sys.stderr, flush=True)


def sparkline(values: Sequence[float], width: int = _SPARKLINE) -> str:
    """A curve in one line of at most `width` characters: means of equal parts, the lowest as ▁ and the highest as █.

    >>> sparkline([3.0, 2.0, 1.0])
    '█▅▁'
    """
    size = min(width, len(values))
    bounds = [n * len(values) // size for n in range(size + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(means), max(means)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((mean - low) * scale)] for mean in means)


def _line(lead: str, count: _Count, width: int) -> Text:
    """What is done, a bar where there is room, and the time: that never gives way."""
    left_s = count.left_s
    clock = _clock(count.elapsed_s) + (f", {_clock(left_s)} left" if left_s is not None else "")
    line = Text(lead, no_wrap=True)
    line.truncate(max(0, width - len(clock) - 2), overflow="ellipsis")
    room = width - line.cell_len - len(clock) - 4
    if count.total and room >= _MIN_BAR:
        room = min(room, 40)
        full = min(room, room * count.done // count.total)
        line.append("  ")
        line.append("━" * full, style="green")
        line.append("─" * (room - full), style="dim")
    return line.append(f"  {clock}")


def _number(name: str, value: float | str) -> str:
    if not isinstance(value, float):
        return on_one_line(f"{name} {value}")
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return on_one_line(f"{text} {_UNITS[name]}" if name in _UNITS else f"{name} {text}")


def _clock(seconds: float) -> str:
    """
    >>> _clock(65), _clock(3700)
    ('1:05', '1:01:40')
    """
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _go_on_saying(progress: weakref.ref[RichProgress], stopped: threading.Event) -> None:
    """Let `progress` say every few seconds that it goes on, until it is stopped or nobody has it any more."""
    while not stopped.wait(_PLAIN_INTERVAL_S) and (shows := progress()) is not None:
        shows.say_that_it_goes_on()
        del shows


def _how_far(count: _Count) -> str:
    left_s, elapsed = count.left_s, f"{count.elapsed_s:.0f} s"
    if left_s is None:
        return f"{count.description}{f' {count.done:,}' if count.done else ''}, {elapsed}"
    return f"{count.description} {count.done}/{count.total}, {elapsed}, about {left_s:.0f} s left"
