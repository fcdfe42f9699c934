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
    """Counts the rows of a stream that repeat an earlier one, and keeps the ids of the first few.

    Args:
        drops: leave those rows out of the stream.
    """

    def __init__(self, *, drops: bool, num_shown: int = 5) -> None:
        self.num_rows = 0
        self.ids: list[str] = []
        self._drops, self._num_shown = drops, num_shown

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows on, counting anew."""
        self.num_rows, self.ids = 0, []
        seen: set[bytes] = set()
        for row in rows:
            key = content_key(row)
            if key in seen:
                self.num_rows += 1
                if len(self.ids) < self._num_shown:
                    self.ids.append(row.id)
                if self._drops:
                    continue
            seen.add(key)
            yield row
