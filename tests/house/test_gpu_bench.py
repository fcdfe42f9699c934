"""The benchmark of a CUDA card without a card: its driver, and a real section of each kind with tiny shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from qwen_vocabulary import is_available

from bench.gpu import Driver, Section

ROOT = Path(__file__).parents[2]
CODE = {
    "well": "import json\nprint(json.dumps({'part': 'a', 'value': 1}), flush=True)\nprint('not a part')",
    "broken": 'print(\'{"part": "before", "value": 2}\', flush=True)\nraise ValueError(\'no such kernel\')',
    "hanging": 'print(\'{"part": "before", "value": 3}\', flush=True)\nimport time\ntime.sleep(60)',
}
SECTIONS = {name: Section("", 4.0 if name == "hanging" else 30.0) for name in CODE}


def run(names: Sequence[str], *, seconds: float = 60.0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run made-up sections; returns the results and what was kept on the way."""
    kept: list[dict[str, Any]] = []
    driver = Driver(
        SECTIONS,
        lambda name, limit: [sys.executable, "-c", CODE[name]],
        seconds=seconds,
        keep=lambda results: kept.append(deepcopy(results)),
        least_s=0.5,
    )
    return driver.run(names), kept


def test_a_failing_section_keeps_its_parts_and_costs_only_itself() -> None:
    results, _ = run(["broken", "well"])
    assert results["broken"]["parts"] == {"before": 2}
    assert "no such kernel" in results["broken"]["failed"]
    assert results["well"]["parts"] == {"a": 1} and results["well"]["failed"] is None


def test_a_hanging_section_is_stopped_at_its_limit() -> None:
    results, _ = run(["hanging"])
    assert results["hanging"]["parts"] == {"before": 3}
    assert results["hanging"]["failed"] == "stopped after 4 s"
    assert results["hanging"]["took_s"] < 30


def test_results_are_written_after_each_part() -> None:
    _, kept = run(["broken", "well"])
    assert {"before": 2} in [one["broken"]["parts"] for one in kept if one["broken"]["failed"] is None]


def test_a_section_that_no_time_is_left_for_is_named() -> None:
    results, _ = run(["well"], seconds=0.1)
    assert results["well"]["failed"] == "no time left" and results["well"]["parts"] == {}


@pytest.mark.slow
@pytest.mark.skipif(not is_available(), reason="needs the package that carries Qwen2.5's vocabulary")
def test_a_section_of_each_kind_is_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    out, names = tmp_path / "found.json", "steps,attention,plain,train_sft"
    command = [sys.executable, "-m", "bench.gpu", "--rehearse", "--sections", names, "--json", str(out)]
    done = subprocess.run([*command, "--work", str(tmp_path / "work")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    found = json.loads(out.read_text())
    assert found["rehearsed"] and found["figures"] == {}
    parts = {name: section["parts"] for name, section in found["results"].items()}
    assert set(parts["steps"]) > {"sft", "dpo", "grpo", "reward"}
    assert not [
        part for section in parts.values() for part in section.values() if isinstance(part, dict) and "error" in part
    ]
    assert max(part["value"] for name, part in parts["attention"].items() if "float32" in name) < 1e-5
    assert parts["train_sft"]["sft"]["rc"] == 0 and parts["train_sft"]["sft"]["steps"] == 2
