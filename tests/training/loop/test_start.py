"""Early stopping may keep the weights of before the first step, whatever was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import stop_at, typed, write_numbered_rows
from tiny_models import tiny_model

import alignkit
from alignkit.cli.main import main
from alignkit.policy.load import load_policy
from alignkit.training.loop.train_loop import Loop

WORSE = {"learning_rate": 1.0, "warmup_steps": 0, "validation_interval": 1, "early_stopping_steps": 3}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("given")
    rows = [
        {"id": f"v{n}", "prompt": f"Say {n}.", "chosen": f"not {n}", "rejected": f"it is {n}"} for n in range(90, 96)
    ]
    (folder / "reversed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": str(tiny_model(folder / "model")),
        "data": str(write_numbered_rows(folder / "rows.jsonl")),
        "split": str(folder / "reversed.jsonl"),
        "max_steps": 12,
        "batch_size": 2,
        "max_new_tokens": 4,
        "precision": "fp32",
        **WORSE,
    }


def _command(method: str, given: dict[str, Any], out: Path) -> list[str]:
    return ["train", method, "--out", str(out), *typed(given)]


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("sft", {}),
        ("dpo", {"lora_rank": 2, "learning_rate": 0.1}),
        ("reward", {"learning_rate": 0.01}),
        ("reward", {"lora_rank": 2, "learning_rate": 0.02}),
    ],
)
def test_a_run_that_only_gets_worse_gives_back_the_model_it_began_with(
    method: str, more: dict[str, Any], given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_command(method, given | more, tmp_path / "run")) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "stopped early: no better validation for 3 steps (best before the first step)" in said
    assert "the model is kept as it was before the first step" in said
    finished = json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    assert (finished["steps"], finished["kept_step"]) == (3, 0)
    head = {"scalar_head": method == "reward", "seed": 42}
    ours = load_policy(tmp_path / "run" / "model", precision="fp32", **head)
    theirs = load_policy(given["model"], precision="fp32", **head)
    if method == "reward" and more:  # peft draws the adapter's start after the head's
        assert torch.equal(ours.base.score.weight, theirs.base.score.weight)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(x, theirs.state_dict()[name]) for name, x in ours.state_dict().items())


def test_a_resumed_run_keeps_the_start_too(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert main(_command("sft", given, tmp_path / "run")) == 130
    assert main([*_command("sft", given, tmp_path / "run"), "--resume"]) == 0
    ours, theirs = (load_policy(path, precision="fp32") for path in (tmp_path / "run" / "model", given["model"]))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_start_that_changed_on_disk_stops_the_run(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "model")
    original = Loop._keep_best

    def keep(self: Loop) -> None:
        tiny_model(model, seed=7)
        original(self)

    monkeypatch.setattr(Loop, "_keep_best", keep)
    assert main(_command("sft", given | {"model": str(model)}, tmp_path / "run")) == 3
    assert "the weights that the run began with changed since" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


def test_without_early_stopping_the_last_weights_are_kept(given: dict[str, Any], tmp_path: Path) -> None:
    options = given | {"early_stopping_steps": 100, "learning_rate": 1e-3}
    run = alignkit.train("sft", **options, out=str(tmp_path / "run"))
    assert run.info["finished"]["kept_step"] == run.info["finished"]["steps"] == 12
