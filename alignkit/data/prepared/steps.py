"""Work in steps, of which a second thread does those that let go of Python's lock while the first goes on.

A generator yields such a step as a function and is given what it returns. Python's own work stays in one thread: two
that take turns with the lock slow each other down, for every object moves between their cores.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Executor
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Steps = Generator[Callable[[], Any], Any, T]


def at_once(work: Callable[P, Steps[T]]) -> Callable[P, T]:
    """The same work with all its steps done where it is called."""

    @wraps(work)
    def done(*args: P.args, **kwargs: P.kwargs) -> T:
        steps = work(*args, **kwargs)
        try:
            step = next(steps)
            while True:
                step = steps.send(step())
        except StopIteration as end:
            return end.value

    return done


def begun(steps: Steps[T], thread: Executor) -> Callable[[], T]:
    """Go up to the first step and let a thread do it; the function returned goes on from there to the result."""
    try:
        first = thread.submit(next(steps))
    except StopIteration as end:
        value = end.value
        return lambda: value

    def result() -> T:
        doing = first
        try:
            while True:
                doing = thread.submit(steps.send(doing.result()))
        except StopIteration as end:
            return end.value

    return result
