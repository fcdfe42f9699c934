"""Rows -> token ids and masks, before anything is cut: rendered and tokenized a few thousand rows at a time.

Each prompt is tokenized once, however many answers it has; a reference that is the chosen answer is not tokenized
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.data.chat import Chat
from alignkit.data.flat import equal_ranges
from alignkit.data.layouts import Job, Scored
from alignkit.data.rows import Row
from alignkit.errors import InputError

_ROWS_AT_ONCE = 4096
_NEAR = 64  # characters on each side of a border that decide whether tokens cross it


@dataclass
class Drafts:
    """Many rows' tokens, over flat arrays.

    Args:
        ids, scored: int32 and bool [tokens].
        starts, ends: int64 [rows, 1 + completions], where each row's prompt and completions lie in them.
        num_scored: int64 [rows, completions], scored tokens of each.
        target_num_tokens: int64 [rows], length of the reference in tokens, 0 for none.
        is_otherwise: bool [rows], whether prompt and first completion as one text would have other ids.
    """

    ids: np.ndarray
    scored: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    num_scored: np.ndarray
    target_num_tokens: np.ndarray
    is_otherwise: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row's prompt and completions, int64 [rows, 1 + completions]."""
        return self.ends - self.starts

    @property
    def longest(self) -> np.ndarray:
        """Tokens of each row's prompt with its longest completion, int64 [rows]."""
        lengths = self.lengths
        return lengths[:, 0] + (lengths[:, 1:].max(axis=1) if lengths.shape[1] > 1 else 0)

    def replace(self, numbers: Sequence[int], others: Drafts) -> None:
        """Put other drafts in the place of these rows'."""
        by = len(self.ids)
        self.ids = np.concatenate([self.ids, others.ids])
        self.scored = np.concatenate([self.scored, others.scored])
        self.starts[numbers], self.ends[numbers] = others.starts + by, others.ends + by
        self.num_scored[numbers] = others.num_scored
        self.target_num_tokens[numbers] = others.target_num_tokens
        self.is_otherwise[numbers] = others.is_otherwise


def draft_rows(rows: Sequence[Row], chat: Chat, *, trains_on: str, train_on: str | None, whole_answer: bool) -> Drafts:
    """Tokenize rows.

    Args:
        trains_on, train_on, whole_answer: as `alignkit.data.tokens.prepare` has them.

    Raises:
        InputError: a row cannot be rendered, or the template allows no right mask for it; names the row.
    """
    parts = []
    for at in range(0, max(1, len(rows)), _ROWS_AT_ONCE):
        part = _Part(chat, trains_on, train_on)
        for row in rows[at : at + _ROWS_AT_ONCE]:
            part.add(row)
        parts.append(part.drafts(whole_answer=whole_answer))
    return parts[0] if len(parts) == 1 else _joined(parts)


class _Part:
    """Some rows: the prompt of each, then its answers, then its reference where that is another text."""

    def __init__(self, chat: Chat, trains_on: str, train_on: str | None) -> None:
        self.chat, self.trains_on, self.train_on = chat, trains_on, train_on
        self.jobs: list[Job] = []
        self.owners: list[Row] = []
        self.plans: list[tuple[int, int, int]] = []  # first job, completions, the reference's job (-1: none)
        self.whole: list[bool] = []  # one text without a prompt

    def add(self, row: Row) -> None:
        chat, first = self.chat, len(self.jobs)
        is_whole = self.trains_on == "chosen" and (
            self.train_on == "all-assistant" or (self.train_on is None and row.is_conversation)
        )
        self.whole.append(is_whole)
        if is_whole:
            self.jobs.append(chat.conversation_job((*row.prompt, *(row.chosen or ()))))
            self.plans.append((first, 1, -1))
        else:
            self.jobs.append(chat.prompt_job(row.prompt))
            answers = {"chosen": (row.chosen,), "pairs": (row.chosen, row.rejected), "samples": ()}[self.trains_on]
            own = [answer for answer in answers if answer is not None]
            self.jobs += [chat.answer_job(row.prompt, answer) for answer in own]
            target = -1
            if row.reference is not None:
                is_chosen = bool(own) and own[0] is row.chosen and len(own[0]) == 1
                if is_chosen and own[0][0]["content"] == row.reference:
                    target = first + 1
                else:
                    target = len(self.jobs)
                    self.jobs.append(chat.answer_job(row.prompt, [{"role": "assistant", "content": row.reference}]))
            self.plans.append((first, len(own), target))
        self.owners += [row] * (len(self.jobs) - first)

    def drafts(self, *, whole_answer: bool) -> Drafts:
        texts = []
        for result, job, row in zip(self.chat.render(self.jobs), self.jobs, self.owners, strict=True):
            if isinstance(result, InputError):
                raise InputError(f"row {row.id}: {result}") from result
            _check_text(result.text, row)
            texts.append(_to_the_end(result) if job.turns and not whole_answer else result)
        encoded = self.chat.encoder.encode(texts)
        counts = np.diff(np.concatenate([[0], np.cumsum(encoded.scored)])[encoded.offsets])
        jobs, target = self._places()
        starts, ends = encoded.offsets[:-1], encoded.offsets[1:]
        drafts = Drafts(
            encoded.ids,
            encoded.scored,
            np.where(jobs < 0, 0, starts[jobs]) if len(starts) else np.zeros(jobs.shape, np.int64),
            np.where(jobs < 0, 0, ends[jobs]) if len(ends) else np.zeros(jobs.shape, np.int64),
            counts[jobs[:, 1:]] if len(counts) else np.zeros((0, jobs.shape[1] - 1), np.int64),
            np.where(target < 0, 0, counts[target]) if len(counts) else target,
            np.zeros(len(jobs), bool),
        )
        self._mark_otherwise(drafts, texts)
        return drafts

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Which text is each row's prompt and completions (-1: no prompt), and its reference (-1: none)."""
        num_completions = {"chosen": 1, "pairs": 2, "samples": 0}[self.trains_on]
        plans = np.array(self.plans, np.int64).reshape(-1, 3)
        is_whole = np.array(self.whole, bool)
        completions = plans[:, :1] + ~is_whole[:, None] + np.arange(num_completions)
        return np.concatenate([np.where(is_whole, -1, plans[:, 0])[:, None], completions], axis=1), plans[:, 2]

    def _mark_otherwise(self, drafts: Drafts, texts: Sequence[Scored]) -> None:
        """Find the rows whose prompt and first completion, as one text, have other ids.

        Where tokens depend on what is near them alone, what is near the border decides.
        """
        chat = self.chat
        near = _NEAR if chat.encoder.reads_left_to_right else None
        numbers: dict[tuple[str, str], list[int]] = {}
        for row, ((first, num_completions, _), is_whole) in enumerate(zip(self.plans, self.whole, strict=True)):
            if num_completions and not is_whole:
                prompt, answer = texts[first], texts[first + 1]
                if not prompt.plain and not answer.plain:
                    end = answer.text[: answer.spans[-1][1]] if near is None else answer.text[:near]
                    numbers.setdefault((chat.after_special(prompt.text, near), end), []).append(row)
        joined = [before + after for before, after in numbers]
        ids, offsets = chat.encoder.plain_ids([*joined, *(part for pair in numbers for part in pair)])
        apart = offsets[len(joined) :]
        whole = ids, offsets[: len(joined)], offsets[1 : len(joined) + 1]
        for is_equal, rows in zip(equal_ranges(whole, (ids, apart[:-1:2], apart[2::2])), numbers.values(), strict=True):
            if not is_equal:
                drafts.is_otherwise[rows] = True


def _joined(parts: Sequence[Drafts]) -> Drafts:
    by = np.cumsum([0, *(len(part.ids) for part in parts)])
    columns = zip(*((p.ids, p.scored, p.starts + at, p.ends + at, p.num_scored, p.target_num_tokens, p.is_otherwise)
                    for p, at in zip(parts, by, strict=False)), strict=True)  # fmt: skip
    return Drafts(*(np.concatenate(column) for column in columns))


def _to_the_end(text: Scored) -> Scored:
    """Leave out what follows the last scored text."""
    end = text.spans[-1][1]
    if end == len(text.text):
        return text
    return Scored(text.text[:end], text.spans, tuple(place for place in text.plain if place[1] <= end))


def _check_text(text: str, row: Row) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"row {row.id}: half a character ({text[error.start]!r}) in a message is no valid text; correct or "
                "remove the row"
            ) from error
