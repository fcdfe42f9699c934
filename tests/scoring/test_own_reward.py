"""docs/guide/own-reward.md: its files and its command, run as they stand there, on a small model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from places import ROOT
from tiny_models import tiny_model

from alignkit.cli.main import main

GUIDE = (ROOT / "docs" / "guide" / "own-reward.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", GUIDE, flags=re.M | re.S)
    return found


def test_the_guides_command_trains_with_its_functions_on_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = json.loads(block("json"))
    rows = [{**row, "prompt": f"What is 3 + {n}?", "answer": str(3 + n)} for n in range(12)]
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("rewards.py").write_text(block("python"))
    model = str(tiny_model(tmp_path / "model"))
    command = shlex.split(block("console").removeprefix("$ alignkit").replace("SmolLM2-135M-Instruct", model))
    assert main([*command, "--max-steps", "1", "--max-new-tokens", "40", "--out", "run"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert len(re.findall(r"reward \S+ \(right \S+, short \S+\) for problems\.jsonl, line \d+:", said)) == 3
    logged = {json.loads(line)["name"] for line in Path("run/metrics.jsonl").read_text().splitlines()}
    assert {"reward", "reward/right", "reward/short"} <= logged
