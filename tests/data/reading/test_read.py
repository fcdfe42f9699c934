"""Sources of rows: several as one, weights, splits by a file, duplicates, and files that stop in the middle."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.config.settings import DataSection
from alignkit.data.prepared.selection import Selection
from alignkit.data.reading import files, mixing, tables
from alignkit.data.reading.keys import Keys, OwnIds, content_key
from alignkit.data.reading.read import Source, read_rows, refuse_among_data
from alignkit.data.reading.rows import to_row
from alignkit.errors import InputError, UsageError


def write(path: Path, rows: list[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def many(prefix: str, count: int) -> list[Mapping[str, Any]]:
    return [{"id": f"{prefix}{n}", "prompt": f"{prefix} {n}", "chosen": "yes"} for n in range(count)]


def ids(data: str, limit: int | None = None) -> list[str]:
    return [row.id for row in read_rows(data, limit=limit)]


def test_sources_without_weights_follow_one_another(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", many("a", 2)), write(tmp_path / "b.jsonl", many("b", 2))
    assert ids(f"{b},{a}") == ["b0", "b1", "a0", "a1"]


@pytest.mark.parametrize("typed", ["./support-chta.jsonl", "support-chat.jsnl"])
def test_a_mistyped_file_is_answered_with_the_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    write(tmp_path / "support-chat.jsonl", many("a", 1))
    write(tmp_path / "b.jsonl", many("b", 1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, UsageError), match=r"did you mean 'support-chat\.jsonl'"):
        ids(typed)
    with pytest.raises(InputError) as refused:
        ids("./rows.jsonl")
    assert "did you mean" not in str(refused.value)  # that both end with .jsonl is no likeness


def test_weights_are_shares_and_no_row_is_taken_twice(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", many("a", 100)), write(tmp_path / "b.jsonl", many("b", 20))
    mixture = ids(f"{a}=3,{b}=1")
    assert Counter(name[0] for name in mixture) == {"a": 60, "b": 20}
    assert len(set(mixture)) == 80
    assert mixture == ids(f"{a}=3,{b}=1")
    own = [int(name[1:]) for name in mixture if name[0] == "a"]
    assert own == sorted(own) and own != list(range(60))  # in their order, drawn from all hundred
    for start in range(0, 80, 20):  # every stretch has the mixture's shares
        assert Counter(name[0] for name in mixture[start : start + 20])["a"] in (14, 15, 16)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9)), min_size=1, max_size=5))
def test_no_source_gives_more_than_it_has_and_the_scarcest_gives_all(parts: list[tuple[int, int]]) -> None:
    counts, weights = [count for count, _ in parts], [float(weight) for _, weight in parts]
    taken = mixing.shares(counts, weights)
    assert all(0 <= took <= count for took, count in zip(taken, counts, strict=True))
    assert any(took == count for took, count in zip(taken, counts, strict=True))
    for took, weight in zip(taken, weights, strict=True):
        assert abs(took - sum(taken) * weight / sum(weights)) <= 0.5 + 0.5 * len(parts)


@pytest.mark.parametrize("weight", ["0", "-1", "half", "nan", "inf", ""])
def test_a_weight_that_is_no_number_above_0_is_refused(weight: str) -> None:
    with pytest.raises(UsageError, match=r"the weight .* of a.jsonl is not a number above 0"):
        mixing.parse(f"a.jsonl={weight},b.jsonl")


def test_a_path_with_a_comma_or_equals_sign_is_one_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a=2,b.jsonl", many("a", 1))
    assert ids(path) == ["a0"]
    with pytest.raises(UsageError, match="an empty part"):
        mixing.parse("a.jsonl,,b.jsonl")


def test_a_folder_of_mixed_kinds_and_shapes_is_read_row_by_row(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]}]
    )
    (tmp_path / "sub").mkdir()
    polars.DataFrame(
        {"prompt": ["b", "c"], "chosen": ["y", None], "rejected": [None, None], "completion": [None, "z"]}
    ).write_parquet(tmp_path / "sub" / "b.parquet")
    write(tmp_path / "z.jsonl", [{"instruction": "d", "input": "", "output": "w"}])
    (tmp_path / "README.md").write_text("not data")
    rows = read_rows(str(tmp_path))
    assert [(row.prompt[0]["content"], row.reference) for row in rows] == [
        ("a", "x"),
        ("b", "y"),
        ("c", "z"),
        ("d", "w"),
    ]
    assert [row.is_conversation for row in rows] == [True, False, False, False]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": [1, 2], "chosen": ["a", "b"]}, "row 1: expected text or a list of messages in .* 1;"),
        (
            {"prompt": ["a"], "chosen": [[{"role": "assistant", "text": "b"}]]},
            "row 1: 'chosen': a message needs 'role'",
        ),
        ({"messages": [["a"]]}, "row 1: 'messages' is a list with 'a' in it: a list holds messages with role"),
        ({"number": [1.5]}, "row 1: unknown row shape; fields found: number"),
    ],
)
def test_parquet_with_wrong_types_names_the_row(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    polars.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"a.parquet, {message}"):
        read_rows(str(tmp_path / "a.parquet"))


def test_a_zst_that_ends_early_is_an_error_and_a_whole_one_is_read_to_its_end(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jsonl", many("a\u2028 ", 5000))
    packed = tmp_path / "a.jsonl.zst"
    rows = polars.DataFrame(many("a\u2028 ", 5000)).lazy()
    rows.sink_ndjson(packed, compression="zstd", check_extension=False)
    assert packed.read_bytes().startswith(b"\x28\xb5\x2f\xfd")
    assert ids(str(packed)) == ids(plain)
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    with pytest.raises(InputError, match=r"not readable as zst: .*; pack it again"):
        read_rows(str(packed))


def test_wrong_json_names_its_line_however_far_down(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, many("a", 4321))
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n{oops\n")
    with pytest.raises(InputError, match=r"a.jsonl, line 4323: not JSON"):
        read_rows(str(path))
    assert len(read_rows(str(path), limit=4321)) == 4321  # what is not asked for is not read


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_reading_holds_a_bounded_part_of_a_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    rows = [{"prompt": f"{n} " + "x" * 1000, "chosen": "y"} for n in range(5000)]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        write(path, rows)
    else:
        polars.DataFrame(rows).write_parquet(path, row_group_size=500)
    monkeypatch.setattr(tables, "_BATCH_ROWS", 256)
    tracemalloc.start()
    try:
        count = sum(1 for _ in files.read_file(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 5000
    assert peak < 2_000_000  # of 5 MB


def test_exact_duplicates_are_counted_and_left_out_where_asked(tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = [
        {"id": f"r{n}", "prompt": f"{n % 3}", "chosen": "a" if n < 5 else "b"} for n in range(6)
    ]
    keys = Keys()
    for row in rows:
        keys.add(content_key(to_row(row, where="x")))
    assert keys.times().tolist() == [1, 1, 1, 2, 2, 1]
    data = write(tmp_path / "a.jsonl", rows)
    kept = DataSection(data=data, split="first-1", duplicates="keep")
    assert selected(kept, "training") == ["r1", "r2", "r4", "r5"]
    dropped = DataSection(data=data, split="first-1", duplicates="drop")
    assert selected(dropped, "training") == ["r1", "r2", "r5"]
    assert selected(dropped, "validation") == ["r0"]


@given(st.lists(st.integers(0, 5)))
def test_times_count_how_often_a_key_has_stood(numbers: list[int]) -> None:
    keys = Keys()
    for number in numbers:
        keys.add(bytes([number] * 8 + [number // 2] * 8))
    assert len(keys) == len(numbers)
    assert keys.times().tolist() == [numbers[: at + 1].count(number) for at, number in enumerate(numbers)]


def test_the_first_few_duplicates_are_named(tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = [{"id": f"r{n % 9}", "prompt": f"{n % 3}", "chosen": "a"} for n in range(20)]
    selection = Selection(DataSection(data=write(tmp_path / "a.jsonl", rows), split="first-1", duplicates="drop"))
    assert [row.id for row in selection._rows("training")] == ["r1", "r2"]
    found = selection._notes()
    assert (found["duplicates"], found["duplicate_ids"]) == (17, ["r3", "r4", "r5", "r6", "r7"])
    assert (found["num_read"], found["num_drawn_from"]) == (20, 2)


def test_rows_of_one_id_keep_their_numbers_in_each_part(tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = [{"id": "same", "prompt": f"{n}", "chosen": "a"} for n in range(4)]
    section = DataSection(data=write(tmp_path / "a.jsonl", rows), split="first-2")
    assert selected(section, "validation") == ["same", "same#2"]
    assert selected(section, "training") == ["same#3", "same#4"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (["a", "a", "a#2"], ["a", "a#2.1", "a#2"]),
        (["a#2", "a", "a"], ["a#2", "a", "a#2.1"]),
        (["a", "a#2", "a", "a#2", "a#2.1"], ["a", "a#2", "a#2.2", "a#2#2", "a#2.1"]),
        (["a", "a", "a", "a#3"], ["a", "a#2", "a#3.1", "a#3"]),
        (["", "", "#2", "#2"], ["", "#2.1", "#2", "#2#2"]),
        ([1, "1", "1#2"], ["1", "1#2.1", "1#2"]),
    ],
)
def test_a_number_given_to_a_row_is_no_other_rows_id(tmp_path: Path, own: list[Any], expected: list[str]) -> None:
    rows: list[Mapping[str, Any]] = [{"id": id_, "prompt": f"{n}", "chosen": "a"} for n, id_ in enumerate(own)]
    data = write(tmp_path / "a.jsonl", rows)
    assert ids(data) == expected
    section = DataSection(data=data, split="first-1")
    assert selected(section, "validation") + selected(section, "training") == expected


@given(st.lists(st.sampled_from(["a", "a#2", "a#2.1", "a#2#2", "a#3", "#2", "a#", "a##2"]), min_size=2, max_size=12))
def test_whatever_ids_there_are_rows_stay_different(own: list[str]) -> None:
    known = OwnIds()
    for id_ in own:
        known.add(id_)
    counts = [own[: at + 1].count(id_) for at, id_ in enumerate(own)]
    given_ = [id_ if n == 1 else known.numbered(id_, n) for id_, n in zip(own, counts, strict=True)]
    assert len(set(given_)) == len(own)


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("private.jsonl"), many("a", 3))
    with pytest.raises(UsageError, match="--data is empty"):
        read_rows(empty)
    with pytest.raises(UsageError, match="--split"):
        selected(DataSection(data="private.jsonl", split=empty), "training")


def test_a_fingerprint_follows_the_content_and_what_is_asked_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", many("a", 3))
    before = Source(path).fingerprint()
    assert Source(path).fingerprint() == before
    assert Source(path, limit=2).fingerprint() != before
    assert Source(path, {"prompt": "question"}).fingerprint() != before
    write(tmp_path / "a.jsonl", many("b", 3))
    assert Source(path).fingerprint() != before
    assert Source("demo").fingerprint() == Source("demo").fingerprint() != Source("demo:test").fingerprint()


def selected(section: DataSection, part: Any, **given: Any) -> list[str]:
    return [row.id for row in Selection(section, **given)._rows(part)]


def test_the_first_rows_a_seeded_share_or_a_file_validate(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", many("a", 40))
    apart = write(tmp_path / "v.jsonl", [*many("v", 2), {"id": "twin", "prompt": "a 7", "chosen": "no"}])
    first = DataSection(data=data, split="first-10")
    assert selected(first, "validation") == [f"a{n}" for n in range(10)]
    assert selected(first, "training") == [f"a{n}" for n in range(10, 40)]
    share = DataSection(data=data, split="0.25")
    held = selected(share, "validation")
    assert len(held) == 10 and held != [f"a{n}" for n in range(10)]
    assert sorted(held + selected(share, "training")) == sorted(f"a{n}" for n in range(40))
    named = DataSection(data=data, split=apart)
    assert selected(named, "validation") == ["v0", "v1", "twin"]
    assert selected(named, "training") == [f"a{n}" for n in range(40) if n != 7]  # its prompt validates


def test_a_file_that_holds_every_prompt_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", many("a", 4))
    with pytest.raises(UsageError, match="it holds the prompts of all 4 rows"):
        selected(DataSection(data=data, split=data), "training")


def test_drawn_prompts_are_the_same_for_a_seed(tmp_path: Path) -> None:
    section = DataSection(data=write(tmp_path / "a.jsonl", many("a", 40)), split="first-10")
    drawn = selected(section, "training", num_prompts=5, seed=3)
    assert len(drawn) == 5 and drawn == selected(section, "training", num_prompts=5, seed=3)
    assert drawn != selected(section, "training", num_prompts=5, seed=4)


def test_refused_fields_are_counted_over_all_rows_and_named_together(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes", "name": "Ann"}]
    rows: list[dict[str, Any]] = [{"messages": turns[:1]}] * 2
    rows += [{"messages": turns, "images": ["a.png"]}, {"messages": turns}, {"messages": 3}, {"images": []}]
    rows += [{"messages": turns[:1], "images": ["b.png"]}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError) as raised:
        read_rows(str(path))
    assert str(raised.value) == (
        f"{path}, line 3: the row has 'images': pictures are not read; take such rows out, or leave the field unread "
        "by --ignore-fields images,message.name (of 7 rows 2 have images, 2 have message.name)"
    )
    path.write_text("\n".join(map(json.dumps, rows[:4])))
    ignoring = DataSection(data=str(path), ignore_fields=["images, message.name"])
    read = read_rows(ignoring.data, columns=ignoring.read_as)
    assert [row.chosen is not None for row in read] == [False, False, True, True]
    assert read[2].fields["images"] == ["a.png"]  # rewards see it
    with pytest.raises(InputError, match=r"images,message.name \(of 3 rows 1 has images, 1 has "):
        read_rows(str(path), limit=3)


def test_a_column_that_is_mapped_is_read_where_the_files_own_is_ignored() -> None:
    section = DataSection(columns={"prompt": "question"}, ignore_fields=["prompt", "tools"])
    assert section.read_as == {"prompt": "question", "tools": ""}
    with pytest.raises(ValueError, match="a name is empty"):
        DataSection(ignore_fields=["images,"])


def test_columns_that_are_nearly_read_and_lone_scores_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "typo.jsonl"
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "sytem": "Be brief.", "score_rejected": 5, "knowledge": "k"}
    file.write_text("\n".join(json.dumps(row) for _ in range(3)))
    for columns in ({}, {"sytem": ""}, {"system": "sytem"}):
        caplog.clear()
        assert len(list(Source(str(file), columns).rows())) == 3
        said = [record.message for record in caplog.records]
        if not columns:
            assert len(said) == 2
            assert any("'sytem' is kept and not read; did you mean 'system'? --columns system=sytem" in s for s in said)
            assert any("rows have score_rejected and no score_chosen" in s for s in said)
        else:
            assert said == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"instruction": "Hi", "output": "yes", "response": "no"},
            "'response' beside 'output', from which the answer is read: .*--columns output=response reads it instead",
        ),
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no", "Answer": "ja"}, "'Answer' beside 'chosen'"),
        ({"prompt": "Hi", "completion": "yes", "responses": ["no", "ja"]}, "'responses' beside 'completion'"),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}], "solution": "4"},
            "'solution' beside 'messages', .*--ignore-fields messages --columns completion=solution",
        ),
        (
            {"prompt": "Hi", "completion": "yes", "query": "Ho"},
            "'query' beside 'prompt', from which the prompt is read",
        ),
        ({"prompt": "Hi there", "completion": "yes", "query": "Hi", "response": "yes", "answer": None}, ""),
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no", "generations": ["no", "yes"]}, ""),
        ({"prompt": "Hi", "completion": "yes", "y_l": "no"}, "'y_l', which is not read; --columns rejected=y_l"),
        ({"prompt": "Hi", "answer": "4"}, ""),  # a prompt alone, with what a reward compares with
    ],
)
def test_a_second_column_for_the_prompt_or_the_answer_is_said_by_name_with_what_reads_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], said: str
) -> None:
    file = write(tmp_path / "two.jsonl", [fields | {"n": n} for n in range(2)])
    list(Source(file).rows())
    assert len(caplog.records) == bool(said) and re.search(said, caplog.text)
    caplog.clear()
    list(Source(file, {said.split("'")[1]: ""} if said else {}).rows())
    assert not caplog.records


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "Hi", "completion": "yes", "rating": 1}, "rating"),
        ({"messages": TALK, "feedback": "thumbs_down"}, "feedback"),
        ({"conversations": TALK, "thumbs": False}, "thumbs"),
        (
            {"instruction": "Hi", "output": "yes", "Quality-Score": 0, "is_helpful": True, "toxic": False},
            "Quality-Score",
        ),
        ({"prompt": "Hi", "completion": "yes", "is_safe": False, "downvotes": 0}, "is_safe"),
        ({"prompt": "Hi", "completion": "yes", "disliked": True}, "disliked"),
        ({"prompt": "Hi", "chosen": "yes", "accepted": False}, "accepted"),
        ({"prompt": "Hi", "completion": "yes", "reward": -0.5}, "reward"),
        ({"prompt": "Hi", "completion": "yes", "vote": None, "score": float("nan"), "verdict": ""}, ""),
        ({"prompt": "Hi", "completion": "yes", "label": True, "rating": 5}, ""),  # the label says it
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no", "score": 5}, ""),
        ({"prompt": "Hi", "score": 5}, ""),
        ({"messages": TALK[:1], "score": 5}, ""),
    ],
)
def test_a_mark_of_an_answer_that_is_no_label_is_said_with_what_reads_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], said: str
) -> None:
    file = write(tmp_path / "marked.jsonl", [fields | {"n": n} for n in range(2)])
    assert all(row.label is fields.get("label") for row in Source(file).rows())
    assert len(caplog.records) == bool(said) and (not said or f"rows have '{said}', which may say" in caplog.text)
    assert ("--columns label=" in caplog.text) == (bool(said) and said != "disliked")  # which says the opposite
    caplog.clear()
    list(Source(file, {said: ""} if said else {}).rows())
    assert not caplog.records


def test_what_a_hint_about_a_mark_names_reads_it_as_a_label(tmp_path: Path) -> None:
    file = write(tmp_path / "marked.jsonl", [{"prompt": "Hi", "completion": "yes", "thumbs": n} for n in (1, 0)])
    assert [row.label for row in Source(file, {"label": "thumbs"}).rows()] == [True, False]
    file = write(tmp_path / "stars.jsonl", [{"prompt": "Hi", "completion": "yes", "rating": n} for n in (1, 5)])
    with pytest.raises(InputError, match="line 2: 'label' must be true or false"):
        list(Source(file, {"label": "rating"}).rows())


def test_nothing_is_written_where_it_would_be_read_as_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set.jsonl", many("a", 2))
    (tmp_path / "in" / "deep").mkdir(parents=True)
    both = "y.jsonl,."
    for out, reads in (("in/deep/x.jsonl", "in"), ("x.json", "."), ("in/x.csv", str(tmp_path)), ("x.jsonl", both)):
        with pytest.raises(UsageError, match=f"^--out {out}: it would stand in .*, a folder whose files are all read"):
            refuse_among_data("--out", Path(out), (None, reads))
    with pytest.raises(UsageError, match="rows are read from this file"):
        refuse_among_data("--out", Path("in/../set.jsonl"), ("set.jsonl",))
    with pytest.raises(UsageError, match=r"stand in \., a folder"):
        refuse_among_data("--out", Path("runs/sft"), (".",), is_folder=True)
    for out in ("page.html", ".hidden/x.jsonl", "../x.jsonl"):
        refuse_among_data("--out", Path(out), (".", "hub/name"))
    refuse_among_data("--out", Path("in2/x.jsonl"), ("in", "set.jsonl=2,in=1"))
