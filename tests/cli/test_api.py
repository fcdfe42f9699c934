"""What Python offers: training, planning, and a run to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model

import alignkit
from alignkit import api
from alignkit.errors import UsageError


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model and rows that a rule can score."""
    folder = tmp_path_factory.mktemp("inputs")
    words = ("river", "stone", "cloud", "lamp", "bread", "window")
    rows = [{"id": word, "prompt": f"Say {word}.", "rules": [{"kind": "contains", "values": [word]}]} for word in words]
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    model = tiny_model(folder / "model")
    return {"model": str(model), "data": str(folder / "prompts.jsonl"), "precision": "fp32", "max_new_tokens": 8}


def test_train_refuses_to_train_where_a_plan_was_asked_for(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match=r"alignkit\.api\.plan\('grpo', \.\.\.\).*alignkit train grpo --plan"):
        alignkit.train("grpo", out=str(out), plan=True, **options)
    assert any("MiB" in line or "GiB" in line for line in api.plan("grpo", out=str(out), **options))
    assert not out.exists()


def test_a_single_reward_is_logged_by_its_name_too(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def short(completion, row):\n    return -len(completion)\n")
    spec = f"{tmp_path / 'rewards.py'}:short=2"
    run = alignkit.train("grpo", out=str(tmp_path / "run"), max_steps=2, group_size=3, reward=[spec], **options)
    values = {
        name: run.metrics.filter(run.metrics["name"] == name)["value"].to_list()
        for name in run.metrics["name"].unique().to_list()
        if name == "reward" or "short" in name
    }
    (own,) = values.keys() - {"reward"}
    assert own.startswith("reward/")
    assert values["reward"] == pytest.approx([2 * value for value in values[own]])
    assert len(values[own]) == 2 and all(value < 0 for value in values[own])
