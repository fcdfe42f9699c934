"""What a tracker is, and the one every run has: `metrics.jsonl`, one object a line."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar


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
        self._file = open(run_folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
        for name, value in metrics.items():
            self._file.write(json.dumps({"step": step, "name": name, "value": value, "tokens": tokens_seen}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
