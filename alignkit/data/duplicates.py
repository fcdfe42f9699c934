"""Exact duplicates: rows whose prompt and answers are the same as an earlier row's, whatever their ids say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

from alignkit.data.rows import Row


def content_key(row: Row) -> bytes:
    """Hash a row's prompt and answers into 16 bytes."""
    content = json.dumps([row.prompt, row.chosen, row.rejected], ensure_ascii=False)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class DuplicateCount:
    """Counts the rows of a stream that repeat an earlier one, and keeps the ids of the first few."""

    def __init__(self, *, num_shown: int = 5) -> None:
        self.num_rows = 0
        self.ids: list[str] = []
        self._num_shown = num_shown
        self._seen: set[bytes] = set()

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows on, counting."""
        for row in rows:
            key = content_key(row)
            if key in self._seen:
                self.num_rows += 1
                if len(self.ids) < self._num_shown:
                    self.ids.append(row.id)
            self._seen.add(key)
            yield row
