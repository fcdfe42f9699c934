"""Keys of many rows, to find those that are alike: 16 bytes per row, and 28 more while they are compared."""

from __future__ import annotations

import hashlib
import re

import numpy as np
from pydantic_core import to_json

from alignkit.data.reading.rows import Row

_NUMBERED = re.compile(r"#\d+(\.\d+)?\Z")


class Keys:
    """The keys of rows, in order."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, key: bytes) -> None:
        """Append a key of 16 bytes."""
        self._bytes += key

    def __len__(self) -> int:
        return len(self._bytes) // 16

    def times(self) -> np.ndarray:
        """Count for each row how often its key has stood up to here, int32 [rows]: 1 for the first of its kind."""
        keys = np.frombuffer(bytes(self._bytes), np.uint64).reshape(-1, 2)
        order = np.lexsort(keys.T)  # stable
        is_first = np.ones(len(keys), bool)
        is_first[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
        first = np.flatnonzero(is_first)
        times = np.empty(len(keys), np.int32)
        times[order] = 1 + np.arange(len(keys)) - np.repeat(first, np.diff(first, append=len(keys)))
        return times


class OwnIds:
    """The rows' own ids that look like numbered ones, `a#2`: a number given to a row must be none of them."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def add(self, id_: str) -> None:
        """Note an id, where it looks like a numbered one."""
        if "#" in id_ and _NUMBERED.search(id_):
            self._keys.add(_key(id_))

    def numbered(self, id_: str, count: int) -> str:
        """Return an id that no other row has for the `count`th row of an id, count > 1.

        `ID#COUNT`, or where that is a row's own id, the first free of `ID#COUNT.1`, `ID#COUNT.2`, ...: what follows
        the last # says which id and count it was made of, so that no two are the same.
        """
        numbered, times = f"{id_}#{count}", 0
        while self._keys and _key(numbered) in self._keys:
            times += 1
            numbered = f"{id_}#{count}.{times}"
        return numbered


def id_key(row: Row) -> bytes:
    """Hash a row's id into 16 bytes."""
    return _key(row.id)


def _key(id_: str) -> bytes:
    return hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def content_key(row: Row) -> bytes:
    """Hash a row's prompt and answers into 16 bytes: rows with one key are exact duplicates, whatever their ids say."""
    return hashlib.blake2b(to_json((row.prompt, row.chosen, row.rejected)), digest_size=16).digest()
