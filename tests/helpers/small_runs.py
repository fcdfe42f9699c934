"""Short runs of tiny models: their rows, their command, and a signal while one of their steps runs."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alignkit.data.trees.trees import Tree, tree
from alignkit.methods import MethodConfig
from alignkit.options import tier
from alignkit.training.inputs import weights as inputs_weights
from alignkit.training.loop.train_loop import Loop


def write_numbered_rows(path: Path) -> Path:
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"it is {n}", "rejected": f"not {n}"} for n in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def random_pairs(count: int, seed: int = 0) -> list[Tree]:
    rng = np.random.default_rng(seed)
    return [
        tree(
            f"row-{n}",
            rng.integers(0, 256, rng.integers(1, 9)),
            [(rng.integers(0, 256, k), np.ones(k, bool)) for k in rng.integers(1, 12, 2)],
        )
        for n in range(count)
    ]


def command(model: Path, data: Path, out: Path, **more: Any) -> list[str]:
    given = {
        "model": model,
        "data": data,
        "out": out,
        "precision": "fp32",
        "split": "0.2",
        "max_new_tokens": 4,
        "batch_size": 4,
        "max_steps": 8,
        "checkpoint_interval": 2,
        "validation_interval": 100,
        "warmup_steps": 1,
        "learning_rate": 1e-3,
        **more,
    }
    return ["train", "sft", *typed(given)]


def typed(given: dict[str, Any]) -> list[str]:
    """Options as a command line has them: those without a flag by --set."""
    words = []
    for key, value in given.items():
        has_flag = tier(MethodConfig, key) != "no-flag"
        words += [f"--{key.replace('_', '-')}", str(value)] if has_flag else ["--set", f"{key}={value}"]
    return words


def way_on(said: str) -> list[str]:
    """The arguments of the command that a stopped run prints."""
    words = shlex.split(said.rstrip().rpartition(" with: ")[2])
    assert words[0] == "alignkit"
    return words[1:]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGINT while the given step runs."""
    original = Loop.step

    def stepping(self: Loop) -> None:
        if self.position.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        original(self)

    monkeypatch.setattr(Loop, "step", stepping)


def spoil_letter(letter: str, patched: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let every policy that a run loads here compute nan for texts with a letter; its weights are finite."""

    def spoilt(embedding: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((given[0] == ord(letter) - ord("!"))[..., None], float("nan"))

    original = inputs_weights.load_policy

    def load(*given: Any, **more: Any) -> Any:
        policy = original(*given, **more)
        policy.base.get_input_embeddings().register_forward_hook(spoilt)
        return policy

    patched(inputs_weights, "load_policy", load)
