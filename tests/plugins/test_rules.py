"""The judge `rules`: every kind by hand, its gradation, its errors, and rows that went through Parquet."""

from __future__ import annotations

import time
from typing import Any

import polars as pl
import pytest
from alignkit_plugins.rule_kinds import FORMATS, KINDS
from alignkit_plugins.rules import Rules, score_rules
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.reading.rows import to_row
from alignkit.errors import InputError, UsageError
from alignkit.registry import Registry
from alignkit.scoring.judge import Item, Missing, Scored
from alignkit.scoring.specs import NamedJudge

CASES: list[tuple[dict[str, Any], str, float]] = [
    ({"kind": "equals", "value": "Paris"}, " paris. ", 1.0),
    ({"kind": "equals", "value": "Paris"}, "The capital is Paris.", 1 / 5),
    ({"kind": "equals", "value": "Paris"}, "Rome", 0.0),
    ({"kind": "one_of", "values": ["grey", "gray"]}, "Gray!", 1.0),
    ({"kind": "one_of", "values": ["grey", "gray"]}, "It is gray", 1 / 4),
    ({"kind": "contains", "values": ["cat", "red fox"]}, "A cat sees a red, fox.", 1.0),
    ({"kind": "contains", "values": ["cat", "red fox"]}, "A category of cats and a cat", 1 / 2),
    ({"kind": "contains", "values": ["cat", "dog", "cow"], "at_least": 1}, "my dog and cow", 1.0),
    ({"kind": "contains", "values": ["%"]}, "50%", 1.0),
    ({"kind": "excludes", "values": ["as an AI"]}, "As an AI, I cannot", 0.0),
    ({"kind": "excludes", "values": ["as an AI"]}, "It was an aid", 1.0),
    ({"kind": "starts_with", "values": ["dear"]}, "  Dear Ben", 1.0),
    ({"kind": "starts_with", "values": ["dear"]}, "Hi dear", 0.0),
    ({"kind": "ends_with", "values": [".", "!"]}, "Done! ", 1.0),
    ({"kind": "ends_with", "values": [".", "!"]}, "and the", 0.0),
    ({"kind": "num_words", "min": 2, "max": 4}, "the dog's well-known bone", 1.0),
    ({"kind": "num_words", "min": 4}, "only three words", 3 / 4),
    ({"kind": "num_words", "max": 2}, "one two three four", 2 / 4),
    ({"kind": "num_sentences", "min": 2, "max": 2}, "It costs 3.50 today. Is that much?! ", 1.0),
    ({"kind": "num_sentences", "min": 2, "max": 2}, "One. Two. Three. And an unfinished", 2 / 4),
    ({"kind": "num_lines", "max": 1}, "a\n\nb\n", 1 / 2),
    ({"kind": "num_items", "min": 3, "max": 3}, "pear, fig and plum", 1.0),
    ({"kind": "num_items", "min": 3, "max": 3}, "- pear\n- fig, dried", 2 / 3),
    ({"kind": "ordered", "values": ["1", "2", "3"]}, "1, 2, 3", 1.0),
    ({"kind": "ordered", "values": ["1", "2", "3"]}, "1, 3, 2", 1 / 2),
    ({"kind": "ordered", "values": ["1", "2", "3"]}, "11, 22, 33", 0.0),
    ({"kind": "number", "number": 1200.0}, "2 dozen make 1,200.", 1.0),
    ({"kind": "number", "number": 7.0}, "7 and then 8", 0.5),
    ({"kind": "number", "number": 7.0, "at": "first"}, "7 and then 8", 1.0),
    ({"kind": "number", "number": -2.5}, "-2.5", 1.0),
    ({"kind": "number", "number": 5.0}, "12-5 is what?", 1.0),
    ({"kind": "number", "number": 7.0}, "seven", 0.0),
    ({"kind": "json_keys", "values": ["name", "age"]}, 'so: {"name": "Ben"} is it', 1 / 2),
    ({"kind": "json_keys", "values": ["name"]}, '{"name": ', 0.0),
    ({"kind": "no_repetition", "size": 2}, "yes no yes no", 2 / 3),
    ({"kind": "no_repetition"}, "short", 1.0),
    ({"kind": "format", "format": "comma-list"}, "red, dark blue", 1.0),
    ({"kind": "format", "format": "comma-list"}, "red, and this is a long sentence", 1 / 2),
    ({"kind": "format", "format": "comma-list"}, "red\nblue, green", 0.0),
    ({"kind": "format", "format": "numbered-list"}, "1. red\n2) blue", 1.0),
    ({"kind": "format", "format": "numbered-list"}, "1. red\n1. blue", 1 / 2),
    ({"kind": "format", "format": "bullet-list"}, "Here:\n- red\n* blue", 2 / 3),
    ({"kind": "format", "format": "csv"}, "a,b\n1,2\n3", 2 / 3),
    ({"kind": "format", "format": "csv"}, "a\nb", 0.0),
    ({"kind": "format", "format": "json"}, '[{"a": 1}]', 1.0),
    ({"kind": "format", "format": "json"}, '```json\n{"a": 1}\n```', 0.5),
    ({"kind": "format", "format": "json"}, "{a: 1}", 0.0),
    ({"kind": "format", "format": "uppercase"}, "ONE Two", 4 / 6),
    ({"kind": "format", "format": "lowercase"}, "1, two", 1.0),
]

MALFORMED: list[tuple[Any, str]] = [
    ([{"kind": "num_word", "max": 3}], "unknown kind 'num_word'; did you mean 'num_words'?"),
    ([{"max": 3}], "unknown kind None"),
    ([{"kind": "num_words", "max": 3}, {"kind": "num_words", "mx": 3}], "rule 2 (num_words): mx:"),
    ([{"kind": "equals"}], "rule 1 (equals): value: Missing required"),
    ([{"kind": "equals", "value": 3}], "rule 1 (equals): value: Input should be a valid string"),
    ([{"kind": "equals", "value": "a", "text": "a"}], "rule 1 (equals): text: Unexpected"),
    ([{"kind": "num_words", "max": -1}], "rule 1 (num_words): max: Input should be greater"),
    ([{"kind": "contains", "values": []}], "rule 1 (contains): values:"),
    ([{"kind": "format", "format": "yaml"}], "rule 1 (format): format:"),
    ([{"kind": "num_words", "max": 3, "weight": 0}], "weight must be a positive number, not 0"),
    ([{"kind": "num_words", "max": 3, "weight": float("nan")}], "weight must be a positive number, not nan"),
    (["num_words"], "rule 1: a rule must be an object"),
    ("num_words", "`rules` must be a list of objects"),
    ({"kind": "num_words"}, "`rules` must be a list of objects"),
]


@pytest.mark.parametrize(("rule", "text", "share"), CASES)
def test_share_of_a_rule_is_as_computed_by_hand(rule: dict[str, Any], text: str, share: float) -> None:
    assert score_rules([rule], text, row="1") == pytest.approx(share)


def test_cases_cover_every_kind_and_format() -> None:
    assert {rule["kind"] for rule, _, _ in CASES} == set(KINDS)
    assert {rule["format"] for rule, _, _ in CASES if "format" in rule} == set(FORMATS)


@given(text=st.text(max_size=80))
def test_every_share_lies_between_0_and_1(text: str) -> None:
    for rule, _, _ in CASES:
        assert 0 <= score_rules([rule], text, row="1") <= 1


def test_a_length_is_worth_less_the_further_it_is_out() -> None:
    rules = [{"kind": "num_words", "min": 5, "max": 10}]
    scores = [score_rules(rules, "word " * count, row="1") for count in range(1, 30)]
    assert scores[:5] == sorted(set(scores[:5]))
    assert scores[4:10] == [1.0] * 6
    assert scores[9:] == sorted(set(scores[9:]), reverse=True)


def test_score_is_the_weighted_share() -> None:
    rules = [{"kind": "equals", "value": "b", "weight": 3}, {"kind": "num_words", "max": 1}]
    assert score_rules(rules, "a", row="1") == 1 / 4
    assert score_rules(rules, "b", row="1") == 1


def test_an_empty_completion_scores_0_though_it_keeps_every_upper_bound() -> None:
    assert score_rules([{"kind": "num_words", "max": 9}], " \n", row="1") == 0


def test_rows_without_rules_do_not_apply() -> None:
    rows: list[dict[str, Any]] = [{"rules": [{"kind": "num_words", "max": 1}]}, {}, {"rules": None}, {"rules": []}]
    answers = Rules().score([Item(prompt=[], completion="yes", row=row) for row in rows])
    assert answers[0] == Scored(1.0)
    assert [isinstance(answer, Missing) and not answer.applies for answer in answers[1:]] == [True] * 3


@pytest.mark.parametrize(("rules", "message"), MALFORMED)
def test_malformed_rules_name_the_row_and_the_rule(rules: Any, message: str) -> None:
    row = {"id": "row-7", "rules": rules}
    with pytest.raises(InputError) as scored:
        Rules().score([Item(prompt=[], completion="a", row=row)])
    with pytest.raises(InputError) as checked:
        Rules().ready([{"id": "row-6"}, row])
    assert str(scored.value) == str(checked.value)
    assert "row row-7" in str(scored.value)
    assert message in str(scored.value)
    assert "\n" not in str(scored.value)


def test_malformed_rules_of_a_row_without_an_id_are_named_by_its_line() -> None:
    good = {"prompt": "Hi", "rules": [{"kind": "num_words", "max": 1}]}
    fields: list[dict[str, Any]] = [good, {"prompt": "Hi"}, {"prompt": "Ho", "rules": [{"kind": "no"}]}]
    rows = [to_row(each, where=f"a.jsonl, line {n}") for n, each in enumerate(fields, start=1)]
    judge = NamedJudge("rules", Rules())
    judge.ready(rows[:2])
    with pytest.raises(InputError, match=r"^a\.jsonl, line 3: a row without an id, rule 1: unknown kind 'no'"):
        judge.ready(rows)
    item = Item(rows[2].prompt, "a", rows[2].fields, name=rows[2].said)
    with pytest.raises(InputError, match=r"^a\.jsonl, line 3, rule 1: unknown kind"):
        judge.judge.score([item])


def test_ready_names_the_ways_out_when_no_row_has_rules() -> None:
    with pytest.raises(UsageError, match=r"none of the 2 rows has `rules`.*FILE\.py:function.*train reward"):
        Rules().ready([{"id": 1}, {"id": 2, "rules": None}])
    Rules().ready([{"id": 1}, {"id": 2, "rules": [{"kind": "num_words", "max": 1}]}])


def test_rules_of_different_kinds_survive_parquet(tmp_path: Any) -> None:
    rules = [rule for rule, _, _ in CASES]
    pl.DataFrame({"id": ["a"], "rules": [rules]}).write_parquet(tmp_path / "rows.parquet")
    row = pl.read_parquet(tmp_path / "rows.parquet").to_dicts()[0]
    assert score_rules(row["rules"], "red, 7", row="a") == score_rules(rules, "red, 7", row="a")


@pytest.mark.parametrize("piece", [".", ".\"'", "a-", "1,", "1.", "{", "[", "- ", "and ", "\n"])
def test_long_hostile_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece)) + "x"
    start = time.process_time()
    for rule, _, _ in CASES:
        score_rules([rule], text, row="1")
    assert time.process_time() - start < 20  # quadratic time would be hours


def test_registry_finds_a_verifiable_judge() -> None:
    from alignkit_plugins import rules

    registry = Registry()
    registry.add_module(rules, distribution="alignkit-plugins", version="0")
    assert registry.find("judge", "rules") is Rules
    assert Rules.verifiable
