"""Rows -> token ids and masks, before anything is cut: rendered and tokenized a few thousand rows at a time.

Each prompt is tokenized once, however many answers it has; a reference that is the chosen answer is not tokenized
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.data.chat import Chat
from alignkit.data.encoder import Encoded
from alignkit.data.layouts import Job, Scored
from alignkit.data.rows import Row
from alignkit.errors import InputError

_ROWS_AT_ONCE = 4096
_NEAR = 64  # characters on each side of a border that decide whether tokens cross it


@dataclass(slots=True)
class Draft:
    """One row's tokens.

    Args:
        prompt_ids: int32 [n].
        completions: (ids int32 [m], scored bool [m]) of each.
        num_scored: scored tokens of each.
        longest: tokens of the prompt with its longest completion.
        target_num_tokens: length of the reference in tokens, 0 for none.
        is_otherwise: whether prompt and first completion as one text would have other ids.
    """

    prompt_ids: np.ndarray
    completions: list[tuple[np.ndarray, np.ndarray]]
    num_scored: list[int]
    longest: int
    target_num_tokens: int
    is_otherwise: bool = False


def draft_rows(
    rows: Sequence[Row], chat: Chat, *, trains_on: str, train_on: str | None, whole_answer: bool
) -> list[Draft]:
    """Tokenize rows.

    Args:
        trains_on, train_on, whole_answer: as `alignkit.data.tokens.prepare` has them.

    Raises:
        InputError: a row cannot be rendered, or the template allows no right mask for it; names the row.
    """
    drafts: list[Draft] = []
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        part = _Part(chat, trains_on, train_on)
        for row in rows[at : at + _ROWS_AT_ONCE]:
            part.add(row)
        drafts += part.drafts(whole_answer=whole_answer)
    return drafts


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
        is_whole = row.is_conversation and self.trains_on == "chosen" and self.train_on != "last"
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

    def drafts(self, *, whole_answer: bool) -> list[Draft]:
        texts = []
        for result, job, row in zip(self.chat.render(self.jobs), self.jobs, self.owners, strict=True):
            if isinstance(result, InputError):
                raise InputError(f"row {row.id}: {result}") from result
            _check_text(result.text, row)
            texts.append(_to_the_end(result) if job.turns and not whole_answer else result)
        encoded = self.chat.encoder.encode(texts)
        totals = np.concatenate([[0], np.cumsum(encoded.scored)])[encoded.offsets]
        counts = np.diff(totals).tolist()
        places = encoded.offsets.tolist()
        drafts = [
            _draft(encoded, places, counts, plan, is_whole)
            for plan, is_whole in zip(self.plans, self.whole, strict=True)
        ]
        self._mark_otherwise(drafts, texts)
        return drafts

    def _mark_otherwise(self, drafts: Sequence[Draft], texts: Sequence[Scored]) -> None:
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
        for number, rows in enumerate(numbers.values()):
            whole = ids[offsets[number] : offsets[number + 1]]
            if not np.array_equal(whole, ids[apart[2 * number] : apart[2 * number + 2]]):
                for row in rows:
                    drafts[row].is_otherwise = True


def _draft(encoded: Encoded, places: list[int], counts: list[int], plan: tuple[int, int, int], is_whole: bool) -> Draft:
    first, num_completions, target = plan
    ids, scored = encoded.ids, encoded.scored
    at = first if is_whole else first + 1
    prompt = ids[:0] if is_whole else ids[places[first] : places[first + 1]]
    own = [(ids[places[n] : places[n + 1]], scored[places[n] : places[n + 1]]) for n in range(at, at + num_completions)]
    longest = len(prompt) + max([len(part) for part, _ in own], default=0)
    return Draft(prompt, own, counts[at : at + num_completions], longest, counts[target] if target >= 0 else 0)


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
