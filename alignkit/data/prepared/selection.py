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
from alignkit.data.prepared.tokens import none_left
from alignkit.data.reading.keys import Keys, OwnIds, content_key, id_key
from alignkit.data.reading.pairing import UNLABELLED, label_code, paired, partners
from alignkit.data.reading.read import Source, is_data, refuse_among_data
from alignkit.data.reading.rows import Row
from alignkit.data.reading.said import keeping, say_anew, say_once
from alignkit.data.reading.same_data import data_hashes
from alignkit.data.reading.scores import is_unreadable
from alignkit.data.reading.split import derived_seed, held_rows
from alignkit.errors import InputError, UsageError
from alignkit.storage import cache_folder

Part = Literal["training", "validation"]
_DUPLICATES_SHOWN = 5


class Selection:
    """The rows of one [data] section, split; read only where they are not prepared yet.

    What is kept of every row meanwhile: 16 bytes each of its id and its content, 8 of its prompt, its label and two
    flags; and 16 more where labelled answers are paired.

    Args:
        num_prompts, seed: train on this many rows, drawn by the seed.
        pairs: labelled answers of one prompt are paired, and a pair is one row.
    """

    def __init__(
        self, section: DataSection, *, num_prompts: int | None = None, seed: int = 0, pairs: bool = False
    ) -> None:
        self.section, self.num_prompts, self.seed, self.pairs = section, num_prompts, seed, pairs
        self.source = Source(section.data, section.read_as, section.limit)
        apart = section.split is not None and is_data(section.split)
        self.apart = Source(section.split or "", section.read_as) if apart else None
        self._lines: dict[str, None] = {}  # what was said of the rows, to be said again where they come from the cache
        say_anew()
        self._duplicates: dict[int, str] = {}  # names of the first few rows that repeat another, by their place

    def prepare(
        self, part: Part, chat: Chat, options: Mapping[str, Any], *, shard: tuple[int, int] | None = None
    ) -> Stored:
        """Prepare one part with the options of `tokens.prepare`.

        Raises:
            InputError: as `tokens.prepare` and `Source.rows`, or no pair has scores that an option reads.
            UsageError: the split leaves no training rows.
        """
        reads = (self.section.data, self.section.split if self.apart is not None else None)
        refuse_among_data("the environment variable ALIGNKIT_CACHE", cache_folder(), reads, is_folder=True)
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
        with keeping(self._lines):
            stored = prepare_cached(preparation, cache_folder() / "prepared", shard=shard)
            for line in stored.notes.get("said", ()):
                say_once(line)
        if part == "validation" or shard is not None:
            return stored
        if not stored.trees:  # all are left out on purpose: others may validate without any, but none can train
            raise InputError(none_left(len(stored.left_out), stored.left_out))
        if stored.num_unscored == len(stored.trees):
            if unread := next(filter(is_unreadable, (*self._lines, *stored.notes.get("said", ()))), None):
                found = "1 pair" if len(stored.trees) == 1 else f"{len(stored.trees)} pairs"
                raise InputError(f"{unread}: --min-margin finds no scores in {found}")
            raise InputError(
                f"none of the {len(stored.trees)} pairs has scores, which --min-margin reads: name their columns by "
                "--columns score_chosen=NAME and score_rejected=NAME, or leave --min-margin out"
            )
        return stored

    def _fingerprints(self) -> dict[str, str]:
        section = self.section
        return data_hashes(
            section.data, columns=section.read_as, limit=section.limit, split=section.split, exclude=section.exclude
        )

    def _rows(self, part: Part) -> Iterator[Row]:
        split = self._split
        if part == "validation" and self.apart is not None:
            yield from self._paired(self.apart.rows(), split.apart_partner)
            return
        is_wanted = split.is_training if part == "training" else split.is_validation
        rows = self.source.some(is_wanted, split.times, self._duplicates, split.own_ids)
        yield from self._paired(rows, None if split.partner is None else _among(split.partner, is_wanted))

    def _paired(self, rows: Iterator[Row], partner_P: np.ndarray | None) -> Iterator[Row]:
        return rows if partner_P is None else paired(rows, partner_P, self.section.columns, cache_folder())

    def _notes(self) -> dict[str, Any]:
        split = self._split
        return {
            "duplicates": split.num_duplicates,
            "duplicate_ids": list(self._duplicates.values()),
            "num_read": len(split.is_training),
            "num_drawn_from": split.num_drawn_from,
            "said": list(self._lines),
        }

    @cached_property
    def _split(self) -> _Split:
        """Which rows are in each part; reads all rows once."""
        ids, contents, own_ids = Keys(), Keys(), OwnIds()
        prompts, labels = array("q"), array("b")
        for row in self.source.rows(numbered=False):
            ids.add(id_key(row))
            own_ids.add(row.id)
            contents.add(content_key(row))
            prompts.append(split_key(prompt_key(row)))
            labels.append(label_code(row))
        key_P, label_P = np.array(prompts, np.int64), np.array(labels, np.int8)
        is_repeat = contents.times() > 1
        self._duplicates = dict.fromkeys(np.flatnonzero(is_repeat)[:_DUPLICATES_SHOWN].tolist(), "")
        is_kept = ~is_repeat if self.section.duplicates == "drop" else np.ones(len(key_P), bool)
        if self.section.exclude is not None:
            is_kept &= ~self._excluded(key_P, self.section.exclude)
        is_held = np.zeros(len(key_P), bool)
        partner, apart_partner = self._partners(key_P, label_P * is_kept), None
        if self.apart is None:
            is_held[is_kept] = held_rows(key_P[is_kept], self.section.split)
        else:
            held = [(split_key(prompt_key(row)), label_code(row)) for row in self.apart.rows(numbered=False)]
            apart, apart_labels = np.array(held, np.int64).reshape(-1, 2).T
            apart_partner = self._partners(apart, apart_labels)
            is_held = np.isin(key_P, apart)
            if not (is_kept & ~is_held).any():
                raise UsageError(
                    f"--split {self.section.split}: it holds the prompts of all {int(is_kept.sum())} rows of --data"
                )
        may_train = is_kept & ~is_held
        if partner is not None:  # a pair is drawn whole, by its later row; answers without a partner are not drawn
            is_alone = may_train & (partner < 0) & (label_P != UNLABELLED)
            may_train &= ~is_alone & (partner <= np.arange(len(partner)))
        num_drawn_from = int(may_train.sum())
        is_training = _drawn(may_train, self.num_prompts, self.seed)
        if partner is not None:
            is_training = is_training | is_alone  # these are counted
            is_training[partner[is_training & (partner >= 0)]] = True
        is_held &= is_kept
        num_repeats = int(is_repeat.sum())
        return _Split(is_training, is_held, ids.times(), own_ids, num_repeats, num_drawn_from, partner, apart_partner)

    def _excluded(self, key_P: np.ndarray, data: str) -> np.ndarray:
        """Which rows have a prompt of other data, bool [P].

        Raises:
            UsageError: all of them have.
        """
        keys = [split_key(prompt_key(row)) for row in Source(data).rows(numbered=False)]
        is_excluded = np.isin(key_P, np.array(keys, np.int64))
        if is_excluded.all():
            raise UsageError(f"--set data.exclude={data}: it holds the prompts of all {len(key_P)} rows of --data")
        return is_excluded

    def _partners(self, key_P: np.ndarray, label_P: np.ndarray) -> np.ndarray | None:
        """Each row's partner, int64 [P]; None where nothing is paired."""
        return partners(key_P, label_P) if self.pairs and label_P.any() else None


@dataclass(frozen=True)
class _Split:
    """Of every row: bool, in which part it is, and int32, how often its id has stood up to there; of all, `OwnIds`.

    `num_drawn_from` rows could train, where fewer were drawn. `partner` is the place of each row's partner where
    labelled rows are paired; `apart_partner` the same of the rows of --split FILE.
    """

    is_training: np.ndarray
    is_validation: np.ndarray
    times: np.ndarray
    own_ids: OwnIds
    num_duplicates: int
    num_drawn_from: int
    partner: np.ndarray | None
    apart_partner: np.ndarray | None


def prompt_key(row: Row) -> str:
    """A key that rows with the same prompt share."""
    return hashlib.sha256(json.dumps(row.prompt).encode()).hexdigest()


def split_key(prompt_key: str) -> int:
    """Hash a prompt's key into the number that decides on which side of a split it is."""
    return derived_seed("split", 0, prompt_key)


def _among(partner_P: np.ndarray, is_wanted: np.ndarray) -> np.ndarray:
    """The partners of the wanted rows as places among these, int64; -1 where there is none."""
    place = np.cumsum(is_wanted) - 1
    partner = partner_P[is_wanted]
    return np.where(partner < 0, -1, place[partner])


def _drawn(is_training: np.ndarray, num_prompts: int | None, seed: int) -> np.ndarray:
    numbers = np.flatnonzero(is_training)
    if num_prompts is None or num_prompts >= len(numbers):
        return is_training
    chosen = np.random.Generator(np.random.Philox(key=seed)).choice(len(numbers), num_prompts, replace=False)
    drawn = np.zeros(len(is_training), bool)
    drawn[numbers[chosen]] = True
    return drawn
