"""Rewards that teach nothing: missing, equal or too large for a whole run."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpo_runs import command, options
from reward_folders import reward_folder
from safetensors.torch import load_file, save_file
from small_runs import stop_at
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.errors import RunStopped, UsageError
from alignkit.scoring.judge import Item, Judge, Missing, Scored, counted
from alignkit.scoring.rewards import reward
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.training.rollouts import reward_checks
from alignkit.training.rollouts.reward_checks import RewardSignal


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "1e308", "1e400", "1000001", ""])
def test_a_weight_that_is_no_ordinary_number_is_refused(tmp_path: Path, weight: str) -> None:
    (tmp_path / "r.py").write_text("def score(completion, row): return 1\n")
    with pytest.raises(UsageError, match="the weight"):
        make_judge(f"{tmp_path / 'r.py'}:score={weight}")


class Given(Judge):
    """Scores by the completion itself."""

    name, version = "given", "1"

    def score(self, items: Any) -> list[Scored | Missing]:
        return [Scored(float(item.completion)) for item in items]


def test_a_sum_that_is_too_large_stops_and_names_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNKIT_LEDGER", str(tmp_path / "ledger.sqlite"))
    for large, weights in (("1e308", (100.0,)), ("1e308", (1.0, 1.0)), ("-1e13", (1.0,)), ("6e11", (1.0, 1.0))):
        items = [[Item([], text, {"id": f"r{n}"}) for n, text in enumerate(("1", large))]]
        with pytest.raises(RunStopped, match="row r1: the sum of the rewards is too large a number: given gave"):
            reward(items, [NamedJudge("given", Given(), weight) for weight in weights])


def test_reasons_are_counted() -> None:
    assert counted(["b", "a", "b"]) == "2 b, 1 a"
    assert counted(["a", "b", "c", "d", "e"]) == "1 a, 1 b, 1 c, 2 other"


nan = math.nan


def test_a_signal_counts_each_batch_once_by_what_its_groups_teach() -> None:
    signal = RewardSignal()
    rewards = np.array([[1.0, 2.0], [1.0, 1.0], [nan, 1.0], [nan, nan], [1.0, 3.0]])
    advantages = np.array([[-1.0, 1.0], [0.0, 0.0], [nan, nan], [nan, nan], [nan, nan]])
    for _ in range(2):
        signal.see(1, rewards, advantages, ["empty reply"] * 3)
    assert (signal.teaching, signal.equal, signal.unrewarded, signal.uncompared) == (1, 1, 2, 1)
    assert signal.reasons == {"empty reply": 3} and not signal.is_missing


NOTHING = {
    "None": ("return None", "have fewer than two rewards; it does not apply", {}),
    "equal": ("return 1.0", "8 groups: 8 have equal rewards", {}),
    "all but equal": ("return len(completion) * 1e-320", "8 groups: 8 differ by too little", {}),
    "equal, with a KL": ("return 1.0", "8 groups: 8 have equal rewards", {"kl": 0.1, "zero_variance_groups": "keep"}),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_run_whose_rewards_teach_nothing_stops_with_3_and_goes_on_once_they_do(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reward_checks, "SAID_AFTER", 2)
    body, said, extra = NOTHING[name]
    out = tmp_path / "run"
    more: dict[str, Any] = {"max_steps": 4, "batch_size": 2, "checkpoint_interval": 2}
    more |= {"split": "0.1"} | extra
    given = options(model, tmp_path, out, body, **more)
    assert main(command(given)) == 3
    err = " ".join(capsys.readouterr().err.split())
    assert "warning: no group had differing rewards in the first 2 batches" in err
    assert "grpo: no group of this run had differing rewards" in err and said in err
    assert not (out / "model").exists() and "finished" not in json.loads((out / "run.json").read_text())
    assert (out / "checkpoints" / "step-000002").is_dir() and (out / "samples.jsonl").read_text()
    options(model, tmp_path, out, "return float(len(completion))", **more)
    words = shlex.split(err.rpartition("go on with: ")[2])
    assert words[0] == "alignkit"
    assert main(words[1:]) == 0
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["name"] == "loss"] == [1, 2, 3, 4]
    assert (out / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("interval", [1, 100])  # with a checkpoint to go on from, and without one
def test_rewards_that_were_all_missing_are_asked_for_again_by_the_same_command(
    interval: int, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What kept a reward from its answer may lie outside its file."""
    out, blocker = tmp_path / "run", tmp_path / "in the way"
    blocker.touch()
    body = f"import os; return None if os.path.exists({str(blocker)!r}) else float(len(completion))"
    more: dict[str, Any] = {"max_steps": 2, "batch_size": 2, "split": "0.1"}
    more |= {"checkpoint_interval": interval}
    given = options(model, tmp_path, out, body, **more)
    assert main(command(given)) == 3
    err = " ".join(capsys.readouterr().err.split())
    words = shlex.split(err.rpartition("go on with: ")[2])[1:]
    blocker.unlink()
    assert main(words) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["name"] == "loss"] == [1, 2]
    assert [line["step"] for line in lines if line["name"] == "reward"] == [1, 2]
    assert (out / "model" / "model.safetensors").exists()


def test_the_command_after_a_reward_that_raised_goes_on_once_it_is_corrected(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole configuration is in it: from the command line, --set and a file of another name."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("[train.grpo]\nkl = 0.02\n")
    wrong = "return len(completion) / (row['id'] != 'p3')"
    given = options(model, tmp_path, Path("a run"), wrong, batch_size=8, temperatures="0.6,1.1", max_steps=2)
    words = [*command(given), "--config", "mine.toml", "--set", "train.grpo.warmup_steps=1"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "row p3: the reward function raised ZeroDivisionError" in err
    (line,) = [line for line in err.splitlines() if line.startswith("alignkit: error:")]
    assert re.match(r"alignkit: error: (validation after )?step \d: .*row p3", line)
    options(model, tmp_path, Path("a run"), wrong.replace("/ (", "+ ("))
    assert main([*words, "--resume"]) == 2
    assert "--allow-changed rewards.py" in capsys.readouterr().err
    assert line.count("--resume") == line.count("go on with") == line.count("correct it") == 1
    assert main(shlex.split(line.rpartition("; correct it and go on with: ")[2])[1:]) == 0
    assert Path("a run/model/model.safetensors").exists()


def test_samples_that_an_earlier_reward_led_to_are_drawn_again(model: Path, tmp_path: Path) -> None:
    """From step 3 on they were drawn from weights that the corrected reward does not lead to."""
    given = options(
        model,
        tmp_path,
        tmp_path / "run",
        "return float(len(completion))",
        max_steps=5,
        split="0.1",
        checkpoint_interval=2,
        learning_rate=1e-2,
        warmup_steps=0,
        validation_interval=100,
    )
    rollouts = tmp_path / "run" / "rollouts"

    def batches() -> list[str]:
        return sorted({file.name[:6] for file in rollouts.glob("*.completions.*")})

    with pytest.MonkeyPatch.context() as patch:
        stop_at(4, patch)
        assert main(command(given)) == 130
    assert batches()[-1] == "000004"
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000004")
    options(model, tmp_path, tmp_path / "run", "return -float(len(completion))")
    resumed = [*command(given), "--resume", "--allow-changed", "rewards.py"]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch)
        assert main(resumed) == 130
    assert batches()[-1] == "000003"


def test_a_reward_model_that_was_trained_again_is_another_reward(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reward_folder(Path("rm"), "qwen2")
    given = options(model, tmp_path, tmp_path / "run", "", max_steps=4, split="0.1") | {"reward": ["rm"]}
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert main(command(given)) == 130
    weights = load_file("rm/model.safetensors")
    save_file({name: x * 0.9 for name, x in weights.items()}, "rm/model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert main([*command(given), "--resume"]) == 2
    assert re.search(r"fingerprint of reward rm: \w+\.\.\. -> .* with --allow-changed rm,", capsys.readouterr().err)
    assert main([*command(given), "--resume", "--allow-changed", "rm"]) == 0


def test_every_reward_of_weight_0_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = options(model, tmp_path, tmp_path / "run", "return 1")
    assert main(command(given | {"reward": [f"{given['reward'][0]}=0"]})) == 2
    assert "every --reward has the weight 0" in capsys.readouterr().err


def test_a_reward_file_is_looked_at_before_the_data(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alignkit.training.inputs.setup.prepare_parts", None)
    given = options(model, tmp_path, tmp_path / "run", "pass")
    (tmp_path / "rewards.py").write_text("def score(completions, **kwargs): pass\n")
    assert main(command(given)) == 2
    assert "a reward takes (completion: str, row: dict)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
