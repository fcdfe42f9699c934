"""What runs do on a bad day: damaged checkpoints, full and unwritable disks, signals, NaN, changed code, kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from alignkit_plugins.sft import SFT
from places import ROOT
from safetensors.torch import load_file, save_file
from small_runs import command, spoil_letter, stop_at, way_on, weights, write_numbered_rows
from tiny_models import tiny_model

import alignkit
from alignkit.cli.main import main
from alignkit.errors import Interrupted
from alignkit.policy.policy import non_finite
from alignkit.training.checkpoints import checkpoint
from alignkit.training.lifecycle.signals import noted_signals
from alignkit.training.loop import health_checks as guards
from alignkit.training.loop import update
from alignkit.training.loop.train_loop import Loop
from alignkit.training.rollouts import evaluation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.mark.parametrize("damage", ["bit flip", "truncated", "no manifest"])
def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    damage: str,
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(command(model, data, whole)) == 0
    with monkeypatch.context() as patch:
        stop_at(7, patch)
        assert main(command(model, data, run)) == 130
    newest = run / "checkpoints" / "step-000007"
    file = newest / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "bit flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncated":
        file.write_bytes(content[:-100])
    else:
        (newest / "manifest.json").unlink()
    capsys.readouterr()
    assert main([*command(model, data, run), "--resume"]) == 0
    said = capsys.readouterr().err
    assert "step-000007: skipped" in said and "going on from step 6" in said
    assert all(torch.equal(tensor, weights(run)[name]) for name, tensor in weights(whole).items())
    assert _metrics(run) == _metrics(whole)


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = ("second", "per_s", "memory_mib")
    return [line for line in lines if not any(name in line["name"] for name in measured)]


def test_every_checkpoint_damaged_begins_again_and_says_so(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert main(command(model, data, tmp_path / "run")) == 130
    for manifest in (tmp_path / "run" / "checkpoints").glob("*/manifest.json"):
        manifest.write_text("{}x")
    capsys.readouterr()
    assert main([*command(model, data, tmp_path / "run"), "--resume"]) == 0
    assert "no checkpoint to go on from" in capsys.readouterr().err
    steps = [line["step"] for line in _metrics(tmp_path / "run") if line["name"] == "loss"]
    assert steps == list(range(1, 9))


def test_damaged_best_weights_are_trained_again(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = {"early_stopping_steps": 4, "validation_interval": 2, "max_steps": 40, "learning_rate": 0.05}
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(command(model, data, whole, **stopping)) == 0
    last = json.loads((whole / "run.json").read_text())["finished"]["steps"]
    with monkeypatch.context() as patch:
        stop_at(last, patch)
        assert main(command(model, data, run, **stopping)) == 130
    best = run / "checkpoints" / f"step-{last - 4:06d}" / "weights.safetensors"
    best.write_bytes(best.read_bytes()[:-1])
    assert main([*command(model, data, run, **stopping), "--resume"]) == 0
    assert f"the best weights, of step {last - 4}, are damaged" in capsys.readouterr().err
    assert all(torch.equal(tensor, weights(run)[name]) for name, tensor in weights(whole).items())


def test_a_full_disk_stops_with_3_leaves_nothing_half_written_and_goes_on(
    model: Path, data: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_disk / "run"
    (small_disk / "others").write_bytes(bytes(11 * 2**20 + 2**19))
    assert main(command(model, data, run)) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert "step 2 cannot be written: no disk space" in said and said.count("go on with") == 1
    assert not list((run / "checkpoints").iterdir())
    (small_disk / "others").unlink()
    assert main(way_on(said)) == 0
    assert checkpoint.newest(run / "checkpoints") is not None and weights(run)


def test_a_disk_that_fills_while_a_checkpoint_is_written_keeps_the_one_before(
    model: Path, data: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_disk / "run"
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        assert main(command(model, data, run)) == 130
    (small_disk / "others").write_bytes(bytes(shutil.disk_usage(small_disk).free - 150_000))
    monkeypatch.setattr(checkpoint, "check_space", lambda folder, needed: None)  # as when others fill it meanwhile
    assert main([*command(model, data, run), "--resume"]) == 3
    assert "cannot be written" in capsys.readouterr().err
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-000002", "step-000003"}
    assert checkpoint.newest(run / "checkpoints") == run / "checkpoints" / "step-000003"


def test_a_folder_that_became_unwritable_stops_with_3(
    model: Path, data: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_disk / "run"
    checkpoints = run / "checkpoints"
    original = Loop.step

    def stepping(self: Loop) -> None:
        original(self)
        if self.position.step == 1:
            checkpoints.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(checkpoints)], check=True)

    monkeypatch.setattr(Loop, "step", stepping)
    try:
        assert main(command(model, data, run)) == 3
        said = capsys.readouterr().err
        assert "step 2 cannot be written: Read-only file system" in said and "Traceback" not in said
        assert main(command(model, data, checkpoints / "other")) == 3
        assert "cannot be written: Read-only file system" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(checkpoints)], check=True)


def test_nan_in_one_row_stops_with_3_names_the_row_and_keeps_what_was_saved(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_letter("~", monkeypatch.setattr)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    (tmp_path / "validation.jsonl").write_text(json.dumps(rows[0]) + "\n")
    rows[17]["chosen"] = "a ~ here and after"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    given = command(
        model,
        tmp_path / "rows.jsonl",
        tmp_path / "run",
        split=tmp_path / "validation.jsonl",
        checkpoint_interval=1,
        max_steps=29,
        seed=2,
    )
    assert main(given) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert "is nan; caused by r17; no weight was changed" in said
    stopped = int(said.split("the loss of step ")[1].split()[0])
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert stopped > 2 and kept == [f"step-{stopped - 2:06d}", f"step-{stopped - 1:06d}"]


def test_weights_that_are_not_finite_stop_with_3_and_are_saved_nowhere(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, rate = tmp_path / "run", update.learning_rate
    for steps, said_of_disk in ((8, "saved after step 4, go on with: alignkit train"), (1, "nothing is saved yet")):

        def spoilt(config: Any, *, step: int, num_steps: int) -> float:
            return float("inf") if step in (1, 5) and num_steps < step + 4 else rate(config, step=step, num_steps=8)

        monkeypatch.setattr(update, "learning_rate", spoilt)
        out = run if steps == 8 else tmp_path / "other"
        assert main(command(model, data, out, max_steps=steps)) == 3
        said = capsys.readouterr().err.splitlines()[-1]
        assert "left weights that are not finite (model.model.embed_tokens.weight and" in said
        assert said_of_disk in said and not (out / "model").exists()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-000002", "step-000004"}
    for folder in (run / "checkpoints").iterdir():
        assert all(tensor.isfinite().all() for tensor in load_file(folder / "weights.safetensors").values())
    monkeypatch.setattr(update, "learning_rate", rate)
    assert main([*command(model, data, run), "--resume"]) == 0 and weights(run)


def test_a_validation_loss_that_is_not_finite_stops_before_anything_is_saved(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = SFT.loss

    def loss(self: Any, batch: Any, config: Any) -> Any:
        return original(self, batch, config) * (1.0 if torch.is_grad_enabled() else float("nan"))

    monkeypatch.setattr(SFT, "loss", loss)
    assert main(command(model, data, tmp_path / "run", max_steps=2)) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the validation loss after step 2 is nan; its rows: r" in said
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_a_model_with_weights_of_nan_is_refused_by_their_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_model = tiny_model(tmp_path / "bad", tied=False)
    tensors = load_file(bad_model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("inf")
    save_file(tensors, bad_model / "model.safetensors", metadata={"format": "pt"})
    assert main(command(bad_model, data, tmp_path / "run")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "model.layers.1.mlp.up_proj.weight holds nan or infinite weights" in said
    assert not (tmp_path / "run").exists()


def test_finite_weights_whose_sum_overflows_are_finite() -> None:
    large, bad = torch.full((4,), 3e38), torch.tensor([1.0, float("nan")])
    assert non_finite([("large", large), ("bad", bad), ("whole", torch.zeros(3, dtype=torch.int64))]) == ["bad"]


def test_sigterm_during_validation_ends_it_and_the_resumed_run_is_the_same(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {
        "model": str(model),
        "data": str(data),
        "batch_size": 4,
        "max_steps": 6,
        "validation_interval": 3,
        "precision": "fp32",
        "split": "0.2",
        "max_new_tokens": 4,
        "early_stopping_steps": 50,
    }
    whole = alignkit.train("sft", **given, out=str(tmp_path / "whole"))
    original, done = evaluation.validate, []

    def validate(*arguments: Any) -> Any:
        if len(done) == 1:  # the one after step 3
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(original(*arguments))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "validate", validate)
        with pytest.raises(Interrupted, match="after step 3 of 6"):
            alignkit.train("sft", **given, out=str(tmp_path / "run"))
    assert len(done) == 1, "validation went on after the signal"
    run = alignkit.train("sft", **given, out=str(tmp_path / "run"), resume=True)
    assert _metrics(run.path) == _metrics(whole.path)
    assert all(torch.equal(tensor, weights(run.path)[name]) for name, tensor in weights(whole.path).items())


def test_a_second_signal_ends_the_process_as_usual() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_twice() -> None:
    with noted_signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.came
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_spike_stands_out_from_the_losses_before_it() -> None:
    steady = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.1, 1.9]
    assert guards.spike(steady[:-1], 9.0) is None  # too few to know
    assert guards.spike(steady, 2.3) is None
    assert "the median of the 8 steps before is 2" in str(guards.spike(steady, 9.0))
    assert guards.spike([0.5] * 20, 0.55) is None  # a loss that does not move


def test_exhausted_memory_stops_with_3_shows_the_plan_and_what_would_fit(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SFT, "loss", lambda self, batch, config: torch.empty(2**58).sum())
    assert main(command(model, data, tmp_path / "run")) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory" in last and "can't allocate memory" in last and "plan: " in last and "activations" in last
    assert re.search(r"--max-length \d\d? \(", last)  # half of the data's longest row


def test_a_run_shows_its_plan_first_and_its_peak_last(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(model, data, tmp_path / "run", max_steps=2)) == 0
    said = capsys.readouterr().err
    assert re.search(r"plan: [\d,]+ MiB on \w+ \(weights .*\), disk [\d,]+ MiB", said)
    assert re.search(r"memory: planned [\d,]+ MiB, peak [\d,]+ MiB", said)
    finished = json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    assert finished["planned_mib"] > 0 and finished["peak_mib"] > 0


def test_an_interrupted_start_leaves_no_folder(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "alignkit", *command(model, data, out)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not out.exists():
        time.sleep(0.01)
    time.sleep(0.2)  # it reads rows and loads a tokenizer now
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    # a signal inside exec() of a text, as dataclasses do on import, lets CPython end by SIGINT itself: 130 to a shell
    assert process.returncode in {130, -signal.SIGINT}, errors
    assert "Traceback" not in errors and not out.exists()


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_the_run_that_was_not(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.resilience", "--quick", "--json", str(tmp_path / "found.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert figures["kills"] == 18 and figures["failures"] == 0 and figures["kills_in_folder"] > 3
