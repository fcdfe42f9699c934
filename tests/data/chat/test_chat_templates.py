"""Real rows under twenty real chat templates: ids and masks equal transformers' with marks, or a refusal.

Every row is rendered or refused under every template; each third of the rows is tokenized under a third of them.

The reference renders by transformers' own Jinja with generation marks that are written into the templates by hand
(marked_templates), and tokenizes by `tokenizers`, whose offsets say which tokens lie in what an assistant wrote.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marked_templates import FOLDER, KNOWN, NO_THOUGHTS, marked, write_tokenizer
from qwen_vocabulary import is_available, qwen_tokenizer

from alignkit.data.chat.chat import CHATML, Chat
from alignkit.data.prepared.tokens import prepare
from alignkit.data.reading.rows import Row, to_row, unusable_reason
from alignkit.data.trees.flat import FlatTrees
from alignkit.errors import InputError
from alignkit.pretrained import embedded
from alignkit.pretrained.read import load_tokenizer
from alignkit.units import Chosen, Pairs

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the shared real data is not here")
Spans = list[list[list[int]]]
VOCABULARIES = {name: ("smollm2", "smollm2", "qwen")[number % 3] for number, name in enumerate(sorted(KNOWN))}
THIRDS = {name: number // 3 % 3 for number, name in enumerate(sorted(KNOWN))}  # each meets both vocabularies


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not is_available() or not embedded.is_available():
        pytest.skip("the packages that carry the vocabularies are not installed")
    qwen = tmp_path_factory.mktemp("qwen")
    qwen_tokenizer(qwen, template=CHATML)
    return {"qwen": qwen, "smollm2": embedded.folder()}


@cache
def real_rows() -> list[Row]:
    """Every usable pair."""
    with gzip.open(FOLDER.parent / "preference-dev.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [to_row(json.loads(line), where="x") for line in file]
    return [row for row in rows if unusable_reason(row, Pairs()) is None]


def is_refused(row: Row, refuses: tuple[str, ...]) -> bool:
    roles = [message["role"] for message in row.prompt]
    has_system = bool(roles) and roles[0] == "system"
    turns = roles[1:] if has_system else roles
    alternates = all(role == ("user", "assistant")[n % 2] for n, role in enumerate(turns))
    return ("system" in refuses and has_system) or ("turns" in refuses and not alternates)


def has_lookalike(chat: Chat, row: Row) -> bool:
    messages = (*row.prompt, *(row.chosen or ()), *(row.rejected or ()))
    return any(mark in m["content"] for m in messages for mark in chat.tokenizer.all_special_tokens)


def accepted(chat: Chat, name: str) -> list[Row]:
    """The rows that the template takes; the others must be refused, and those alone."""
    known, rows = KNOWN[name], []
    results = chat.render([chat.answer_conversation(row.prompt, row.chosen or ()) for row in real_rows()])
    for row, result in zip(real_rows(), results, strict=True):
        assert isinstance(result, InputError) == (known.refused is not None or is_refused(row, known.refuses)), row.id
        if isinstance(result, InputError):
            assert known.refused is None or known.refused in str(result)
        elif not has_lookalike(chat, row):
            rows.append(row)
    return rows


def references(tokenizer: Any, name: str, conversations: list[Any]) -> tuple[list[str], Spans]:
    """Texts, and the places of what assistants wrote of them, by transformers."""
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template(
        conversations, chat_template=marked(name), return_assistant_tokens_mask=True, **tokenizer.special_tokens_map
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_ids_and_masks_equal_transformers_with_marks_or_are_refused(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    write_tokenizer(tmp_path, name, bases[VOCABULARIES[name]])
    chat = Chat(load_tokenizer(tmp_path))
    rows = accepted(chat, name)
    if KNOWN[name].refused in (None, NO_THOUGHTS):
        check_thoughts(chat, name)
    if KNOWN[name].refused is not None:
        assert not rows
        return
    assert len(rows) > 2300
    third = {row.id for row in real_rows()[THIRDS[name] :: 3]}
    rows = [row for row in rows if row.id in third]
    conversations = [[*row.prompt, *(answer or ())] for row in rows for answer in (row.chosen, row.rejected)]
    texts, spans = references(chat.tokenizer, name, conversations)
    check_pairs(chat, rows, texts, spans)
    check_conversations(chat, rows, texts[::2], spans[::2])


def check_pairs(chat: Chat, rows: list[Row], texts: list[str], spans: Spans) -> None:
    """Prompts as the sampler sends them; answers apart, scored whole."""
    tokenizer = chat.tokenizer
    prompts = tokenizer.apply_chat_template(
        [list(row.prompt) for row in rows], tokenize=False, add_generation_prompt=True
    )
    known, starts = [], []
    for number, prompt in enumerate(prompts):
        known.append(prompt)
        starts.append(len(prompt))
        for text, own in zip(texts[2 * number : 2 * number + 2], spans[2 * number : 2 * number + 2], strict=True):
            start, end = own[-1]
            assert text.startswith(prompt) and start >= len(prompt)
            known.append(text[len(prompt) : end])
            starts.append(start - len(prompt))
    encoded = tokenizer.backend_tokenizer.encode_batch(known, add_special_tokens=False)
    flat = FlatTrees.of(prepare(rows, chat, unit=Pairs(), max_length=10**6).trees)
    assert flat.names == [row.id for row in rows] and (flat.table[:, 0] == 3).all()
    assert flat.segment_lengths.tolist() == [len(own) for own in encoded]
    assert flat.flat_ids.tolist() == [number for own in encoded for number in own.ids]
    is_scored = [at >= start for own, start in zip(encoded, starts, strict=True) for at, _ in own.offsets]
    assert flat.flat_scored.tolist() == is_scored


def check_conversations(chat: Chat, rows: list[Row], texts: list[str], spans: Spans) -> None:
    """Whole texts up to the last scored token, by the tokenizer's own offsets."""
    tokenizer = chat.tokenizer
    whole = [to_row({"id": row.id, "messages": [*row.prompt, *(row.chosen or ())]}, where="x") for row in rows]
    known_ids, known_scored = [], []
    for encoded, own in zip(
        tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False), spans, strict=True
    ):
        starts, ends = np.array(encoded.offsets).T
        inside = np.any([(start <= starts) & (ends <= end) for start, end in own], axis=0)
        length = 1 + int(np.flatnonzero(inside)[-1])
        known_ids.append(np.array(encoded.ids[:length], np.int32))
        known_scored.append(inside[:length])
    flat = FlatTrees.of(prepare(whole, chat, unit=Chosen(), max_length=10**6).trees)
    assert (
        flat.segment_lengths[1::2].tolist() == [len(ids) for ids in known_ids] and not flat.segment_lengths[::2].any()
    )
    assert np.array_equal(flat.flat_ids, np.concatenate(known_ids))
    assert np.array_equal(flat.flat_scored, np.concatenate(known_scored))


@cache
def rows_with_thoughts() -> list[Row]:
    """Some pairs whose answers, also those of earlier turns, hold thoughts."""

    def thinking(messages: Any) -> list[dict[str, Any]]:
        return [
            {**m, "content": f"<think>\nAbout {m['content'][:40]!r}.\n\nSo:\n</think>\n\n{m['content'].strip()}"}
            if m["role"] == "assistant"
            else dict(m)
            for m in messages
        ]

    some = [row for row in real_rows()[::12] if len(row.prompt) > 1] + real_rows()[::120]
    return [
        to_row(
            {"id": row.id, **{name: thinking(getattr(row, name)) for name in ("prompt", "chosen", "rejected")}},
            where="x",
        )
        for row in some
        if all("think>" not in m["content"] for m in (*row.prompt, *row.chosen, *row.rejected))
    ]


def check_thoughts(chat: Chat, name: str) -> None:
    """Thoughts in answers are scored, behind the prompt that a sampler meets."""
    rows = [row for row in rows_with_thoughts() if not is_refused(row, KNOWN[name].refuses)]
    rows = [row for row in rows if not has_lookalike(chat, row)]
    assert len(rows) > 20
    conversations = [[*row.prompt, *(answer or ())] for row in rows for answer in (row.chosen, row.rejected)]
    if KNOWN[name].refused is None:
        texts, spans = references(chat.tokenizer, name, conversations)
    else:  # the template cuts thoughts: what a model writes behind the prompt that opens them
        texts, spans = [], []
        for conversation in conversations:
            prompt = chat.tokenizer.apply_chat_template(
                [dict(m) for m in conversation[:-1]], tokenize=False, add_generation_prompt=True
            )
            assert prompt.endswith("<think>\n")
            text = prompt + conversation[-1]["content"].removeprefix("<think>\n") + chat.tokenizer.eos_token
            texts.append(text)
            spans.append([[len(prompt), len(text)]])
    check_pairs(chat, rows, texts, spans)


def test_every_shared_template_is_known() -> None:
    assert {path.stem for path in FOLDER.glob("*.jinja")} == set(KNOWN)
