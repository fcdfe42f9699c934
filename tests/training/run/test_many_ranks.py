"""Several ranks train what one process trains; a rank that dies, stops or is told to stop leaves none waiting."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from alignkit_plugins.dpo import DPO
from places import ROOT
from safetensors.torch import load_file

from alignkit.config import file as config_file
from alignkit.training.run.plan import make_plan

pytestmark = pytest.mark.slow
METHODS = ["sft", "sft-lenpen", "dpo", "dpo-lora", "kto", "reward", "grpo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where rank_runs.py left its runs."""
    path = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, ROOT / "tests/helpers/rank_runs.py", path], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return path


def codes(folder: Path, name: str) -> list[int]:
    found: list[int] = json.loads((folder / "codes.json").read_text())[name]
    return found


def said(folder: Path, name: str, rank: int = 0) -> str:
    return (folder / f"{name}.{rank}.txt").read_text()


def metrics(run: Path) -> dict[tuple[int, str], float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = {(line["step"], line["name"]): line["value"] for line in lines}
    measured = ("second", "_s", "memory_mib")
    return {key: x for key, x in found.items() if "second" not in key[1] and not key[1].endswith(measured)}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    squares = [((ours[name] - x).double().square().sum(), x.double().square().sum()) for name, x in theirs.items()]
    return float(torch.tensor(squares).sum(0).prod().sqrt() / torch.tensor(squares)[:, 1].sum())


@pytest.mark.parametrize("size", [2, 4])
def test_the_gradient_is_that_of_one_process(folder: Path, size: int) -> None:
    assert codes(folder, f"steps-{size}") == [0] * size, said(folder, f"steps-{size}")
    found = json.loads((folder / f"steps-{size}.json").read_text())
    # fp32 and fp64, all weights and an adapter, and the plain path; two methods, many trees and fewer than ranks
    assert len(found) == 20
    for case, numbers in found.items():
        for name, difference in numbers.items():
            assert difference <= (1e-10 if case.startswith("fp64") else 1e-5), (case, name)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_two_ranks_as_on_one(folder: Path, method: str) -> None:
    one, two = folder / f"{method}-1", folder / f"{method}-2"
    assert codes(folder, two.name) == [0, 0], said(folder, two.name)
    assert distance(weights(two), weights(one)) <= 1e-5
    ours, theirs = metrics(two), metrics(one)
    assert ours.keys() == theirs.keys()
    rounding = 1e-2 if method == "reward" else 1e-3  # so high a learning rate, to stop early, makes it grow
    for key, x in theirs.items():
        assert ours[key] == pytest.approx(x, rel=rounding, abs=1e-5), key
    assert (two / "samples.jsonl").read_text() == (one / "samples.jsonl").read_text()
    if method == "reward":
        assert "stopped early" in said(folder, two.name) and "the weights of step 2 are kept" in said(folder, two.name)
    if method == "sft-lenpen":
        assert any(x > 0 for (_, name), x in theirs.items() if name == "grad_norm/penalty")


def test_the_plan_of_several_ranks_is_of_one_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(ranks: int) -> dict[str, int]:
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        resolved = config_file.resolve(DPO, options={"model": str(folder / "model"), "precision": "fp32"}, config=None)
        made = make_plan(DPO(), resolved)
        assert ("each of 4 ranks" in made.line()) == (ranks == 4)
        return made.memory

    one, four = memory(1), memory(4)
    for part in ("weights", "gradient", "optimizer"):
        assert four[part] == one[part] // 4 > 0
    assert four["gathered"] == one["weights"] and four["reference"] == one["reference"]


def test_the_first_rank_alone_speaks_and_writes(folder: Path) -> None:
    lines = (folder / "sft-2/metrics.jsonl").read_text().splitlines()
    assert len({(json.loads(line)["step"], json.loads(line)["name"]) for line in lines}) == len(lines)
    assert said(folder, "sft-2").splitlines()[-2] == "sft-2" and said(folder, "sft-2", 1) == ""
    assert json.loads((folder / "sft-2/run.json").read_text())["hardware"]["ranks"] == 2
    assert (folder / "sft-2/report.html").exists() and not (folder / "sft-2/.lock").exists()


def test_the_ranks_gradient_is_checked_at_the_start(folder: Path) -> None:
    checks = json.loads((folder / "dpo-lora-2/checks.json").read_text())
    check = next(check for check in checks if check["name"] == "the gradient of 2 ranks = of one")
    assert check["ok"] and check["value"] <= 1e-5


def test_a_killed_rank_ends_the_others_with_a_message(folder: Path) -> None:
    assert codes(folder, "killed") == [3, -signal.SIGKILL]
    assert "rank 0 of 2 lost contact with another rank" in said(folder, "killed")
    assert "from the last checkpoint, on as many ranks as you like, with: alignkit train" in said(folder, "killed")
    files = {path.name for path in (folder / "killed/checkpoints/step-000004").iterdir()}
    pieces = {f"{name}-{n}-of-2.safetensors" for name in ("weights", "optimizer") for n in (1, 2)}
    assert files == pieces | {"state.json", "manifest.json"}


@pytest.mark.parametrize(("begun", "size"), [("killed", 1), ("killed", 2), ("killed", 3), ("killed", 4), ("alone", 2)])
def test_a_run_goes_on_on_any_number_of_ranks(folder: Path, begun: str, size: int) -> None:
    run, whole = folder / f"{begun}-{size}", folder / "sft-2"
    assert codes(folder, run.name) == [0] * size, said(folder, run.name)
    assert "going on from step 4" in said(folder, run.name)
    ours, theirs = metrics(run), metrics(whole)
    assert ours.keys() == theirs.keys()
    if (begun, size) == ("killed", 2):
        assert ours == theirs and all(torch.equal(x, weights(whole)[name]) for name, x in weights(run).items())
    else:
        assert f"ranks: {2 if begun == 'killed' else 1} -> {size}" in said(folder, run.name)
        assert distance(weights(run), weights(whole)) <= 1e-5


def test_a_signal_to_one_rank_saves_on_all_and_a_restart_goes_on_by_itself(folder: Path) -> None:
    assert codes(folder, "terminated") == [130, 130]
    assert "interrupted after step 5 of 8" in said(folder, "terminated") and said(folder, "terminated", 1) == ""
    assert codes(folder, "restarted") == [0, 0] and "going on from step 5" in said(folder, "restarted")
    assert metrics(folder / "terminated") == metrics(folder / "sft-2")


def test_a_rank_that_lost_another_says_so_whatever_signals_come(folder: Path) -> None:
    assert codes(folder, "torn") == [3, -signal.SIGKILL]
    assert "rank 0 of 2 lost contact with another rank" in said(folder, "torn")
    assert "train --resume torn" in said(folder, "torn")


def test_a_signal_during_validation_ends_the_ranks_part_of_it(folder: Path) -> None:
    assert codes(folder, "validated") == [130, 130]
    assert "interrupted after step 4 of 8" in said(folder, "validated") and "went on" not in said(
        folder, "validated", 1
    )
    assert codes(folder, "validated-resumed") == [0, 0]
    assert metrics(folder / "validated") == metrics(folder / "dpo-2")


def test_nan_on_one_rank_stops_all_and_names_the_row(folder: Path) -> None:
    assert codes(folder, "nan") == [3, 3] and said(folder, "nan", 1) == ""
    found = re.search(r"the loss of step (\d+) is nan; caused by r17; no weight was changed", said(folder, "nan"))
    assert found is not None
    kept = [int(path.name[5:]) for path in (folder / "nan/checkpoints").glob("step-*")]
    assert all(step < int(found[1]) for step in kept)


def test_ranks_give_back_the_model_they_began_with(folder: Path) -> None:
    assert codes(folder, "worse") == [0, 0], said(folder, "worse")
    assert "the model is kept as it was before the first step" in said(folder, "worse")
    ours, theirs = weights(folder / "worse"), load_file(folder / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(x, theirs[name]) for name, x in ours.items())


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("raising", 2, "row r0: the reward function raised ValueError"),
        ("full", 3, "the checkpoint of step 2 cannot be written: No space left on device"),
        ("other", 2, "rank 1 reads another data than rank 0"),
        ("copying", 2, "--sampler vllm-server runs in one process"),
        ("narrow", 2, "optimizer adamw-8bit runs in one process"),
        ("quantized", 2, "--quantize 4bit runs in one process"),
    ],
)
def test_what_stops_one_rank_stops_all_and_is_said_once(folder: Path, name: str, code: int, text: str) -> None:
    assert codes(folder, name) == [code, code]
    assert text in said(folder, name) and said(folder, name, 1) == ""
    assert not list((folder / name).glob("checkpoints/.*"))


def test_a_rank_of_torchrun_that_is_killed_ends_the_run_which_then_goes_on(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": folder / "model",
        "data": folder / "rows.jsonl",
        "out": tmp_path / "run",
        "precision": "fp32",
        "split": "first-6",
        "max-new-tokens": 5,
        "batch-size": 5,
        "epochs": 50,
        "max-steps": 60,
        "checkpoint-interval": 2,
        "validation-interval": 1000,
    }
    command = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        *["-m", "alignkit", "train", "sft", *(str(x) for key, value in options.items() for x in (f"--{key}", value))],
    ]
    log, out = tmp_path / "log.txt", tmp_path / "out.txt"
    with log.open("w") as err, out.open("w") as file, subprocess.Popen(command, stdout=file, stderr=err) as agent:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run").glob("checkpoints/step-*")) and time.monotonic() < deadline:
            assert agent.poll() is None, log.read_text()
            time.sleep(0.02)
        os.kill(worker(agent.pid, rank=1), signal.SIGKILL)
        assert agent.wait(120) != 0, log.read_text()
    assert "lost contact with another rank" in log.read_text() and "--resume" in log.read_text()
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=240)
    assert resumed.returncode == 0 and "going on from step" in resumed.stderr, resumed.stderr
    assert resumed.stdout.splitlines()[0] == str(tmp_path / "run")
    steps = [step for step, name in metrics(tmp_path / "run") if name == "loss"]
    assert steps == list(range(1, 61))


def worker(agent: int, *, rank: int) -> int:
    """Process id of the rank that this torchrun started."""
    for task in Path(f"/proc/{agent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
                return int(child)
    raise AssertionError("no such rank")
