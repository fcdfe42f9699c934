"""Tools, calls of them and results come out in one spelling, whichever of the usual ones a row has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars
import pytest

from alignkit.data.reading.keys import content_key
from alignkit.data.reading.messages import text_of_turn
from alignkit.data.reading.read import read_rows
from alignkit.data.reading.rows import Row, to_row, unusable_reason
from alignkit.errors import InputError
from alignkit.units import Chosen, Pairs, Samples

USER, YES = {"role": "user", "content": "When is high water?"}, {"role": "assistant", "content": "At six."}
RESULT = {"role": "tool", "content": "06:00"}
FUNCTION = {"name": "tide", "parameters": {"type": "object", "properties": {"port": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
CALLED = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Dover"}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [CALLED]}
AS_TEXT = json.dumps({"name": "tide", "arguments": {"port": "Dover"}})


def read(**fields: Any) -> Row:
    return to_row(fields, where="here")


def openai(**more: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Dover"}'}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


def turns(row: Row) -> tuple[Any, ...]:
    """All turns without the ids of calls."""
    found = []
    for turn in (*row.prompt, *(row.chosen or ())):
        calls = [{name: value for name, value in call.items() if name != "id"} for call in turn.get("tool_calls", ())]
        rest = {name: value for name, value in turn.items() if name not in ("tool_calls", "tool_call_id", "name")}
        found.append(rest | ({"tool_calls": calls} if calls else {}))
    return tuple(found)


@pytest.mark.parametrize(
    "given",
    [
        [openai(), {**RESULT, "tool_call_id": "c1"}],
        [openai(content=""), {**RESULT, "tool_call_id": "c1", "name": "tide"}],
        [openai(tool_calls=[{"function": {"name": "tide", "arguments": {"port": "Dover"}}}]), RESULT],
        [openai(tool_calls=[{"name": "tide", "arguments": {"port": "Dover"}}]), RESULT],
        [openai(tool_calls=json.dumps([CALLED])), RESULT],
        [openai(tool_calls=None, function_call=json.loads(AS_TEXT)), {**RESULT, "role": "function", "name": "tide"}],
        [{"from": "function_call", "value": AS_TEXT}, {"from": "observation", "value": "06:00"}],
        [{"from": "function_call", "value": f"[{AS_TEXT}]"}, {"from": "tool", "value": "06:00"}],
        [{"role": "tool_call", "content": AS_TEXT}, {"role": "tool_response", "content": "06:00"}],
    ],
)
def test_calls_and_results_are_the_same_however_they_are_spelt(given: list[dict[str, Any]]) -> None:
    row = read(messages=[USER, *given, YES])
    assert turns(row) == (USER, CALL, RESULT, YES)
    assert unusable_reason(row, Chosen()) is None and row.reference == "At six."


@pytest.mark.parametrize(
    "tools",
    [
        [TOOL],
        [FUNCTION],
        TOOL,
        json.dumps([TOOL]),
        json.dumps([FUNCTION]),
        [json.dumps(TOOL)],
        [{"type": "function", **FUNCTION}],
        [{"function": FUNCTION}],
        [{"name": "tide", "input_schema": FUNCTION["parameters"]}],
        [{**TOOL, "function": {**FUNCTION, "description": None, "strict": None}}],
    ],
)
def test_tools_are_the_same_however_they_are_spelt(tools: Any) -> None:
    row = read(messages=[USER, YES], tools=tools)
    assert row.prompt == ({**USER, "tools": [TOOL]},) and row.chosen == (YES,)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": USER["content"], "chosen": "At six.", "rejected": "No.", "tools": [TOOL]},
        {"prompt": [USER], "chosen": [YES], "rejected": "No.", "functions": [FUNCTION]},
        {"chosen": [USER, YES], "rejected": [USER, {**YES, "content": "No."}], "tools": json.dumps([TOOL])},
        {"input": {"messages": [USER], "tools": [TOOL]}, "preferred_output": [YES], "non_preferred_output": "No."},
        {"instruction": USER["content"], "output": "At six.", "tools": [TOOL]},
        {"prompt": USER["content"], "tools": [TOOL]},
        {"messages": [{**USER, "tools": [TOOL]}, YES]},
    ],
)
def test_tools_of_every_shape_ride_with_the_first_message(fields: dict[str, Any]) -> None:
    assert read(**fields).prompt == ({**USER, "tools": [TOOL]},)


def test_tools_ride_with_a_system_message_wherever_it_comes_from() -> None:
    system = {"role": "system", "content": "Be brief.", "tools": [TOOL]}
    assert read(messages=[USER, YES], system="Be brief.", tools=[TOOL]).prompt == (system, USER)
    assert read(messages=[{**USER, "tools": [TOOL]}, YES], system="Be brief.").prompt == (system, USER)
    assert read(messages=[system, USER, YES]).prompt == (system, USER)


def test_a_turn_of_calls_belongs_to_the_assistants_turn_before_it() -> None:
    other = json.dumps({"name": "depth", "arguments": {}})
    given = [YES, *({"role": "tool_call", "content": text} for text in (AS_TEXT, other)), RESULT, YES]
    row = read(messages=[USER, *given])
    depth = {"type": "function", "function": {"name": "depth", "arguments": {}}}
    assert turns(row) == (USER, {**YES, "tool_calls": [CALLED, depth]}, RESULT, YES)
    thought = read(conversations=[USER, {"from": "function_call", "value": f"<think>port?</think>{AS_TEXT}"}])
    assert turns(thought) == (USER, {**CALL, "content": "<think>port?</think>"})


@pytest.mark.parametrize("arguments", ["", None, "{}", {}])
def test_a_call_without_arguments_has_none(arguments: Any) -> None:
    called = {"name": "tide", "arguments": arguments}
    (call,) = turns(read(messages=[USER, openai(tool_calls=[{"function": called}])]))[1]["tool_calls"]
    assert call["function"] == {"name": "tide", "arguments": {}}


def test_what_a_table_filled_in_is_no_part_of_tools_and_calls(tmp_path: Path) -> None:
    depth = {"name": "depth", "parameters": {"type": "object", "properties": {"place": {"type": "integer"}}}}
    rows = [
        {"messages": [USER, openai(tool_calls=[CALLED]), RESULT, YES], "tools": [TOOL]},
        {
            "messages": [USER, openai(tool_calls=[{"function": {"name": "depth", "arguments": {"place": 3}}}])],
            "tools": [{"type": "function", "function": depth}],
        },
    ]
    polars.DataFrame(rows, infer_schema_length=None).write_parquet(tmp_path / "a.parquet")
    first, second = read_rows(str(tmp_path / "a.parquet"))
    assert turns(first) == ({**USER, "tools": [TOOL]}, CALL, RESULT, YES)
    called = {"type": "function", "function": {"name": "depth", "arguments": {"place": 3}}}
    assert turns(second) == ({**USER, "tools": [rows[1]["tools"][0]]}, {**CALL, "tool_calls": [called]})


def test_null_is_an_argument_where_a_row_of_json_says_so() -> None:
    called = openai(tool_calls=[{"function": {"name": "tide", "arguments": '{"port": null}'}}])
    assert turns(read(messages=[USER, called]))[1]["tool_calls"][0]["function"]["arguments"] == {"port": None}


def test_null_for_what_a_tool_does_not_take_is_no_argument() -> None:
    called = openai(tool_calls=[{"function": {"name": "tide", "arguments": {"port": None, "place": None}}}])
    row = read(prompt=[USER], chosen=[called], rejected="No.", tools=[TOOL])
    assert row.chosen is not None and row.chosen[0]["tool_calls"][0]["function"]["arguments"] == {"port": None}


def test_answers_that_differ_in_calls_alone_are_a_pair_and_those_that_do_not_are_none() -> None:
    other = openai(tool_calls=[{"function": {"name": "tide", "arguments": {"port": "Calais"}}}])
    again = openai(tool_calls=[{**CALLED, "id": "c9"}])
    assert unusable_reason(read(prompt=[USER], chosen=[openai()], rejected=[other], tools=[TOOL]), Pairs()) is None
    assert (
        unusable_reason(read(prompt=[USER], chosen=[openai()], rejected=[again]), Pairs()) == "chosen equals rejected"
    )
    assert unusable_reason(read(chosen=[USER, openai()], rejected=[USER, other]), Pairs()) is None
    empty = read(prompt=[USER], chosen=[openai(tool_calls=[], content="")], rejected=[other])
    assert unusable_reason(empty, Pairs()) == "empty chosen answer"


def test_two_conversations_whose_calls_part_share_the_prompt_up_to_there() -> None:
    other = openai(tool_calls=[{"function": {"name": "tide", "arguments": {"port": "Calais"}}}])
    row = read(chosen=[USER, openai(), RESULT, YES], rejected=[USER, other, RESULT, YES], tools=[TOOL])
    assert row.prompt == ({**USER, "tools": [TOOL]},) and unusable_reason(row, Pairs()) is None
    assert [turn["role"] for turn in row.chosen or ()] == ["assistant", "tool", "assistant"]
    assert [text_of_turn(turn) for turn in row.rejected or ()] == [
        AS_TEXT.replace("Dover", "Calais"),
        "06:00",
        "At six.",
    ]


def test_rows_that_differ_in_tools_or_calls_are_no_duplicates() -> None:
    other = openai(tool_calls=[{"function": {"name": "tide", "arguments": {"port": "Calais"}}}])
    rows = [
        read(messages=[USER, openai(), RESULT, YES]),
        read(messages=[USER, other, RESULT, YES]),
        read(messages=[USER, openai(), RESULT, YES], tools=[TOOL]),
        read(messages=[USER, YES]),
    ]
    assert len({content_key(row) for row in rows}) == 4


def test_a_prompt_that_ends_with_a_result_is_one() -> None:
    assert unusable_reason(read(prompt=[USER, openai(), RESULT], tools=[TOOL]), Samples()) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"messages": [USER, openai(tool_calls=[{"function": {"name": "tide", "arguments": '{"port": '}}])]},
            "the arguments of a call of 'tide' are no JSON",
        ),
        (
            {"messages": [USER, openai(tool_calls=[{"function": {"name": "tide", "arguments": "[1]"}}])]},
            "the arguments of a call of 'tide' must be an object",
        ),
        ({"messages": [USER, openai(tool_calls=[{"function": {"arguments": "{}"}}])]}, "'tool_calls' holds what is no"),
        ({"messages": [USER, openai(tool_calls=3)]}, "'tool_calls' must be a list of calls"),
        ({"messages": [USER, {"role": "tool_call", "content": "tide()"}]}, "'content' is text, and no JSON"),
        ({"messages": [USER, {"role": "tool_call", "content": "[]"}]}, "a message that calls tools has no call"),
        ({"messages": [{**USER, "tool_calls": [CALLED]}, YES]}, "'tool_calls': the user calls no tools"),
        ({"messages": [{**USER, "name": "Ann"}, YES]}, "'name': names of speakers"),
        ({"messages": [USER, {**YES, "tool_call_id": "c1"}]}, "'tool_call_id': names of speakers, and of calls"),
        ({"messages": [USER, {**YES, "tools": [TOOL]}]}, "'tools': tools are read in the first message alone"),
        ({"messages": [USER, {"role": "assistant", "content": None}, USER]}, "a message needs 'role' and 'content'"),
        ({"messages": [USER, {**YES, "annotations": [{"type": "url"}]}]}, "'annotations': annotations are not"),
        ({"messages": [USER, {**YES, "refusal": "No."}]}, "'refusal': refusals beside"),
        ({"messages": [USER, YES], "tools": "tide(port)"}, "'tools' is text, and no JSON"),
        ({"messages": [USER, YES], "tools": [{"type": "web_search"}]}, "'tools' holds what is no function"),
        ({"messages": [USER, YES], "tools": [TOOL], "functions": [{"name": "depth"}]}, "both 'tools' and 'functions'"),
        ({"messages": [{**USER, "tools": [TOOL]}, YES], "tools": [{"name": "depth"}]}, "tools in the first message"),
        ({"messages": [USER, YES], "tool_calls": [CALLED]}, "'tool_calls': calls of tools are read in messages"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^here: .*{said}"):
        read(**fields)


def test_broken_arguments_are_refused_with_file_and_line(tmp_path: Path) -> None:
    broken = openai(tool_calls=[{"function": {"name": "tide", "arguments": "{'port': 1}"}}])
    lines = [{"messages": [USER, openai()]}, {"messages": [USER, broken]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: the arguments of a call of 'tide' are no JSON"):
        read_rows(str(tmp_path / "a.jsonl"))


def test_fields_that_concern_the_sampler_alone_do_no_harm() -> None:
    row = read(messages=[USER, YES], tools=[TOOL], tool_choice="auto", parallel_tool_calls=False)
    assert row.prompt == ({**USER, "tools": [TOOL]},)
