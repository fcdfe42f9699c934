"""Rows -> token ids and masks, before anything is cut: rendered and tokenized a few thousand rows at a time.

Each prompt is tokenized once, however many answers it has; a reference that is the chosen answer is not tokenized
again. An answer is tokenized apart from its prompt where only tokens across the border could differ, else behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from alignkit.data.chat.chat import Chat
from alignkit.data.chat.layouts import Conversation
from alignkit.data.chat.shapes import Rendered
from alignkit.data.encoding.encoder import Encoded, Encoder
from alignkit.data.encoding.texts import FlatTexts, TextWithSpans, offsets_of
from alignkit.data.prepared.steps import Steps
from alignkit.data.reading.rows import Message, Row, scores_all_turns, text_of
from alignkit.data.trees.flat import equal_ranges, ranges
from alignkit.errors import InputError
from alignkit.units import Unit

_ROWS_AT_ONCE = 4096
_NEAR = 128  # bytes on each side of a border that decide whether tokens cross it


@dataclass
class TokenizedRows:
    """Many rows' tokens, over flat arrays.

    Args:
        ids, scored: int32 and bool [tokens].
        starts, ends: int64 [rows, 1 + completions], where each row's prompt and completions lie in them.
        num_scored: int64 [rows, completions], scored tokens of each.
        reference_length: int64 [rows], length of the reference in tokens, 0 for none.
        is_otherwise: bool [rows], whether prompt and first completion as one text would have other ids.
    """

    ids: np.ndarray
    scored: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    num_scored: np.ndarray
    reference_length: np.ndarray
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

    def replace(self, numbers: Sequence[int], others: TokenizedRows) -> None:
        """Put other tokens in the place of these rows'."""
        by = len(self.ids)
        self.ids = np.concatenate([self.ids, others.ids])
        self.scored = np.concatenate([self.scored, others.scored])
        self.starts[numbers], self.ends[numbers] = others.starts + by, others.ends + by
        self.num_scored[numbers] = others.num_scored
        self.reference_length[numbers] = others.reference_length
        self.is_otherwise[numbers] = others.is_otherwise


def tokenizing(
    rows: Sequence[Row], chat: Chat, *, unit: Unit, train_on: str | None, whole_answer: bool
) -> Steps[TokenizedRows]:
    """Tokenize rows; what makes ids of texts is a step of its own.

    Args:
        unit, train_on, whole_answer: as `alignkit.data.prepared.tokens.prepare` has them.

    Raises:
        InputError: a row cannot be rendered, or the template allows no right mask for it; names the row.
    """
    parts = []
    for at in range(0, max(1, len(rows)), _ROWS_AT_ONCE):
        part = _Part(chat, unit, train_on)
        for row in rows[at : at + _ROWS_AT_ONCE]:
            part.add(row)
        parts.append((yield from part.tokenizing(whole_answer=whole_answer)))
    return parts[0] if len(parts) == 1 else _joined(parts)


class _Part:
    """Some rows: the prompt of each, then its answers, then its reference where that is another text."""

    def __init__(self, chat: Chat, unit: Unit, train_on: str | None) -> None:
        self.chat, self.unit, self.train_on = chat, unit, train_on
        self.conversations: list[Conversation] = []
        self.owners: list[Row] = []
        # Of each row: its first conversation, its completions, the conversation of its reference (-1: none).
        self.plans: list[tuple[int, int, int]] = []
        self.whole: list[bool] = []  # one text without a prompt

    def add(self, row: Row) -> None:
        chat, first = self.chat, len(self.conversations)
        is_whole = scores_all_turns(row, self.unit, self.train_on)
        self.whole.append(is_whole)
        if is_whole:
            self.conversations.append(chat.whole_conversation(_up_to_last_answer((*row.prompt, *(row.chosen or ())))))
            self.plans.append((first, 1, -1))
        else:
            self.conversations.append(chat.prompt_conversation(row.prompt))
            own = self.unit.answers(row)
            self.conversations += [chat.answer_conversation(row.prompt, answer) for answer in own]
            target = -1
            if row.reference is not None:
                is_chosen = bool(own) and own[0] is row.chosen and len(own[0]) == 1
                if is_chosen and text_of(own[0]) == row.reference:
                    target = first + 1
                else:
                    target = len(self.conversations)
                    self.conversations.append(chat.reference_conversation(row.prompt, row.reference))
            self.plans.append((first, len(own), target))
        self.owners += [row] * (len(self.conversations) - first)

    def _also(self, row: Row) -> str:
        """What else may be said of a row that is not rendered: that it begins with the assistant, and what to do."""
        if not _begins_with_assistant(row):
            return ""
        rows = {id(owner): owner for owner in self.owners}.values()
        count = sum(map(_begins_with_assistant, rows))
        also = f"; its conversation begins with the assistant, as {count:,} of {len(rows):,} rows prepared with it do"
        also += ": take such rows out, or put a message of the user first"
        if scores_all_turns(row, self.unit, self.train_on) and row.chosen:
            last = [self.chat.prompt_conversation(row.prompt), self.chat.answer_conversation(row.prompt, row.chosen)]
            is_taken = not any(isinstance(one, InputError) for one in self.chat.render(last))
            also += ", or score the last answer alone by --train-on last" * is_taken
        return also

    def tokenizing(self, *, whole_answer: bool) -> Steps[TokenizedRows]:
        rendered = self.chat.renderer.render_many(self.conversations, to_the_end=not whole_answer)
        for number in sorted(rendered.errors)[:1]:
            error, row = rendered.errors[number], self.owners[number]
            raise InputError(f"{row.said}: {error}{self._also(row)}") from error
        places, target = self._places()
        encoder = self.chat.encoder
        borders = is_across = None
        if not encoder.encodes_apart:
            encoded, is_across = yield partial(encoder.encode_behind, rendered.texts, self._befores(rendered))
        else:
            if places.shape[1] > 1 and len(places):
                borders = self._borders(rendered, places)
            encoded, near = yield partial(_encode, encoder, rendered.texts, borders)
        counts = np.diff(np.concatenate([[0], np.cumsum(encoded.scored)])[encoded.offsets])[rendered.text_of]
        starts, ends = encoded.offsets[:-1][rendered.text_of], encoded.offsets[1:][rendered.text_of]
        tokenized = TokenizedRows(
            encoded.ids,
            encoded.scored,
            np.where(places < 0, 0, starts[places]) if len(starts) else np.zeros(places.shape, np.int64),
            np.where(places < 0, 0, ends[places]) if len(ends) else np.zeros(places.shape, np.int64),
            counts[places[:, 1:]] if len(counts) else np.zeros((0, places.shape[1] - 1), np.int64),
            np.where(target < 0, 0, counts[target]) if len(counts) else target,
            np.zeros(len(places), bool),
        )
        if borders is not None:
            tokenized.is_otherwise[borders.rows[borders.are_crossed(*near)]] = True
        elif is_across is not None and places.shape[1] > 1 and len(places):
            tokenized.is_otherwise = is_across[rendered.text_of[places[:, 1]]]
        return tokenized

    def _befores(self, rendered: Rendered) -> np.ndarray:
        """The text of each answer's prompt, -1 for other texts, int64 [texts]."""
        befores = np.full(len(rendered.texts), -1, np.int64)
        ends = [*(first for first, _, _ in self.plans), len(self.conversations)][1:]
        for (first, _, _), end, is_whole in zip(self.plans, ends, self.whole, strict=True):
            if not is_whole:
                befores[rendered.text_of[first + 1 : end]] = rendered.text_of[first]
        return befores

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Which text is each row's prompt and completions (-1: no prompt), and its reference (-1: none)."""
        plans = np.array(self.plans, np.int64).reshape(-1, 3)
        is_whole = np.array(self.whole, bool)
        completions = plans[:, :1] + ~is_whole[:, None] + np.arange(len(self.unit.completions))
        return np.concatenate([np.where(is_whole, -1, plans[:, 0])[:, None], completions], axis=1), plans[:, 2]

    def _borders(self, rendered: Rendered, places: np.ndarray) -> _Borders:
        """The texts around the borders between prompts and first completions."""
        texts = rendered.texts
        rows = np.flatnonzero(places[:, 0] >= 0)
        prompts, answers = rendered.text_of[places[rows, 0]], rendered.text_of[places[rows, 1]]
        if texts.plain:
            is_plain = np.isin(prompts, list(texts.plain)) | np.isin(answers, list(texts.plain))
            rows, prompts, answers = rows[~is_plain], prompts[~is_plain], answers[~is_plain]
        ends: dict[str, int] = {}  # how prompts end, by number
        which = self._prompt_ends(rendered, prompts, ends)
        starts = texts.offsets[answers]
        stops = texts.character_ends(np.minimum(texts.offsets[answers + 1], starts + _NEAR))
        before = FlatTexts.of([TextWithSpans(end) for end in ends])
        utf8 = np.concatenate([before.utf8, texts.utf8])
        pieces = np.stack([before.offsets[which], starts + len(before.utf8)], axis=1)
        lengths = np.stack([np.diff(before.offsets)[which], stops - starts], axis=1)
        joined = FlatTexts.stretches(utf8, pieces, lengths)
        after = FlatTexts.stretches(utf8, pieces[:, 1:], lengths[:, 1:])
        return _Borders(rows, joined + before + after, which)

    def _prompt_ends(self, rendered: Rendered, prompts: np.ndarray, ends: dict[str, int]) -> np.ndarray:
        """Number how each prompt ends behind its last special token, int64 [prompts]; adds new ends to `ends`."""
        chat, layouts = self.chat, rendered.layouts[prompts]
        which = np.full(len(prompts), -1, np.int64)
        for layout in np.unique(layouts[layouts >= 0]).tolist():
            end = chat.after_special(chat.renderer.end_of(layout))
            if end is not None:
                which[layouts == layout] = ends.setdefault(end, len(ends))
        for place in np.flatnonzero(which < 0).tolist():
            text = rendered.texts.text(int(prompts[place]))
            end = chat.after_special(text)
            end = text if end is None else end
            which[place] = ends.setdefault(end[-_NEAR:], len(ends))
        return which


@dataclass(frozen=True)
class _Borders:
    """What is near the borders of prompts and first completions: it decides whether tokens cross them.

    Args:
        rows: int64 [borders], the row of each.
        texts: of each border both sides as one text, then the ends of prompts, then of each what follows.
        which: int64 [borders], the prompt's end of each.
    """

    rows: np.ndarray
    texts: FlatTexts
    which: np.ndarray

    def are_crossed(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Say which borders a token lies across, bool [borders].

        Args:
            ids, offsets: of the texts.
        """
        num, count = len(self.rows), np.diff(offsets)
        num_ends = len(count) - 2 * num
        owns = num + np.stack([self.which, num_ends + np.arange(num)], axis=1).reshape(-1)
        apart = ids[ranges(offsets[owns], count[owns])]
        apart_offsets = offsets_of(count[owns])[::2]
        return ~equal_ranges((ids, offsets[:num], offsets[1 : num + 1]), (apart, apart_offsets[:-1], apart_offsets[1:]))


def _encode(encoder: Encoder, texts: FlatTexts, borders: _Borders | None) -> tuple[Encoded, Any]:
    """Return the ids of texts, and those of the texts around borders, where they are asked for."""
    return encoder.encode(texts), None if borders is None else encoder.plain_ids(borders.texts)


def _begins_with_assistant(row: Row) -> bool:
    return next((message["role"] for message in row.prompt if message["role"] != "system"), "user") == "assistant"


def _up_to_last_answer(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Leave out what follows the last turn of the assistant: nothing of it is scored, and nothing scored sees it."""
    if turns and turns[-1]["role"] == "assistant":
        return turns
    last = max((number for number, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns) - 1)
    return turns[: last + 1]


def _joined(parts: Sequence[TokenizedRows]) -> TokenizedRows:
    by = np.cumsum([0, *(len(part.ids) for part in parts)])
    columns = zip(
        *(
            (p.ids, p.scored, p.starts + at, p.ends + at, p.num_scored, p.reference_length, p.is_otherwise)
            for p, at in zip(parts, by, strict=False)
        ),
        strict=True,
    )
    return TokenizedRows(*(np.concatenate(column) for column in columns))
