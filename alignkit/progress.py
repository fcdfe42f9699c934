"""What long work tells whoever watches: how far it is, and what is worth a line."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress of one task at a time; `start` ends the task before it.

    Args:
        description: what is being done, "training sft".
        total: how many units there are (steps, prompts), or None where nobody knows.
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
