"""Rows with the columns of published preference sets, ties, and fields that change what a row means."""

from __future__ import annotations

import copy
import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy
import polars
import pytest

from alignkit.data.reading.cells import TEXTS_OF_MISSING
from alignkit.data.reading.fields import SCORES, names
from alignkit.data.reading.read import read_rows
from alignkit.data.reading.rows import Row, text_of, to_row, unusable_reason
from alignkit.errors import InputError
from alignkit.units import Chosen, Pairs, Samples

USER = {"role": "user", "content": "Hi"}
YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "yes"}
NAN = float("nan")
H4 = {"prompt": "Hi", "prompt_id": "0", "chosen": [USER, YES], "rejected": [USER, NO], "messages": [USER, YES]}
COMPLETIONS = [
    {"response": "so", "overall_score": 5.0, "fine-grained_score": 4.0, "model": "a", "annotations": {}},
    {"response": "yes", "overall_score": 8.5, "fine-grained_score": 4.5, "model": "b", "annotations": {}},
    {"response": "no", "overall_score": 2.0, "fine-grained_score": 1.0, "model": "c", "annotations": {}},
]


def read(fields: dict[str, Any], **columns: str) -> Row:
    return to_row(fields, where="here", columns=columns)


@pytest.mark.parametrize(
    "fields",
    [
        {**H4, "score_chosen": 8.5, "score_rejected": 4.0},  # HuggingFaceH4/ultrafeedback_binarized
        {"source": "x", "instruction": "Hi", "models": ["a"], "completions": COMPLETIONS, "correct_answers": None},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: yes", "rejected": "\n\nHuman: Hi\n\nAssistant: no"},  # hh-rlhf
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " yes", "rejected": " no", "response": " yes"},
        {
            "instruction": "Hi",
            "chosen_response": "yes",
            "rejected_response": "no",
            "chosen_avg_rating": 5.0,
            "rejected_avg_rating": 3.75,
            "chosen_model": "a",
        },  # argilla
        {"dataset": "x", "chosen": [USER, YES], "rejected": [USER, NO], "chosen_rating": 5.0, "rejected_rating": 4.0},
        {
            "source": "x",
            "prompt": "Hi",
            "chosen": [USER, YES],
            "chosen-rating": 5.0,
            "rejected": [USER, NO],
            "rejected-rating": 4.0,
        },
        {"system": "", "input": "Hi", "chosen": "yes", "rejected": "no", "rating": [9.0, 8.0], "status": "unchanged"},
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "no"}},  # LLaMA-Factory
        {"instruction": "Hi", "input": "", "chosen": "yes", "rejected": "no"},
        {"messages": [USER], "chosen": YES, "rejected": NO},  # Axolotl
        {"messages": [USER, YES], "rejected_response": "no"},  # ms-swift
        {"messages": [USER, YES], "rejected_messages": [USER, NO]},
        {"messages": [USER, YES], "chosen": "yes", "rejected": "no"},
        {
            "prompt": "Hi",
            "messages": [USER, {"role": "assistant", "content": "else"}],
            "chosen": "yes",
            "rejected": "no",
        },
        {"input": {"messages": [USER], "tools": []}, "preferred_output": [YES], "non_preferred_output": [NO]},  # OpenAI
        {"question": "Hi", "chosen": "yes", "rejected": "no"},
        {"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "Hi", "completion": "yes", "rejected": "no"},
        {"instruction": "Hi", "output": "yes", "rejected": "no"},
        {"chosen_messages": [USER, YES], "rejected_messages": [USER, NO]},
    ],
    ids=str,
)
def test_a_preference_beside_whatever_else_is_a_preference(fields: dict[str, Any]) -> None:
    for given in (fields, {**fields, "extra": None, "score": NAN}):
        row = read(given)
        assert row.prompt == (USER,)
        assert (row.chosen, row.rejected) == ((YES,), (NO,))
        assert not row.is_conversation and row.reference == "yes"
        assert [unusable_reason(row, use) for use in (Pairs(), Chosen(), Samples())] == [None, None, None]


def test_a_prompt_that_ends_with_the_assistant_is_refused() -> None:
    other = {"role": "assistant", "content": "Shall I?"}
    for fields in (
        {"messages": [USER, other], "chosen": "yes", "rejected": "no"},
        {"prompt": [USER, other], "chosen": "yes", "rejected": "no"},
        {"prompt": [USER, other], "completion": "yes"},
        {"prompt": [USER, other]},
    ):
        with pytest.raises(InputError, match="the prompt ends with an assistant message"):
            read(fields)


def test_turns_of_a_transcript_are_messages() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello: you\n\nHuman: And?\n\nAssistant: {}"
    row = read({"chosen": text.format("yes"), "rejected": text.format("no")})
    assert row.prompt == (USER, {"role": "assistant", "content": "Hello: you"}, {"role": "user", "content": "And?"})
    assert (row.chosen, row.rejected) == ((YES,), (NO,))


def test_the_best_completion_stands_against_the_worst_and_missing_scores_are_left_out() -> None:
    unscored = {"response": "what", "overall_score": NAN, "fine-grained_score": None}
    row = read({"instruction": "Hi", "completions": [unscored, *COMPLETIONS]})
    assert (row.chosen, row.rejected) == ((YES,), (NO,))
    same = [{**completion, "overall_score": 3} for completion in COMPLETIONS]
    assert unusable_reason(read({"instruction": "Hi", "completions": same}), Pairs()) == "tie: equal scores"
    none = read({"instruction": "Hi", "completions": [unscored]})
    assert unusable_reason(none, Chosen()) == "no chosen answer" and unusable_reason(none, Samples()) is None


@pytest.mark.parametrize(
    ("scores", "is_tie"),
    [
        ({"score_chosen": 6.0, "score_rejected": 6}, True),
        ({"score_chosen": "6.0", "score_rejected": "6"}, True),
        ({"chosen_score": 1, "rejected_score": 1}, True),
        ({"rating_chosen": 5, "rating_rejected": 5}, True),
        ({"chosen_rating": 5, "rejected_rating": 5}, True),
        ({"chosen-rating": 5, "rejected-rating": 5}, True),
        ({"chosen_avg_rating": 4.75, "rejected_avg_rating": 4.75}, True),
        ({"rating": [9.0, 9.0]}, True),
        ({"rating": [9.0, 7.0]}, False),
        ({"rating": 9.0}, False),
        ({"score_chosen": 6.0, "score_rejected": 5.5}, False),
        ({"score_chosen": NAN, "score_rejected": NAN}, False),
        ({"score_chosen": None, "score_rejected": None}, False),
        ({"score_chosen": "N/A", "score_rejected": "N/A"}, False),
        ({"score_chosen": 6.0}, False),
    ],
)
@pytest.mark.parametrize("shape", [{"prompt": "Hi", "chosen": "yes", "rejected": "no"}, H4], ids=["plain", "h4"])
def test_equal_scores_are_a_tie_and_missing_ones_are_not(
    shape: dict[str, Any], scores: dict[str, Any], is_tie: bool
) -> None:
    row = read({**shape, **scores})
    assert unusable_reason(row, Pairs()) == ("tie: equal scores" if is_tie else None)
    assert unusable_reason(row, Chosen()) is None is unusable_reason(row, Samples())


def test_equal_scores_and_equal_answers_are_a_tie_too() -> None:
    row = read({**H4, "rejected": [USER, YES], "score_chosen": 6, "score_rejected": 6})
    assert unusable_reason(row, Pairs()) == "tie: equal scores"


def test_answers_to_different_prompts_are_no_pair() -> None:
    row = read({"chosen": [USER, YES], "rejected": [{"role": "user", "content": "Else"}, NO]})
    assert unusable_reason(row, Pairs()) == "chosen and rejected have different prompts"
    assert unusable_reason(row, Chosen()) is None


def test_a_system_message_beside_a_pair_holds_for_both_answers() -> None:
    system = {"role": "system", "content": "Be brief."}
    row = read({"system": "Be brief.", "chosen": [system, USER, YES], "rejected": [USER, NO]})
    assert unusable_reason(row, Pairs()) is None


def test_answers_of_several_turns_are_a_pair_where_they_stand_behind_the_same() -> None:
    for rejected in ("no", [NO], [NO, USER, NO]):
        row = read({"prompt": "Hi", "chosen": [YES, USER, YES], "rejected": rejected})
        assert unusable_reason(row, Pairs()) == "chosen and rejected have different prompts"
    row = read({"prompt": "Hi", "chosen": [YES, USER, YES], "rejected": [YES, USER, NO]})
    assert unusable_reason(row, Pairs()) is None
    assert (row.prompt, row.chosen, row.rejected) == ((USER, YES, USER), (YES,), (NO,))


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [USER, {**YES, "content": "<think>a</think>b", "reasoning_content": "c"}]},
        {"prompt": "Hi", "completion": " <thinking>a</thinking>b", "reasoning_content": "c"},
    ],
)
def test_thoughts_in_a_field_and_in_the_text_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="thoughts twice"):
        read(fields)


def test_a_system_column_is_the_system_turn_and_history_stands_before_the_question() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert read({"system": "Be brief.", "messages": [USER, YES]}).prompt == (system, USER)
    assert read({"system_prompt": "Be brief.", "messages": [system, USER, YES]}).prompt == (system, USER)
    assert read({"system": "", "prompt": "Hi", "chosen": "yes"}).prompt == (USER,)
    assert read({"system": NAN, "prompt": "Hi", "chosen": "yes"}).prompt == (USER,)
    row = read({"system": "Be brief.", "history": [["a", "b"], ["c", "d"]], "instruction": "Hi", "output": "yes"})
    assert row.prompt[0] == system and [m["content"] for m in row.prompt[1:]] == ["a", "b", "c", "d", "Hi"]
    assert [m["role"] for m in row.prompt[1:]] == ["user", "assistant", "user", "assistant", "user"]
    row = read({"prompt": [system, USER], "chosen": [USER, YES], "rejected": [USER, NO]})
    assert row.prompt == (system, USER) and row.not_a_pair is None


@pytest.mark.parametrize("bad", [False, 0, 0.0])
@pytest.mark.parametrize("good", [True, 1, 1.0])
@pytest.mark.parametrize(
    "shape",
    [
        {"prompt": "Hi", "completion": "no"},
        {"messages": [USER, NO]},
        {"conversations": [HUMAN, {"from": "gpt", "value": "no"}]},
        {"instruction": "Hi", "input": "", "output": "no"},
        {"prompt": "Hi", "chosen": "no"},
    ],
)
def test_labels_are_read_in_every_shape(shape: dict[str, Any], good: object, bad: object) -> None:
    for name in ("label", "kto_tag"):
        row = read({**shape, name: bad})
        assert (row.prompt, row.chosen, row.rejected) == ((USER,), None, (NO,)) and not row.is_conversation
        for train_on in (None, "last", "all-assistant"):
            assert unusable_reason(row, Chosen(), train_on) == "marked bad"
        assert read({**shape, name: good}).chosen == (NO,)


@pytest.mark.parametrize("label", ["true", "false", -1, 2, 0.5, "thumbs_up", NAN, None, [], {}])
def test_any_other_label_is_refused(label: object) -> None:
    for shape in ({"prompt": "Hi", "completion": "yes"}, {"messages": [USER, YES]}):
        with pytest.raises(InputError, match=r"here: 'label' must be true or false .*--ignore-fields label"):
            read({**shape, "label": label})
        assert read({**shape, "label": label}, label="").chosen == (YES,)


def test_a_table_of_many_shapes_has_null_in_the_columns_of_the_others(tmp_path: Path) -> None:
    many: list[dict[str, Any]] = [
        {"messages": [USER, {**YES, "tool_calls": None}]},
        {"prompt": "Hi", "completion": "yes", "label": None},
        {"prompt": "Hi", "completion": "no", "label": False},
        {"prompt": "Hi", "chosen": "yes", "rejected": "no", "score_chosen": 2.0, "score_rejected": 1.0},
        {"instruction": "Hi", "input": None, "output": "yes", "system": None, "history": None},
        {"prompt": "Hi"},
    ]
    polars.concat([polars.DataFrame([row]) for row in many], how="diagonal_relaxed").write_parquet(
        tmp_path / "a.parquet"
    )
    rows = read_rows(str(tmp_path / "a.parquet"))
    assert all(row.prompt == (USER,) for row in rows)
    assert [row.chosen for row in rows] == [(YES,), (YES,), None, (YES,), (YES,), None]
    assert [row.rejected for row in rows] == [None, None, (NO,), (NO,), None, None]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": [{"type": "function"}], "messages": [USER, YES]}, "'tools' holds what is no function"),
        (
            {"input": {"messages": [USER], "tools": [{}]}, "preferred_output": [YES]},
            "'tools' holds what is no function",
        ),
        ({"conversations": [HUMAN, {"from": "function_call", "value": "{}"}]}, "'value' holds what is no call"),
        ({"messages": [USER, {**YES, "name": "Ann"}]}, "'name': names of speakers"),
        ({"messages": [USER, {**YES, "mood": "glad"}]}, "'mood': alignkit does not know what it means"),
        ({"images": ["a.png"], "messages": [USER, YES]}, "'images': pictures are not read"),
        ({"audios": ["a.wav"], "prompt": "Hi"}, "'audios': sound is not read"),
        ({"videos": ["a.mp4"], "prompt": "Hi", "chosen": "yes"}, "'videos': videos are not read"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}]},
            "a part of type 'image': pictures are not read",
        ),
        ({"prompt": [{"role": "user", "content": [{"type": "file"}]}]}, "a part of type 'file': only text is read"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "x", "image": "y"}]}]}, "field 'image'"),
        ({"prompt": [{"role": "judge", "content": "x"}]}, "role 'judge'; known are system, developer, user"),
        ({"messages": [{**USER, "train": True}, YES]}, "of the user has train: true"),
        ({"messages": [{**USER, "loss": True}, YES]}, "of the user has loss: true"),
        ({"messages": [USER, {**YES, "loss": "no"}]}, "loss is 1 .or true., or 0"),
        ({"loss_weight": 0.5, "prompt": "Hi", "chosen": "yes"}, "'loss_weight': weights of rows"),
        ({"system": "a", "messages": [{"role": "system", "content": "b"}, USER, YES]}, "system message differ"),
        ({"system": 3, "messages": [USER, YES]}, "'system' must be text, found the number 3"),
        ({"history": [["a", "b"]], "messages": [USER, YES]}, "a 'history' beside a whole conversation"),
        ({"history": "a", "instruction": "Hi", "output": "yes"}, "'history' must be a list"),
        ({"chosen": "yes", "chosen_response": "no", "prompt": "Hi"}, "both 'chosen' and 'chosen_response'"),
        ({"messages": [USER, YES], "conversations": [HUMAN]}, "'messages' and 'conversations' hold different turns"),
        ({"prompt": [YES, USER], "chosen": [USER, YES]}, "'prompt' is not what 'chosen' begins with"),
        ({"prompt": "Else", "messages": [USER, NO], "chosen": "yes"}, "'prompt' is not what the conversation"),
        ({"prompt": "Hi", "input": "more", "chosen": "yes"}, "an 'input' beside its 'prompt'"),
        ({"prompt": "Hi", "chosen": [YES, USER]}, "'chosen' ends with the user: it is no answer"),
        ({"prompt": "Hi", "completion": [USER]}, "'completion' ends with the user: it is no answer"),
        ({"prompt": "Hi", "completion": [USER, YES]}, "'completion' holds a whole conversation"),
        ({"prompt": "Hi", "chosen": 1}, "in 'chosen', found the number 1; write numbers in quotes"),
        ({"prompt": "Hi", "chosen": 0}, "in 'chosen', found the number 0; write numbers in quotes"),
        ({"prompt": True, "chosen": "yes"}, "in 'prompt', found the truth value true"),
        ({"instruction": "Hi", "input": 0, "output": "yes"}, "'input' must be text, found the number 0"),
        ({"instruction": "Hi", "input": 1, "output": "yes"}, "'input' must be text, found the number 1"),
        ({"instruction": "Hi", "input": [1, 0], "output": "yes"}, r"'input' must be text, found \[1, 0\]"),
        ({"conversations": [{"from": ["gpt"], "value": "x"}]}, "a message needs 'role' and 'content' as text"),
        ({"conversations": "Hi"}, "'conversations' is text, and no JSON: .*'Hi'; correct it"),
        ({"messages": "[{'role': 'user', 'content': 'Hi'}]"}, "how Python prints it: write it by json.dumps"),
        ({"messages": "3"}, "'messages' must be a list of messages, or one written as JSON text, found the number 3"),
        (
            {"prompt": "Hi", "chosen": ["yes", "yes!"], "rejected": "no"},
            "'chosen' is a list with 'yes' in it: one answer",
        ),
        ({"prompt": ["Hi", "Ho"], "chosen": "yes"}, "'prompt' is a list with 'Hi' in it: a list holds messages"),
        ({"prompt": "Hi", "chosen": [{**YES, "mood": "glad"}]}, "'chosen': a message has the field 'mood'"),
        (
            {"messages": [USER, {**YES, "chosen": "yes", "rejected": "no"}]},
            "'chosen': a preference inside a message is not read; write the two answers as chosen and rejected",
        ),
        (
            {"prompt": "Hi", "completion": "yes", "is_correct": False},
            "'is_correct': it may say that the answer is a bad",
        ),
        ({"chosen": "yes", "rejected": "no"}, "'chosen' holds only the answer and there is no 'prompt'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_change_a_row_in_silence_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^here: .*{said}"):
        read(fields)


def test_fields_that_say_nothing_do_no_harm() -> None:
    empty = {"tools": [], "images": None, "audios": NAN, "videos": [], "history": [], "system": None, "functions": "[]"}
    assert read({"messages": [USER, YES], **empty}).chosen == (YES,)
    message = {**YES, "tool_calls": None, "name": "", "reasoning_content": "", "function_call": {}, "id": "m1"}
    assert read({"messages": [USER, message]}).chosen == (YES,)
    assert read({"messages": [HUMAN, {**GPT, "weight": None}]}).chosen == (YES,)


def test_a_field_is_left_unread_where_the_user_says_so() -> None:
    row = read(
        {"tools": [{}], "images": ["a"], "messages": [USER, {**YES, "name": "Ann"}]},
        **{"tools": "", "images": "", "message.name": ""},
    )
    assert row.prompt == (USER,) and row.chosen == (YES,) and row.fields["images"] == ["a"]


def test_text_parts_are_joined_and_flags_say_what_is_scored() -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "input_text", "text": "i", "annotations": []}]
    assert read({"prompt": [{"role": "user", "content": parts}]}).prompt == (USER,)
    for name in ("train", "loss", "loss_weight", "weight", "training"):
        for off, on in ((False, True), (0, 1), (0.0, 1.0)):
            row = read({"messages": [USER, {**NO, name: off}, USER, {**YES, name: on}]})
            assert row.prompt == (USER, {**NO, "weight": 0}, USER) and row.chosen == (YES,)
    assert read({"messages": [{**USER, "weight": 0}, YES]}).prompt == (USER,)
    off = read({"messages": [USER, {**YES, "loss": False}]})
    assert unusable_reason(off, Chosen()) == "every assistant turn has weight 0"
    assert unusable_reason(off, Chosen(), "last") == "the answer has weight 0"


def test_missing_cells_are_missing_and_never_text() -> None:
    for missing in (None, NAN):
        row = read({"instruction": "Hi", "input": missing, "output": "yes"})
        assert row.prompt == (USER,) and row.chosen == (YES,)
        assert unusable_reason(read({"instruction": "Hi", "output": missing}), Chosen()) == "no chosen answer"
        assert unusable_reason(read({"prompt": "Hi", "chosen": missing, "rejected": "no"}), Pairs()) is not None
        assert (
            unusable_reason(read({"prompt": "Hi", "chosen": "a", "rejected": missing}), Pairs()) == "no rejected answer"
        )
        assert unusable_reason(read({"prompt": missing, "chosen": "yes"}), Chosen()) == "empty prompt"
        assert read({"prompt": "Hi", "chosen": "yes", "reference": missing}).reference == "yes"
        assert len(read({"id": missing, "prompt": "Hi"}).id) == 16


def test_a_conversation_that_ends_with_the_user_says_so_and_trains_its_answers() -> None:
    row = read({"messages": [USER, YES, USER, USER]})
    assert row.prompt == (USER, YES, USER, USER) and row.chosen is None
    assert unusable_reason(row, Chosen()) is None is unusable_reason(row, Samples())
    said = "the conversation ends with the user, two user turns in a row"
    assert unusable_reason(row, Chosen(), "last") == said == unusable_reason(row, Pairs())
    assert unusable_reason(read({"messages": [USER]}), Chosen()) == "the conversation ends with the user"
    system = {"role": "system", "content": "s"}
    assert unusable_reason(read({"messages": [system]}), Chosen()) == "the conversation ends with the system"
    assert unusable_reason(read({"messages": []}), Chosen()) == "an empty conversation"
    empty = read({"messages": [USER, {**YES, "content": ""}, USER, YES]})
    assert unusable_reason(empty, Chosen()) == "an empty assistant turn"


MUTATED = [
    *({"id": "r", **fields} for fields in (H4, {"prompt": "Hi", "chosen": "yes", "rejected": "no", "reference": "r"})),
    {"prompt": [USER], "chosen": [{**YES, "weight": 1}], "rejected": [NO], "score_chosen": 1, "score_rejected": 1},
    {"messages": [{"role": "system", "content": "s"}, USER, YES], "system": "s", "label": True},
    {"instruction": "Hi", "input": "there", "output": "yes", "history": [["a", "b"]]},
    {"conversations": [HUMAN, GPT], "rejected_response": "no"},
    {"prompt": "p", "completion": "c", "label": True, "rating": [1, 2]},
    {"instruction": "Hi", "completions": COMPLETIONS},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: yes", "rejected": "\n\nHuman: Hi\n\nAssistant: no"},
    {"input": {"messages": [USER]}, "preferred_output": [YES], "non_preferred_output": [NO]},
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1e308,
    NAN,
    float("inf"),
    10**30,
    "",
    " ",
    "\0",
    "\ud800",
    "\u2028",
    "a" * 500,
    [],
    {},
    [[]],
    [None],
    [[None, 1]],
    {"a": {}},
    [USER],
    [YES],
    YES,
    [USER, YES],
    [{"role": "user"}],
    [{"content": "x"}],
    [{"role": "assistant", "content": None}],
    [{"from": ["gpt"], "value": "x"}],
    [{"from": {}, "value": []}],
    [{"role": "tool", "content": "x"}],
    [{"role": 1, "content": "x"}],
    [{"role": "user", "content": [{"type": []}]}],
    [{"role": "user", "content": [{"type": "text", "text": 3}]}],
    {"messages": 3},
    {"messages": [None]},
    [["a", "b"]],
    [["a"]],
    [{"response": 1}],
    [{"response": "x", "overall_score": "N/A"}],
    [1.0, 1.0],
]


def _mutated(draw: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = copy.deepcopy(draw.choice(MUTATED))
    names = sorted({name for each in MUTATED for name in each} | {"", "\0", "tools", "kto_tag", "question"})
    for _ in range(draw.randrange(1, 5)):
        kind, name = draw.randrange(5), draw.choice(sorted(row) or [""])
        if kind == 0:
            row[draw.choice(names)] = copy.deepcopy(draw.choice(VALUES))
        elif kind == 1:
            row.pop(name, None)
        elif kind == 2:
            row |= copy.deepcopy(draw.choice(MUTATED))
        elif kind == 3 and isinstance(row.get(name), list):
            row[name].insert(draw.randrange(len(row[name]) + 1), copy.deepcopy(draw.choice(VALUES)))
        elif isinstance(row.get(name), list) and row[name] and isinstance(row[name][0], dict):
            key = draw.choice(["role", "content", "weight", "from", "value", "train", "name", "response"])
            row[name][0][key] = copy.deepcopy(draw.choice(VALUES))
    return row


def test_of_two_thousand_mutated_rows_each_is_read_or_refused() -> None:
    draw = random.Random(11)
    refused: list[str] = []
    for _ in range(2000):
        fields = _mutated(draw)
        try:
            row = to_row(fields, where="here")
        except InputError as error:
            refused.append(str(error))
            continue
        for use in (Pairs(), Chosen(), Samples()):
            unusable_reason(row, use)
        turns = (*row.prompt, *(row.chosen or ()), *(row.rejected or ()))
        assert all(type(m["role"]) is type(m["content"]) is str for m in turns)
        assert row.chosen is None or (text_of(row.chosen) is not None and row.chosen[-1]["role"] == "assistant")
    assert 200 < len(refused) < 1800 and all(said.startswith("here: ") for said in refused)


def test_a_byte_order_mark_is_skipped_and_no_message_tells_to_remove_a_good_line(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "prompt": "Hi", "chosen": "yes\u2028\u2029\x85so"} for n in range(2)]
    path = tmp_path / "a.jsonl"
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [row.fields for row in read_rows(str(path))] == rows
    ways = {
        text.replace("\n", "\r"): "save the file with line feeds",
        text.replace("}\n", "},\n"): "take the comma behind the object away: one JSON object per line",
    }
    for content, said in ways.items():
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=f"line 1: .*{said}"):
            read_rows(str(path))


@pytest.mark.parametrize("depth", [201, 250, 900, 5000])
def test_a_row_of_hundreds_of_brackets_is_refused_by_its_line(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "Hi", "deep": ' + "[" * depth + "]" * depth + "}\n")
    with pytest.raises(InputError, match="line 1: JSON that cannot be read"):
        read_rows(str(path))


PAIR = {"prompt": "Hi", "chosen": "yes", "rejected": "no"}
AS_TEXT = json.dumps([USER])


@pytest.mark.parametrize(
    "more",
    [
        {"weight": 0},
        {"weight": 0.5},
        {"train": False},
        {"train": 0},
        {"mask_history": True},
        {"train_on_inputs": True},
        {"roles_to_train": ["assistant"]},
        {"loss_mask": [1, 0]},
        {"masked": True},
        {"system_message": "s"},
        {"system_instruction": "s"},
        {"instructions": "s"},
        {"context": "c"},
        {"documents": ["d"]},
        {"passages": ["p"]},
        {"chat_history": [["a", "b"]]},
        {"dialogue": ["a"]},
        {"past": ["a"]},
        {"examples": ["e"]},
        {"prefix": "p"},
        {"reasoning": "r"},
        {"rejected_thinking": "r"},
        {"cot": "r"},
        {"few_shot": ["e"]},
        {"suffix": "s"},
        {"rejected_images": ["a.png"]},
        {"num_videos": 1},
        {"thinking_trajectory": "t"},
        {"conversation_history": [["a", "b"]]},
        {"loss_scale": 0.5},
        {"chat_template": "{{ messages }}"},
        {"thumbs_down": True},
        {"tool_calls": [{"id": "1"}]},
        {"image_path": "a.png"},
        {"pixel_values": [1]},
        {"audio_path": "a.wav"},
        {"label": 0},
        {"label": False},
        {"label": "b"},
        {"preference": 2},
        {"swapped": True},
        {"winner": "rejected"},
        {"thumbs_up": False},
        {"scoreChosen": 3},
        {"tool-calls": [{"id": "1"}]},
        {"Label": 0},
        {"System": "s"},
        {"Messages": [USER]},
        {"REASONING": "r"},
    ],
    ids=str,
)
def test_a_field_of_another_meaning_beside_a_pair_is_refused_by_name(more: dict[str, Any]) -> None:
    (name,) = more
    with pytest.raises(InputError, match=f"^here: the row has '{name}'.*--ignore-fields {name}"):
        read({**PAIR, **more})
    assert read({**PAIR, **more}, **{name: ""}).chosen == (YES,)


ANSWERED = {"prompt": "Hi", "completion": "no"}


@pytest.mark.parametrize("value", [False, 0, True, "", []], ids=str)
@pytest.mark.parametrize(
    "name", "Label LABEL KTO-Tag isGood Thumbs_Up Labels Train TRAINABLE Weight Loss_Mask Is_Tie enableThinking".split()
)
def test_a_name_nearly_that_of_a_field_in_which_false_means_something_is_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^here: the row has '{name}': did you mean '.*--ignore-fields {name}"):
        read({**ANSWERED, name: value})
    for nothing in (None, NAN):
        assert read({**ANSWERED, name: nothing}).chosen == (NO,)
    assert read({**ANSWERED, name: value}, **{name: ""}).chosen == (NO,)


def test_a_label_spelt_otherwise_is_counted_and_read_where_it_is_mapped(tmp_path: Path) -> None:
    rows = [{**ANSWERED, "id": str(n), "Label": n != 2} for n in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"line 1: .*map it by --columns label=Label, .*of 4 rows 4 have Label\)"):
        read_rows(str(path))
    assert [row.label for row in read_rows(str(path), columns={"label": "Label"})] == [True, True, False, True]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({**ANSWERED, "weight": False}, "weight"),
        ({**ANSWERED, "loss_mask": False}, "loss_mask"),
        ({**PAIR, "preferred": False}, "preferred"),
        ({**PAIR, "better": False}, "better"),
        ({"messages": [USER, {**YES, "Train": False}]}, "Train': did you mean 'train"),
        ({"messages": [USER, {**YES, "WEIGHT": ""}]}, "WEIGHT': did you mean 'weight"),
        ({"messages": [USER, {**YES, "isScored": False}]}, "isScored"),
        ({"messages": [USER, {**YES, "mask": False}]}, "mask"),
        ({"messages": [USER, {**YES, "content": [{"type": "text", "text": "yes", "train": False}]}]}, "train"),
        ({"prompt": {"messages": [USER], "label": False}, "completion": "no"}, "label"),
    ],
    ids=str,
)
def test_false_is_refused_where_it_means_something_and_is_not_read(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=f"^here: .*'{name}'"):
        read(fields)


def test_neutral_values_and_plain_metadata_do_no_harm() -> None:
    neutral = {
        "margin": 0,
        "weight": 1.0,
        "train": True,
        "mask_history": False,
        "context": "",
        "examples": [],
        "swapped": False,
        "label": None,
        "thumbs_down": False,
        "num_images": 0,
        "has_audio": False,
        "images": {"bytes": None, "path": None},
        "enable_thinking": None,
        "status": "ok",
        "tie": False,
    }
    plain = dict.fromkeys("source category model url language dataset split created topic prompt_id".split(), "x")
    assert read({**PAIR, **neutral, **plain, "tokens": 12, "length": 3, "tags": ["a"]}).not_a_pair is None


def test_a_refused_name_that_columns_map_is_read() -> None:
    assert read({"context": "Hi", "chosen": "yes", "rejected": "no"}, prompt="context").prompt == (USER,)
    assert read({"Prompt": "Hi", "chosen": "yes"}, prompt="Prompt").prompt == (USER,)
    row = read({**PAIR, "system_message": "s"}, system="system_message")
    assert row.prompt[0] == {"role": "system", "content": "s"}


@pytest.mark.parametrize("name", ["desirable", "is_desirable", "is_positive", "labels", "kto_label"])
@pytest.mark.parametrize("bad", [False, 0])
def test_a_thumb_under_another_name_is_a_label(name: str, bad: object) -> None:
    row = read({"prompt": "Hi", "completion": "no", name: bad})
    assert row.chosen is None and row.rejected == (NO,)
    assert read({"prompt": "Hi", "completion": "no", name: not bad}).chosen == (NO,)
    with pytest.raises(InputError, match=name):
        read({"prompt": "Hi", "completion": "no", name: "perhaps"})


@pytest.mark.parametrize(
    "more",
    [
        {"chosen_reward": 1, "rejected_reward": 1.0},
        {"scores": [4, 4]},
        {"reward_chosen": 2, "reward_rejected": 2},
        {"ratings": [3, 3]},
        {"scores": {"chosen": 1, "rejected": 1}},
    ],
    ids=str,
)
def test_a_tie_under_any_name_is_a_tie(more: dict[str, Any]) -> None:
    assert unusable_reason(read({**PAIR, **more}), Pairs()) == "tie: equal scores"
    assert unusable_reason(read({**H4, **more}), Pairs()) == "tie: equal scores"


@pytest.mark.parametrize(
    "more", [{"status": "Tie"}, {"tie": True}, {"is_tie": 1}, {"tie": 1.0, "status": None}], ids=str
)
def test_a_row_that_says_that_it_is_a_tie_is_one(more: dict[str, Any]) -> None:
    assert unusable_reason(read({**PAIR, **more}), Pairs()) == "tie: the row says so"
    assert (
        unusable_reason(read({**PAIR, **more, "score_chosen": 3, "score_rejected": 3}), Pairs()) == "tie: equal scores"
    )


@pytest.mark.parametrize("value", ["true", "yes", 2, [1], 0.5, "1"], ids=repr)
@pytest.mark.parametrize("name", ["tie", "is_tie"])
def test_a_tie_that_is_no_truth_value_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"here: '{name}' must be true or false .or 1 or 0., found .*{name}$"):
        read({**PAIR, name: value})


@pytest.mark.parametrize("value", [False, 0, 0.0, NAN, None, ""], ids=repr)
def test_a_tie_that_is_false_or_missing_is_none(value: object) -> None:
    assert unusable_reason(read({**PAIR, "tie": value}), Pairs()) is None


def test_a_tie_in_a_column_of_another_name_may_be_written_as_text() -> None:
    assert read({**PAIR, "equal": "True"}, tie="equal").is_tie and not read({**PAIR, "equal": "0"}, tie="equal").is_tie


@pytest.mark.parametrize("name", ["completion", "output"])
def test_a_conversation_that_ends_with_the_user_is_the_prompt_of_an_answer_beside_it(name: str) -> None:
    turns = [USER, {"role": "assistant", "content": "earlier"}, USER]
    row = read({"messages": turns, name: "yes", "reasoning_content": "Hm."})
    assert row.chosen is not None and not row.is_conversation  # the earlier answer is not scored
    assert ([turn["content"] for turn in row.prompt], row.chosen[0]["content"]) == (["Hi", "earlier", "Hi"], "yes")
    assert row.chosen[0]["reasoning_content"] == "Hm."
    bad = read({"messages": turns, name: "no", "label": False})
    assert bad.chosen is None and bad.rejected is not None and bad.label is False
    alone = read({"messages": [USER], name: None, "answer": "4"})
    assert unusable_reason(alone, Chosen()) == (
        "the conversation ends with the user; 'answer': it is not read under this name; map it by --columns "
        "completion=answer"
    )


def test_scores_under_two_names_that_differ_are_refused() -> None:
    scores = {"score_chosen": 2, "score_rejected": 1, "chosen_score": 1, "rejected_score": 5}
    with pytest.raises(InputError, match=r"under 'score_chosen' and 'chosen_score', which differ: .*chosen_score,rej"):
        read({**PAIR, **scores})
    assert read({**PAIR, **scores, "chosen_score": "2", "rejected_score": 1.0}).scores == (2, 1)
    assert read({**PAIR, **scores, "chosen_score": None, "rejected_score": None}).scores == (2, 1)
    assert read({**PAIR, **scores}, chosen_score="", rejected_score="").scores == (2, 1)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("score_chosen", "rejected_score"),
        ("chosen_score", "score_rejected"),
        ("rating_chosen", "rejected-rating"),
        ("chosen-rating", "rejected_rating"),
        ("reward_chosen", "rejected_reward"),
    ],
)
def test_scores_of_one_kind_are_read_whatever_the_order_of_their_words(better: str, worse: str) -> None:
    assert read({**PAIR, better: 4, worse: "2"}).scores == (4, 2)
    assert unusable_reason(read({**PAIR, better: 4, worse: 4}), Pairs()) == "tie: equal scores"


@pytest.mark.parametrize(
    ("better", "worse", "columns"),
    [
        ("score_chosen", "rejected_rating", "--columns score_rejected=rejected_rating;"),
        ("chosen_reward", "score_rejected", "--columns score_chosen=chosen_reward;"),
        ("chosen_avg_rating", "rejected_rating", "--columns score_chosen=chosen_avg_rating,score_rejected=rejected_ra"),
    ],
)
def test_scores_of_two_kinds_are_refused_by_name_with_what_reads_them(better: str, worse: str, columns: str) -> None:
    row = {**PAIR, better: 4, worse: 2}
    with pytest.raises(InputError, match=rf"here: '{better}' and '{worse}' may be two kinds .*{columns}.* {better},"):
        read(row)
    ours = {"score_chosen": better, "score_rejected": worse}
    assert read(row, **{name: theirs for name, theirs in ours.items() if name != theirs}).scores == (4, 2)
    assert read(row, **{better: "", worse: ""}).scores is None
    assert read({**row, worse: None}).scores is None  # a table of two sets
    assert read({**row, "rating": [5, 1]}).scores == (5, 1)


def test_a_score_of_one_answer_under_a_second_name_that_differs_is_refused() -> None:
    scores = {"score_chosen": 4, "score_rejected": 2, "rejected_score": 3}
    with pytest.raises(
        InputError, match=r"under 'score_rejected' and 'rejected_score', which .*-fields rejected_score$"
    ):
        read({**PAIR, **scores})
    assert read({**PAIR, **scores, "rejected_score": 2}).scores == (4, 2)


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", " \u200d\u2060\n", "\u3164", "\ufe0f"], ids=ascii)
def test_a_text_that_shows_nothing_is_an_empty_one(text: str) -> None:
    for name in ("chosen", "rejected"):
        assert unusable_reason(read({**PAIR, name: text}), Pairs()) == f"empty {name} answer"
    assert unusable_reason(read({**PAIR, "prompt": text}), Pairs()) == "empty prompt"
    assert unusable_reason(read({**PAIR, "chosen": f"{text}7"}), Pairs()) is None


def test_an_answer_whose_content_is_null_is_an_empty_one() -> None:
    for empty in (None, ""):
        row = read({"messages": [USER, {"role": "assistant", "content": empty}]})
        assert unusable_reason(row, Chosen()) == "empty chosen answer"
        row = read({**PAIR, "chosen": [{"role": "assistant", "content": empty}]})
        assert unusable_reason(row, Pairs()) == "empty chosen answer"
    with pytest.raises(InputError, match="needs 'role' and 'content'"):
        read({"messages": [USER, {"role": "assistant"}]})


def test_a_file_in_a_column_of_any_name_is_refused_by_it() -> None:
    for held in ({"bytes": b"x", "path": None}, [{"bytes": None, "path": "a.png"}]):
        with pytest.raises(InputError, match=r"'photo_main': it holds a file's .*--ignore-fields photo_main"):
            read({**PAIR, "photo_main": held})
        assert read({**PAIR, "photo_main": held}, photo_main="").chosen == (YES,)
    assert read({**PAIR, "photo_main": {"bytes": None, "path": None}}).chosen == (YES,)


def test_a_field_of_a_part_is_left_unread_where_that_is_said() -> None:
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    row = {"messages": [{"role": "user", "content": [part]}, YES]}
    with pytest.raises(InputError, match=r"--ignore-fields message\.cache_control"):
        read(row)
    assert read(row, **{"message.cache_control": ""}).prompt == (USER,)


@pytest.mark.parametrize("score", [True, {"helpful": 3}, [1, 2]], ids=str)
def test_a_score_that_is_no_number_is_refused(score: object) -> None:
    with pytest.raises(InputError, match="'score_chosen' must be a number"):
        read({**PAIR, "score_chosen": score, "score_rejected": 1})


@pytest.mark.parametrize("infinite", [float("inf"), float("-inf"), "Infinity"], ids=str)
def test_an_infinite_score_is_refused_by_any_name_and_a_missing_one_is_missing(infinite: object) -> None:
    singles = list(zip(names(SCORES, "score_chosen"), names(SCORES, "score_rejected"), strict=True))
    cases: list[tuple[str, dict[str, Any]]] = []
    for better, worse in singles:
        cases += [(better, {**PAIR, better: infinite, worse: 1}), (worse, {**PAIR, better: 1, worse: infinite})]
    for name in names(SCORES, "rating"):
        cases += [(name, {**PAIR, name: [1, infinite]}), (name, {**PAIR, name: {"chosen": infinite, "rejected": 1}})]
    best = {**COMPLETIONS[1], "overall_score": infinite}
    cases.append(("completions", {"instruction": "Hi", "completions": [COMPLETIONS[0], best]}))
    for name, fields in cases:
        with pytest.raises(InputError, match=f"^here: a score in '{name}' must be a finite number, found .*{name}$"):
            read(fields)
    assert read({**PAIR, "score_chosen": NAN, "score_rejected": infinite}).scores is None


@pytest.mark.parametrize("text", [AS_TEXT, "  " + AS_TEXT, str([USER]), json.dumps([HUMAN]), json.dumps(USER)])
@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected", "completion", "instruction", "output"])
def test_messages_written_as_text_are_refused(name: str, text: str) -> None:
    shape: dict[str, Any] = dict(PAIR)
    if name == "completion":
        shape = {"prompt": "Hi"}
    elif name in ("instruction", "output"):
        shape = {"instruction": "Hi", "output": "yes"}
    with pytest.raises(InputError, match=f"here: '{name}' holds messages written as text: write it as a list") as said:
        read({**shape, name: text})
    assert "ignore" not in str(said.value)  # without it the row would be nothing


def test_a_hint_about_a_prompt_leaves_a_prompt() -> None:
    for fields in ({"prompt": "nan", "chosen": "yes"}, {"instruction": "NaN", "output": "yes"}):
        with pytest.raises(InputError, match=r"'(nan|NaN)', as tables") as said:
            read(fields)
        assert "take such rows out" in str(said.value) and "ignore" not in str(said.value)
        name = next(iter(fields))
        assert read({**fields, name: [{"role": "user", "content": "nan"}]}).prompt[0]["content"] == "nan"
    for input_ in ("nan", "<NA>"):
        fields = {"instruction": "Hi", "input": input_, "output": "yes"}
        with pytest.raises(InputError, match=r"--ignore-fields input$"):
            read(fields)
        assert read(fields, input="").prompt == (USER,)


def test_other_json_is_an_answer() -> None:
    for text in ('{"role": 3', '[{"name": "Ann", "content": "x"}]', "[1, 2]", "{}", "[", "{{ 3 }}"):
        assert text_of(read({"prompt": "Hi", "chosen": text}).chosen or ()) == text


def test_a_message_with_two_roles_or_contents_that_differ_is_refused() -> None:
    for message in ({**YES, "from": "human"}, {**YES, "value": "no"}):
        with pytest.raises(InputError, match="a message has both"):
            read({"messages": [USER, message]})
    assert read({"messages": [USER, {**YES, "from": "gpt", "value": "yes"}]}).chosen == (YES,)


def test_a_rejected_answer_of_weight_0_is_no_pair() -> None:
    row = read({**PAIR, "rejected": [{**NO, "weight": 0}]})
    assert unusable_reason(row, Pairs()) == "the rejected answer has weight 0"


@pytest.mark.parametrize("prompt", ["Human: Hi\n\nAssistant:", "\r\n\r\nHuman: Hi\r\n\r\nAssistant:"])
def test_a_transcript_is_read_without_its_blank_lines_or_with_carriage_returns(prompt: str) -> None:
    row = read({"prompt": prompt, "chosen": " yes", "rejected": " no"})
    assert (row.prompt, row.chosen, row.rejected) == ((USER,), (YES,), (NO,))


ELSE = {"role": "user", "content": "Else"}


@pytest.mark.parametrize(
    "fields",
    [
        {**H4, "prompt": "Else"},
        {**H4, "prompt": [ELSE]},
        {**H4, "messages": [ELSE, YES]},
        {**H4, "instruction": "Else"},
        {**H4, "question": "Else"},
        {**PAIR, "question": "Else"},
        {**PAIR, "output": "else"},
        {**PAIR, "completion": "else"},
        {"prompt": "Hi", "chosen": "yes", "output": "else"},
        {"prompt": "Hi", "question": "Else", "completion": "yes"},
        {"prompt": "Hi", "question": "Else"},
        {"instruction": "Hi", "prompt": "Else", "output": "yes"},
        {"instruction": "Hi", "question": "Else", **PAIR},
        {"instruction": "Hi", "output": "yes", "completion": "else"},
        {"messages": [USER, YES], "prompt": "Else"},
        {"messages": [USER, YES], "completion": "else"},
        {"messages": [USER, YES], "input": "more"},
        {"prompt": "Hi", "completion": "yes", "output": "else"},
        {"prompt": "Hi", "input": 3, "completion": "yes"},
        {"prompt": "Hi", "input": {"a": 1}, "completion": "yes"},
        {"question": "Hi", "input": "Else", "completion": "yes"},
        {"question": "Hi", "input": "Else", **{k: v for k, v in PAIR.items() if k != "prompt"}},
        {"input": "Hi", "output": "yes", "completion": "else"},
    ],
    ids=str,
)
def test_two_fields_for_one_thing_that_differ_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^here: .*--ignore-fields"):
        read(fields)


def test_two_fields_for_one_thing_that_agree_are_read() -> None:
    two_turns = {"chosen": [USER, NO, ELSE, YES], "rejected": [USER, NO, ELSE, NO]}
    for prompt in ("Hi", "Else", [USER, NO, ELSE], "\n\nHuman: Hi\n\nAssistant: no\n\nHuman: Else\n\nAssistant:"):
        assert read({**two_turns, "prompt": prompt}).prompt == (USER, NO, ELSE)
    assert read({"messages": [USER, YES], "prompt": "Hi"}).is_conversation
    for more in ({"question": "Hi"}, {"output": "yes"}, {"completion": [YES]}):
        assert read({**PAIR, **more}).chosen == (YES,)
    assert read({"question": "Hi", "input": "Hi", "output": "yes", "completion": "yes"}).chosen == (YES,)
    assert read({"messages": [USER, YES], "input": "Hi", "output": "yes"}).is_conversation


def test_scores_that_prefer_the_rejected_answer_are_seen() -> None:
    for shape in (PAIR, H4):
        assert read({**shape, "score_chosen": 1, "score_rejected": 2.5}).is_reversed
        assert not read({**shape, "score_chosen": 3, "score_rejected": 2.5}).is_reversed
        assert not read(shape).is_reversed


def test_a_system_message_that_only_one_answer_has_makes_no_pair() -> None:
    brief, long = {"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be long."}
    for chosen, rejected in (([brief, USER], [long, USER]), ([USER], [long, USER]), ([brief, USER], [USER])):
        row = read({"chosen": [*chosen, YES], "rejected": [*rejected, NO]})
        assert unusable_reason(row, Pairs()) == "chosen and rejected have different system messages"
    with pytest.raises(InputError, match="'prompt' is not what 'chosen' begins with"):
        read({"prompt": [brief, USER], "chosen": [long, USER, YES], "rejected": [long, USER, NO]})


def test_whole_transcripts_beside_their_prompt_are_whole() -> None:
    yes, no = "\n\nHuman: Hi\n\nAssistant: yes", "\n\nHuman: Hi\n\nAssistant: no"
    for prompt in ("Hi", "\n\nHuman: Hi\n\nAssistant:", [USER]):
        row = read({"prompt": prompt, "chosen": yes, "rejected": no})
        assert (row.prompt, row.chosen, row.rejected) == ((USER,), (YES,), (NO,))
    with pytest.raises(InputError, match="'prompt' is not in what 'chosen' begins with"):
        read({"prompt": "Else", "chosen": yes, "rejected": no})


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<s>[INST] Hi [/INST]",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "<|user|>\nHi</s>\n<|assistant|>\n",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>Hi<\uff5cAssistant\uff5c>",
    ],
)
def test_what_a_chat_template_made_is_refused_and_a_question_about_it_is_text(text: str) -> None:
    for name in ("prompt", "instruction"):
        with pytest.raises(InputError, match=f"here: '{name}' begins with the marks of a chat template"):
            read({name: text, "completion": "yes"})
    with pytest.raises(InputError, match="'chosen' begins with the marks"):
        read({**PAIR, "chosen": text})
    assert read({"prompt": [{"role": "user", "content": text}]}).prompt[0]["content"] == text
    for asked in (
        f"What is {text}?",
        "<|im_start|> is what?",
        "<s> and </s>",
        "[INST] without an end",
        "<br>Hi",
        "Human",
    ):
        assert read({"prompt": asked}).prompt == ({"role": "user", "content": asked},)


def test_an_answer_that_is_a_think_block_stays_as_it_is() -> None:
    text = "<think>\nso\n</think>\n\nyes"
    assert read({"prompt": "Hi", "completion": text}).chosen == ({"role": "assistant", "content": text},)


def test_a_row_of_blank_turns_has_an_empty_prompt() -> None:
    blank = {"role": "user", "content": " \n"}
    for fields in ({"prompt": " ", "chosen": "yes"}, {"messages": [blank, YES]}, {"prompt": [blank], "chosen": "yes"}):
        assert unusable_reason(read(fields), Chosen()) == "empty prompt" == unusable_reason(read(fields), Samples())


def test_labels_that_differ_are_refused_and_fields_inside_a_prompt_are_too() -> None:
    with pytest.raises(InputError, match=r"two labels that differ: .*--ignore-fields kto_tag"):
        read({"prompt": "Hi", "completion": "yes", "label": True, "kto_tag": False})
    assert read({"prompt": "Hi", "completion": "yes", "label": 1, "kto_tag": True}).label is True
    inner = {"messages": [USER], "system": "Be brief."}
    with pytest.raises(InputError, match=r"'input' holds 'system' beside its messages.*--ignore-fields system"):
        read({"input": inner, "preferred_output": [YES], "non_preferred_output": [NO]})
    row = read({"input": inner, "preferred_output": [YES], "non_preferred_output": [NO]}, system="")
    assert row.prompt == (USER,) and row.rejected == (NO,)


def test_missing_cells_of_any_table_library_are_missing() -> None:
    class NAType:  # pandas' NA has no truth value
        def __ne__(self, other: object) -> Any:
            return self

        def __bool__(self) -> bool:
            raise TypeError("boolean value of NA is ambiguous")

    for missing in (NAType(), numpy.float32("nan"), numpy.datetime64("NaT"), Decimal("NaN")):
        row = read({"instruction": "Hi", "input": missing, "output": "yes", "id": missing, "reference": missing})
        assert row.prompt == (USER,) and row.reference == "yes" and len(row.id) == 16
        assert read({"messages": [USER, {**YES, "name": missing, "weight": missing}]}).chosen == (YES,)
        assert read({"messages": [USER, YES], "prompt": missing, "images": [missing]}).chosen == (YES,)
        with pytest.raises(InputError, match="needs 'role' and 'content' as text"):
            read({"messages": [{"role": "user", "content": missing}]})


@pytest.mark.parametrize("word", TEXTS_OF_MISSING)
def test_a_text_that_tables_write_for_a_missing_cell_is_refused_in_every_field(word: str) -> None:
    rows: dict[str, dict[str, Any]] = {
        "prompt": {"chosen": "yes", "rejected": "no"},
        "chosen": {"prompt": "Hi", "rejected": "no"},
        "rejected": {"prompt": "Hi", "chosen": "yes"},
        "completion": {"prompt": "Hi"},
        "instruction": {"output": "yes"},
        "input": {"instruction": "Hi", "output": "yes"},
        "output": {"instruction": "Hi"},
        "reference": {"prompt": "Hi", "chosen": "yes"},
    }
    for name, beside in rows.items():
        with pytest.raises(InputError, match=f"'{name}' is '{word}', as tables write a missing cell; "):
            read({**beside, name: word})
    with pytest.raises(InputError, match=f"'history' is '{word}'"):
        read({"instruction": "Hi", "output": "yes", "history": [["Ho", word]]})
    meant = {**YES, "content": word}
    assert read({"prompt": "Hi", "chosen": [meant]}).chosen == (meant,)
    assert read({"instruction": "Hi", "output": f"{word}o"}).chosen == ({**YES, "content": f"{word}o"},)


def test_a_conversation_written_as_json_text_is_read() -> None:
    row = read({"messages": json.dumps([USER, YES]), "rejected_response": "no"})
    assert (row.prompt, row.chosen, row.rejected) == ((USER,), (YES,), (NO,))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response_a": "The Rhine.", "response_b": "No.", "winner": "b"}, "which of these answers is the better one"),
        ({"response_0": "The Rhine.", "response_1": "No.", "better_response_id": 0}, "which of these answers"),
        ({"completions": ["The Rhine.", "No."], "rank": [2, 1]}, "completions with ranks are not read"),
        ({"chosen": "The Rhine.", "rejected": "No.", "is_flipped": True}, "is_flipped"),
    ],
)
def test_answers_of_which_the_better_one_is_said_elsewhere_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        to_row({"prompt": "Name a river.", **fields}, where="rows.jsonl, line 1")


@pytest.mark.parametrize("name", ["rating", "ratings", "scores", "score", "reward", "rewards"])
@pytest.mark.parametrize("both", [[4, 2], {"chosen": 4, "rejected": 2}, "[4, 2]", '{"chosen": 4, "rejected": 2}'])
def test_two_scores_in_one_field_are_those_of_the_chosen_and_the_rejected_answer(name: str, both: object) -> None:
    pair = {"prompt": "Hi", "chosen": "yes", "rejected": "no"}
    assert to_row({**pair, name: both}, where="").scores == (4, 2)
    assert to_row({**pair, name: [3, 3]}, where="").is_tie
    assert to_row({**pair, name: [1, 2, 3]}, where="").scores is None
    alone = to_row({"prompt": "Hi", "completion": "yes", name: [3, 3]}, where="")
    assert alone.scores is None and not alone.is_tie


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rm_scores": [4, 2]}, "'rm_scores' .* --columns scores=rm_scores reads it, --ignore-fields rm_scores says"),
        ({"Score": {"chosen": 4, "rejected": 2}}, "'Score' .* --columns scores=Score reads it"),
        ({"score": {"chosen_score": 4, "rejected_score": 2}}, "'score' .* name them chosen and rejected"),
        (
            {"chosen_grade": 4, "rejected_grade": 2},
            "'chosen_grade' and 'rejected_grade' .* score_chosen=chosen_grade,score_rejected=rejected_grade reads them",
        ),
        ({"score_diff": 0}, "'score_diff' .* --columns margin=score_diff reads it as how much better"),
        ({"score": 3, "reward": [1, 2, 3], "quality": "good", "grade": {"chosen": "A", "rejected": "B"}}, None),
        ({"scores": [4, 2], "rm_scores": [1, 2], "score_diff": 2}, None),
        ({"margin": 1}, None),
    ],
)
def test_what_looks_like_the_scores_of_a_pair_and_is_not_read_is_said(
    fields: dict[str, object], said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Hi", "chosen": "yes", "rejected": "no", **fields}) + "\n" * 2)
    read_rows(str(file))
    if said is None:
        assert "may be their scores" not in caplog.text
    else:
        assert re.search(said, caplog.text)
