"""`alignkit data audit` as a command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from places import OWN_ROWS, REAL_ROWS
from tiny_models import tiny_tokenizer

from alignkit.audit.audit import audit
from alignkit.cli.main import main
from alignkit.data.chat.chat import CHATML


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a tokenizer folder and the project's own rows, the first of them twice."""
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer(tmp_path / "model", template=CHATML)
    lines = OWN_ROWS.read_text(encoding="utf-8").splitlines()
    again = json.loads(lines[0]) | {"id": "again"}
    Path("rows.jsonl").write_text("\n".join([*lines, json.dumps(again)]) + "\n", encoding="utf-8")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["data", "audit", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_holds_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "--data", "rows.jsonl", "--test", "rows.jsonl")
    counts = {part["name"]: part["count"] for part in found["texts"]}
    assert found["rows"] == 21 and counts["near-duplicates"] == 1 and counts["test prompts in the set"] == 21
    assert [column["column"] for column in found["lengths"]] == ["prompt", "chosen", "rejected"]
    assert {column["unit"] for column in found["lengths"]} == {"characters"}


def test_a_tokenizer_counts_tokens_and_what_a_limit_would_cut(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "--data", "rows.jsonl", "--model", "model", "--max-length", "64")
    row = next(column for column in found["lengths"] if column["column"].startswith("prompt +"))
    assert row["unit"] == "tokens" and 0 < row["over"]["64"] <= row["count"]
    assert main(["data", "audit", "--data", "rows.jsonl", "--model", "model", "--max-length", "64"]) == 0
    assert "A limit of --max-length would cut" in capsys.readouterr().out


def test_words_for_people_fit_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "audit", "--data", "rows.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "Near-duplicates: 1" in shown and "--write-clean FILE" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Name a river.", "chosen": "The Rhine."}, "0 pairs of two answers"),
        ({"prompt": "Name a river."}, "There are no pairs of two answers"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]}, "1 other row"),
        ({"prompt": "Name a river.", "completion": "The Rhine.", "label": True}, "1 answer with a label"),
    ],
)
def test_sets_without_pairs_are_looked_at_too(row: object, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["data", "audit", "--data", "rows.jsonl"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_files_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "audit", "--data", "rows.jsonl", "--write-clean", "clean.jsonl"]) == 0
    assert "clean.removed.jsonl" in capsys.readouterr().out
    removed = [json.loads(line) for line in Path("clean.removed.jsonl").read_text().splitlines()]
    assert [(row["id"], "says nearly the same" in row["reason"]) for row in removed] == [("again", True)]
    assert printed(capsys, "--data", "clean.jsonl")["rows"] == 20


def test_each_reason_for_which_a_row_that_was_found_goes_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Path("rows.jsonl").read_text(encoding="utf-8").splitlines()
    Path("test.jsonl").write_text(lines[0])
    found = printed(capsys, "--data", "rows.jsonl", "--test", "test.jsonl")
    gone = {part["name"]: (part["count"], part["taken_out"], part["taken_otherwise"]) for part in found["texts"]}
    assert gone["near-duplicates"] == (1, 0, {"holds a test prompt": 1}) and gone["test prompts in the set"][1] == 2
    unusable = json.loads(lines[0]) | {"id": "unusable", "rejected": ""}
    Path("rows.jsonl").write_text("\n".join([*lines, json.dumps(unusable)]) + "\n", encoding="utf-8")
    assert main(["data", "audit", "--data", "rows.jsonl", "--test", "test.jsonl"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "takes 2 rows out for it, and 1 for another reason (1 empty rejected answer)." in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--thorough"], "--thorough runs a model over the answers; name it with --model"),
        (["--test", "none.jsonl"], "none.jsonl: no such file"),
        (["--write-clean", "rows.jsonl"], "rows are read from this file"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "audit", "--data", "rows.jsonl", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_real_rows_are_audited_in_seconds() -> None:
    if not REAL_ROWS.exists():
        pytest.skip("the real rows are not beside the repository")
    began = time.process_time()
    found = audit(str(REAL_ROWS))
    assert time.process_time() - began < 30
    assert found.texts is not None
    counts = {part.name: {s.source: s.count for s in part.sources} for part in found.texts}
    assert set(counts["near-duplicates"]) == {"pandalm-testset"}  # pairs of several models' answers to each prompt
    assert counts["cut answers"]["hh_rlhf_helpful_test"] > 40  # cut at a limit, as HH's answers are
