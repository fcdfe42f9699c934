"""Thoughts beside an answer, in its message or in a column of the row, stand in the answer's message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from marked_templates import FOLDER
from places import BESIDE
from tiny_models import tiny_tokenizer

from alignkit.data.chat.chat import Chat
from alignkit.data.prepared.tokens import prepare
from alignkit.data.reading.read import Source
from alignkit.data.reading.rows import Row, to_row, unusable_reason
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer
from alignkit.units import Chosen, Pairs

USER = {"role": "user", "content": "2 + 3?"}
FIVE = {"role": "assistant", "content": "5"}
THOUGHT = {**FIVE, "reasoning_content": "so"}
CASE = BESIDE / "cases" / "02-reasoning-content" / "rows.jsonl"


def read(fields: dict[str, Any], **columns: str) -> Row:
    return to_row(fields, where="here", columns=columns)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "thought", "thoughts"])
def test_thoughts_of_a_message_are_read_under_each_name(name: str) -> None:
    row = read({"messages": [USER, {**FIVE, name: "so"}]})
    assert row.chosen == (THOUGHT,) and row.prompt == (USER,)
    assert row.reference == "5"  # what lengths and BLEU are compared with is the answer
    assert read({"messages": [USER, {**FIVE, name: " "}]}).chosen == (FIVE,)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"messages": [USER, {**THOUGHT, "thinking": "else"}]},
            "thoughts of two kinds that differ, 'reasoning_content' ",
        ),
        ({"messages": [{**USER, "thinking": "so"}, FIVE]}, "'thinking': the user has no thoughts"),
        ({"messages": [USER, {**FIVE, "thinking": {"text": "so"}}]}, "'thinking' must be text"),
        (
            {"prompt": "2 + 3?", "chosen": "5", "rejected": "6", "reasoning_content": "so"},
            "'reasoning_content': there is",
        ),
        ({"prompt": "2 + 3?", "chosen": "5", "rejected_reasoning": "so"}, "'rejected_reasoning': there is no rejected"),
        ({"prompt": "2 + 3?", "reasoning_content": "so"}, "'reasoning_content': there is no single answer"),
        (
            {"prompt": "2 + 3?", "chosen": [THOUGHT], "reasoning_content": "no"},
            "and the thoughts in the answer's message",
        ),
        ({"prompt": "2 + 3?", "chosen": "5", "Complex_CoT": 7}, "'Complex_CoT' must be text"),
        (
            {"prompt": "2 + 3?", "chosen": "5", "cot": "so"},
            "'cot': whose thoughts .*name an answer's own `reasoning_content`",
        ),
        (
            {"prompt": "2 + 3?", "chosen": "5", "rejected": "6", "judge_reasoning": "so"},
            "'judge_reasoning': whose thoughts",
        ),
    ],
)
def test_thoughts_that_belong_to_no_answer_are_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^here: .*{said}"):
        read(fields)


def test_thoughts_in_columns_stand_before_their_answer() -> None:
    pair = {"prompt": "2 + 3?", "chosen": "5", "rejected": "6"}
    row = read({**pair, "chosen_reasoning": "so", "rejected_reasoning": "odd"})
    assert row.chosen == (THOUGHT,) and row.rejected == (
        {"role": "assistant", "content": "6", "reasoning_content": "odd"},
    )
    assert read({"prompt": "2 + 3?", "chosen": "5", "reasoning_content": "so"}).chosen == (THOUGHT,)
    assert read(
        {"question": "2 + 3?", "answer": "5", "cot": "so"}, chosen="answer", reasoning_content="cot"
    ).chosen == (THOUGHT,)
    medical = {"Question": "2 + 3?", "Complex_CoT": "so", "Response": "5"}
    assert read(medical, prompt="Question", chosen="Response").chosen == (THOUGHT,)
    assert read({"instruction": "2 + 3?", "output": "5", "reasoning_content": "so"}).chosen == (THOUGHT,)
    assert read({"messages": [USER, FIVE], "reasoning_content": "so"}).chosen == (THOUGHT,)
    bad = read({"prompt": "2 + 3?", "completion": "5", "label": False, "reasoning_content": "so"})
    assert bad.rejected == (THOUGHT,) and bad.label is False
    assert read({**pair, "chosen_reasoning": None, "rejected_reasoning": ""}).chosen == (FIVE,)


def test_answers_that_differ_by_their_thoughts_are_a_pair() -> None:
    row = read({"prompt": [USER], "chosen": [THOUGHT], "rejected": [{**FIVE, "thinking": "guess"}]})
    assert unusable_reason(row, Pairs()) is None
    same = read({"prompt": [USER], "chosen": [THOUGHT], "rejected": [{**FIVE, "thinking": "so"}]})
    assert unusable_reason(same, Pairs()) == "chosen equals rejected"


@pytest.mark.skipif(not CASE.exists(), reason="the shared cases are not here")
def test_thoughts_of_rows_are_scored_where_the_template_writes_them_and_refused_where_not(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    rows = list(Source(str(CASE)).rows())
    chat = Chat(tokenizer, template=str(FOLDER / "qwen3.jinja"))
    trees = prepare(rows, chat, unit=Chosen(), max_length=500).trees
    fields = [json.loads(line)["messages"][1] for line in CASE.read_text(encoding="utf-8").splitlines()]
    for tree, message in zip(trees, fields, strict=True):
        completion = tree.completions[0]
        scored = tokenizer.decode(completion.ids[completion.scored].tolist())
        assert scored == f"<think>\n{message['reasoning_content']}\n</think>\n\n{message['content']}<|im_end|>"
    for template, said in (("chatml", "reasoning_content"), (str(FOLDER / "deepseek-v3.jinja"), "reasoning_content")):
        with pytest.raises(InputError, match=f"^row r0: .*{said}.* take such rows out"):
            prepare(rows, Chat(tokenizer, template=template), unit=Chosen(), max_length=500)
