"""Exact duplicates: rows whose prompt and answers are the same as an earlier row's, whatever their ids say."""

from __future__ import annotations

import hashlib

from pydantic_core import to_json

from alignkit.data.rows import Row


def content_key(row: Row) -> bytes:
    """Hash a row's prompt and answers into 16 bytes."""
    return hashlib.blake2b(to_json((row.prompt, row.chosen, row.rejected)), digest_size=16).digest()


class DuplicateCount:
    """Counts the rows that repeat an earlier one, and keeps the ids of the first few."""

    def __init__(self, *, num_shown: int = 5) -> None:
        self.num_rows = 0
        self.ids: list[str] = []
        self._num_shown = num_shown
        self._seen: set[bytes] = set()

    def is_repeat(self, row: Row) -> bool:
        """Say whether a row repeats one that was asked about before."""
        key = content_key(row)
        if key not in self._seen:
            self._seen.add(key)
            return False
        self.num_rows += 1
        if len(self.ids) < self._num_shown:
            self.ids.append(row.id)
        return True

    def forget(self) -> None:
        """Let go of the rows; the count stays."""
        self._seen = set()
