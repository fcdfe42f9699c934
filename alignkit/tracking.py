"""What a tracker is, and the one every run has: `metrics.jsonl`, one object per line."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from alignkit.errors import UsageError
from alignkit.storage import open_private


class Tracker(ABC):
    """A place that a run's metrics are sent to as they appear.

    Args:
        run_folder: the run's folder; its name is the run's name.
        settings: the run's resolved configuration, JSON types only, without secrets.
    """

    name: ClassVar[str]

    def __init__(self, run_folder: Path, settings: Mapping[str, object]) -> None:
        self.run_folder = run_folder
        self.settings = settings

    @classmethod
    def require(cls) -> None:
        """Called before anything is loaded: raise UsageError where what it needs is not here."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
        """Record numbers of one optimizer step; `tokens_seen` counts the tokens computed so far."""

    def close(self) -> None:
        """Called once, also after an interruption."""


class MetricsFile(Tracker):
    """`metrics.jsonl`: {"step", "name", "value", "tokens"} a line, flushed at each step."""

    name = "metrics-file"

    def __init__(self, run_folder: Path, settings: Mapping[str, object]) -> None:
        super().__init__(run_folder, settings)
        self._path = run_folder / "metrics.jsonl"

    def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
        lines = [{"step": step, "name": name, "value": value, "tokens": tokens_seen} for name, value in metrics.items()]
        append_lines(self._path, lines)


@contextmanager
def needs_extra(name: str, package: str) -> Iterator[None]:
    """Around a tracker's import of `package`: say which extra brings it where it is not installed.

    Raises:
        UsageError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--track {name} needs {package}, which is not installed: pip install 'alignkit[{name}]'; metrics.jsonl is "
            "written without it"
        ) from error


def split_lines(text: str) -> list[str]:
    """Split JSON lines at line feeds alone: `str.splitlines` also cuts at U+2028 and its like, which stand in texts."""
    return text.removesuffix("\n").split("\n") if text else []


def append_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON objects to a file, a line each; all of them, or none where the disk refuses (OSError)."""
    text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in objects)
    with open(path, "ab", buffering=0, opener=open_private) as file:
        end = file.tell()
        left = memoryview(text.encode())
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise
