"""A finished run goes further: by --more-steps, with the weights of a run that was begun with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from alignkit_plugins.sft import SFTConfig
from small_runs import command, stop_at, way_on, weights, write_numbered_rows
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.training.gradient.optimizer import learning_rate
from alignkit.training.run.summary import summary


def test_added_steps_have_a_warm_up_and_a_schedule_of_their_own() -> None:
    config = SFTConfig(learning_rate=1.0, warmup_steps=2, added_steps=(4, 3))
    rates = [learning_rate(config, step=step, num_steps=11) for step in range(1, 12)]
    alone = {steps: SFTConfig(learning_rate=1.0, warmup_steps=2, max_steps=steps) for steps in (4, 3)}
    expected = [
        learning_rate(alone[steps], step=step, num_steps=steps) for steps in (4, 4, 3) for step in range(1, steps + 1)
    ]
    assert rates == expected and rates[:4] == [0.5, 1.0, pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert (config.planned_steps(2), config.num_steps(2)) == (20, 27)


def test_more_steps_are_those_of_a_run_begun_with_them_also_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, data = tiny_model(tmp_path / "model"), write_numbered_rows(tmp_path / "rows.jsonl")
    assert main([*command(model, data, Path("whole"), max_steps=3), "--set", "added_steps=[3]"]) == 0
    assert main([*command(model, data, Path("run"), max_steps=3), "--more-steps", "3"]) == 2
    assert "a new run has --max-steps" in capsys.readouterr().err
    assert main(command(model, data, Path("run"), max_steps=3)) == 0
    assert main(["train", "--resume", "run", "--max-steps", "6"]) == 2
    assert "go on for so many steps with --more-steps 3, train anew" in capsys.readouterr().err
    Path("run/verdicts").mkdir()
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert main(["train", "--resume", "run", "--more-steps", "3"]) == 130
    said = capsys.readouterr().err
    assert "from step 3 on the learning rate rises over 1 steps to 0.001 and falls to 0 by step 6" in said
    assert "step 3 to 3 are computed again" in said.replace("steps 3", "step 3")
    assert Path("run/verdicts.of-step-3-1").is_dir() and not Path("run/verdicts").exists()
    assert main(["train", "--resume", "run", "--more-steps", "3"]) == 2  # it is not done
    assert main(way_on(said)) == 0
    finished = json.loads(Path("run/run.json").read_text())["finished"]
    assert finished["steps"] == finished["kept_step"] == 6
    assert finished["seconds"] > finished["earlier_seconds"] > 0  # two processes before this one
    of_all = finished | {"wall_seconds": 60, "earlier_seconds": 240}
    assert "time: 5 min for 6 steps" in "\n".join(summary(Path("run"), of_all, planned_mib=1, notes={}))
    for name, weight in weights(Path("whole")).items():
        assert torch.equal(weight, weights(Path("run"))[name]), name
