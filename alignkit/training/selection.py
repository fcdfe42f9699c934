"""Which rows of the data train and which validate; and both prepared, from the cache where they are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np

from alignkit.config import DataSection
from alignkit.data.cache import Preparation, prepare_cached
from alignkit.data.chat import Chat
from alignkit.data.duplicates import DuplicateCount
from alignkit.data.read import Source, is_data
from alignkit.data.rows import Row
from alignkit.data.store import Stored
from alignkit.errors import UsageError
from alignkit.policy.embedded import cache_folder
from alignkit.training.order import split_rows

Part = Literal["training", "validation"]


class Selection:
    """The rows of one [data] section, split; read only where they are not prepared yet.

    Args:
        num_prompts, seed: train on this many rows, drawn by the seed.
    """

    def __init__(self, section: DataSection, *, num_prompts: int | None = None, seed: int = 0) -> None:
        self.section, self.num_prompts, self.seed = section, num_prompts, seed
        self.source = Source(section.data, section.columns, section.limit)
        apart = section.split is not None and is_data(section.split)
        self.apart = Source(section.split or "", section.columns) if apart else None
        self._duplicates = DuplicateCount()
        self._numbered: dict[int, str] = {}  # ids that were given a number, by the row's place

    def prepare(
        self, part: Part, chat: Chat, options: Mapping[str, Any], *, shard: tuple[int, int] | None = None
    ) -> Stored:
        """Prepare one part with the options of `tokens.prepare`.

        Raises:
            InputError: as `tokens.prepare` and `Source.rows`.
            UsageError: the split leaves no training rows.
        """
        prints = self._fingerprints()
        preparation = Preparation(
            rows=lambda: self._rows(part),
            data={"part": part, "split": self.section.split, "duplicates": self.section.duplicates, **prints}
            | ({"drawn": [self.num_prompts, self.seed]} if part == "training" and self.num_prompts else {}),
            chat=chat,
            columns=self.section.columns,
            truncation=self.section.truncation,
            max_skipped=self.section.max_skipped if part == "training" else 1.0,
            options=options,
            notes=lambda: {"duplicates": self._duplicates.num_rows, "duplicate_ids": self._duplicates.ids},
            unchanged=lambda: self._fingerprints() == prints,
        )
        return prepare_cached(preparation, cache_folder() / "prepared", shard=shard)

    def _fingerprints(self) -> dict[str, str]:
        found = {"source": self.source.fingerprint()}
        return found if self.apart is None else found | {"apart": self.apart.fingerprint()}

    def _rows(self, part: Part) -> Iterator[Row]:
        if part == "validation" and self.apart is not None:
            yield from self.apart.rows()
            return
        yield from self.source.rows(self._parts[part], self._numbered)

    @cached_property
    def _parts(self) -> dict[Part, np.ndarray]:
        """Which rows are in each part, bool [rows]; reads all rows once."""
        places, keys, size = [], [], 0
        drops = self.section.duplicates == "drop"
        for number, row in enumerate(self.source.rows()):
            size += 1
            if "#" in row.id:
                self._numbered[number] = row.id
            if not (self._duplicates.is_repeat(row) and drops):
                places.append(number)
                keys.append(prompt_key(row))
        self._duplicates.forget()
        if self.apart is None:
            training, validation = split_rows(keys, self.section.split, seed=0)
        else:
            held = {prompt_key(row) for row in self.apart.rows()}
            training, validation = [number for number, key in enumerate(keys) if key not in held], []
            if not training:
                raise UsageError(
                    f"--split {self.section.split}: it holds the prompts of all {len(keys)} rows of --data"
                )
        training = _drawn(training, self.num_prompts, self.seed)
        return {"training": _mask(size, places, training), "validation": _mask(size, places, validation)}


def prompt_key(row: Row) -> str:
    """A key that rows with the same prompt share."""
    return hashlib.sha256(json.dumps(row.prompt).encode()).hexdigest()


def _drawn(rows: list[int], num_prompts: int | None, seed: int) -> list[int]:
    if num_prompts is None or num_prompts >= len(rows):
        return rows
    chosen = np.random.Generator(np.random.Philox(key=seed)).choice(len(rows), num_prompts, replace=False)
    return [rows[number] for number in sorted(chosen)]


def _mask(size: int, places: list[int], numbers: list[int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[np.array(places, np.int64)[np.array(numbers, np.int64)]] = True
    return mask
