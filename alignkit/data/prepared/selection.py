"""Which rows of the data train and which validate; and both prepared, from the cache where they are there."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from alignkit.config.settings import DataSection
from alignkit.data.chat.chat import Chat
from alignkit.data.prepared.cache import Preparation, prepare_cached
from alignkit.data.prepared.store import Stored
from alignkit.data.reading.keys import Keys, OwnIds, content_key, id_key
from alignkit.data.reading.read import Source, is_data
from alignkit.data.reading.rows import Row
from alignkit.data.reading.same_data import data_hashes
from alignkit.data.reading.split import derived_seed, held_rows
from alignkit.errors import InputError, UsageError
from alignkit.storage import cache_folder

Part = Literal["training", "validation"]
_DUPLICATES_SHOWN = 5


class Selection:
    """The rows of one [data] section, split; read only where they are not prepared yet.

    What is kept of every row meanwhile: 16 bytes each of its id and its content, 8 of its prompt, and two flags.

    Args:
        num_prompts, seed: train on this many rows, drawn by the seed.
    """

    def __init__(self, section: DataSection, *, num_prompts: int | None = None, seed: int = 0) -> None:
        self.section, self.num_prompts, self.seed = section, num_prompts, seed
        self.source = Source(section.data, section.read_as, section.limit)
        apart = section.split is not None and is_data(section.split)
        self.apart = Source(section.split or "", section.read_as) if apart else None
        self._duplicates: dict[int, str] = {}  # ids of the first few rows that repeat another, by their place

    def prepare(
        self, part: Part, chat: Chat, options: Mapping[str, Any], *, shard: tuple[int, int] | None = None
    ) -> Stored:
        """Prepare one part with the options of `tokens.prepare`.

        Raises:
            InputError: as `tokens.prepare` and `Source.rows`, or no pair has scores that an option reads.
            UsageError: the split leaves no training rows.
        """
        prints = self._fingerprints()
        preparation = Preparation(
            rows=lambda: self._rows(part),
            data={"part": part, "split": self.section.split, "duplicates": self.section.duplicates, **prints}
            | ({"drawn": [self.num_prompts, self.seed]} if part == "training" and self.num_prompts else {}),
            chat=chat,
            columns=self.section.read_as,
            truncation=self.section.truncation,
            max_skipped=self.section.max_skipped if part == "training" else 1.0,
            options=options,
            notes=lambda: {**self._notes(), "files": prints},
            unchanged=lambda: self._fingerprints() == prints,
        )
        stored = prepare_cached(preparation, cache_folder() / "prepared", shard=shard)
        if part == "training" and shard is None and stored.num_unscored == len(stored.trees):
            raise InputError(
                f"none of the {len(stored.trees)} pairs has scores, which --min-margin reads: name their columns by "
                "--columns score_chosen=NAME and score_rejected=NAME, or leave --min-margin out"
            )
        return stored

    def _fingerprints(self) -> dict[str, str]:
        section = self.section
        return data_hashes(section.data, columns=section.read_as, limit=section.limit, split=section.split)

    def _rows(self, part: Part) -> Iterator[Row]:
        if part == "validation" and self.apart is not None:
            yield from self.apart.rows()
            return
        split = self._split
        is_wanted = split.is_training if part == "training" else split.is_validation
        yield from self.source.some(is_wanted, split.times, self._duplicates, split.own_ids)

    def _notes(self) -> dict[str, Any]:
        split = self._split
        return {
            "duplicates": split.num_duplicates,
            "duplicate_ids": list(self._duplicates.values()),
            "num_read": len(split.is_training),
            "num_drawn_from": split.num_drawn_from,
        }

    @cached_property
    def _split(self) -> _Split:
        """Which rows are in each part; reads all rows once."""
        ids, contents, prompts, own_ids = Keys(), Keys(), array("q"), OwnIds()
        for row in self.source.rows(numbered=False):
            ids.add(id_key(row))
            own_ids.add(row.id)
            contents.add(content_key(row))
            prompts.append(split_key(prompt_key(row)))
        key_P = np.array(prompts, np.int64)
        is_repeat = contents.times() > 1
        self._duplicates = dict.fromkeys(np.flatnonzero(is_repeat)[:_DUPLICATES_SHOWN].tolist(), "")
        is_kept = ~is_repeat if self.section.duplicates == "drop" else np.ones(len(key_P), bool)
        is_held = np.zeros(len(key_P), bool)
        if self.apart is None:
            is_held[is_kept] = held_rows(key_P[is_kept], self.section.split)
        else:
            apart = np.array([split_key(prompt_key(row)) for row in self.apart.rows(numbered=False)], np.int64)
            is_held = np.isin(key_P, apart)
            if not (is_kept & ~is_held).any():
                raise UsageError(
                    f"--split {self.section.split}: it holds the prompts of all {int(is_kept.sum())} rows of --data"
                )
        is_training = _drawn(is_kept & ~is_held, self.num_prompts, self.seed)
        num_drawn_from = int((is_kept & ~is_held).sum())
        return _Split(is_training, is_kept & is_held, ids.times(), own_ids, int(is_repeat.sum()), num_drawn_from)


@dataclass(frozen=True)
class _Split:
    """Of every row: bool, in which part it is, and int32, how often its id has stood up to there; of all, `OwnIds`.

    `num_drawn_from` rows could train, where fewer were drawn.
    """

    is_training: np.ndarray
    is_validation: np.ndarray
    times: np.ndarray
    own_ids: OwnIds
    num_duplicates: int
    num_drawn_from: int


def prompt_key(row: Row) -> str:
    """A key that rows with the same prompt share."""
    return hashlib.sha256(json.dumps(row.prompt).encode()).hexdigest()


def split_key(prompt_key: str) -> int:
    """Hash a prompt's key into the number that decides on which side of a split it is."""
    return derived_seed("split", 0, prompt_key)


def _drawn(is_training: np.ndarray, num_prompts: int | None, seed: int) -> np.ndarray:
    numbers = np.flatnonzero(is_training)
    if num_prompts is None or num_prompts >= len(numbers):
        return is_training
    chosen = np.random.Generator(np.random.Philox(key=seed)).choice(len(numbers), num_prompts, replace=False)
    drawn = np.zeros(len(is_training), bool)
    drawn[numbers[chosen]] = True
    return drawn
