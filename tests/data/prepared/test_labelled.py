"""Labelled rows (KTO) for methods that know no labels: good answers, pairs of one prompt, a refusal by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_tokenizer

from alignkit.cli.main import main
from alignkit.config.settings import DataSection, ModelSection
from alignkit.data.chat.chat import CHATML, Chat, make_chat
from alignkit.data.prepared.selection import Selection
from alignkit.data.prepared.store import Stored
from alignkit.data.reading.pairing import partners
from alignkit.data.reading.read import read_rows
from alignkit.data.reading.rows import text_of, to_row, unusable_reason
from alignkit.errors import InputError
from alignkit.pretrained.names import find_model
from alignkit.units import MARKED_BAD, NO_BAD_ONE, NO_GOOD_ONE, Chosen, Pairs, Samples, Unit

HELD = {"id": "held", "prompt": "Say more.", "chosen": "yes", "rejected": "no"}


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))
    tiny_tokenizer(tmp_path / "model", template=CHATML)
    return make_chat(find_model("model", tokenizer_is_enough=True), ModelSection(model="model"))


def write(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def answer(id_: str, prompt: str, label: bool, **more: object) -> dict[str, Any]:
    return {"id": id_, "prompt": prompt, "completion": f"answer {id_}", "label": label, **more}


def prepared(chat: Chat, unit: Unit, part: Any = "training", shard: Any = None, **given: Any) -> Stored:
    options = {"unit": unit, "max_length": 10_000, "train_on": None, "whole_answer": False}
    drawn = {"num_prompts": given.pop("num_prompts", None), "seed": 3}
    section = DataSection(data="rows.jsonl", **{"split": "first-1", **given})
    return Selection(section, pairs=unit.compares, **drawn).prepare(part, chat, options, shard=shard)


def pairs_of(stored: Stored) -> list[tuple[str, str, str, str]]:
    assert all(row.chosen and row.rejected and row.label is None for row in stored.rows)
    return [(row.id, row.rejected_id or "", text_of(row.chosen), text_of(row.rejected)) for row in stored.rows]


ROWS = [
    HELD,
    answer("a1", "A", True, source="one"),
    answer("b1", "B", False),
    answer("a2", "A", True),
    answer("c1", "C", True),
    answer("a3", "A", False),
    {"id": "plain", "prompt": "A", "chosen": "x", "rejected": "y"},
    answer("b2", "B", True, source="two"),
    answer("a4", "A", False),
    answer("a5", "A", False),
]


def test_answers_of_one_prompt_are_paired_in_order_wherever_they_stand(chat: Chat) -> None:
    write(ROWS)
    found = prepared(chat, Pairs())
    assert pairs_of(found) == [
        ("a1", "a3", "answer a1", "answer a3"),
        ("plain", "", "x", "y"),
        ("b2", "b1", "answer b2", "answer b1"),
        ("a2", "a4", "answer a2", "answer a4"),
    ]
    assert found.left_out == {"c1": NO_BAD_ONE, "a5": NO_GOOD_ONE} and found.skipped == {}
    assert found.num_paired == 3 and found.rows[0].fields["source"] == "one"
    texts = [[chat.tokenizer.decode(s.ids.tolist()) for s in tree.segments] for tree in found.trees]
    assert "A" in texts[0][0] and "answer a1" in texts[0][1] and "answer a3" in texts[0][2]
    again = prepared(chat, Pairs())
    assert again.from_cache and pairs_of(again) == pairs_of(found)


def test_lines_about_columns_are_said_again_where_rows_come_from_the_cache(
    chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": f"{n}", "completion": "yes", "rating": n, "sytem": "Be brief."} for n in range(4)]
    write([*rows, {"instruction": "5", "output": "no", "Answer": "maybe"}])
    said = []
    for is_cached in (False, True, True):
        caplog.clear()
        selection = Selection(DataSection(data="rows.jsonl", split="first-1"))
        options = {"unit": Chosen(), "max_length": 10_000, "train_on": None, "whole_answer": False}
        parts = [selection.prepare(part, chat, options) for part in ("training", "validation")]
        assert [part.from_cache for part in parts] == [is_cached] * 2
        said.append([record.message for record in caplog.records])
    assert said[0] == said[1] == said[2] and len(said[0]) == 3
    assert all(any(name in line for line in said[0]) for name in ("'rating'", "'sytem'", "'Answer'"))
    for entry in Path("cache/prepared").iterdir():
        if entry.is_dir():
            entry.rename(entry.with_name(f"{entry.name}-aside"))
    for shard in ((1, 2), (2, 2)):
        prepared(chat, Chosen(), shard=shard)
    caplog.clear()
    prepared(chat, Chosen())  # put together from the two
    assert [record.message for record in caplog.records] == said[0]


def test_partners_are_those_of_a_plain_count() -> None:
    chance = np.random.default_rng(0)
    prompt_P, label_P = chance.integers(0, 40, 500), chance.integers(0, 3, 500).astype(np.int8)
    found = partners(prompt_P, label_P)
    expected = np.full(500, -1)
    for prompt in range(40):
        good, bad = (np.flatnonzero((prompt_P == prompt) & (label_P == label)) for label in (1, 2))
        for one, other in zip(good, bad, strict=False):
            expected[one], expected[other] = other, one
    assert (found == expected).all() and (found >= 0).sum() > 200
    assert partners(np.zeros(0, np.int64), np.zeros(0, np.int8)).tolist() == []


def test_shards_and_a_draw_keep_pairs_whole(chat: Chat) -> None:
    write(ROWS)
    whole = prepared(chat, Pairs())
    cache = Path("cache/prepared")
    for entry in cache.iterdir():
        if entry.is_dir():
            entry.rename(entry.with_name("moved"))
    parts = [prepared(chat, Pairs(), shard=(n, 2)) for n in (1, 2)]
    assert sorted(pair for part in parts for pair in pairs_of(part)) == sorted(pairs_of(whole))
    assert pairs_of(prepared(chat, Pairs())) == pairs_of(whole)  # put together from the two
    for number in range(1, 4):
        drawn = prepared(chat, Pairs(), num_prompts=number)
        assert len(drawn.trees) == number and drawn.left_out == whole.left_out
        assert set(pairs_of(drawn)) < set(pairs_of(whole))


def test_rows_of_a_split_file_are_paired_too(chat: Chat) -> None:
    write(ROWS)
    write([answer("v1", "V", False), answer("v2", "W", True), answer("v3", "V", True)], "held.jsonl")
    found = prepared(chat, Pairs(), "validation", split="held.jsonl")
    assert pairs_of(found) == [("v3", "v1", "answer v3", "answer v1")]
    assert found.left_out == {"v2": NO_BAD_ONE}


def test_conversations_are_paired_by_all_their_turns(chat: Chat) -> None:
    def talk(id_: str, first: str, last: str, label: bool) -> dict[str, Any]:
        texts = [("user", "Hi"), ("assistant", first), ("user", "More"), ("assistant", last)]
        return {"id": id_, "messages": [{"role": r, "content": t} for r, t in texts], "kto_tag": label}

    write([HELD, talk("1", "yes", "good", True), talk("2", "no", "bad", False), talk("3", "yes", "worse", False)])
    found = prepared(chat, Pairs())
    assert pairs_of(found) == [("1", "3", "good", "worse")] and found.left_out == {"2": NO_GOOD_ONE}
    assert [message["content"] for message in found.rows[0].prompt] == ["Hi", "yes", "More"]


def test_sft_trains_on_the_good_answers(chat: Chat) -> None:
    write(ROWS)
    found = prepared(chat, Chosen(), max_skipped=0.0)
    assert [row.id for row in found.rows] == ["a1", "a2", "c1", "plain", "b2"]
    assert found.left_out == dict.fromkeys(("b1", "a3", "a4", "a5"), MARKED_BAD) and found.skipped == {}
    write([HELD, *(answer(f"n{n}", f"{n}", False) for n in range(3))])
    with pytest.raises(InputError, match=r"none of the 3 rows can be used: 3 marked bad \(n0, n1, n2\)"):
        prepared(chat, Chosen())


def test_a_method_that_samples_refuses_them_by_name(chat: Chat) -> None:
    write(ROWS)
    with pytest.raises(InputError, match=r"8 of 9 rows .* cannot be used.*8 labelled, for kto.*--ignore-fields label"):
        prepared(chat, Samples())
    rows = read_rows("rows.jsonl", columns={"label": ""})
    assert all(unusable_reason(row, Samples()) is None for row in rows)


def test_validation_may_have_no_row_that_a_method_uses(chat: Chat) -> None:
    write([answer("v", "V", False), answer("a", "A", True), answer("b", "A", False)])
    for unit, reason in ((Chosen(), MARKED_BAD), (Pairs(), NO_GOOD_ONE)):
        for _ in range(2):  # made, and from the cache
            found = prepared(chat, unit, "validation")
            assert (len(found.trees), len(found.rows), found.left_out) == (0, 0, {"v": reason})


def test_a_bad_answer_without_a_label_is_still_a_fault() -> None:
    row = to_row({"prompt": "Hi", "rejected": "no"}, where="here")
    assert unusable_reason(row, Chosen()) == "no chosen answer, only a rejected one"
    assert unusable_reason(row, Pairs()) == "no chosen answer, only a rejected one"


def test_the_command_says_what_became_of_labelled_rows(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    write(ROWS)
    command = ["data", "prepare", "--model", "model", "--data", "rows.jsonl", "--split", "first-1", "--method"]
    assert main([*command, "dpo"]) == 0
    said = capsys.readouterr().out
    assert "training: 3 of the pairs used are a good and a bad answer to the same prompt (labelled rows)" in said
    assert f"training: 1 left out: {NO_BAD_ONE}" in said and f"training: 1 left out: {NO_GOOD_ONE}" in said
    assert main([*command, "sft"]) == 0
    assert f"training: 4 left out: {MARKED_BAD}" in capsys.readouterr().out
    assert main([*command, "grpo"]) == 2
    assert "8 labelled, for kto" in capsys.readouterr().err


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[dict[str, Any]], str]:
    assert main(["data", *arguments, "--model", "model", "--data", "rows.jsonl", "--json"]) == 0
    printed = capsys.readouterr()
    return [found for line in printed.out.splitlines() for found in [json.loads(line)]], printed.err


def test_show_has_the_rows_that_a_method_trains_on_with_its_options(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    tie = {"id": "tie", "prompt": "T", "chosen": "x", "rejected": "y", "score_chosen": 1, "score_rejected": 1}
    write([tie, *ROWS])
    rows, said = shown(capsys, "show", "--method", "dpo", "--limit", "20")
    assert [row["id"] for row in rows] == ["held", "a1", "plain", "b2", "a2"]
    assert all(len(row["completions"]) == 2 and "label" not in row["completions"][0] for row in rows)
    assert "row tie is not shown: tie: equal scores" in said and f"row a5 is not shown: {NO_GOOD_ONE}" in said
    rows, _ = shown(capsys, "show", "--method", "dpo", "--set", "ties=half", "--limit", "3")
    assert [[c["label"] for c in row["completions"]] for row in rows] == [[0, 0], [1, 0]]  # of three rows one is alone
    rows, said = shown(capsys, "show", "--method", "sft", "--limit", "4")
    assert [row["id"] for row in rows] == ["tie", "held", "a1"] and f"row b1 is not shown: {MARKED_BAD}" in said
    rows, _ = shown(capsys, "show", "--limit", "4")
    assert [row.get("note") for row in rows] == ["tie: equal scores", None, "marked good", "marked bad"]
    assert [len(row["completions"]) for row in rows] == [2, 2, 1, 1]


def test_lengths_are_of_the_rows_that_a_method_trains_on(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    write(ROWS)
    (columns,), _ = shown(capsys, "lengths", "--method", "dpo")
    counts = {column["column"]: column["count"] for column in columns}
    assert counts == dict.fromkeys(("prompt", "chosen", "rejected", "prompt + longest answer", "chosen - rejected"), 5)
    (columns,), _ = shown(capsys, "lengths", "--method", "sft")
    assert {column["column"]: column["count"] for column in columns}["chosen"] == 6
