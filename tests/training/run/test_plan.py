"""The plan before a run against what is really there; the arithmetic of a step."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_model

import alignkit
from alignkit.cli.main import main
from alignkit.config import file as config_file
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.memory import Card
from alignkit.policy.cuda.head import memory_bytes
from alignkit.policy.load import load_policy
from alignkit.pretrained import embedded
from alignkit.registry import registry
from alignkit.training.gradient.speed import Arithmetic, peak_flops
from alignkit.training.run.plan import Plan, make_plan
from alignkit.training.run.self_checks import plain_factor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def planned(method: str, model: Path, longest: int | None = None, card: Card | None = None, **options: Any) -> Plan:
    cls = registry().find("method", method)
    resolved = config_file.resolve(cls, options={"model": str(model), "precision": "fp32", **options}, config=None)
    return make_plan(cls(), resolved, longest=longest, card=card)


def test_rows_are_as_long_as_micro_batches_here_or_as_the_longest_tree(model: Path) -> None:
    assert planned("sft", model, batch_size=64).tokens == 1024
    assert planned("sft", model, longest=30, batch_size=4).tokens == 120
    assert planned("dpo", model, longest=1020, batch_size=1).tokens == 1020
    assert planned("dpo", model, longest=1500).tokens == 1024  # two rows of 512, the model's context
    assert planned("dpo", model, max_length=100, batch_size=1).tokens == 200
    assert planned("grpo", model, longest=40, group_size=4, max_new_tokens=10, batch_size=1).tokens == 80
    split = planned("grpo", model, longest=40, group_size=4, max_new_tokens=400, batch_size=1, micro_batch_tokens=500)
    assert split.tokens == 500  # a prompt and a completion; the group has 1,640
    whole = planned("grpo", model, longest=40, group_size=4, max_new_tokens=400, batch_size=1, kl_estimator="k1-to-go")
    assert whole.tokens == 1640


def test_a_frozen_copy_counts_where_one_stays(model: Path) -> None:
    assert planned("dpo", model).memory["reference"] == 0  # its log-probs are kept, not its weights
    weights = planned("dpo", model).memory["weights"]
    assert planned("dpo", model, reference="online").memory["reference"] == weights
    assert planned("dpo", model, reference="online", lora_rank=4).memory["reference"] == 0
    assert planned("sft", model).memory["reference"] == 0


def test_a_short_run_needs_the_disk_of_the_checkpoints_that_it_can_write(model: Path) -> None:
    weights = planned("sft", model).memory["weights"]  # 4 bytes a parameter, all of them trained: 12 in a checkpoint
    for steps, num, stops in ((16, 1, None), (250, 2, None), (10_000, 4, None), (None, 4, None), (1, 1, 9), (3, 3, 9)):
        found = planned("sft", model, max_steps=steps, early_stopping_steps=stops).disk
        assert found == weights + num * 3 * weights, steps  # with early stopping, each better validation has one


def test_the_parts_of_a_plan_on_a_gpu_are_those_counted_by_hand(model: Path) -> None:
    """Two layers of 48, with 48 queries, 24 keys and 96 within; a row of 100 tokens; 2 bytes in bf16."""
    card = Card(2**34, 2**34)
    weights = planned("sft", model).memory["weights"]  # fp32, 4 bytes each

    def memory(**options: Any) -> dict[str, int]:
        given = {"batch_size": 1, "precision": "bf16", **options}
        return {name: count for name, count in planned("sft", model, 100, card, **given).memory.items() if count}

    compiled, eager = 4 * 48 + 2 * (3 * 48 + 2 * 48 + 2 * 24 + 3 * 96), 8 * 48 + 2 * (8 * 48 + 2 * 24 + 4 * 96)
    always = {"weights": weights, "gradient": weights, "optimizer": 2 * weights, "copies": weights // 2}
    always["context"] = 700 * 2**20
    logits = memory_bytes(100, 272, 2, 2**34) + 8 * 100 * 48  # beside the head's: the states in fp32, twice
    cached = 32 * 2 * 2 * 24 * 2 * (512 + 350)  # keys and values of 32 samples of the longest row and 350 tokens
    assert memory() == always | {"activations": 100 * 2 * compiled, "logits": logits, "rollouts": cached}
    assert memory(compile=False)["activations"] == 100 * 2 * eager
    assert memory(gradient_checkpointing=True)["activations"] == 100 * (2 * 4 * 48 + compiled)
    matrices = (48, 48), (48, 24), (48, 24), (48, 48), (48, 96), (48, 96), (96, 48)
    adapter = 2 * 3 * sum(map(sum, matrices))
    lora = memory(lora_rank=3)
    assert lora["weights"] == weights // 2 + 4 * adapter and lora["copies"] == 2 * adapter
    assert lora["activations"] == 100 * 2 * (compiled + 2 * (48 + 7 * 3))


def test_gradient_checkpointing_is_planned_with_less(model: Path) -> None:
    usual, again = (planned("sft", model, gradient_checkpointing=on).memory["activations"] for on in (False, True))
    assert again < 0.7 * usual  # of two layers: one whole, and the inputs


@pytest.mark.slow
@pytest.mark.skipif(not embedded.is_available(), reason="needs the offline model")
def test_the_plan_of_a_real_model_is_within_a_quarter_of_the_measured_peak(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{n}", "prompt": f"Say {n}. " * 40, "chosen": f"{n} is said. " * 20, "rejected": "No. " * 40}
        for n in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code = (
        "import alignkit, sys\n"
        "model, data, out = sys.argv[1:]\n"
        "alignkit.train('dpo', model=model, data=data, out=out, max_steps=1, split='0.2', max_new_tokens=2,"
        " batch_size=2)"
    )
    arguments = [embedded.NAME, str(tmp_path / "rows.jsonl"), str(tmp_path / "run")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    finished = alignkit.Run(tmp_path / "run").info["finished"]
    assert 0.75 < finished["planned_mib"] / finished["peak_mib"] < 1.25, finished


def test_flops_of_a_row_are_those_counted_by_hand(model: Path) -> None:
    arithmetic = Arithmetic(layers=10, head=7, attention=3)
    row = lay_out([tree("r", np.arange(3), [(np.arange(2), np.ones(2, bool)), (np.arange(1), np.ones(1, bool))])])
    pairs = (
        (1 + 2 + 3) + (4 + 5) + 4
    )  # the prompt's tokens see 1, 2, 3; then each completion sees the prompt and itself
    assert arithmetic.flops([row]) == 6 * (10 * 6 + 7 * 3) + 12 * 3 * pairs
    assert Arithmetic(10, 7, 3, is_adapter=True).flops([row]) == 4 * (10 * 6 + 7 * 3) + 12 * 3 * pairs
    policy = load_policy(model, precision="fp32")
    found = Arithmetic.of(policy)
    assert found == Arithmetic(sum(p.numel() for p in policy.parameters()) - 272 * 48, 272 * 48, 2 * 4 * 12)


def test_the_plain_path_says_how_many_times_the_tokens_it_computes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = tree("r", np.arange(6), [(np.arange(2), np.ones(2, bool)), (np.arange(4), np.ones(4, bool))])
    assert plain_factor([pair]) == 18 / 12
    assert plain_factor([tree("r", np.arange(6), [])], num_samples=4, sample_tokens=5) == 44 / 26
    rows = [{"prompt": f"{n}, please?", "chosen": "yes", "rejected": "no"} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--model", model, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "run", "--max-steps", 1]
    assert main(["train", "dpo", "--set", "attention=plain", *map(str, given)]) == 0
    assert re.search(r"plain path: computes 1\.\d times the tokens", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-80GB", 311.9e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA GH200 480GB", 989.4e12),
        ("NVIDIA L40S", 362.1e12),
        ("NVIDIA L40G", None),
        ("NVIDIA RTX 6000 Ada Generation", 364.2e12),
        ("NVIDIA GeForce RTX 5090", 209.5e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla T4", None),
        ("cpu", None),
    ],
)
def test_a_gpus_peak_is_found_by_its_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_every_run_logs_its_memory_and_mfu_only_where_the_peak_is_known(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"prompt": f"{n}?", "chosen": "yes"}) for n in range(9)))
    given = {"model": str(model), "data": str(tmp_path / "rows.jsonl"), "split": "0.2", "max_steps": 2}
    run = alignkit.train("sft", **given, out=str(tmp_path / "usual"))
    assert "mfu" not in run.metrics["name"]
    memory = run.metrics.filter(run.metrics["name"] == "memory_mib")["value"]
    assert 100 < memory.min() <= memory.max() < 100_000
    monkeypatch.setattr("alignkit.training.gradient.speed.peak_flops", lambda name: 1e9)
    run = alignkit.train("sft", **given, out=str(tmp_path / "known"))
    rate = run.metrics.filter(run.metrics["name"] == "mfu")["value"]
    assert len(rate) == 2 and rate.min() > 0
