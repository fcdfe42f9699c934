"""Work in steps: the same done at once and with a thread, whose errors reach whoever asks for the result."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from alignkit.data.prepared.steps import Steps, at_once, begun


def adding(first: int, *, fails: bool = False) -> Steps[tuple[int, set[int]]]:
    """Add two numbers that steps give; with the threads that did the steps."""
    threads: set[int] = set()

    def step(number: int) -> int:
        threads.add(threading.get_ident())
        if fails:
            raise ValueError("no number")
        return number

    one = yield lambda: step(first)
    two = yield lambda: step(10 * one)
    return one + two, threads


def nothing() -> Steps[int]:
    yield from ()
    return 7


def test_a_thread_does_the_steps_and_the_result_is_that_of_all_at_once() -> None:
    here = threading.get_ident()
    assert at_once(adding)(2) == (22, {here})
    with ThreadPoolExecutor(1) as thread:
        results = [begun(adding(first), thread) for first in (2, 3)]
        found = [result() for result in results]
    assert [number for number, _ in found] == [22, 33]
    assert found[0][1] == found[1][1] != {here}


def test_work_without_a_step_has_its_result_at_once() -> None:
    with ThreadPoolExecutor(1) as thread:
        assert at_once(nothing)() == begun(nothing(), thread)() == 7


def test_an_error_in_a_step_reaches_whoever_asks_for_the_result() -> None:
    with pytest.raises(ValueError, match="no number"):
        at_once(adding)(1, fails=True)
    with ThreadPoolExecutor(1) as thread:
        result = begun(adding(1, fails=True), thread)
        with pytest.raises(ValueError, match="no number"):
            result()
