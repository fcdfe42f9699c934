"""Scores are kept once, under everything that decides them, before anyone uses them."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.cli.main import main
from alignkit.errors import InputError, RunStopped
from alignkit.scoring.judge import Item, Judge, Missing, Scored
from alignkit.scoring.ledger import Ledger, Source, canonical, open_ledger
from alignkit.scoring.looks import count_look
from alignkit.scoring.score_cache import cached_scores
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


def change(path: Path, script: str) -> None:
    """Change a ledger's file as no alignkit would."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


def item(text: str, **row: object) -> Item:
    return Item([{"role": "user", "content": "Hi"}], text, row)


def test_a_score_is_asked_for_once_and_equal_items_share_it() -> None:
    judge = Counting()
    items = [item("a"), item("bb"), item("a")]
    assert cached_scores(judge, items, label="c") == [Scored(1.0), Scored(2.0), Scored(1.0)]
    assert judge.asked == ["a", "bb"]
    assert cached_scores(Counting(), items, label="c") == [Scored(1.0), Scored(2.0), Scored(1.0)]
    assert cached_scores(judge, [item("a")], label="c")[0].raw == "raw text"  # type: ignore[union-attr]
    assert judge.asked == ["a", "bb"]


def test_another_row_version_parameter_or_repeat_is_another_score() -> None:
    judge = Counting()
    cached_scores(judge, [item("a", answer=1)], label="c")
    cached_scores(judge, [item("a", answer=2)], label="c")
    cached_scores(judge, [item("a", answer=1)], label="c", repeat=1)
    judge.version = "2"  # type: ignore[misc]
    cached_scores(judge, [item("a", answer=1)], label="c")
    assert judge.asked == ["a"] * 4


def test_a_missing_score_is_noted_with_its_reason_and_asked_again() -> None:
    judge = Counting(fails=["bad"])
    assert cached_scores(judge, [item("bad")], label="c") == [Missing("no answer")]
    cached_scores(judge, [item("bad")], label="c")
    (entry,) = open_ledger().export()
    assert (entry["reason"], entry["attempts"]) == ("no answer", 2) and "value" not in entry
    assert cached_scores(Counting(), [item("bad")], label="c") == [Scored(3.0)]
    (entry,) = open_ledger().export()
    assert entry["value"] == 3.0


def test_what_does_not_apply_leaves_no_note() -> None:
    open_ledger().keep(SOURCE, {"k": Missing("does not apply", applies=False)})
    assert not open_ledger().exists


def test_scores_that_arrived_before_the_judge_died_are_kept() -> None:
    items = [item(letter) for letter in "abcd"]
    with pytest.raises(RunStopped, match="gone"):
        cached_scores(Counting(dies_after=2), items, label="c")
    judge = Counting()
    cached_scores(judge, items, label="c")
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

    assert len(cached_scores(Looking(), [item("a"), item("b")], label="c", ledger=ledger)) == 2


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
    assert [count_look(ledger, models, look) for models, look in looks] == [1, 2, 1, 1, 3]
    assert count_look(Ledger(tmp_path / "l.sqlite"), ("a", "b"), "y") == 2


def test_a_ledger_without_looks_keeps_its_scores_and_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    ledger.keep(SOURCE, {"first": Scored(1.0)})
    ledger.close()
    change(
        path, "DROP TABLE looks; DROP TABLE claims; ALTER TABLE scores DROP COLUMN checksum; PRAGMA user_version = 1;"
    )
    assert count_look(Ledger(path), ("a", "b"), "x") == 1 and Ledger(path).find(["first"]) == {"first": Scored(1.0)}
    change(path, "PRAGMA user_version = 99")
    with pytest.raises(InputError, match="a ledger of another alignkit"):
        Ledger(path).find(["first"])


FORMAT_2 = """
CREATE TABLE scores (key TEXT PRIMARY KEY, judge TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL,
  repeat INTEGER NOT NULL, value REAL NOT NULL, raw TEXT, created TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE missing (key TEXT PRIMARY KEY, judge TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL,
  reason TEXT NOT NULL, created TEXT NOT NULL, attempts INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE looks (number INTEGER PRIMARY KEY, pair TEXT NOT NULL, look TEXT NOT NULL, created TEXT NOT NULL,
  UNIQUE (pair, look));
INSERT INTO scores VALUES ('a', 'j', '1', '{}', 0, 1.5, 'raw', '2026'), ('b', 'j', '1', '{}', 0, 'text', NULL, '2026');
INSERT INTO missing VALUES ('c', 'j', '1', '{}', 'no answer', '2026', 3);
INSERT INTO looks VALUES (1, 'p q', 'x', '2026'), (2, 'p q', 'y', '2026');
PRAGMA user_version = 2;
"""


def test_a_ledger_of_the_format_before_keeps_its_scores_notes_and_looks(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    change(path, FORMAT_2)
    path.chmod(0o644)
    ledger = Ledger(path)
    assert ledger.find(["a", "b"]) == {"a": Scored(1.5)}  # what is no number never was a score
    assert count_look(ledger, ("q", "p"), "y") == 2 and count_look(ledger, ("p", "q"), "z") == 3
    assert [entry["attempts"] for entry in ledger.export() if entry["key"] == "c"] == [3]
    assert path.stat().st_mode & 0o777 == 0o600
    ledger.keep(SOURCE, {"b": Scored(7.0)})
    assert Ledger(path).find(["b"]) == {"b": Scored(7.0)}


def test_the_ledger_and_what_sqlite_puts_beside_it_are_the_users_own(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        ledger = Ledger(tmp_path / "new" / "l.sqlite")
        ledger.keep(SOURCE, {"k": Scored(1.0)})
        modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "new").iterdir()}
    finally:
        os.umask(old)
    assert {"l.sqlite", "l.sqlite-wal", "l.sqlite-shm"} <= modes.keys() and set(modes.values()) == {0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE scores SET value = 2.5",
        "UPDATE scores SET value = 'text'",
        "UPDATE scores SET value = x'ff'",
        "UPDATE scores SET value = 9e999",
        "UPDATE scores SET raw = 'other'",
        "UPDATE scores SET raw = x'ff'",
        "UPDATE scores SET parameters = '{'",
        "UPDATE scores SET judge = x'00'",
        "UPDATE scores SET repeat = 'x'",
        "UPDATE scores SET created = 7",
        "UPDATE scores SET checksum = NULL",
        "UPDATE scores SET judge = CAST(x'ff' AS TEXT)",
        "UPDATE scores SET key = 'stray' WHERE key = 'k'",
        "UPDATE missing SET attempts = 'many'; UPDATE missing SET reason = x'00'; UPDATE scores SET value = 3.0",
    ],
)
def test_a_score_that_is_not_what_was_written_is_asked_for_again_and_counted(
    tmp_path: Path,
    script: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "l.sqlite"
    monkeypatch.setenv("ALIGNKIT_LEDGER", str(path))
    ledger = Ledger(path)
    ledger.keep(SOURCE, {"k": Scored(1.5, "raw"), "m": Missing("no answer")})
    ledger.close()
    change(path, script)
    assert ledger.find(["k"]) == {}
    for command in (["ledger", "stats"], ["ledger", "stats", "--json"], ["ledger", "export"]):
        assert main(command) == 0
        assert "rows are not what was written" in (capsys.readouterr().err + caplog.text)
        caplog.clear()
    assert ledger.keep(SOURCE, {"k": Scored(4.0), "m": Missing("again")}) == {"k": Scored(4.0)}
    assert Ledger(path).find(["k"]) == {"k": Scored(4.0)}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("DROP TABLE scores", "its table scores is another one"),
        ("DROP TABLE looks; CREATE TABLE looks (x)", "its table looks is another one"),
        ("PRAGMA user_version = -3", "of another alignkit"),
        ("PRAGMA user_version = 0", "another program's database"),
    ],
)
def test_a_database_with_other_tables_is_refused_and_left_alone(tmp_path: Path, script: str, said: str) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    ledger.keep(SOURCE, {"k": Scored(1.5)})
    ledger.close()
    change(path, script)
    before = path.read_bytes()
    for look in (lambda: ledger.find(["k"]), lambda: ledger.stats(), lambda: list(ledger.export())):
        with pytest.raises(InputError, match=said):
            look()
    assert path.read_bytes() == before


def test_a_look_that_is_not_what_was_written_counts_for_everybody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    assert [count_look(ledger, ("a", "b"), look) for look in "xyz"] == [1, 2, 3]
    ledger.close()
    change(path, "UPDATE looks SET pair = 'somebody else' WHERE number = 2")
    assert count_look(Ledger(path), ("a", "b"), "w") == 4 and "1 rows of looks are not what was written" in caplog.text
    change(path, "UPDATE looks SET number = 4611686018427387904 WHERE number = 2; DELETE FROM looks WHERE number = 1")
    assert count_look(Ledger(path), ("a", "b"), "v") == 5


def test_a_ledger_that_is_removed_while_it_is_open_is_begun_anew_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    ledger.keep(SOURCE, {"before": Scored(1.0)})
    path.unlink()
    ledger.keep(SOURCE, {"after": Scored(2.0)})
    assert "removed or replaced while it was open" in caplog.text
    assert Ledger(path).find(["before", "after"]) == {"after": Scored(2.0)}


def test_looks_that_stand_elsewhere_are_counted_too(tmp_path: Path) -> None:
    assert count_look(Ledger(tmp_path / "new.sqlite"), ("a", "b"), "w", known=["x", "y", "x"]) == 3
    assert count_look(Ledger(tmp_path / "new.sqlite"), ("b", "a"), "y", known=["x", "y"]) == 2


def test_a_raw_answer_that_is_no_unicode_is_kept_in_escaped_form(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    assert ledger.keep(SOURCE, {"k": Scored(1.0, "\ud800")})["k"].raw == "\\ud800"
    ledger.keep(SOURCE, {"m": Missing("half \udfff")})
    assert [entry["reason"] for entry in ledger.export() if entry["key"] == "m"] == ["half \\udfff"]


def test_a_full_disk_stops_with_what_was_committed_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.keep(SOURCE, {"first": Scored(1.0)})
    with ledger.connection() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to have no more room
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
    assert cached_scores(named.judge, items, label="c", ledger=ledger) == [Scored(1.0)] * 10_000
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
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_export_that_fails_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(self: Ledger) -> Iterator[dict[str, Any]]:
        yield {"key": "a"}
        raise InputError("damaged")

    open_ledger().keep(SOURCE, {"a": Scored(1.0)})
    monkeypatch.setattr(Ledger, "export", entries)
    assert main(["ledger", "export", "--out", str(tmp_path / "out.jsonl")]) == 2
    assert not (tmp_path / "out.jsonl").exists()
