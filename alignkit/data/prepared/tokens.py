"""Conversations -> trees: token ids of prompts and answers, masks, and what happens to rows that do not fit.

The prompt's ids are those the sampler sends; an answer is tokenized apart. Rows whose whole text tokenizes to other
ids are counted. A cut answer gets no forged end token; a prompt is never cut, but for old turns under
`cut-old-turns`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.data.chat.chat import Chat
from alignkit.data.prepared.steps import Steps, at_once
from alignkit.data.prepared.tokenized_rows import TokenizedRows, tokenizing
from alignkit.data.reading.messages import riders_of, with_riders, without_riders
from alignkit.data.reading.rows import Row, scores_all_turns, unusable_reason
from alignkit.data.trees.flat import FlatTrees, gathered
from alignkit.data.trees.trees import Tree
from alignkit.display import listed
from alignkit.errors import InputError
from alignkit.units import TIES, Unit

FREE_CUTS = 0.01  # more rows than this share are cut only by a named policy


@dataclass(frozen=True)
class Prepared:
    """Rows as trees, and an account of every row that is not, or not whole, among them.

    `lengths` holds the token counts of the prompt and each completion of the unit before any cut, int64 arrays. `rows`
    holds rows as they were trained on: without old turns where those were cut. `skipped` and `left_out` give the reason
    of each row by its `name`; what is left out on purpose is no fault of it. Of conversations whose turns are all
    scored, `num_ends_with_user` end with the user and `num_user_twice` have two turns of the user in a row. Of pairs,
    `num_paired` are two labelled answers each, `num_ties_kept` are ties, `num_reversed` have scores that prefer the
    rejected answer, and `num_unscored` lack scores that an option reads.
    """

    trees: Sequence[Tree]
    rows: Sequence[Row]
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    num_cut: int = 0
    num_dropped: int = 0
    num_tokenized_otherwise: int = 0
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)
    num_ends_with_user: int = 0
    num_user_twice: int = 0
    num_paired: int = 0
    num_ties_kept: int = 0
    num_reversed: int = 0
    num_unscored: int = 0

    @property
    def num_ties(self) -> int:
        """Pairs whose answers are equally good, trained on or left out."""
        return self.num_ties_kept + sum(reason in TIES for reason in self.left_out.values())


def preparing(
    rows: Sequence[Row],
    chat: Chat,
    *,
    unit: Unit,
    max_length: int,
    truncation: str | None = None,
    max_skipped: float = 0.01,
    train_on: str | None = None,
    whole_answer: bool = False,
    keep_unusable: bool = False,
    is_part: bool = False,
) -> Steps[Prepared]:
    """Make one tree of each usable row, in steps.

    Args:
        unit: which completions each tree has.
        max_length: longest prompt + completion, in tokens.
        truncation: "cut-completion", "drop-row", "cut-old-turns", "stop", or None (stop when over 1 % are longer, else
            cut completions).
        max_skipped: stop when more than this share of the rows cannot be used.
        train_on: "last", "all-assistant", or None for what suits each row.
        keep_unusable: make trees also of rows that could not train (an empty answer), to look at them.
        is_part: these are some of the rows, and none of them need be usable: the caller looks at the whole.
        whole_answer: keep what the template puts behind the end token (unscored), for a head at the last token.

    Raises:
        InputError: too many rows are unusable or too long, or the template allows no right mask.
    """
    skipped: dict[str, str] = {}
    left_out: dict[str, str] = {}
    usable = []
    rows = [one for row in rows for one in unit.rows(row)]
    for row in rows:
        reason = None if keep_unusable else unusable_reason(row, unit, train_on)
        if reason is None and chat.opening:
            own = [row.chosen or ()] if scores_all_turns(row, unit, train_on) else unit.answers(row)
            reason = chat.why_no_place(answer for answer in own if answer)
        if reason is None:
            usable.append(row)
        else:
            (left_out if reason in unit.left_out else skipped)[row.name] = reason
    options: dict[str, Any] = {"unit": unit, "train_on": train_on, "whole_answer": whole_answer}
    tokenized = yield from tokenizing(usable, chat, **options)
    fitting = _Fitting(usable, tokenized, skipped, unit, max_length, truncation)
    fitting.check_length()
    if truncation == "cut-old-turns":
        yield from fitting.cutting_old_turns(chat, options)
    trees = fitting.trees()
    total = len(rows)
    check_skipped(skipped, total - len(left_out), max_skipped)
    if not trees and not is_part:
        raise InputError(none_left(total, skipped | left_out))
    return Prepared(
        trees,
        fitting.kept,
        skipped,
        left_out,
        fitting.num_cut,
        fitting.num_dropped,
        int(tokenized.is_otherwise.sum()),
        _lengths(tokenized, unit),
        *_odd_turns(fitting.kept, unit),
        *_comparisons(fitting.kept, unit),
    )


prepare = at_once(preparing)
"""Make one tree of each usable row."""


class _Fitting:
    """Lays tokenized into trees of at most `max_length` tokens."""

    def __init__(
        self,
        rows: list[Row],
        tokenized: TokenizedRows,
        skipped: dict[str, str],
        unit: Unit,
        max_length: int,
        truncation: str | None,
    ) -> None:
        self.rows, self.tokenized, self.skipped, self.unit = list(rows), tokenized, skipped, unit
        self.max_length, self.truncation = max_length, truncation
        self.kept: list[Row] = []
        self.num_cut = self.num_dropped = 0
        self.shortened: set[int] = set()

    def check_length(self) -> None:
        """Stop where too many rows are too long and nobody said what is to be done."""
        total = len(self.rows) + len(self.skipped)
        is_long = self.tokenized.longest > self.max_length
        if self.truncation != "stop":
            is_long &= self.tokenized.lengths[:, 0] < self.max_length
        num_long = int(is_long.sum())
        if num_long and (self.truncation == "stop" or (self.truncation is None and num_long > FREE_CUTS * total)):
            raise InputError(
                f"{num_long} of {total} rows ({100 * num_long / total:.1f} %) are longer than --max-length "
                f"{self.max_length} tokens; name what is done with them: --truncation cut-completion, cut-old-turns or "
                f"drop-row, or raise --max-length{_unusable_too(self.skipped, total)}"
            )

    def cutting_old_turns(self, chat: Chat, options: Mapping[str, Any]) -> Steps[None]:
        """Leave out the oldest turns of rows that are too long, one more each time, until they fit or none is left."""
        long = np.flatnonzero(self.tokenized.longest > self.max_length).tolist()
        while long:
            shorter = {number: without_oldest_turn(self.rows[number]) for number in long}
            usable = (options["unit"], options["train_on"])
            found = [(n, row) for n, row in shorter.items() if row is not None and not unusable_reason(row, *usable)]
            numbers = [number for number, _ in found]
            self.tokenized.replace(numbers, (yield from tokenizing([row for _, row in found], chat, **options)))
            for number, row in found:
                self.rows[number] = row
            self.shortened.update(numbers)
            longest = self.tokenized.longest
            long = [number for number in numbers if longest[number] > self.max_length]

    def trees(self) -> FlatTrees:
        """Cut, drop or skip what does not fit, and lay out the others."""
        tokenized = self.tokenized
        lengths = tokenized.lengths
        wrong = np.flatnonzero((tokenized.num_scored == 0).any(axis=1))
        if len(wrong):
            raise InputError(f"{self.rows[wrong[0]].said}: no token of the answer is scored: the mask is wrong")
        is_kept = lengths[:, 0] < self.max_length
        for number in np.flatnonzero(~is_kept).tolist():
            self.skipped[self.rows[number].name] = f"prompt does not fit --max-length {self.max_length} tokens"
        is_long = is_kept & (tokenized.longest > self.max_length)
        if self.truncation == "drop-row":
            self.num_dropped = int(is_long.sum())
            is_kept &= ~is_long
        else:
            room = self.max_length - lengths[:, 0]
            lengths[:, 1:] = np.minimum(lengths[:, 1:], np.maximum(room, 0)[:, None])
            for number in np.flatnonzero(is_long).tolist():
                places = zip(tokenized.starts[number, 1:], lengths[number, 1:], strict=True)
                if not all(tokenized.scored[start : start + length].any() for start, length in places):
                    reason = f"nothing of the answer is left within --max-length {self.max_length}"
                    self.skipped[self.rows[number].name] = reason
                    is_kept[number] = False
        is_long[list(self.shortened)] = True
        self.num_cut = int((is_kept & is_long).sum())
        return self._laid_out(np.flatnonzero(is_kept), lengths)

    def _laid_out(self, numbers: np.ndarray, lengths: np.ndarray) -> FlatTrees:
        tokenized = self.tokenized
        self.kept = [self.rows[number] for number in numbers.tolist()]
        segment_lengths = lengths[numbers].reshape(-1)
        starts = tokenized.starts[numbers].reshape(-1)
        num_segments = np.full(len(numbers), lengths.shape[1], np.int64)
        trees = FlatTrees(
            [row.id for row in self.kept],
            gathered(tokenized.ids, starts, segment_lengths),
            gathered(tokenized.scored, starts, segment_lengths),
            segment_lengths,
            np.stack([num_segments, tokenized.reference_length[numbers]], axis=1),
            self._labels(),
        )
        trees.check()
        return trees

    def _labels(self) -> np.ndarray | None:
        """The labels of the kept rows' completions, float32 [completions]; None where the unit has none."""
        labels = [self.unit.labels(row) for row in self.kept]
        if not any(labels):
            return None
        return np.array(labels, np.float32).reshape(-1)


def without_oldest_turn(row: Row) -> Row | None:
    """Leave out the oldest turn: the first message after the system's, and all up to the next of the user.

    None where what is left would not begin with the user: the last question is never cut.
    """
    start = next((n for n, message in enumerate(row.prompt) if message["role"] != "system"), len(row.prompt))
    later = (n for n, message in enumerate(row.prompt) if n > start and message["role"] == "user")
    end = next(later, None)
    if end is None:
        return None
    left = with_riders((*without_riders(row.prompt)[:start], *row.prompt[end:]), riders_of(row.prompt))
    return dataclasses.replace(row, prompt=left)


def _lengths(tokenized: TokenizedRows, unit: Unit) -> dict[str, np.ndarray]:
    """Tokens of prompts and answers before any cut, by column."""
    names = ("prompt", *unit.completions)
    return {name: np.ascontiguousarray(column) for name, column in zip(names, tokenized.lengths.T, strict=True)}


def _odd_turns(rows: Sequence[Row], unit: Unit) -> tuple[int, int]:
    """Of conversations: how many end with the user, and how many have two turns of the user in a row."""
    if not unit.may_score_all_turns:
        return 0, 0
    talks = [row for row in rows if row.is_conversation]
    return sum(row.ends_with_user for row in talks), sum(row.has_user_twice for row in talks)


def _comparisons(rows: Sequence[Row], unit: Unit) -> tuple[int, int, int, int]:
    """Of pairs: those of two labelled answers, ties, those with scores the other way round, those without scores."""
    if not unit.compares:  # of a preference taken apart the good answer's row stands for both
        return 0, 0, sum(row.label is True and row.is_reversed for row in rows), 0
    return (
        sum(row.rejected_id is not None for row in rows),
        sum(row.is_tie for row in rows),
        sum(row.is_reversed for row in rows),
        sum(unit.lacks_scores(row) for row in rows),
    )


def check_account(prepared: Prepared, *, max_length: int, truncation: str | None, max_skipped: float) -> None:
    """Refuse an account that `tokens.prepare` would refuse.

    Raises:
        InputError: more rows are cut than may be without a named policy, more are skipped than `max_skipped`, or none
            can be used.
    """
    total = len(prepared.trees) + len(prepared.skipped) + prepared.num_dropped  # but what is left out on purpose
    cut = prepared.num_cut
    if cut and (truncation == "stop" or (truncation is None and cut > FREE_CUTS * total)):
        raise InputError(
            f"{cut} of {total} rows ({100 * cut / total:.1f} %) are longer than --max-length {max_length} "
            "tokens; name what is done with them: --truncation cut-completion or drop-row, or raise --max-length"
            f"{_unusable_too(prepared.skipped, total)}"
        )
    check_skipped(prepared.skipped, total, max_skipped)
    if total and not prepared.trees:
        raise InputError(none_left(total, prepared.skipped))


def none_left(total: int, reasons: Mapping[str, str]) -> str:
    """Say that nothing is left to train on."""
    return f"none of the {total} rows can be used: {summary(reasons) or 'all were dropped as too long'}"


def check_skipped(skipped: Mapping[str, str], total: int, max_skipped: float) -> None:
    """Refuse too many skipped rows.

    Args:
        total: rows without those left out on purpose.
    """
    if len(skipped) > max_skipped * total:
        raise InputError(
            f"{len(skipped)} of {total} rows ({100 * len(skipped) / total:.1f} %) cannot be used, more than "
            f"--max-skipped {max_skipped:g}: {summary(skipped)}; correct them, or raise --max-skipped"
        )


def _unusable_too(skipped: Mapping[str, str], total: int) -> str:
    """Say beside another fault which rows cannot be used, "" where all can."""
    return f"; {len(skipped)} of {total} rows cannot be used either: {summary(skipped)}" if skipped else ""


def summary(skipped: Mapping[str, str]) -> str:
    """ "3 empty chosen answer (a, b, ...), 1 ..." """
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    most = sorted(by_reason.items(), key=lambda item: -len(item[1]))[:4]
    return "; ".join(f"{len(names)} {reason} ({listed(names, 3)})" for reason, names in most)
