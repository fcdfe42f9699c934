"""The demo tasks: right answers are right, wrong ones are not, the parts are apart, and a seed decides everything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import polars as pl
import pytest
from alignkit_plugins import demo_tasks
from alignkit_plugins.demo.answers import KINDS
from alignkit_plugins.demo_tasks import FAMILIES, DemoTasks
from alignkit_plugins.rules import Rules, score_rules

from alignkit.errors import UsageError
from alignkit.registry import Registry


@cache
def part(name: str) -> list[dict[str, Any]]:
    return [dict(row) for row in DemoTasks().rows(name)]


def prompt_of(row: dict[str, Any]) -> str:
    return row["prompt"][0]["content"]


def words_of(row: dict[str, Any]) -> int:
    return len(row["chosen"][0]["content"].split())


@pytest.mark.parametrize("name", ["train", "test"])
def test_chosen_satisfies_every_rule_and_rejected_does_not(name: str) -> None:
    for row in part(name):
        chosen, rejected = (row[side][0]["content"] for side in ("chosen", "rejected"))
        assert score_rules(row["rules"], chosen, row=row["id"]) == 1, row
        assert score_rules(row["rules"], rejected, row=row["id"]) < 1, row
        assert rejected.strip(), row
        assert row["reference"] == chosen, row


def test_number_of_rows_and_families() -> None:
    assert (len(part("train")), len(part("test")), len(part("own"))) == (3000, 600, 40)
    assert len(FAMILIES) == len({family.name for family in FAMILIES}) == 25


def test_a_third_of_the_families_and_of_each_sort_appear_in_test_alone() -> None:
    trained = {row["template"] for row in part("train")}
    tested = {row["template"]: row["unseen"] for row in part("test")}
    unseen = [family for family in FAMILIES if family.name not in trained]
    assert tested.keys() == {family.name for family in FAMILIES}
    assert {name for name, is_unseen in tested.items() if is_unseen} == {family.name for family in unseen}
    assert not any(row["unseen"] for row in part("train"))
    assert len(unseen) * 3 >= len(FAMILIES)
    assert sum(family.open for family in unseen) >= 2
    assert sum(not family.open for family in unseen) >= 2
    assert sum(family.open for family in FAMILIES) >= 5


def test_no_prompt_is_there_twice_in_all_parts() -> None:
    assert part("unseen") == [row for row in part("test") if row["unseen"]]
    rows = [row for name in DemoTasks.parts if name != "unseen" for row in part(name)]
    prompts = [prompt_of(row) for row in rows]
    assert len(set(prompts)) == len(prompts)
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)


def test_every_prefix_of_test_has_the_unseen_families_in_equal_numbers() -> None:
    counts = Counter(row["template"] for row in [row for row in part("test") if row["unseen"]][:200])
    assert set(counts.values()) == {20}


def test_answers_are_short_and_open_ones_longer() -> None:
    for row in (*part("train"), *part("test")):
        assert 1 <= words_of(row) <= 45, row
        if row["open"]:
            assert words_of(row) >= 8, row


def test_every_family_is_worded_in_many_ways() -> None:
    for family in FAMILIES:
        rows = [row for row in part("test") if row["template"] == family.name]
        starts = {tuple(prompt_of(row).split()[:2]) for row in rows}
        assert len(starts) >= 3, (family.name, starts)


def test_every_kind_of_bad_answer_occurs_in_every_sort_of_family() -> None:
    for is_open in (True, False):
        kinds = Counter(row["rejected_kind"] for row in part("train") if row["open"] == is_open)
        assert kinds.keys() == KINDS.keys()
        assert min(kinds.values()) >= 50


def test_scores_of_bad_answers_are_graded() -> None:
    scores = {round(score_rules(row["rules"], row["rejected"][0]["content"], row=""), 3) for row in part("test")}
    assert len(scores) > 100


@pytest.mark.parametrize("filler", ["Yes.", "I am a model trained on helpful data sources.", "the " * 60, "1, 2, 3"])
def test_no_single_answer_is_good_everywhere(filler: str) -> None:
    full = [score_rules(row["rules"], filler, row="") == 1 for row in part("test")]
    assert sum(full) < 0.05 * len(full)


def test_each_sentence_too_many_lowers_the_score_of_an_open_answer() -> None:
    row = next(row for row in part("test") if row["template"] == "why")
    texts = [" ".join([row["reference"], *["This is one more thing to say here."] * extra]) for extra in range(5)]
    scores = [score_rules(row["rules"], text, row="") for text in texts]
    assert scores == sorted(set(scores), reverse=True)


def test_the_same_seed_gives_the_same_rows_in_another_process_and_another_seed_others() -> None:
    code = (
        "import json; from alignkit_plugins.demo_tasks import DemoTasks; print(json.dumps([*DemoTasks().rows('test')]))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == part("test")
    assert [prompt_of(dict(row)) for row in DemoTasks(seed=1).rows("test")] != [prompt_of(row) for row in part("test")]


def test_own_prompts_have_a_plain_reference_and_no_rules() -> None:
    for row in part("own"):
        assert row["reference"]
        assert "rules" not in row
        assert "chosen" not in row


def test_an_unknown_part_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no part 'tset'; did you mean 'test'"):
        list(DemoTasks().rows("tset"))


def test_rows_survive_parquet_and_are_ready_for_the_rules(tmp_path: Any) -> None:
    pl.DataFrame(part("train"), infer_schema_length=None).write_parquet(tmp_path / "train.parquet")
    rows = pl.read_parquet(tmp_path / "train.parquet").to_dicts()
    Rules().ready(rows)
    assert all(score_rules(row["rules"], row["reference"], row=row["id"]) == 1 for row in rows[:300])


def test_registry_finds_the_data_set() -> None:
    registry = Registry()
    registry.add_module(demo_tasks, distribution="alignkit-plugins", version="0")
    assert registry.find("dataset", "demo") is DemoTasks
