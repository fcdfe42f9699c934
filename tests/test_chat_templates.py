"""Real rows under twenty real chat templates: ids and masks equal transformers' with marks, or a refusal."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marked_templates import FOLDER, KNOWN, marked, write_tokenizer
from qwen_vocabulary import is_available, qwen_tokenizer

from alignkit.data.chat import CHATML, Chat
from alignkit.data.rows import Row, to_row, unusable_reason
from alignkit.data.tokens import load_tokenizer, prepare
from alignkit.errors import InputError
from alignkit.policy import embedded

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the shared real data is not here")
VOCABULARIES = {name: ("qwen", "smollm2")[number % 2] for number, name in enumerate(sorted(KNOWN))}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not is_available() or not embedded.is_available():
        pytest.skip("the packages that carry the vocabularies are not installed")
    qwen = tmp_path_factory.mktemp("qwen")
    qwen_tokenizer(qwen, template=CHATML)
    return {"qwen": qwen, "smollm2": embedded.folder()}


@cache
def real_rows() -> list[Row]:
    """Usable pairs: the first few, and some of every kind that the data's README names."""
    seen: dict[str, int] = {}
    chosen = []
    with gzip.open(FOLDER.parent / "preference-dev.jsonl.gz", "rt", encoding="utf-8") as file:
        for number, line in enumerate(file):
            fields = json.loads(line)
            row = to_row(fields, where="x")
            tags = [tag for tag in fields["tags"] if seen.get(tag, 0) < 5]
            if unusable_reason(row, "pairs") is None and (number < 40 or tags):
                chosen.append(row)
                seen |= {tag: seen.get(tag, 0) + 1 for tag in tags}
    return chosen


def is_refused(row: Row, refuses: tuple[str, ...]) -> bool:
    roles = [message["role"] for message in row.prompt]
    has_system = bool(roles) and roles[0] == "system"
    turns = roles[1:] if has_system else roles
    alternates = all(role == ("user", "assistant")[n % 2] for n, role in enumerate(turns))
    return ("system" in refuses and has_system) or ("turns" in refuses and not alternates)


def reference(tokenizer: Any, name: str, messages: list[Any]) -> tuple[str, list[tuple[int, int]]]:
    """Text and what assistants wrote of it, by transformers."""
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, spans = render_jinja_template(
        [messages], chat_template=marked(name), return_assistant_tokens_mask=True, **tokenizer.special_tokens_map
    )
    return texts[0], [tuple(span) for span in spans[0]]


def has_lookalike(chat: Chat, row: Row) -> bool:
    messages = (*row.prompt, *(row.chosen or ()), *(row.rejected or ()))
    return any(mark in m["content"] for m in messages for mark in chat.tokenizer.all_special_tokens)


def accepted(chat: Chat, name: str) -> list[Row]:
    """The rows that the template takes; the others must be refused, and those alone."""
    known, rows = KNOWN[name], []
    results = chat.render([chat.answer_job(row.prompt, row.chosen or ()) for row in real_rows()])
    for row, result in zip(real_rows(), results, strict=True):
        assert isinstance(result, InputError) == (known.refused is not None or is_refused(row, known.refuses)), row.id
        if isinstance(result, InputError):
            assert known.refused is None or known.refused in str(result)
        elif not has_lookalike(chat, row):
            rows.append(row)
    return rows


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_ids_and_masks_equal_transformers_with_marks_or_are_refused(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    write_tokenizer(tmp_path, name, bases[VOCABULARIES[name]])
    chat = Chat(load_tokenizer(tmp_path))
    tokenizer = chat.tokenizer
    rows = accepted(chat, name)
    if KNOWN[name].refused is not None:
        assert not rows
        return
    assert len(rows) > 30

    def ids_of(text: str) -> list[int]:
        return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    prepared = prepare(rows, chat, trains_on="pairs", max_length=10**6)
    for row, tree in zip(rows, prepared.trees, strict=True):
        prompt = tokenizer.apply_chat_template(list(row.prompt), tokenize=False, add_generation_prompt=True)
        assert tree.prompt.ids.tolist() == ids_of(prompt)
        for answer, completion in zip((row.chosen, row.rejected), tree.completions, strict=True):
            text, spans = reference(tokenizer, name, [*row.prompt, *(answer or ())])
            start, end = spans[-1]
            assert start == len(prompt) and completion.scored.all()
            assert completion.ids.tolist() == ids_of(text[start:end])
    whole = [
        to_row({"id": row.id, "messages": [*row.prompt, *(row.chosen or ())]}, where="x")
        for row in rows
        if not any("<think>" in message["content"] for message in row.prompt)
    ]
    prepared = prepare(whole, chat, trains_on="chosen", max_length=10**6)
    for row, tree in zip(whole, prepared.trees, strict=True):
        text, spans = reference(tokenizer, name, [*row.prompt, *(row.chosen or ())])
        encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        inside = [any(s <= a and b <= e for s, e in spans) for a, b in encoded.offsets]
        length = 1 + int(np.flatnonzero(inside)[-1])
        assert tree.completions[0].ids.tolist() == encoded.ids[:length]
        assert tree.completions[0].scored.tolist() == inside[:length]


def test_every_shared_template_is_known() -> None:
    assert {path.stem for path in FOLDER.glob("*.jinja")} == set(KNOWN)
