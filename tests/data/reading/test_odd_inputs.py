"""Rows that a newcomer may have: what other tools read without a word is read right, refused, or said by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from alignkit.data.reading.read import Source
from alignkit.errors import InputError

USER, YES = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}
ANSWER, PAIR = {"prompt": "Hi", "completion": "yes"}, {"prompt": "Hi", "chosen": "yes", "rejected": "no"}

ODD: dict[str, tuple[dict[str, Any], str]] = {
    "a row that is to be skipped": ({**ANSWER, "skip": True}, "'skip': no column says which rows are read"),
    "a row that was deleted": ({**ANSWER, "deleted": True}, "'deleted': no column says which rows"),
    "a row of the test split": ({**ANSWER, "split": "test"}, "the split 'test', and are read like all others"),
    "a row that is not valid": ({**ANSWER, "valid": False}, "'valid', which may say how good the answer is"),
    "weights of answers": ({**ANSWER, "weights": [1, 0]}, "'weights': weights of rows are not read"),
    "an importance": ({**ANSWER, "importance": 0.0}, "'importance': weights of rows are not read"),
    "a choice beside a pair": ({**PAIR, "choice": "rejected"}, "'choice' beside 'chosen' and 'rejected': it may say"),
    "a verdict beside a pair": ({**PAIR, "verdict": "B"}, "'verdict' beside 'chosen' and 'rejected'"),
    "a signed preference": ({**PAIR, "preference_score": -1}, "'preference_score' beside 'chosen' and 'rejected'"),
    "a picture's place": ({**ANSWER, "img": "a.png"}, "'img': pictures are not read"),
    "an attachment": ({**ANSWER, "attachments": ["a.pdf"]}, "'attachments': files beside a text are not read"),
    "a placeholder for a picture": ({**ANSWER, "prompt": "<image>What?"}, "'<image>' in a text, which is read as it"),
    "a template's end": ({**ANSWER, "completion": "yes</s>"}, "answers that end with '</s>', which is trained as text"),
    "a chosen answer with it": ({**PAIR, "chosen": "yes<|im_end|>"}, r"answers that end with '<\|im_end\|>'"),
    "a template's start": ({**ANSWER, "prompt": "<s>Hi"}, "prompts that begin with '<s>', which is read as text"),
    "thoughts alone": ({**ANSWER, "completion": "<think>Hm</think>\n"}, "answers of thoughts alone"),
    "cut thoughts": ({**ANSWER, "completion": "<think>Hm"}, "answers that open <think> and do not close it"),
    "a list as text": ({**ANSWER, "prompt": '["Hi", "you"]'}, "prompts that are lists of texts"),
    "a conversation elsewhere": (
        {**PAIR, "chat": [USER, YES, {"role": "user", "content": "And now?"}]},
        "a conversation in 'chat', whose turns are not read: map it by --columns messages=chat",
    ),
    "a conversation as JSON": ({**PAIR, "log": json.dumps([USER, {**YES, "content": "Oh"}])}, "conversation in 'log'"),
    "a conversation as Python writes it": ({**PAIR, "log": str([USER, YES])}, "a conversation in 'log'"),
    "a conversation in a list": ({**PAIR, "chats": [[USER, {**YES, "content": "Oh."}]]}, "a conversation in 'chats'"),
    "a conversation in an object": ({**PAIR, "chat": {"messages": [{**USER, "content": "Oh."}]}}, "in 'chat', whose"),
    "speakers beside a pair": ({**PAIR, "data": [{"speaker": "A", "text": "Oh."}]}, "a conversation in 'data'"),
    "turns in turn": ({**PAIR, "chat": [["Oh", "No"]]}, "a conversation in 'chat', .*-fields chat says that it is mea"),
    "turns of texts": ({**ANSWER, "data": ["Oh", "yes"]}, "a conversation in 'data', whose turns are not read"),
    "a record that was discarded": ({**ANSWER, "status": "Discarded"}, "the status 'Discarded', and are read like all"),
    "Argilla's answers": ({**ANSWER, "quality.responses": ["bad"]}, "'quality.responses', which may say how good"),
    "a mean of ratings": ({**ANSWER, "average_rating": 1.5}, "'average_rating', which may say how good the answer is"),
    "an unsafe answer": ({**ANSWER, "is_response_safe": False}, "'is_response_safe', which may say how good"),
    "a winner beside a pair": ({**PAIR, "winner_model_b": 1}, "'winner_model_b' beside 'chosen' and 'rejected'"),
    "scores of two models": ({**PAIR, "score_0": -1, "score_1": None}, "'score_0' beside 'chosen' and 'rejected'"),
    "votes of a pair": ({**PAIR, "rejected_votes": 4}, "'rejected_votes' beside 'chosen' and 'rejected': it may say"),
    "a draw": ({**PAIR, "draw": True}, "'draw' beside 'chosen' and 'rejected': it may say which"),
    "choices that are not asked": ({**ANSWER, "options": ["yes", "no"]}, "'options': it may belong to what is asked"),
    "a schema that is not asked": ({**ANSWER, "schema": "CREATE TABLE"}, "'schema': it may belong to what is asked"),
    "an answer beside a conversation": (
        {"messages": [USER, YES, USER], "response": "no"},
        "'response' beside a conversation that ends with the user: .*--columns completion=response reads it",
    ),
    "thoughts in a column": ({**ANSWER, "think": "Hm."}, "'think': whose thoughts these are is not said"),
    "another's thoughts": ({**ANSWER, "gemini_thinking_trajectory": "Hm."}, "'gemini_thinking_trajectory': whose tho"),
    "another template's prompt": ({**PAIR, "prompt": "User: Hi\n\nAssistant: "}, "prompts that end with 'Assistant:'"),
    "Alpaca's template": ({**PAIR, "prompt": "### Instruction:\nHi\n\n### Response:\n"}, "end with '### Response:'"),
    "an answer with its role": ({**ANSWER, "completion": "Assistant: yes"}, "answers that begin with 'Assistant:'"),
    "an answer with a next turn": (
        {**PAIR, "chosen": "yes\n\nHuman: No!"},
        r"go on with '\\n\\nHuman:', a turn of their",
    ),
    "a rendered next turn": (
        {**ANSWER, "completion": "yes<|im_end|>\n<|im_start|>user"},
        r"go on with '<\|im_start\|>'",
    ),
    "two answers in a row": (
        {**ANSWER, "completion": [YES, {**YES, "content": "or no"}]},
        "two turns of the assistant in",
    ),
    "an answer as a list": ({**ANSWER, "completion": '["yes"]'}, "answers that are lists of texts"),
    "no input": ({"instruction": "Hi", "input": "<noinput>", "output": "yes"}, "the placeholder '<noinput>' in a text"),
    "a tag around a result": (
        {"messages": [USER, YES, {"role": "tool", "content": "<tool_response>\n3\n</tool_response>"}, YES]},
        "results of tools that begin with '<tool_response>'",
    ),
    "a gap for a name": ({**ANSWER, "completion": "I am {{name}}."}, "the placeholder '{{name}}' in a text"),
    "a system text": ({**ANSWER, "sys": "Be brief."}, "'sys': the system message is 'system'"),
    "two answers in a list": ({**ANSWER, "completion": ["yes", "no"]}, "'completion' is a list with 'yes' in it"),
    "a prompt that is an object": ({**ANSWER, "prompt": {"text": "Hi"}}, "'prompt': a message needs 'role'"),
    "one message for a list": ({"messages": USER}, "'messages' must be a list of messages"),
    "conversations in a list": ({"messages": [[USER, YES]]}, "'messages' is a list with .* in it"),
    "roles in capitals": ({"messages": [{"role": "User", "content": "Hi"}, YES]}, "role 'User'; .*did you mean 'user'"),
    "speakers": ({"messages": [{"speaker": "user", "text": "Hi"}, YES]}, "a message needs 'role' and 'content'"),
    "a thumb in a message": ({"messages": [USER, {**YES, "feedback": "down"}]}, "a message has the field 'feedback'"),
    "half a weight": ({"messages": [USER, {**YES, "weight": 0.5}]}, "weight is 1 .or true., or 0"),
    "a weight as text": ({"messages": [USER, {**YES, "weight": "0"}]}, "weight is 1 .or true., or 0"),
    "half a turn of history": ({**ANSWER, "history": [["Ho", None]]}, "'history' must be a list"),
    "tools that are none": ({"messages": [USER, YES], "tools": "none"}, "'tools' is text, and no JSON"),
    "a label as text": ({**ANSWER, "label": "True"}, "'label' must be true or false"),
    "scores with a comma": (
        {**PAIR, "score_chosen": "7,5", "score_rejected": 7},
        "score_chosen '7,5' is .*; write 7.5",
    ),
    "grades": ({**PAIR, "score_chosen": 6, "score_rejected": "6/10"}, "score_rejected '6/10' is no number: ties and"),
    "a name that is nearly read": ({**ANSWER, "sytem": "Be brief."}, "'sytem' is kept and not read; did you mean"),
    "a score of one answer": ({**PAIR, "rejected-rating": 3}, "have rejected-rating and no chosen-rating: they count"),
    "scores of two kinds": ({**PAIR, "score_chosen": 3, "rejected_rating": 2}, "'rejected_rating' may be two kinds"),
    "a list of such scores": ({**PAIR, "rating": [6, "7,5"]}, "rating '7,5' is no number"),
    "an answer that is true": ({**ANSWER, "completion": True}, "'completion', found the truth value true"),
}
PLAIN: list[dict[str, Any]] = [
    {**PAIR, "chat": [USER, YES], "candidates": [{"text": "yes", "score": 1}]},
    {**PAIR, "chat": ["Hi", "yes "], "data": {"source": "x"}, "turns": 2, "log": '[{"name": "f"}]'},
    {**PAIR, "labelling_prompt": [{"role": "system", "content": "Judge."}], "status": "swapped"},  # distilabel's
    {"messages": [USER, YES], "reference": [{"role": "assistant", "content": "no"}], "status": "completed"},
    {**ANSWER, "prompt": "Translate the word assistant:", "completion": "Assistant (m/f)"},
    {**ANSWER, "prompt": "Hi: yes or no?", "options": ["yes", "no"], "choices": None, "background": ""},
    {**PAIR, "draw": False, "chosen_votes": None, "score": 5},
    {"messages": [USER, YES, USER], "completion": "yes", "response": "yes"},
    {**PAIR, "meta": [["x", "y"]], "chat": "a name", "log": json.dumps([USER, YES])},
    {**ANSWER, "deleted": False, "skip": 0, "split": "train", "attachments": [], "weights": None, "valid": True},
    {**PAIR, "score_chosen": "N/A", "score_rejected": ""},
    {**PAIR, "chosen_score": 9, "rating": [9, 2]},  # distilabel's
    {**PAIR, "choice": None, "verdict": "", "completion": "yes"},
    {**ANSWER, "completion": "<think>Hm</think>yes, </s> ends a text"},
    {**ANSWER, "prompt": '["Hi", 2]'},
    {**ANSWER, "prompt": "What is {{ x }} in Jinja, and <img>?"},
]


def said_of(
    file: Path,
    fields: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    *,
    behind: int = 0,
    columns: dict[str, str] | None = None,
) -> list[str]:
    """Every line about three rows with these fields, behind so many plain ones: of the refusal, or warnings."""
    plain = [{"id": f"plain {n}", **ANSWER} for n in range(behind)]
    rows = [*plain, *({"id": str(n), **fields} for n in range(3))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    caplog.clear()
    try:
        assert len(list(Source(str(file), columns or {}).rows())) == len(rows)
    except InputError as error:
        return [str(error)]
    return [record.message for record in caplog.records]


@pytest.mark.parametrize(("fields", "said"), ODD.values(), ids=ODD.keys())
def test_nothing_odd_is_read_in_silence(
    fields: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = said_of(tmp_path / "odd.jsonl", fields, caplog)
    assert line.startswith(f"{tmp_path}/odd.jsonl") and re.search(said, line), line


@pytest.mark.parametrize(("fields", "said"), ODD.values(), ids=ODD.keys())
def test_what_is_said_of_the_first_row_is_said_of_the_1001st(
    fields: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = said_of(tmp_path / "late.jsonl", fields, caplog, behind=1000)
    assert re.search(said, line), line
    assert "first in" not in line or line.endswith(f"(first in {tmp_path}/late.jsonl, line 1001)")


@pytest.mark.parametrize("escape", [("<", "\\u003c"), ("<", "\\u003C"), ("/", "\\/")])
def test_marks_are_seen_where_a_writer_escapes_them(
    escape: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "escaped.jsonl"
    file.write_text(json.dumps({"prompt": "Say it.", "completion": "It.</s>"}).replace(*escape) + "\n")
    list(Source(str(file)).rows())
    assert "answers that end with '</s>'" in caplog.text


@pytest.mark.parametrize("fields", PLAIN, ids=str)
def test_of_plain_rows_nothing_is_said(
    fields: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert said_of(tmp_path / "plain.jsonl", fields, caplog) == []


def test_turns_that_are_mapped_or_left_unread_are_said_of_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {**PAIR, "chat": [USER, {**YES, "content": "Ho"}, {**USER, "content": "And?"}]}
    for columns, said in (({}, 1), ({"chat": ""}, 0), ({"messages": "chat", "prompt": ""}, 0)):
        assert len(said_of(tmp_path / "chat.jsonl", row, caplog, columns=columns)) == said
