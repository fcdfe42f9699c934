"""Lines about rows: said once, however often a command reads the rows, and again where they come from the cache.

`Selection` begins a new account of what was said, keeps the lines beside the rows that it prepares, and says them where
it finds these prepared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)
_said = set[str]()
_keepers: list[dict[str, None]] = []


def say_once(line: str) -> None:
    """Log a line as a warning, unless it was since `say_anew`."""
    for lines in _keepers:
        lines[line] = None
    if line not in _said:
        _said.add(line)
        _log.warning("%s", line)


def say_anew() -> None:
    """Forget what was said: what is read from now on is another command's."""
    _said.clear()


@contextmanager
def keeping(lines: dict[str, None]) -> Iterator[None]:
    """Put every line into `lines` that there is to be said meanwhile, by any thread, also if it was said before."""
    _keepers.append(lines)
    try:
        yield
    finally:
        _keepers[:] = [other for other in _keepers if other is not lines]
