"""The two paths on a card: FlexAttention with sliding windows, and the plain path's padded batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import random_pairs
from tiny_models import tiny_model

from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import Tree, tree
from alignkit.policy.load import load_policy
from alignkit.training.run.self_checks import run_checks

pytestmark = pytest.mark.gpu

GEMMA = {
    "kind": "gemma3_text",
    "hidden_size": 128,
    "head_dim": 32,
    "sliding_window": 100,
    "layer_types": ["sliding_attention", "full_attention"],
}
MISTRAL = {"kind": "mistral", "hidden_size": 128, "head_dim": 32, "sliding_window": 100}


def long_trees() -> list[Tree]:
    """Longer than a block of FlexAttention's mask and than the window, in the prompt and across it."""
    rng = np.random.default_rng(0)
    shapes = ((300, (150, 7)), (40, (90, 260)), (1, (130,)))
    return [
        tree(f"r{n}", rng.integers(0, 256, prompt), [(rng.integers(0, 256, k), np.ones(k, bool)) for k in sizes])
        for n, (prompt, sizes) in enumerate(shapes)
    ]


@pytest.mark.parametrize("model", [GEMMA, MISTRAL], ids=["gemma3", "mistral"])
def test_windows_on_the_tree_path_give_what_the_plain_path_gives(model: dict[str, object], tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path, **model), precision="fp32", attention="tree").eval()  # type: ignore[arg-type]
    pack, found = lay_out(long_trees()), {}
    for path in ("tree", "plain"):
        with policy.on_path(path):
            policy.zero_grad()
            logprob_T = policy(pack).logprob_T
            (logprob_T * torch.linspace(-1, 1, len(logprob_T), device=policy.device)).sum().backward()
        found[path] = logprob_T.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])
    for ours, theirs in zip(found["tree"], found["plain"], strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize("model", [GEMMA, {"kind": "qwen2", "hidden_size": 128}], ids=["gemma3", "qwen2"])
def test_the_start_up_checks_hold_with_compiled_layers_in_bf16(model: dict[str, object], tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path, **model), precision="bf16", compiled=True)  # type: ignore[arg-type]
    checks = run_checks(policy, random_pairs(3))
    assert all(check.ok for check in checks), [check for check in checks if not check.ok]
    assert len([check for check in checks if check.name.startswith("bf16")]) == 2
