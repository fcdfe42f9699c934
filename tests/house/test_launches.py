"""What a step launches and waits for on CUDA, counted without a card by the benchmark's own command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_head_launches_few_kernels_and_a_step_waits_once(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench.launches", "--only", "head_launches", "host_syncs_per_step"]
    done = subprocess.run([*command, "--json", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["results"]["head_launches"]["score_rows"] > 0  # CUDA's head, not a CPU's tiles
    assert 10 < found["figures"]["head_launches"] <= 150
    waits = found["results"]["host_syncs_per_step"]
    assert set(waits) == {"sft", "dpo", "grpo", "reward"} and found["figures"]["host_syncs_per_step"] == 1
