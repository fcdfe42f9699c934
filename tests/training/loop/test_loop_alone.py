"""The loop without a run: the page's block as it stands."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from places import ROOT
from tiny_models import tiny_model

PAGE = ROOT / "docs" / "guide" / "loop.md"


def test_the_pages_loop_trains_without_a_folder_a_configuration_or_a_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "model")
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    exec(compile(block, str(PAGE), "exec"), {})
    steps, losses = zip(*(line.split() for line in capsys.readouterr().out.splitlines()), strict=True)
    assert steps == ("1", "2", "3")
    first, _, last = map(float, losses)
    assert first == pytest.approx(math.log(2), abs=1e-6)
    assert last < first
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_gradient_that_the_caller_left_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "model")
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    left = "for weight in policy.parameters():\n    weight.grad = weight.detach().clone()\nLoop(DPO()"
    said = []
    for text in (block, block.replace("Loop(DPO()", left)):
        exec(compile(text, str(PAGE), "exec"), {})
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and len(said[0].splitlines()) == 3
