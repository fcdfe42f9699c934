"""The default data set under its own name and columns, from a folder that is laid out as the hub's cache is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars
import pytest
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.config.settings import DEFAULT_DATA
from alignkit.data.reading.read import read_rows
from alignkit.errors import InputError

SMALL = ["--precision", "fp32", "--max-steps", "2", "--batch-size", "4", "--warmup-steps", "1", "--split", "first-2"]


def columns(number: int, *, is_tie: bool) -> dict[str, Any]:
    """One row in the columns of HuggingFaceH4/ultrafeedback_binarized."""
    asked = {"content": f"Say {number}.", "role": "user"}
    answers = [{"content": text, "role": "assistant"} for text in (f"It is {number}.", f"I say {number}, or not.")]
    return {
        "prompt": asked["content"],
        "prompt_id": f"{number:064x}",
        "chosen": [asked, answers[0]],
        "rejected": [asked, answers[1]],
        "messages": [asked, answers[0]],
        "score_chosen": 8.5,
        "score_rejected": 8.5 if is_tie else 4.0,
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, and the hub's cache with the data set: 20 rows in two parts, every ninth a tie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / f"datasets--{DEFAULT_DATA.replace('/', '--')}"
    data = folder / "snapshots" / ("0" * 40) / "data"
    data.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    rows = [columns(number, is_tie=number % 9 == 8) for number in range(20)]
    for part in range(2):
        frame = polars.DataFrame(rows[10 * part : 10 * part + 10])
        frame.write_parquet(data / f"train_prefs-0000{part}-of-00002.parquet")
        frame.write_parquet(data / f"test_prefs-0000{part}-of-00002.parquet")
    tiny_model(tmp_path / "model")
    return data


@pytest.mark.parametrize("method", ["dpo", "reward", "sft"])
def test_the_default_data_set_trains_without_a_word_about_data(
    method: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", method, "--model", "model", "--out", "run", *SMALL]) == 0
    said = capsys.readouterr().err
    rows = json.loads(Path("run/run.json").read_text(encoding="utf-8"))["rows"]["training"]
    assert Path("run/model/config.json").exists()
    if method == "sft":
        assert (rows["used"], rows["ties"], rows["skipped"]) == (18, 0, {})
        return
    assert (rows["used"], rows["ties"]) == (16, 2)  # more than --max-skipped allows, had they been skipped
    assert set(rows["left_out"].values()) == {"tie: equal scores"} and len(rows["left_out"]) == 2
    assert rows["skipped"] == {}
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(m["step"], m["value"]) for m in metrics if m["name"].startswith("rows/")] == [(0, 2.0)]  # left out
    assert "left out on purpose: tie: equal scores" in Path("run/report.html").read_text(encoding="utf-8")
    assert "training: 16 rows, 2 ties (equal scores) left out" in said


def test_a_part_of_a_split_is_not_taken_for_the_whole(place: Path) -> None:
    assert len(read_rows(f"{DEFAULT_DATA}:test_prefs")) == 20
    (place / "test_prefs-00001-of-00002.parquet").unlink()
    with pytest.raises(InputError, match="the hub cannot be reached; give a file with --data"):
        read_rows(f"{DEFAULT_DATA}:test_prefs")


def test_the_default_data_set_gives_prompts_to_grpo(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text("def score(completion, row):\n    return float(len(completion) % 7)\n")
    options = ["--max-new-tokens", "4", "--group-size", "2", "--num-prompts", "4", "--batch-size", "2"]
    command = ["train", "grpo", "--model", "model", "--out", "run", "--reward", "own.py:score", *SMALL, *options]
    assert main([*command, "--limit", "19"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    where = said[said.index("training: ") :][:160]
    assert re.match(r"training: 4 of 1\d rows \(--num-prompts 4; --limit 19: only the first 19 were read\)", where), (
        where
    )
    assert json.loads(Path("run/run.json").read_text(encoding="utf-8"))["rows"]["training"]["skipped"] == {}
