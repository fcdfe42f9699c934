"""What `alignkit init --data F` reads of the rows: how many, how long, and what they are enough for."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignkit.data.chat.chat import make_chat
from alignkit.data.looking.lengths import ROW, ColumnLengths, measure, summarise
from alignkit.data.prepared.selection import prompt_key, split_key
from alignkit.data.reading.read import Source
from alignkit.data.reading.rows import Row
from alignkit.data.reading.split import held_rows
from alignkit.errors import AlignkitError, InputError
from alignkit.judging.foresight import better_split, finds, validation_finds
from alignkit.judging.planner import DIFFERENCE, detectable
from alignkit.presets import Line
from alignkit.pretrained import embedded
from alignkit.pretrained.names import find_model
from alignkit.runs import places

_SHORTEST_LIMIT = 64


@dataclass(frozen=True)
class OwnRows:
    """Rows as they would be split.

    Args:
        num_training, num_held: rows that train, and prompts that validate.
        kind: "pairs", "answers" or "prompts", what most rows are.
        split: the share to hold back; None: the default one.
        lengths: tokens of whole rows; None where the tokenizer is not here.
        longest: tokens of a prompt and all its answers, at most; None likewise.
        unread: of prompts alone, what else of the rows looks like an answer, and what to do with it.
    """

    num_training: int
    num_held: int
    kind: str
    split: float | None
    lengths: ColumnLengths | None
    longest: int | None = None
    unread: tuple[str, ...] = ()

    def max_length(self, most: int) -> Line:
        """The limit on a row, at most what the machine holds."""
        if self.lengths is None:
            return Line("max_length", most, "prompt + completion in tokens; what this machine holds")
        longest, num_over = self.lengths.max, self.lengths.over[most]
        if num_over:
            why = f"what this machine holds; {num_over:,} rows are longer, up to {longest:,} tokens"
            return Line("max_length", most, why)
        limit = min(most, 1 << max(longest - 1, _SHORTEST_LIMIT - 1).bit_length())
        return Line("max_length", limit, f"prompt + completion in tokens; the longest row has {longest:,}")

    def split_lines(self) -> list[Line]:
        """The share that is held back, where the default is too little."""
        if self.split is None:
            return []
        why = f"holds {self.num_held} prompts back, on which a verdict finds {finds(self.num_held)}"
        return [Line("split", str(self.split), why)]

    def difference_line(self) -> Line | None:
        """The points that are looked for, where these prompts are too few for the default's."""
        found = detectable(self.num_held)
        if found is None or found <= DIFFERENCE:
            return None
        why = f"points that are looked for: what {self.num_held} prompts find in 80 of 100 cases"
        return Line("difference", float(math.ceil(found)), why)

    def notes(self) -> list[str]:
        """What is told of the rows."""
        lines = [f"rows: {self.num_training:,} {self.kind} train, {self.num_held:,} prompts validate"]
        if self.lengths is not None:
            own = self.lengths
            lines.append(f"lengths: {own.p50:,.0f} tokens at the median, {own.p99:,.0f} at 99 %, {own.max:,} longest")
        lines += [f"no answers are read; {line}, for methods that train on answers" for line in self.unread]
        return [*lines, validation_finds(self.num_held)]


def read_own(data: str, model: str, *, limit: int) -> OwnRows | str:
    """Read a file or a folder of rows; returns why not where there is none, or where it cannot be read.

    Args:
        limit: tokens that the machine holds, which rows are counted against.
    """
    if not Path(os.path.expanduser(data)).exists():
        return f"{data}: nothing of that name here: the numbers are not of its rows"
    source = Source(data)
    keys, kinds, unread = [], Counter[str](), dict[str, None]()
    try:
        for row in source.rows(numbered=False):
            keys.append(split_key(prompt_key(row)))
            kinds[_kind(row)] += 1
            unread |= dict.fromkeys(row.answers_unread())
        key_P = np.array(keys, np.int64)
        if not len(key_P):
            raise InputError(f"{data}: no row")
        is_held = held_rows(key_P, None)
        split = better_split(len(np.unique(key_P)), len(np.unique(key_P[is_held])))
        if split is not None:
            is_held = held_rows(key_P, str(split))
    except AlignkitError as error:
        return f"{error.line}: the numbers are not of these rows"
    ((kind, _),) = kinds.most_common(1)
    held = len(np.unique(key_P[is_held]))
    columns = _lengths(source, model, limit)
    rows, longest = columns.get(ROW), None
    if rows is not None:
        longest = sum(columns[name].max for name in ("prompt", "chosen", "rejected")) if kind == "pairs" else rows.max
    others = tuple(unread) if kind == "prompts" else ()
    return OwnRows(int((~is_held).sum()), held, kind, split, rows, longest, others)


def is_here(model: str) -> bool:
    """Whether a model is on this machine: a run, a folder, or one that a Python package holds."""
    return any(place.exists() for place in places(model)) or model.endswith(embedded.NAME)


def _kind(row: Row) -> str:
    if row.rejected is not None:
        return "pairs"
    return "prompts" if row.chosen is None and not row.is_conversation else "answers"


def _lengths(source: Source, model: str, limit: int) -> dict[str, ColumnLengths]:
    """Tokens of whole rows, prompts and answers, where the model's tokenizer is on this machine."""
    from alignkit.config.settings import ModelSection

    if not is_here(model):
        return {}
    try:
        chat = make_chat(find_model(model, tokenizer_is_enough=True), ModelSection())
        columns = summarise(measure(source.rows(numbered=False), chat), limits=(limit,))
    except AlignkitError:  # training says what is wrong with the model or its template
        return {}
    return {column.column: column for column in columns}
