"""Progress of long work: how far it is, and lines worth reading."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Protocol


def is_first_rank() -> bool:
    """Whether this process logs and writes for all that torchrun started; a process alone does."""
    return os.environ.get("RANK", "0") == "0"


class Progress(Protocol):
    """Receives the progress of one task at a time; `start` ends the task before it.

    Args:
        description: what is being done, "training sft".
        total: how many units there are (steps, prompts), or None where it is not known.
        shown: numbers or texts to show beside the bar, such as loss=1.23.
    """

    def start(self, description: str, total: int | None) -> None: ...

    def advance(self, n: int = 1, **shown: float | str) -> None: ...

    def stop(self) -> None: ...

    def note(self, line: str) -> None: ...


class Silent:
    """Shows nothing: the default in Python."""

    def start(self, description: str, total: int | None) -> None:
        pass

    def advance(self, n: int = 1, **shown: float | str) -> None:
        pass

    def stop(self) -> None:
        pass

    def note(self, line: str) -> None:
        pass


_SPEED = ("tokens_per_s", "scored_tokens_per_s", "mfu", "memory_mib")


def shown(metrics: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """What a progress line shows of a step's metrics: those of these names that are finite, then speed and memory."""
    return {name: metrics[name] for name in (*names, *_SPEED) if name in metrics and math.isfinite(metrics[name])}
