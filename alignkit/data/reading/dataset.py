"""What a data set plugin is: rows by name and part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class Dataset(ABC):
    """Rows that a plugin makes or fetches, `--data NAME` or `--data NAME:PART`.

    Args:
        part: "train" or any name in `parts`.
    """

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ("train",)

    @abstractmethod
    def rows(self, part: str) -> Iterator[Mapping[str, Any]]:
        """Yield rows of the shape that docs/guide/data.md gives."""
