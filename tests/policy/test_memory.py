"""Memory of a process that trains: rows of ever new lengths do not make it grow without end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_model

from alignkit.memory import KERNEL_BYTES, KERNELS

_STEPS = """
import sys
import numpy as np
from alignkit_plugins.sft import SFT, SFTConfig
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.memory import give_back
from alignkit.policy.load import load_policy
from alignkit.training.gradient.step import MicroBatch, accumulate

policy, rng = load_policy(sys.argv[1], precision="bf16"), np.random.default_rng(0)

def resident():
    give_back()
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

def row():
    prompt, parts = rng.integers(0, 256, rng.integers(20, 90)), [rng.integers(0, 256, rng.integers(5, 70))]
    return tree("r", prompt, [(ids, np.ones(len(ids), bool)) for ids in parts])

for step in range(25):
    accumulate(policy, SFT(), SFTConfig(), [MicroBatch(lay_out([row() for _ in range(4)]))])
    policy.zero_grad()
    if step == 1:
        first = resident()
print(resident() - first)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_steps_of_other_lengths_stay_within_what_the_plan_counts_for_kernels(tmp_path: Path) -> None:
    """In a process of its own, whose resident set is watched."""
    model = tiny_model(tmp_path / "model", kind="llama", max_position_embeddings=1024)
    done = subprocess.run([sys.executable, "-c", _STEPS, model], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < KERNELS * KERNEL_BYTES / 2**20
