"""Probing judges: credits by hand, tricks that find broken judges, and RewardBench-style files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from alignkit.cli.main import main
from alignkit.judging.probes import credit
from alignkit.scoring.judge import Missing, Scored
from alignkit.statistics.intervals import wilson


def pair(chosen: float, rejected: float) -> tuple[Scored, Scored]:
    return Scored(chosen), Scored(rejected)


def test_credit_is_one_over_the_tied_and_nothing_for_a_lost_one() -> None:
    assert credit([pair(2, 1)]) == 1 and credit([pair(1, 1)]) == 0.5 and credit([pair(1, 2)]) == 0
    assert credit([pair(1, 1), pair(1, 1), pair(1, 1)]) == 0.25  # one score for everything, among four
    assert credit([pair(1, 1), pair(1, 2)]) == 0
    assert credit([pair(3, 1), pair(2, 1)], several=True) == 1 and credit([pair(3, 1), pair(1, 1)], several=True) == 0
    assert credit([pair(1, 0), (Scored(1.0), Missing("no"))]) is None


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (5, 5), (7, 12), (600, 1000)])
def test_the_interval_is_wilsons(wins: int, n: int) -> None:
    reference = binomtest(wins, n).proportion_ci(method="wilson")
    assert wilson(wins / n, n) == pytest.approx((reference.low, reference.high), abs=1e-9)


JUDGES = """
def length(completion, row):
    return len(completion)

def constant(completion, row):
    return 1

def exact(completion, row):
    return float(completion in row["chosen"])
"""


def by_subset(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, float]]:
    return {row["subset"]: row for row in json.loads(capsys.readouterr().out)}


def test_tricks_find_a_judge_of_length_and_one_that_scores_everything_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "j.py").write_text(JUDGES)
    assert main(["probe", f"{tmp_path}/j.py:length", "--json"]) == 0
    found = by_subset(capsys)
    assert found["trick: boilerplate"]["accuracy"] == found["trick: repeated twice"]["accuracy"] == 0
    assert found["trick: empty"]["accuracy"] == found["trick: cut in half"]["accuracy"] == 100
    assert main(["probe", f"{tmp_path}/j.py:constant", "--json"]) == 0
    assert {row["accuracy"] for row in by_subset(capsys).values()} == {50.0}
    assert main(["probe", f"{tmp_path}/j.py:exact", "--json"]) == 0
    found = by_subset(capsys)
    assert {row["accuracy"] for row in found.values()} == {100.0}
    assert found["right or wrong"]["num_rows"] == 12


def test_rows_of_a_file_are_scored_by_subset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "j.py").write_text(JUDGES)
    rows = [
        {"id": 1, "prompt": "p", "chosen": "longer", "rejected": "short", "subset": "one"},
        {"id": 2, "prompt": "p", "chosen": ["abc"], "rejected": ["abd", "abe", "abf"], "subset": "four"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["probe", f"{tmp_path}/j.py:length", "--data", str(tmp_path / "rows.jsonl")]
    assert main([*command, "--json"]) == 0
    found = by_subset(capsys)
    assert found["one"]["accuracy"] == 100 and found["four"]["accuracy"] == 25
    assert main(command) == 0 and "trick: constant answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no rows"), ("{oops\n", "line 1: not JSON"), ('{"prompt": "a", "chosen": "b"}\n', "line 1: rejected")],
)
def test_a_file_that_holds_no_such_rows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    assert main(["probe", "rules", "--data", str(tmp_path / "rows.jsonl")]) == 2
    assert said in capsys.readouterr().err
