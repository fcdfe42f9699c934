"""Renders a chat template in a process of its own: a template is untrusted code.

Started by alignkit.data.chat.template as a script, so that it imports nothing but Jinja. Requests and answers are JSON
lines: first the settings, then lists of [messages, generation prompt, watched, values]; each item of a list is answered
by a line of its own, ["text", text, looked, CPU seconds] or ["error", kind, message, CPU seconds].

The template sees what transformers gives it: the immutable sandbox, trimmed blocks, `tojson`, `raise_exception`,
`strftime_now`, loop controls, and a `generation` tag that does nothing here. Attributes out of bounds are the
sandbox's; CPU time and memory are limited by the kernel, which no template can talk out of it; steps (turns of a loop,
calls) and output are counted here, so that the same template fails the same way on every machine.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError


class LimitError(Exception):
    """More steps or more output than a template may have."""


class Watched(str):
    """A message's content that notes whether a template looks at it: does anything but write it or join it to text."""

    __slots__ = ()
    looked = False

    def __add__(self, other: Any) -> Any:
        return Watched(str.__add__(self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return Watched(str.__add__(other, self)) if isinstance(other, str) else NotImplemented

    def __str__(self) -> str:
        return str.__str__(self)


def _looking(name: str) -> Any:
    own = getattr(str, name)

    def look(self: Watched, *args: Any, **kwargs: Any) -> Any:
        Watched.looked = True
        return own(self, *args, **kwargs)

    return look


_JOINING = {"__add__", "__str__", "__new__", "__class__", "__init__", "__getattribute__", "__setattr__", "__doc__"}
_ABOUT_OBJECTS = set(dir(object)) - {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"}
for _name in set(dir(str)) - _JOINING - _ABOUT_OBJECTS:
    setattr(Watched, _name, _looking(_name))


def _is_true(self: Watched) -> bool:
    Watched.looked = True
    return str.__len__(self) > 0


Watched.__bool__ = _is_true  # type: ignore[attr-defined]  # str has none: without it the length decides


class Generation(Extension):
    """`{% generation %}` marks what an assistant wrote; the masks here need no marks."""

    tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox that counts steps."""

    max_steps = 0
    steps = 0

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """Pass on the values of a loop, a step each."""
        for value in values:
            self.count()
            yield value

    def count(self) -> None:
        self.steps += 1
        if self.steps > self.max_steps:
            raise LimitError(f"more than {self.max_steps:,} turns of loops and calls")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.count()
        return super().call(__context, __obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return template


class Renderer:
    """One template with its settings."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.max_output = settings["max_output"]
        self.values = settings["values"]
        self.dated = False
        self.sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
        self.sandbox.max_steps = settings["max_steps"]
        self.sandbox.filters["counted"] = self.sandbox.counted
        self.sandbox.filters["tojson"] = _tojson
        self.sandbox.globals["raise_exception"] = _raise_exception
        self.sandbox.globals["strftime_now"] = datetime.fromisoformat(settings["now"]).strftime
        self.template = self.sandbox.from_string(settings["template"])

    def render(
        self, messages: list[dict[str, Any]], generation_prompt: bool, watched: bool, values: dict[str, Any]
    ) -> list[Any]:
        """Render one conversation."""
        if watched:
            messages = [message | {"content": Watched(message["content"])} for message in messages]
        Watched.looked = False
        self.sandbox.steps = 0
        parts: list[str] = []
        size = 0
        context = {**self.values, **values, "messages": messages, "add_generation_prompt": generation_prompt}
        for part in self.template.generate(context):
            size += str.__len__(part)
            if size > self.max_output:
                raise LimitError(f"more than {self.max_output:,} characters of text")
            parts.append(part)
        return ["text", "".join(map(str.__str__, parts)), Watched.looked]


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _answer(renderer: Renderer, item: list[Any], cpu_s: float) -> list[Any]:
    signal.setitimer(signal.ITIMER_PROF, cpu_s)  # its signal ends the process, in the midst of a C call too
    begun_s = time.process_time()
    answer = _rendered(renderer, item)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return [*answer, time.process_time() - begun_s]


def _rendered(renderer: Renderer, item: list[Any]) -> list[Any]:
    try:
        return renderer.render(*item)
    except LimitError as error:
        return ["error", "limit", str(error)]
    except MemoryError:
        return ["error", "memory", ""]
    except SecurityError as error:
        return ["error", "forbidden", str(error)]
    except jinja2.TemplateError as error:
        return ["error", "refused", str(error)]
    except Exception as error:  # whatever untrusted code raises is its own: said, not passed on
        return ["error", "failed", f"{type(error).__name__}: {error}"]


def main() -> None:
    """Serve until standard input ends."""
    asked = sys.stdin.readline()
    if not asked:  # the parent ended
        return
    settings = json.loads(asked)
    resource.setrlimit(resource.RLIMIT_AS, (settings["max_memory"], settings["max_memory"]))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))
    write, flush = sys.stdout.write, sys.stdout.flush
    signal.setitimer(signal.ITIMER_PROF, settings["cpu_s"])
    try:
        renderer = Renderer(settings)
    except jinja2.TemplateSyntaxError as error:
        write(json.dumps(["error", "syntax", f"line {error.lineno}: {error.message}", 0.0]) + "\n")
        return
    except Exception as error:  # such as constants that Jinja computes while it compiles
        write(json.dumps(["error", "failed", f"{type(error).__name__}: {error}", 0.0]) + "\n")
        return
    signal.setitimer(signal.ITIMER_PROF, 0)
    write('["text", "", false, 0.0]\n')
    flush()
    for line in sys.stdin:
        for item in json.loads(line):
            write(json.dumps(_answer(renderer, item, settings["cpu_s"])) + "\n")
            flush()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the parent ended, and nobody reads what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
