"""Every shape of row, and the lines that are none."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest

from alignkit.data.reading.read import read_rows
from alignkit.data.reading.row_shapes import split_row
from alignkit.data.reading.rows import Row, text_of, to_row, unusable_reason
from alignkit.errors import InputError, UsageError
from alignkit.units import Chosen, Pairs, Samples, Unit

USER = {"role": "user", "content": "Hi"}
YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}


@pytest.mark.parametrize(
    ("fields", "chosen", "rejected"),
    [
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no"}, "yes", "no"),
        ({"prompt": [USER], "chosen": [YES], "rejected": [NO]}, "yes", "no"),
        ({"prompt": "Hi", "chosen": [USER, YES], "rejected": [USER, NO]}, "yes", "no"),
        ({"prompt": [USER]}, None, None),
        ({"messages": [USER, YES]}, "yes", None),
        ({"instruction": "Hi", "input": "", "output": "yes"}, "yes", None),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "yes"}]}, "yes", None),
        ({"prompt": "Hi", "completion": "yes", "label": True}, "yes", None),
        ({"prompt": "Hi", "completion": "no", "label": False}, None, "no"),
    ],
)
def test_every_shape_becomes_a_prompt_and_its_answers(fields: dict, chosen: str | None, rejected: str | None) -> None:
    row = to_row(fields, where="here")
    assert row.prompt == (USER,)
    assert (text_of(row.chosen) if row.chosen else None) == chosen
    assert (text_of(row.rejected) if row.rejected else None) == rejected
    assert row.reference == chosen


def test_instruction_and_input_make_one_prompt() -> None:
    row = to_row({"instruction": "Translate.", "input": "Hallo", "output": "Hello"}, where="here")
    assert row.prompt[0]["content"] == "Translate.\n\nHallo"


def test_foreign_columns_are_mapped_and_every_column_is_kept() -> None:
    row = to_row(
        {"question": "Hi", "good": "yes", "topic": 3}, where="here", columns={"prompt": "question", "chosen": "good"}
    )
    assert row.prompt == (USER,) and text_of(row.chosen) == "yes" and row.fields["topic"] == 3


def test_an_unknown_shape_names_the_fields_found_and_the_shapes_known() -> None:
    with pytest.raises(
        InputError, match=r"file, line 3: unknown row shape; fields found: a, b; shapes known: prompt \+ chosen"
    ):
        to_row({"a": 1, "b": 2}, where="file, line 3")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": 3, "content": "x"},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": []},
        {"role": "user", "content": None},
        {"from": "human", "content": float("nan")},
    ],
)
def test_a_malformed_message_is_refused(message: dict) -> None:
    with pytest.raises(InputError, match="here: a message needs 'role' and 'content' as text"):
        to_row({"messages": [message]}, where="here")


@pytest.mark.parametrize(
    ("fields", "unit", "reason"),
    [
        ({"prompt": "Hi", "chosen": " ", "rejected": "no"}, Chosen(), "empty chosen answer"),
        ({"prompt": "Hi", "chosen": "yes", "rejected": ""}, Pairs(), "empty rejected answer"),
        ({"prompt": "Hi", "chosen": "yes", "rejected": "yes"}, Pairs(), "chosen equals rejected"),
        ({"prompt": "Hi", "chosen": "yes"}, Pairs(), "no rejected answer"),
        ({"prompt": "Hi"}, Chosen(), "no chosen answer"),
        ({"prompt": "", "chosen": "yes"}, Chosen(), "empty prompt"),
        ({"prompt": "Hi", "chosen": "", "rejected": ""}, Samples(), None),
    ],
)
def test_unusable_rows_say_why(fields: dict, unit: Unit, reason: str | None) -> None:
    assert unusable_reason(to_row(fields, where="here"), unit) == reason


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_jsonl_gz_zst_parquet_and_folders_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "prompt": f"Say {n}", "chosen": 'a "quoted" ä,\ttab'} for n in range(3)]
    plain = tmp_path / "a.jsonl"
    plain.write_text(lines(*rows), encoding="utf-8")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines(*rows))
    polars.DataFrame(rows).write_parquet(tmp_path / "c.parquet")
    expected = read_rows(str(plain))
    assert [row.fields for row in expected] == rows
    for name in ("b.jsonl.gz", "c.parquet"):
        assert [row.fields for row in read_rows(str(tmp_path / name))] == rows
    assert len(read_rows(str(tmp_path))) == 9
    polars.DataFrame(rows).lazy().sink_ndjson(tmp_path / "d.jsonl.zst", compression="zstd", check_extension=False)
    assert [row.fields for row in read_rows(str(tmp_path / "d.jsonl.zst"))] == rows


def test_rows_that_share_an_id_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}, {"id": "y", "prompt": "c"}))
    assert [row.id for row in read_rows(str(path))] == ["x", "x#2", "y"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        (b'{"prompt": "a"}\n[1]\n', "line 2: expected an object, found list"),
        (b'{"prompt": "\xff"}\n', "line 1: not UTF-8"),
        (b"\n\n", "no rows"),
        (b"", "no rows"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_rows(str(path))


def test_a_gz_that_ends_early_is_an_error_and_not_fewer_rows(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*({"prompt": f"p{n}" * 50} for n in range(200))).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(str(tmp_path / "a.jsonl.gz"))


def test_missing_files_unknown_kinds_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_rows(str(tmp_path / "none.jsonl"))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="unknown kind of file"):
        read_rows(str(tmp_path / "a.txt"))
    with pytest.raises(UsageError, match="did you mean 'demo'"):
        read_rows("demoo")
    with pytest.raises(UsageError, match="did you mean 'train'"):
        read_rows("demo:trian")


def test_the_hub_out_of_reach_is_said_with_what_to_use_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"the hub cannot be reached; give a file with --data"):
        read_rows("HuggingFaceH4/ultrafeedback_binarized")


def test_a_weight_of_0_is_kept_and_any_other_but_1_refused() -> None:
    row = to_row({"messages": [USER, {**NO, "weight": 0}, USER, {**YES, "weight": 1}]}, where="here")
    assert row.prompt == (USER, {**NO, "weight": 0}, USER)
    assert row.chosen == (YES,)
    with pytest.raises(InputError, match=r"here: a message's weight is 1 \(or true\), or 0"):
        to_row({"messages": [USER, {**YES, "weight": 0.5}]}, where="here")


_ASKED = ["a?", "", "nan", "Human: a?\n\nAssistant:", [], [{"role": "user", "content": "a?"}], {"content": "a?"}, None]
_ASKED += [[{"role": "system", "content": "s"}, {"role": "user", "content": "a?"}], [{"from": "human", "value": "a?"}]]
_ASKED += [[{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}], [{"role": "user"}], 1]
_ANSWERED = ["b", "", "nan", " Human: b", [], [{"role": "assistant", "content": "b"}], {"role": "assistant"}, None, 1]
_ANSWERED += [[{"role": "assistant", "content": "b", "weight": 0}], [{"role": "user", "content": "b"}]]


def test_the_short_way_reads_rows_as_the_long_one_does() -> None:
    shapes = [("prompt", "completion"), ("prompt", "chosen"), ("prompt", "rejected"), ("instruction", "output")]
    rows: list[dict[str, Any]] = [
        {asked_name: asked, answer_name: answer, "source": "x"}
        for asked_name, answer_name in shapes
        for asked in _ASKED
        for answer in _ANSWERED
    ]
    turns = [[value for value in values if isinstance(value, list)] for values in (_ASKED, _ANSWERED)]
    rows += [{"messages": [*asked, *answer]} for asked in turns[0] for answer in turns[1]]

    def read(reader: Callable[..., tuple[Any, ...]], fields: dict[str, Any]) -> tuple[Any, ...] | None:
        try:
            return tuple(reader(fields, "f, line 1", None))
        except InputError:  # of two flaws each way may name another
            return None

    found = set()
    for fields in rows:
        long_way = read(split_row, fields)
        assert read(_by_short_way, fields) == long_way, fields
        found.add(type(long_way))
    assert found == {type(None), tuple}


def _by_short_way(fields: dict[str, Any], where: str, columns: dict[str, str] | None) -> tuple[Any, ...]:
    row = to_row(fields, where=where, columns=columns)
    return row.prompt, row.chosen, row.rejected, row.is_conversation, row.not_a_pair, row.label


def test_a_row_that_is_read_has_every_field_and_equals_one_that_is_made() -> None:
    row = to_row({"prompt": "Hi", "chosen": "yes", "rejected": "no"}, where="a.jsonl, line 1")
    names = [field.name for field in dataclasses.fields(Row)]
    assert list(vars(row)) == names
    assert row == Row(**{name: getattr(row, name) for name in names})
