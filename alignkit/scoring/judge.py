"""What a judge is: it looks at completions and returns a number for each, or says why there is none.

One protocol serves training (`--reward`) and judging (`--judge`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Item:
    """One completion to be scored.

    `prompt` is the conversation before it, a sequence of {"role", "content"}; `row` the data row with every column.
    """

    prompt: Sequence[Mapping[str, str]]
    completion: str
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A finite score; higher is better. Scores of different prompts need not be comparable."""

    value: float


@dataclass(frozen=True)
class Missing:
    """No score, and why. Never counted as a number.

    `applies=False` says that this judge has nothing to say about this row (left out for the whole group), rather
    than that scoring failed.
    """

    reason: str
    applies: bool = True


class JudgeConfig(BaseModel):
    """A judge's options, given as [judge.NAME] in alignkit.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Judge(ABC):
    """Scores completions. A subclass sets `name`, `version`, and whether its score can be checked.

    `version` changes whenever the same completion may get another score. `verifiable` says that the score is a rule
    anyone can check, so that it may be reward and judge at once.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    Config: ClassVar[type[JudgeConfig]] = JudgeConfig
    verifiable: ClassVar[bool] = False
    paid: ClassVar[bool] = False
    """Scoring costs money: asked for before any is spent."""

    def __init__(self, config: JudgeConfig | None = None) -> None:
        self.config = config if config is not None else self.Config()

    @abstractmethod
    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Return one answer for each item, in order.

        Raises:
            AlignkitError: nothing can be scored at all (no key, no model), with what to do.
        """

    def ready(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check before anything expensive is loaded that rows like these can be scored.

        Raises:
            AlignkitError: they cannot, with the ways out.
        """

    def close(self) -> None:
        """Free what was loaded."""
