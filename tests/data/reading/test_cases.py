"""Files in the shapes that people reported against other tools: each is read as its README says, or refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from places import BESIDE

from alignkit.data.reading.read import read_rows
from alignkit.data.reading.rows import Row, text_of, unusable_reason
from alignkit.errors import InputError
from alignkit.units import Chosen, Pairs, Samples

CASES = BESIDE / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="the cases are not beside the repository")
DOWN = "marked bad"


def turns(row: Row) -> str:
    """A row in one line: its prompt > its chosen answer | its rejected one."""
    prompt = " ".join(f"{m['role'][0]}:{m['content']}{'*' if m.get('weight') == 0 else ''}" for m in row.prompt)
    answers = [answer[-1]["content"] if answer else "-" for answer in (row.chosen, row.rejected)]
    return f"{prompt} > {answers[0]} | {answers[1]}"


PAIR = "u:Name river {n}. > River {n}. | No."
ANSWER = "u:Name river {n}. > River {n}. | -"
MASKED = "u:Q a:A wrong one.* u:Q2 > River {n}. | -"
READ = {
    "04-preference-beside-a-conversation/axolotl.jsonl": PAIR,
    "04-preference-beside-a-conversation/llamafactory.jsonl": PAIR,
    "04-preference-beside-a-conversation/openai.jsonl": PAIR,
    "04-preference-beside-a-conversation/swift.jsonl": PAIR,
    "06-bytes/array.json": PAIR,
    "06-bytes/array_named.jsonl": PAIR,
    "06-bytes/array_one_line.jsonl": PAIR,
    "06-bytes/bom.jsonl": PAIR,
    "06-bytes/crlf.jsonl": PAIR,
    "06-bytes/members.jsonl.gz": PAIR,
    "06-bytes/pretty.jsonl": PAIR,
    "06-bytes/rows.csv": PAIR,
    "07-nan-cells/nan_input.jsonl": ANSWER,
    "07-nan-cells/nan_output.jsonl": "u:Name river {n}. > - | -",
    "07-nan-cells/nan_scores.jsonl": PAIR,
    "08-conversation-ends-with-user/assistant_first.jsonl": f"a:Hello, how can I help? {ANSWER}",
    "08-conversation-ends-with-user/only_system.jsonl": "s:Be brief. > Yes. | -",
    "08-conversation-ends-with-user/two_answers.jsonl": "u:Name river {n}. a:River {n}. > Also the Elbe. | -",
    "10-content-parts/text_parts.jsonl": ANSWER,
    "10-content-parts/loss_flag.jsonl": MASKED,
    "10-content-parts/loss_weight.jsonl": MASKED,
    "10-content-parts/train_flag.jsonl": MASKED,
}
FEWER = {"06-bytes/pretty.jsonl": 3, "06-bytes/rows.csv": 4}  # than eight rows
REFUSED = {
    "06-bytes/cr_only.jsonl": "line 1: not JSON: .*byte 82; lines end with a carriage return alone",
    "03-kto-labels/labels_minus1.jsonl": "line 2: 'label' must be true or false .*found the number -1",
    "03-kto-labels/labels_text.jsonl": "line 1: 'label' must be true or false .*found 'true'",
    "03-kto-labels/labels_updown.jsonl": "line 1: 'label' must be true or false .*found 'thumbs_up'",
    "04-preference-beside-a-conversation/axolotl_history_ends_in_answer.jsonl": "line 1: .*ends with an assistant",
    "06-bytes/single_quotes.jsonl": "line 1: not JSON: .*byte 2; this is how Python prints a row",
    "06-bytes/trailing_comma.jsonl": "line 1: not JSON: .*byte 81; take the comma behind the object away",
    "06-bytes/utf16.jsonl": "line 1, byte 1: not UTF-8 but UTF-16: save the file as UTF-8",
    "07-nan-cells/list_input.jsonl": r"line 1: 'input' must be text, found \[1, 0\]",
    "07-nan-cells/nan_label.jsonl": "line 1: 'label' must be true or false .*found nothing",
    "07-nan-cells/number_input.jsonl": "line 1: 'input' must be text, found the number 0",
    "07-nan-cells/number_output.jsonl": "line 1: .*in 'output', found the number 1",
    "10-content-parts/image_parts.jsonl": "line 1: a message has a part of type 'image': pictures are not read",
    "10-content-parts/image_tag.jsonl": r"line 1: .*'images'.*--ignore-fields images \(of 8 rows 8 have images\)",
}


@pytest.mark.parametrize(("name", "expected"), READ.items(), ids=READ.keys())
def test_a_case_is_read_as_it_means(name: str, expected: str) -> None:
    assert [turns(row) for row in read_rows(str(CASES / name))] == [
        expected.format(n=n) for n in range(FEWER.get(name, 8))
    ]


@pytest.mark.parametrize(("name", "said"), REFUSED.items(), ids=REFUSED.keys())
def test_a_case_that_has_no_one_meaning_is_refused_with_its_line(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_rows(str(CASES / name))


@pytest.mark.parametrize("name", ["labels_01.jsonl", "messages_label.jsonl"])
def test_no_answer_that_is_marked_bad_is_a_good_one(name: str) -> None:
    rows = read_rows(str(CASES / "03-kto-labels" / name))
    good, bad = "u:Name river {n}. > River {n}. | -", "u:Name river {n}. > - | River {n} is bad."
    assert [turns(row) for row in rows] == [(bad if n % 2 else good).format(n=n) for n in range(8)]
    assert [row.label for row in rows] == [n % 2 == 0 for n in range(8)]
    assert reasons(rows, Chosen()) == {None: 4, DOWN: 4}


@pytest.mark.parametrize("name", ["dpo", "dpo_answers_are_calls", "sft_call_last", "sft_empty", "sft_null"])
def test_calls_results_and_the_tools_of_a_row_reach_its_messages(name: str) -> None:
    rows = read_rows(str(CASES / "01-tool-calls-dropped" / f"{name}.jsonl"))
    for n, row in enumerate(rows):
        assert row.prompt[0]["tools"] == row.fields["tools"]
        called = [turn for turn in (*row.prompt, *(row.chosen or ())) if "tool_calls" in turn]
        (call,) = called[0]["tool_calls"]
        assert (
            call["function"] == {"name": "tide", "arguments": {"harbour": f"h{n}"}} or name == "dpo_answers_are_calls"
        )
        results = [turn for turn in row.prompt if turn["role"] == "tool"]
        assert len(results) == (0 if name in ("sft_call_last", "dpo_answers_are_calls") else 1)
    assert reasons(rows, Chosen()) == {None: 8} and len(rows) == 8
    assert reasons(rows, Pairs())[None] == (8 if name.startswith("dpo") else 0)


def test_thoughts_beside_a_content_reach_its_message() -> None:
    rows = read_rows(str(CASES / "02-reasoning-content" / "rows.jsonl"))
    assert reasons(rows, Chosen()) == {None: 8}
    for row in rows:
        assert row.chosen is not None and row.chosen[-1]["reasoning_content"].endswith(
            f"more is {text_of(row.chosen)}."
        )


def reasons(rows: list[Row], unit: Chosen | Pairs | Samples, train_on: str | None = None) -> Counter[str | None]:
    return Counter(unusable_reason(row, unit, train_on) for row in rows)


def test_a_conversation_that_ends_with_the_user_is_said_in_those_words() -> None:
    rows = read_rows(str(CASES / "08-conversation-ends-with-user" / "half.jsonl"))
    assert reasons(rows, Chosen()) == {None: 8}  # all turns of the assistant are scored
    said = "the conversation ends with the user, two user turns in a row"
    assert reasons(rows, Chosen(), "last") == {None: 4, said: 4}


def test_lines_are_ended_by_line_feeds_alone() -> None:
    rows = read_rows(str(CASES / "06-bytes" / "u2028.jsonl"))
    assert turns(rows[0]) == "u:Name river 0. > River\u2028two\x85three | No." and len(rows) == 3


def test_missing_scores_make_no_tie_and_missing_answers_train_nothing() -> None:
    assert reasons(read_rows(str(CASES / "07-nan-cells" / "nan_scores.jsonl")), Pairs()) == {None: 8}
    assert reasons(read_rows(str(CASES / "07-nan-cells" / "nan_output.jsonl")), Chosen()) == {"no chosen answer": 8}


def test_the_columns_of_ultrafeedback_are_seven_preferences_and_a_tie() -> None:
    rows = read_rows(str(CASES / "ultrafeedback-columns" / "rows.jsonl"))
    assert reasons(rows, Pairs()) == {None: 7, "tie: equal scores": 1} and reasons(rows, Chosen()) == {None: 8}
    for row in rows:
        assert row.prompt == ({"role": "user", "content": row.fields["prompt"]},) and not row.is_conversation
        assert row.chosen == (row.fields["chosen"][-1],) and row.rejected == (row.fields["rejected"][-1],)


def test_every_case_about_rows_stands_here() -> None:
    """What is left concerns the tokens of a row, or several of its meanings: their tests lie with those."""
    named = {*READ, *REFUSED}
    others = {"labels_01.jsonl", "messages_label.jsonl", "half.jsonl", "u2028.jsonl"}
    rooms = ("03", "04", "06", "07", "08", "10")
    files = [f for f in sorted(CASES.glob("*/*")) if f.name.startswith(rooms) or f.parent.name.startswith(rooms)]
    left = {f.name for f in files if relative(f) not in named and f.suffix not in (".md", ".py")}
    assert left == others


def relative(path: Path) -> str:
    return str(path.relative_to(CASES))
