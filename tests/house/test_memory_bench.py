"""The benchmark of the plan: bytes counted on a pretended card, and what the plan fits into 24 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_plan_is_what_a_pretended_card_counts_and_seven_runs_fit_24_gb(tmp_path: Path) -> None:
    runs = ("0.5B sft", "7B sft, QLoRA, checkpointing")
    command = [sys.executable, "-m", "bench.memory", "--json", str(tmp_path / "found.json"), "--runs", *runs]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["figures"]["plan_error"] <= 1.05 and set(found["errors"]) == set(runs)
    assert all(10_000 < one["counted_mib"] < 24_000 for one in found["errors"].values())
    assert found["figures"]["fits_24gb_by_plan"] == 7
