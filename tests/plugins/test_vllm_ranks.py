"""`--sampler vllm` on two ranks: each has an engine of its own and draws its share of the prompts. Real vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from grpo_runs import command, options
from safetensors.torch import load_file
from tiny_models import tiny_model
from vllm_engines import needs_vllm

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@needs_vllm
@pytest.mark.slow
def test_two_ranks_with_an_engine_each_train_what_one_process_trains(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", hidden_size=128)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = {}
    for name, launcher in (("one", []), ("two", TORCHRUN)):
        given = options(
            model,
            tmp_path,
            tmp_path / name,
            "return len(set(completion))",
            sampler="vllm",
            batch_size=4,
            group_size=2,
            learning_rate=1e-3,
            warmup_steps=0,
            validation_interval=2,
        )
        runs[name] = subprocess.Popen(
            [sys.executable, *launcher, "-m", "alignkit", *command(given)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    for name, process in runs.items():
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, f"{name}: {said}"
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    start = load_file(model / "model.safetensors")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    assert any((one[name] - start[name]).abs().max() > 1e-3 for name in start)
    assert (tmp_path / "one" / "samples.jsonl").read_text() == (tmp_path / "two" / "samples.jsonl").read_text()
    lines = map(json.loads, (tmp_path / "two" / "metrics.jsonl").read_text().splitlines())
    found = [line["value"] for line in lines if line["name"] == "sampler_mismatch"]
    assert len(found) == 2 and max(found) < 1e-4
