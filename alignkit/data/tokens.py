"""Conversations -> trees: token ids of prompts and answers, masks, and what happens to rows that do not fit.

The prompt's ids are those the sampler sends; an answer is tokenized apart. Rows whose whole text tokenizes to other
ids are counted. A cut answer gets no forged end token; a prompt is never cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alignkit import _native
from alignkit.data.chat import Chat, Scored
from alignkit.data.rows import Row, unusable_reason
from alignkit.data.trees import Tree, tree
from alignkit.errors import InputError

UNSCORED = -100
_TOKENIZER_FILES = ("tokenizer.*", "vocab.*", "tekken.json")  # without any, transformers makes an empty tokenizer
FREE_CUTS = 0.01  # more rows than this share are cut only by a named policy


@dataclass(frozen=True)
class Prepared:
    """Rows as trees, and an account of every row that is not, or not whole, among them.

    `lengths` holds the token counts of "prompt", "chosen", "rejected" before any cut, int64 arrays.
    """

    trees: Sequence[Tree]
    rows: Sequence[Row]
    skipped: dict[str, str] = field(default_factory=dict)
    num_cut: int = 0
    num_dropped: int = 0
    num_tokenized_otherwise: int = 0
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)


def load_tokenizer(folder: str | Path) -> Any:
    """Load a fast tokenizer from a local folder.

    Raises:
        InputError: the folder has none.
    """
    import transformers

    if not any(found for pattern in _TOKENIZER_FILES for found in Path(folder).glob(pattern)):
        raise InputError(f"{folder}: no tokenizer in this model folder; copy the tokenizer.json of its model into it")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: no tokenizer that can be loaded ({_first_line(error)})") from error
    if not tokenizer.is_fast:
        raise InputError(f"{folder}: the tokenizer has no tokenizer.json; only fast tokenizers are read")
    return tokenizer


def prepare(
    rows: Sequence[Row],
    chat: Chat,
    *,
    trains_on: str,
    max_length: int,
    truncation: str | None = None,
    max_skipped: float = 0.01,
    train_on: str | None = None,
    whole_answer: bool = False,
    keep_unusable: bool = False,
    is_part: bool = False,
) -> Prepared:
    """Make one tree of each usable row.

    Args:
        trains_on: "chosen" (one completion), "pairs" (chosen, rejected) or "samples" (the prompt alone).
        max_length: longest prompt + completion, in tokens.
        truncation: "cut-completion", "drop-row", "stop", or None (stop when over 1 % are longer, else cut).
        max_skipped: stop when more than this share of the rows cannot be used.
        train_on: "last", "all-assistant", or None for what suits each row.
        keep_unusable: make trees also of rows that could not train (an empty answer), to look at them.
        is_part: these are some of the rows, and none of them need be usable: the caller looks at the whole.
        whole_answer: keep what the template puts behind the end token (unscored), for a head at the last token.

    Raises:
        InputError: too many rows are unusable or too long, or the template allows no right mask.
    """
    skipped: dict[str, str] = {}
    usable = []
    for row in rows:
        reason = None if keep_unusable else unusable_reason(row, trains_on)
        if reason is None:
            usable.append(row)
        else:
            skipped[row.id] = reason
    texts = _Texts(chat)
    for row in usable:
        texts.add(row, trains_on, train_on)
    drafts = texts.tokenize(whole_answer=whole_answer)
    return _fit(usable, drafts, skipped, texts, max_length, truncation, max_skipped, trains_on, is_part)


class _Texts:
    """The texts of many rows, tokenized in two batches: prompts, and answers with their spans."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.prompts: list[str] = []
        self.answers: list[Scored] = []
        self.first_answer: list[int] = []
        self.targets: list[int] = []  # index of the reference's answer, -1 for none

    def add(self, row: Row, trains_on: str, train_on: str | None) -> None:
        """Render a row; the answers it trains on first, then its reference where that is another text."""
        self.first_answer.append(len(self.answers))
        try:
            if row.is_conversation and trains_on == "chosen" and train_on != "last":
                self.prompts.append("")
                self.answers.append(self.chat.conversation([*row.prompt, *(row.chosen or ())]))
                self.targets.append(-1)
                return
            self.prompts.append(self.chat.prompt(row.prompt))
            answers = {"chosen": [row.chosen], "pairs": [row.chosen, row.rejected], "samples": []}[trains_on]
            self.answers.extend(self.chat.answer(row.prompt, answer) for answer in answers if answer is not None)
            if row.reference is None:
                self.targets.append(-1)
            else:
                self.targets.append(len(self.answers))
                reference = [{"role": "assistant", "content": row.reference}]
                self.answers.append(self.chat.answer(row.prompt, reference))
        except InputError as error:
            raise InputError(f"row {row.id}: {error}") from error

    def tokenize(self, *, whole_answer: bool) -> list[tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]], int]]:
        """Return (prompt ids, [(ids, scored)], reference's length) of each row."""
        backend = self.chat.tokenizer.backend_tokenizer
        prompts = backend.encode_batch_fast(self.prompts, add_special_tokens=False)
        answers = _scored_answers(backend, self.answers, whole_answer)
        drafts = []
        for number, prompt in enumerate(prompts):
            first, target = self.first_answer[number], self.targets[number]
            after = self.first_answer[number + 1] if number + 1 < len(self.first_answer) else len(self.answers)
            own = answers[first : after if target < 0 else target]
            length = 0 if target < 0 else int(answers[target][1].sum())
            drafts.append((np.array(prompt.ids, np.int32), own, length))
        return drafts

    def num_tokenized_otherwise(self, drafts: list[Any]) -> int:
        """Count rows whose whole text tokenizes to other ids than prompt and answer apart."""
        backend = self.chat.tokenizer.backend_tokenizer
        whole, apart = [], []
        for number, (prompt_ids, own, _) in enumerate(drafts):
            if own and len(prompt_ids):
                answer = self.answers[self.first_answer[number]]
                whole.append(self.prompts[number] + answer.text[: answer.spans[-1][1]])
                scored = np.flatnonzero(own[0][1])
                apart.append(np.concatenate([prompt_ids, own[0][0][: scored[-1] + 1]]))
        encoded = backend.encode_batch_fast(whole, add_special_tokens=False)
        return sum(list(ids) != encoding.ids for ids, encoding in zip(apart, encoded, strict=True))


def _scored_answers(backend: Any, answers: list[Scored], whole_answer: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokenize answers and mask them in Rust (Eq. 1); returns (ids, scored) of each."""
    if not answers:
        return []
    encoded = backend.encode_batch([answer.text for answer in answers], add_special_tokens=False)
    row_offsets = np.concatenate([[0], np.cumsum([len(e.ids) for e in encoded])]).astype(np.int64)
    ids = np.concatenate([np.array(e.ids, np.int32) for e in encoded])
    places = np.concatenate([np.array(e.offsets, np.int64).reshape(-1, 2) for e in encoded])
    spans = np.array([span for answer in answers for span in answer.spans], np.int64).reshape(-1, 2)
    span_offsets = np.concatenate([[0], np.cumsum([len(a.spans) for a in answers])]).astype(np.int64)
    starts, ends = np.ascontiguousarray(places[:, 0]), np.ascontiguousarray(places[:, 1])
    labels = _native.mask_labels(ids, starts, ends, row_offsets, spans, span_offsets)
    scored = labels != UNSCORED
    result = []
    for number in range(len(answers)):
        own = slice(row_offsets[number], row_offsets[number + 1])
        kept = np.flatnonzero(scored[own])
        end = len(scored[own]) if whole_answer else (kept[-1] + 1 if len(kept) else 0)
        result.append((ids[own][:end], scored[own][:end]))
    return result


def _fit(
    rows: list[Row],
    drafts: list[tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]], int]],
    skipped: dict[str, str],
    texts: _Texts,
    max_length: int,
    truncation: str | None,
    max_skipped: float,
    trains_on: str,
    is_part: bool,
) -> Prepared:
    total = len(rows) + len(skipped)
    trees, kept, num_cut, num_dropped = [], [], 0, 0
    long = [len(prompt) + max((len(ids) for ids, _ in own), default=0) > max_length for prompt, own, _ in drafts]
    fits = [len(prompt) < max_length for prompt, _, _ in drafts]
    num_long = sum(over and fit for over, fit in zip(long, fits, strict=True))
    if num_long and (truncation == "stop" or (truncation is None and num_long > FREE_CUTS * total)):
        raise InputError(
            f"{num_long} of {total} rows ({100 * num_long / total:.1f} %) are longer than --max-length {max_length} "
            "tokens; name what is done with them: --truncation cut-completion or drop-row, or raise --max-length"
        )
    for row, (prompt, own, target), over, fit in zip(rows, drafts, long, fits, strict=True):
        if not fit:
            skipped[row.id] = f"prompt does not fit --max-length {max_length} tokens"
        elif any(not scored.any() for _, scored in own):
            raise InputError(f"row {row.id}: no token of the answer is scored: the mask is wrong")
        elif over and truncation == "drop-row":
            num_dropped += 1
        else:
            num_cut += over
            room = max_length - len(prompt)
            cut = [(ids[:room], scored[:room]) for ids, scored in own]
            if any(not scored.any() for _, scored in cut):
                skipped[row.id] = f"nothing of the answer is left within --max-length {max_length}"
                continue
            trees.append(tree(row.id, prompt, cut, target_num_tokens=target))
            kept.append(row)
    check_skipped(skipped, total, max_skipped)
    if not trees and not is_part:
        raise InputError(f"none of the {total} rows can be used: {summary(skipped) or 'all were dropped as too long'}")
    lengths = {"prompt": np.array([len(prompt) for prompt, _, _ in drafts], np.int64)}
    for number, name in enumerate(("chosen", "rejected")):
        lengths |= {name: np.array([len(own[number][0]) for _, own, _ in drafts if len(own) > number], np.int64)}
    return Prepared(
        trees,
        kept,
        skipped,
        num_cut,
        num_dropped,
        texts.num_tokenized_otherwise(drafts),
        {name: column for name, column in lengths.items() if len(column)},
    )


def check_skipped(skipped: Mapping[str, str], total: int, max_skipped: float) -> None:
    if len(skipped) > max_skipped * total:
        raise InputError(
            f"{len(skipped)} of {total} rows ({100 * len(skipped) / total:.1f} %) cannot be used, more than "
            f"--max-skipped {max_skipped:g}: {summary(skipped)}; correct them, or raise --max-skipped"
        )


def summary(skipped: Mapping[str, str]) -> str:
    """ "3 empty chosen answer (a, b, ...), 1 ..." """
    by_reason: dict[str, list[str]] = {}
    for row_id, reason in skipped.items():
        by_reason.setdefault(reason, []).append(row_id)
    parts = []
    for reason, ids in sorted(by_reason.items(), key=lambda item: -len(item[1]))[:4]:
        shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        parts.append(f"{len(ids)} {reason} ({shown})")
    return "; ".join(parts)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
