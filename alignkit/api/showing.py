"""Progress of a call in Python: one line that is rewritten in a notebook, plain lines in a script.

A notebook's line is a display of IPython, which is rewritten in place and needs no widgets: where it is, numbers, and
above it the notes so far. A script gets the notes, and every ten seconds where it is, on standard error.
"""

from __future__ import annotations

import html
import sys
import time
from importlib import import_module
from typing import Any

from alignkit.api.wording import in_python
from alignkit.display import on_one_line
from alignkit.progress import Progress, Silent

_NOTEBOOK_S, _SCRIPT_S = 0.25, 10.0
_MOST = 4  # numbers beside a task


def progress_of(given: object) -> Progress:
    """Return who shows the progress: whoever was given; nobody for False, as others have it; by default `Shown`."""
    if given is False:
        return Silent()
    return Shown() if given is None or given is True else given  # type: ignore[return-value]


class Shown:
    """The `alignkit.progress.Progress` of a notebook or a script."""

    def __init__(self) -> None:
        self._display = _notebook()
        self._handle: Any = None
        self._notes: list[str] = []
        self._task, self._phase, self._numbers = "", "", ""
        self._done, self._total, self._first = 0, 0, 0
        self._began_s = self._said_s = time.monotonic()

    def start(self, description: str, total: int | None, done: int = 0) -> None:
        """Begin a task of `total` units, of which `done` are done."""
        self._task, self._phase, self._numbers = description, "", ""
        self._done, self._first, self._total = done, done, total or 0
        self._began_s = time.monotonic()
        self._show(at_once=not total)

    def advance(self, n: int = 1, **shown: float | str) -> None:
        """Count `n` finished units, with numbers beside them."""
        self._done += n
        if shown:
            self._numbers = "  ".join(_number(*one) for one in list(shown.items())[:_MOST])
        self._show()

    def phase(self, description: str, done: int = 0, total: int | None = None) -> None:
        """Say what is done within the task."""
        is_new = bool(description) and not self._phase.startswith(description)
        self._phase = f"{description} {done:,}/{total:,}" if total else description
        if not description and self._done == self._first:
            self._began_s = time.monotonic()  # what came before the first step says nothing of a step's time
        self._show(at_once=is_new and not self._total)

    def note(self, line: str) -> None:
        """Keep one line, in Python's words."""
        line = in_python(line)
        self._notes.append(line)
        if self._display is None:
            _print(line)
        self._show(at_once=self._display is not None)

    def stop(self) -> None:
        """End the task; in a notebook the notes stay."""
        self._task = self._phase = self._numbers = ""
        self._done = self._total = self._first = 0
        if self._handle is not None:
            self._show(at_once=True)

    def _show(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._said_s < (_SCRIPT_S if self._display is None else _NOTEBOOK_S):
            return
        self._said_s = now
        line = self._line(now)
        if self._display is None:
            if line:
                _print(line)
            return
        text = "\n".join([*map(on_one_line, self._notes), *([line] if line else [])])
        shown = f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>' if text else ""
        content = {"text/plain": text, "text/html": shown}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def _line(self, now: float) -> str:
        """Where it is: task and phase, the numbers, and the time left where that is known."""
        parts = [f"{self._task} {self._done:,}/{self._total:,}" if self._total else self._task, self._phase]
        if (made := self._done - self._first) and self._total > self._done:
            left = (now - self._began_s) / made * (self._total - self._done)
            parts.append(f"about {left:,.0f} s left")
        return on_one_line("  ".join(part for part in (*parts, self._numbers) if part))


def _notebook() -> Any:
    """IPython's `display`, where a notebook's kernel runs this; None elsewhere."""
    module = sys.modules.get("IPython")  # a kernel has imported it
    shell = None if module is None else module.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return import_module("IPython.display").display


def _number(name: str, value: float | str) -> str:
    return f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}"


def _print(line: str) -> None:
    print(on_one_line(line), file=sys.stderr, flush=True)
