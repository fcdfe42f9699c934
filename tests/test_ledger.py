"""Scores are kept once, under everything that decides them, before anyone uses them."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.cli.main import main
from alignkit.errors import InputError, RunStopped
from alignkit.scoring.judge import Item, Judge, Missing, Scored
from alignkit.scoring.ledger import Ledger, Source, canonical, open_ledger
from alignkit.scoring.remember import count_unknown, remembered_scores
from alignkit.scoring.specs import NamedJudge, make_judge

SOURCE = Source.of("judge", "1", {"model": "m"})


class Counting(Judge):
    """Scores a completion by its length, counts what it was asked, and fails on some."""

    name, version = "counting", "1"

    def __init__(self, *, fails: Sequence[str] = (), parts: int = 1, dies_after: int | None = None) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fails, self.parts, self.dies_after = fails, parts, dies_after

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        self.asked += [item.completion for item in items]
        return [
            Missing("no answer") if item.completion in self.fails else Scored(float(len(item.completion)), "raw text")
            for item in items
        ]

    def stream(self, items: Sequence[Item]) -> Iterator[Mapping[int, Scored | Missing]]:
        for number, item in enumerate(items):
            if number == self.dies_after:
                raise RunStopped("the judge is gone")
            yield {number: self.score([item])[0]}


def item(text: str, **row: object) -> Item:
    return Item([{"role": "user", "content": "Hi"}], text, row)


def test_a_score_is_asked_for_once_and_equal_items_share_it() -> None:
    judge = Counting()
    items = [item("a"), item("bb"), item("a")]
    assert remembered_scores(judge, items, label="c") == [Scored(1.0), Scored(2.0), Scored(1.0)]
    assert judge.asked == ["a", "bb"]
    assert remembered_scores(Counting(), items, label="c") == [Scored(1.0), Scored(2.0), Scored(1.0)]
    assert count_unknown(judge, [*items, item("ccc")]) == 1
    assert remembered_scores(judge, [item("a")], label="c")[0].raw == "raw text"  # type: ignore[union-attr]
    assert judge.asked == ["a", "bb"]


def test_another_row_version_parameter_or_repeat_is_another_score() -> None:
    judge = Counting()
    remembered_scores(judge, [item("a", answer=1)], label="c")
    remembered_scores(judge, [item("a", answer=2)], label="c")
    remembered_scores(judge, [item("a", answer=1)], label="c", repeat=1)
    judge.version = "2"  # type: ignore[misc]
    remembered_scores(judge, [item("a", answer=1)], label="c")
    assert judge.asked == ["a"] * 4


def test_a_missing_score_is_noted_with_its_reason_and_asked_again() -> None:
    judge = Counting(fails=["bad"])
    assert remembered_scores(judge, [item("bad")], label="c") == [Missing("no answer")]
    remembered_scores(judge, [item("bad")], label="c")
    (entry,) = open_ledger().export()
    assert (entry["reason"], entry["attempts"]) == ("no answer", 2) and "value" not in entry
    assert remembered_scores(Counting(), [item("bad")], label="c") == [Scored(3.0)]
    (entry,) = open_ledger().export()
    assert entry["value"] == 3.0


def test_what_does_not_apply_leaves_no_note() -> None:
    open_ledger().keep(SOURCE, {"k": Missing("does not apply", applies=False)})
    assert not open_ledger().exists


def test_scores_that_arrived_before_the_judge_died_are_kept() -> None:
    items = [item(letter) for letter in "abcd"]
    with pytest.raises(RunStopped, match="gone"):
        remembered_scores(Counting(dies_after=2), items, label="c")
    judge = Counting()
    remembered_scores(judge, items, label="c")
    assert judge.asked == ["c", "d"]


def test_the_first_score_under_a_key_stays_and_is_the_one_that_is_used(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    assert ledger.keep(SOURCE, {"k": Scored(1.0)}) == {"k": Scored(1.0)}
    assert ledger.keep(SOURCE, {"k": Scored(2.0)}) == {"k": Scored(1.0)}


def test_a_score_is_on_the_disk_before_it_is_handed_on(tmp_path: Path) -> None:
    """Another connection, which sees only what is committed, has it inside the judge's own next part."""
    ledger, other = Ledger(tmp_path / "l.sqlite"), Ledger(tmp_path / "l.sqlite")

    class Looking(Counting):
        def stream(self, items: Sequence[Item]) -> Iterator[Mapping[int, Scored | Missing]]:
            yield {0: Scored(1.0)}
            assert sum(1 for _ in other.export()) == 1
            yield {1: Scored(2.0)}

    assert len(remembered_scores(Looking(), [item("a"), item("b")], label="c", ledger=ledger)) == 2


def _write(path: Path, worker: int) -> None:
    ledger = Ledger(path)
    for number in range(20):
        ledger.keep(SOURCE, {f"{number}": Scored(float(worker)), f"{worker}-{number}": Scored(1.0)})


def test_several_processes_share_one_ledger(tmp_path: Path) -> None:
    path = tmp_path / "new" / "l.sqlite"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(path, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert Ledger(path).stats()[0]["num_scores"] == 20 + 4 * 20


def test_the_same_look_counts_once_and_another_is_a_further_one_whichever_side_is_judged(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    looks = [(("a", "b"), "x"), (("a", "b"), "y"), (("b", "a"), "x"), (("a", "c"), "z"), (("b", "a"), "z")]
    assert [ledger.count_look(models, look) for models, look in looks] == [1, 2, 1, 1, 3]
    assert Ledger(tmp_path / "l.sqlite").count_look(("a", "b"), "y") == 2


def test_a_ledger_without_looks_keeps_its_scores_and_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    ledger.keep(SOURCE, {"first": Scored(1.0)})
    ledger._connection().executescript("DROP TABLE looks; PRAGMA user_version = 1;")
    ledger.close()
    assert Ledger(path).count_look(("a", "b"), "x") == 1 and Ledger(path).find(["first"]) == {"first": Scored(1.0)}
    Ledger(path)._connection().execute("PRAGMA user_version = 3")
    with pytest.raises(InputError, match="a ledger of another alignkit"):
        Ledger(path).find(["first"])


def test_a_full_disk_stops_with_what_was_committed_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.keep(SOURCE, {"first": Scored(1.0)})
    pages = ledger._connection().execute("PRAGMA page_count").fetchone()[0]
    ledger._connection().execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to have no more room
    with pytest.raises(RunStopped, match=r"l\.sqlite: the ledger cannot be written or read \(database or disk is full"):
        ledger.keep(SOURCE, {f"key {n}": Scored(1.0, "x" * 5000) for n in range(20)})
    assert Ledger(tmp_path / "l.sqlite").find(["first", "key 0"]) == {"first": Scored(1.0)}


def test_a_file_that_is_no_ledger_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_text("not a database, " * 100)
    with pytest.raises(InputError, match=r"cannot be used .*ALIGNKIT_LEDGER"):
        Ledger(tmp_path / "l.sqlite").find(["k"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(JSON)
def test_the_canonical_text_is_ascii_and_says_the_same(value: Any) -> None:
    text = canonical(value)
    assert text.isascii() and json.loads(text) == value
    assert canonical(json.loads(text)) == text


def test_the_canonical_text_depends_on_no_order_and_takes_any_row() -> None:
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})
    assert canonical({"x": "\ud800", "when": b"\xff"}) == canonical({"when": b"\xff", "x": "\ud800"})


def test_an_own_function_is_called_anew_when_its_file_or_what_it_imports_changes(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def f(completion, row):\n    import words\n    return words.count(completion)\n"
    )
    (tmp_path / "words.py").write_text("def count(text):\n    return len(text.split())\n")
    spec = f"{tmp_path / 'rewards.py'}:f"
    first = make_judge(spec).judge.parameters()
    assert make_judge(spec).judge.parameters() == first
    (tmp_path / "words.py").write_text("def count(text):\n    return 2 * len(text.split())\n")
    changed = make_judge(spec).judge.parameters()
    assert changed != first
    (tmp_path / "other.py").write_text("nobody imports this")
    assert make_judge(spec).judge.parameters() == changed


def test_ten_thousand_known_scores_are_read_within_two_seconds(tmp_path: Path) -> None:
    import time

    items = [item(f"answer {number}") for number in range(10_000)]
    named = NamedJudge("c", Counting())
    ledger = Ledger(tmp_path / "l.sqlite")
    source = Source.of("counting", "1", named.judge.parameters())
    ledger.keep(source, {source.key(named.judge.given(one)): Scored(1.0) for one in items})
    began = time.process_time()
    assert remembered_scores(named.judge, items, label="c", ledger=ledger) == [Scored(1.0)] * 10_000
    assert time.process_time() - began < 2


def test_stats_and_export_show_what_is_in_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ledger", "stats"]) == 2
    assert "no ledger yet" in capsys.readouterr().err
    assert not Path(os.environ["ALIGNKIT_LEDGER"]).exists()
    open_ledger().keep(SOURCE, {"a": Scored(-1.5, "reward:-1.5"), "b": Scored(2.0), "c": Missing("timeout")})
    assert main(["ledger", "stats", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["num_scores"], row["num_missing"], row["lowest"], row["highest"]) == (2, 1, -1.5, 2.0)
    assert row["parameters"] == {"model": "m"}
    assert main(["ledger", "export", "--out", str(tmp_path / "out.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["key"], line.get("value"), line.get("reason")) for line in lines] == [
        ("a", -1.5, None),
        ("b", 2.0, None),
        ("c", None, "timeout"),
    ]
    assert main(["ledger", "export", "--out", str(tmp_path / "out.jsonl")]) == 2
