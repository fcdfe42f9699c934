"""A chat template as text in, text out, rendered by a limited process of its own (alignkit.data.chat.template_worker).

A template comes with a model and is code: it may loop for ever, allocate, or reach for what is not its own. Each of
these is an InputError of one line; the process that rendered is gone, alignkit is not.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.data.reading.messages import RIDING
from alignkit.errors import InputError

MAX_STEPS = 1_000_000  # turns of loops and calls for one conversation
MAX_OUTPUT = 16_000_000  # characters
MAX_MEMORY = 1 << 30  # bytes of address space
CPU_S = 10.0  # for one conversation
MEAN_CPU_S = 0.02  # for each, over all of them, beside CPU_S once: a common template takes a thousandth
_WORKER = Path(__file__).with_name("template_worker.py")
_ITEMS_A_REQUEST = 256
_OURS = frozenset({"weight", *RIDING})
_ANOTHER = "give another with --chat-template FILE, or --chat-template chatml"


@dataclass(frozen=True)
class Rendering:
    """What to render.

    Args:
        generation_prompt: whether one follows the messages.
        watched: whether to note what looks at the contents.
        values: what the template sees of this conversation besides its messages, such as `tools`.
    """

    messages: Sequence[Mapping[str, Any]]
    generation_prompt: bool
    watched: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)


class Template:
    """A Jinja template with the values it sees; the process starts with the first rendering, or by `start`.

    Args:
        text: the template.
        values: what it sees besides `messages` and `add_generation_prompt`.
        now: the time that `strftime_now` formats, ISO 8601.
        name: what it is called in messages.

    `thoughts` is the name under which it reads thoughts beside a content.
    """

    def __init__(self, text: str, *, values: Mapping[str, object], now: str, name: str = "the chat template") -> None:
        self.text, self.now, self.name = text, now, name
        self.thoughts = "reasoning_content"
        self._settings = {
            "template": text,
            "values": {"tools": None, "documents": None, **values},
            "now": now,
            "max_steps": MAX_STEPS,
            "max_output": MAX_OUTPUT,
            "max_memory": MAX_MEMORY,
            "cpu_s": CPU_S,
        }
        self._process: subprocess.Popen[str] | None = None
        self._is_ready = False
        self._spent_s, self._num_rendered = 0.0, 0

    def render(self, items: Sequence[Rendering]) -> list[tuple[str, bool] | InputError]:
        """Render conversations.

        Returns:
            For each item its text and whether the template looked at a content, or the error that it ended with.
        """
        answers: list[tuple[str, bool] | InputError] = []
        while len(answers) < len(items):
            answers += self._request(items[len(answers) : len(answers) + _ITEMS_A_REQUEST])
        return answers

    def _request(self, items: Sequence[Rendering]) -> list[tuple[str, bool] | InputError]:
        """Render some; those behind one that ended the process are left to the next request."""
        if (slow := self._too_slow()) is not None:
            return [slow] * len(items)
        try:
            process = self._started()
        except InputError as error:
            return [error] * len(items)
        assert process.stdin is not None
        request = [
            (_seen(item.messages, self.thoughts), item.generation_prompt, item.watched, dict(item.values))
            for item in items
        ]
        answers: list[tuple[str, bool] | InputError] = []
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return [self._end()] * len(items)
        for _ in items:
            answers.append(self._answer(process))
            if self._process is None or self._too_slow() is not None:
                break
        return answers

    def start(self) -> None:
        """Start the process without waiting until it is ready, which takes some hundredths of a second.

        Raises:
            InputError: the system starts none.
        """
        if self._process is not None:
            return
        settings, words = json.dumps(self._settings) + "\n", [sys.executable, "-I", str(_WORKER)]
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
            )  # a terminal's Ctrl-C is this process's to answer
        except OSError as error:
            raise InputError(f"no process can be started for the chat template: {error.strerror or error}") from error
        self._process, self._is_ready = process, False
        weakref.finalize(self, _close, process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once: who reads its answer sees it
            process.stdin.write(settings)
            process.stdin.flush()

    def _started(self) -> subprocess.Popen[str]:
        self.start()
        assert self._process is not None
        if not self._is_ready:
            ready = self._answer(self._process)
            if isinstance(ready, InputError):
                if self._process is not None:
                    self._end()
                raise ready
            self._is_ready = True
        return self._process

    def _answer(self, process: subprocess.Popen[str]) -> tuple[str, bool] | InputError:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            return self._end()
        kind, *rest, cpu_s = json.loads(line)
        self._spent_s += cpu_s
        self._num_rendered += 1
        return (rest[0], rest[1]) if kind == "text" else _error(rest[0], rest[1], self.text)

    def _too_slow(self) -> InputError | None:
        """Why no more is rendered, where all conversations together took more than they may; the process ends then."""
        if self._spent_s <= CPU_S + MEAN_CPU_S * self._num_rendered:
            return None
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            _close(process)
        return InputError(
            f"the chat template took {self._spent_s:.0f} s for {self._num_rendered:,} conversations, more than "
            f"{CPU_S:g} s and {1000 * MEAN_CPU_S:g} ms for each; {_ANOTHER}"
        )

    def _end(self) -> InputError:
        """Say why the process ended by itself."""
        process, self._process = self._process, None
        assert process is not None
        _close(process)
        if process.returncode == -signal.SIGPROF:
            self._spent_s += CPU_S
            self._num_rendered += 1
            return InputError(f"the chat template runs for more than {CPU_S:g} s: it may loop for ever; {_ANOTHER}")
        return InputError(f"the chat template ended its process ({process.returncode}); {_ANOTHER}")


def _seen(messages: Sequence[Mapping[str, Any]], thoughts: str) -> list[dict[str, Any]]:
    """The messages as the template sees them: its own name for thoughts, and nothing that is ours alone."""
    return [
        {
            thoughts if name == "reasoning_content" else name: value
            for name, value in message.items()
            if name not in _OURS
        }
        for message in messages
    ]


def texts(answers: Iterable[tuple[str, bool] | InputError]) -> list[str]:
    """Return the texts alone.

    Raises:
        InputError: one of the renderings failed.
    """
    found = []
    for answer in answers:
        if isinstance(answer, InputError):
            raise answer
        found.append(answer[0])
    return found


def _error(kind: str, message: str, template: str) -> InputError:
    if kind == "limit":
        return InputError(f"the chat template makes {message}; {_ANOTHER}")
    if kind == "memory":
        return InputError(f"the chat template needs more than {MAX_MEMORY >> 20:,} MiB of memory; {_ANOTHER}")
    if kind == "forbidden":
        return InputError(f"the chat template reaches for what a template must not have: {message}; {_ANOTHER}")
    if kind == "syntax":
        return InputError(f"the chat template is no valid Jinja: {message}; correct it, or {_ANOTHER}")
    if kind == "failed" and "tools" in template and "NoneType" in message:
        return InputError(
            f"the chat template needs a list of tools, which the rows here do not have ({message}); {_ANOTHER}"
        )
    return InputError(f"the chat template refuses this conversation: {message}")


def _close(process: subprocess.Popen[str]) -> None:
    """End the process; twice is once."""
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):  # it ended by itself
            process.stdin.close()
    if process.stdout is not None:
        process.stdout.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
