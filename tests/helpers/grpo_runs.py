"""Options of small GRPO runs with an own reward, and their metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import alignkit


def write_problems(folder: Path) -> Path:
    path = folder / "problems.jsonl"
    rows = [{"id": f"p{n}", "prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def options(model: Path, folder: Path, out: Path, reward: str, **more: Any) -> dict[str, Any]:
    """Options of `alignkit.train("grpo")`; `reward` is the body of the reward function."""
    (folder / "rewards.py").write_text(f"def score(completion, row):\n    {reward}\n")
    common = {
        "model": str(model),
        "data": str(write_problems(folder)),
        "out": str(out),
        "precision": "fp32",
        "max_new_tokens": 5,
        "reward": [f"{folder / 'rewards.py'}:score"],
        "max_steps": 2,
        "split": "0.2",
    }
    return common | more


PHASES = ("generate", "score", "sync", "train")
KEYS = dict.fromkeys([f"{phase}_timeout_s" for phase in PHASES] + ["servers"], "rollouts")
KEYS["zero_variance_groups"] = "train.grpo"
"""What no option of the command line sets, and the table it stands in."""


def command(given: dict[str, Any]) -> list[str]:
    """The same as arguments of the command line."""
    words = ["train", "grpo"]
    for key, value in given.items():
        if key in KEYS:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            words += ["--set", f"{KEYS[key]}.{key}={text}"]
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{key.replace('_', '-')}", str(one)]
    return words


def values(run: alignkit.Run, name: str) -> list[float]:
    return run.metrics.filter(run.metrics["name"] == name)["value"].to_list()
