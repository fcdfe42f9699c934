"""The loop: order from the seed, checkpoints, a resume that is the same run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.sft import SFT
from places import lines_of
from safetensors.torch import load_file
from small_runs import random_pairs, stop_at
from tiny_models import tiny_model

import alignkit
from alignkit.data.trees.packs import lay_out
from alignkit.errors import Interrupted, RunStopped
from alignkit.methods import MethodConfig
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.checkpoints import checkpoint
from alignkit.training.gradient.optimizer import learning_rate, make_optimizer
from alignkit.training.gradient.reference import Reference, exact_kl
from alignkit.training.run.self_checks import run_checks

WORDS = ["river", "stone", "cloud", "lamp", "bread", "window", "garden", "music"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rules = [{"kind": "contains", "values": list("abcdefghijklm")}]  # random answers differ in it
    rows = [
        {
            "id": f"r{n}",
            "prompt": f"Say {word} {n}.",
            "chosen": f"{word} {n}",
            "rejected": f"no, {word} it is not, {n} times",
            "rules": rules,
        }
        for n, word in enumerate(WORDS * 4)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def options(model: Path, data: Path, out: Path, **more: Any) -> dict[str, Any]:
    common = {"batch_size": 4, "max_steps": 6, "max_new_tokens": 8, "precision": "fp32", "split": "0.2"}
    return {"model": str(model), "data": str(data), "out": str(out), **common, **more}


def test_learning_rate_rises_then_falls_to_zero_after_the_last_step() -> None:
    config = MethodConfig(learning_rate=1.0, warmup_steps=2)
    rates = [learning_rate(config, step=s, num_steps=6) for s in range(1, 7)]
    assert rates == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert learning_rate(MethodConfig(learning_rate=1.0, schedule="constant"), step=99, num_steps=99) == 1.0


def test_start_up_checks_pass_on_a_sound_model_and_find_a_wrong_path(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(model, precision="fp32")
    assert all(check.ok for check in run_checks(policy, random_pairs(3)))
    original = policy._tree_states
    monkeypatch.setattr(policy, "_tree_states", lambda *row: original(*row).roll(1, 0))
    assert [check.name for check in run_checks(policy, random_pairs(3)) if not check.ok]


def test_exact_kl_equals_the_sum_over_the_vocabulary(model: Path, tmp_path: Path) -> None:
    policy = load_policy(model, precision="fp32").eval()
    other = load_policy(tiny_model(tmp_path, seed=9), precision="fp32").eval()
    one = random_pairs(1)[0]
    with torch.no_grad():
        parts = []
        for completion in one.completions:
            ids = torch.as_tensor(np.concatenate([one.prompt.ids, completion.ids]).astype(np.int64))[None]
            logp, logq = (
                p.model(input_ids=ids).logits[0, len(one.prompt) - 1 : -1].log_softmax(-1)
                for p in (_plain(policy), _plain(other))
            )
            parts.append((logp.exp() * (logp - logq)).sum(-1))
    policy.use_path("tree")
    other.use_path("tree")
    found = exact_kl(policy, Reference(policy, frozen=other), lay_out([one]), chunk_bytes=4 * 272 * 2)
    assert torch.allclose(found, torch.cat(parts), atol=1e-5)


def _plain(policy: Policy) -> Policy:
    policy.use_path("plain")
    return policy


@pytest.mark.parametrize("method", ["sft", "sft-lenpen", "dpo", "kto", "reward", "grpo"])
def test_a_resumed_run_is_the_same_run(
    method: str, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"sft-lenpen": {"penalty_interval": 2}, "grpo": {"group_size": 2, "reward": ["rules"]}}.get(
        method, {}
    )
    whole = alignkit.train(method, **options(model, data, tmp_path / "whole", **more))
    stop_at(3, monkeypatch)
    with pytest.raises(Interrupted, match="--resume"):
        alignkit.train(method, **options(model, data, tmp_path / "parts", **more))
    monkeypatch.undo()
    parts = alignkit.train(method, **options(model, data, tmp_path / "parts", **more), resume=True)
    expected, found = (load_file(run.path / "model" / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    steps = parts.metrics.filter(parts.metrics["name"] == "loss")["step"].to_list()
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_left_as_it_is_on_resume(model: Path, data: Path, tmp_path: Path) -> None:
    run = alignkit.train("sft", **options(model, data, tmp_path / "run", max_steps=2))
    before = (run.path / "model" / "model.safetensors").stat().st_mtime_ns
    alignkit.train("sft", **options(model, data, tmp_path / "run", max_steps=2), resume=True)
    assert (run.path / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = load_policy(model, precision="fp32")
    optimizer = make_optimizer(policy.parameters(), MethodConfig())
    for step in (1, 2):
        checkpoint.save(tmp_path, step=step, policy=policy, optimizer=optimizer, state={})
    damaged = tmp_path / "step-000002" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000001"
    assert "weights.safetensors is not what was written" in caplog.text


def test_the_last_two_checkpoints_and_the_best_are_kept(model: Path, tmp_path: Path) -> None:
    policy = load_policy(model, precision="fp32")
    optimizer = make_optimizer(policy.parameters(), MethodConfig())
    for step in range(1, 6):
        checkpoint.save(tmp_path, step=step, policy=policy, optimizer=optimizer, state={"best_step": 2})
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-000002", "step-000004", "step-000005"]


def test_a_non_finite_loss_stops_the_run_and_names_its_rows(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SFT, "loss", lambda self, batch, config: batch.logprob_T.sum() * float("nan"))
    with pytest.raises(RunStopped, match=r"loss of step 1 is nan; its rows: r\d+"):
        alignkit.train("sft", **options(model, data, tmp_path / "run"))
    rows = [{name: value for name, value in row.items() if name != "id"} for row in lines_of(data)]
    unnamed = tmp_path / "unnamed.jsonl"
    unnamed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunStopped, match=r"its rows: \S+/unnamed.jsonl, line \d+, \S+/unnamed.jsonl, line \d+"):
        alignkit.train("sft", **options(model, unnamed, tmp_path / "other"))


def test_early_stopping_keeps_the_best_weights(model: Path, data: Path, tmp_path: Path) -> None:
    run = alignkit.train(
        "sft",
        **options(
            model,
            data,
            tmp_path / "run",
            max_steps=60,
            learning_rate=0.05,
            validation_interval=2,
            early_stopping_steps=6,
            warmup_steps=0,
        ),
    )
    losses = run.metrics.filter((run.metrics["name"] == "validation/loss") & (run.metrics["step"] > 0))
    best = losses.sort("value")["step"][0]
    assert run.info["finished"]["steps"] == best + 6 < 60
    kept = load_file(run.path / "checkpoints" / f"step-{best:06d}" / "weights.safetensors")
    exported = load_file(run.path / "model" / "model.safetensors")
    assert torch.equal(kept["model.model.embed_tokens.weight"], exported["model.embed_tokens.weight"])


def test_early_stopping_is_switched_off_by_0(model: Path, data: Path, tmp_path: Path) -> None:
    """Else the best of the weights are kept, which are the start's where each step spoils them."""
    steps = {"max_steps": 4, "learning_rate": 1.0, "validation_interval": 2, "warmup_steps": 0}
    spoilt = options(model, data, tmp_path / "run", **steps)
    run = alignkit.train("sft", **spoilt, set=["early_stopping_steps=0"])
    losses = run.metrics.filter(run.metrics["name"] == "validation/loss").sort("value")
    assert losses["step"][0] < 4 == run.info["finished"]["steps"]
    start, exported = (load_file(folder / "model.safetensors") for folder in (model, run.path / "model"))
    assert not torch.equal(start["model.embed_tokens.weight"], exported["model.embed_tokens.weight"])


def test_lora_trains_an_adapter_and_exports_a_plain_folder(model: Path, data: Path, tmp_path: Path) -> None:
    run = alignkit.train("dpo", **options(model, data, tmp_path / "run", lora_rank=4, learning_rate=1e-2))
    before, after = load_file(model / "model.safetensors"), load_file(run.path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith("proj.weight") for name in changed)
    assert run.metrics.filter(run.metrics["name"] == "margin")["value"][0] == pytest.approx(0.0, abs=1e-5)


def test_training_learns_what_the_rows_say(model: Path, data: Path, tmp_path: Path) -> None:
    run = alignkit.train("sft", **options(model, data, tmp_path / "run", max_steps=40, learning_rate=1e-2))
    losses = run.metrics.filter(run.metrics["name"] == "loss")["value"].to_list()
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_exported_end_and_pad_tokens_are_two_tokens(model: Path, data: Path, tmp_path: Path) -> None:
    run = alignkit.train("sft", **options(model, data, tmp_path / "run", max_steps=1))
    generation = json.loads((run.path / "model" / "generation_config.json").read_text())
    tokenizer = json.loads((run.path / "model" / "tokenizer_config.json").read_text())
    assert tokenizer["eos_token"] == "<|im_end|>" and 258 in generation["eos_token_id"]
    assert generation["pad_token_id"] not in generation["eos_token_id"]


def test_ctrl_c_on_a_real_process_saves_and_exits_130(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "alignkit",
        "train",
        "sft",
        "--model",
        str(model),
        "--data",
        str(data),
        "--out",
        str(out),
        "--epochs",
        "100000",
        "--max-new-tokens",
        "4",
        "--validation-interval",
        "100000",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and '"step": 3' not in _text(out / "metrics.jsonl"):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "--resume" in errors and "Traceback" not in errors
    assert checkpoint.newest(out / "checkpoints") is not None


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
