"""Decoding in static buffers draws what batched generation draws, whatever the rows, the looks and the buckets are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.rollouts.batched import BatchedGeneration
from alignkit.rollouts.fewer_kernels import fewer_kernels
from alignkit.rollouts.sampler import Completion, Request
from alignkit.rollouts.static import StaticDecoding

ENDS = frozenset({7, 200, 31})
WINDOWS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 16}


def requests(count: int, *, more: int = 0) -> list[Request]:
    """Prompts of 1 to 39 tokens, three requests each, of all kinds of sampling."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 256, n).tolist() for n in rng.integers(1, 40, count)]
    return [
        Request(prompts[n // 3], [0.0, 0.6, 1.0, 1.4][n % 4], n, 5 + n % 37 + more, top_p=0.9 if n % 5 == 0 else 1.0)
        for n in range(count)
    ]


def static(policy: Policy, asked: list[Request], *, capture: bool = False, **options: Any) -> list[Completion]:
    decoding = StaticDecoding(policy, end_ids=ENDS, capture=capture, **options)
    with BatchedGeneration(policy, end_ids=ENDS).generating():
        return decoding.generate(asked, [one.max_new_tokens for one in asked])


def assert_same(found: list[Completion], expected: list[Completion], atol: float = 1e-5) -> None:
    assert 0.1 < sum(one.truncated for one in expected) / len(expected) < 0.9
    for one, other in zip(found, expected, strict=True):
        assert one.ids.tolist() == other.ids.tolist() and one.truncated == other.truncated
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=atol)


@pytest.mark.parametrize(
    ("kind", "more", "options"),
    [
        ("qwen2", {}, {}),
        # ended rows are given to waiting requests, and at the end fewer rows are kept
        ("qwen2", {}, {"max_rows": 12, "look_every": 3, "bucket": 8}),
        ("qwen2", {}, {"max_rows": 1, "look_every": 1, "bucket": 1}),
        ("gemma3_text", WINDOWS, {"max_rows": 9}),
        ("gpt2", {"n_head": 4}, {"max_rows": 9}),
    ],
)
def test_samples_are_those_of_batched_generation(
    kind: str, more: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    policy = load_policy(tiny_model(tmp_path, kind=kind, **more), precision="fp32")
    asked, attention = requests(30), policy.base.config._attn_implementation
    assert_same(static(policy, asked, **options), BatchedGeneration(policy, end_ids=ENDS).generate(asked))
    assert policy.base.config._attn_implementation == attention


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a number of the device's: a graph cannot hold it."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_number_back(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path), precision="bf16")
    counts = []
    for asked in (requests(1), requests(12)):
        with Waits() as seen:
            bool(torch.ones(1))
            static(policy, asked)
        counts.append(seen.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.gpu
def test_a_captured_graph_draws_what_its_kernels_draw_one_by_one(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path, hidden_size=128), precision="bf16")
    asked = requests(30, more=40)
    captured = static(policy, asked, capture=True, max_rows=7, bucket=16)
    assert_same(captured, static(policy, asked, max_rows=7, bucket=16), atol=0)


@pytest.mark.gpu
def test_a_gpu_draws_by_graphs_what_it_draws_in_growing_caches(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path, hidden_size=128), precision="fp32")
    asked = requests(30, more=40)
    by_graphs = BatchedGeneration(policy, end_ids=ENDS).generate(asked)
    policy.tree_refusal = "a test"  # which leaves the static buffers out
    assert_same(by_graphs, BatchedGeneration(policy, end_ids=ENDS).generate(asked), atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma3_text"])
def test_layers_of_fewer_kernels_give_what_the_models_own_give(kind: str, tmp_path: Path) -> None:
    """Gemma multiplies by 1 + weight, Qwen 3 also norms queries and keys."""
    policy = load_policy(tiny_model(tmp_path, kind=kind), precision="bf16")
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with BatchedGeneration(policy, end_ids=ENDS).generating():
        with Counted() as before:
            own = policy.body(input_ids=ids, use_cache=False).last_hidden_state
        with fewer_kernels(policy.body), Counted() as after:
            ours = policy.body(input_ids=ids, use_cache=False).last_hidden_state
            norms = [module for module in policy.body.modules() if type(module).__name__.endswith("RMSNorm")]
            assert {"forward" in vars(norm) for norm in norms} == {kind != "gemma3_text"}
        assert not any("forward" in vars(module) for module in policy.body.modules())
    assert (ours - own).abs().max() <= 0.01 * own.abs().max() and ours.dtype == own.dtype
    assert after.casts < before.casts and after.products == before.products - 2 * 3  # two layers


class Counted(TorchDispatchMode):
    casts = products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.casts += func is torch.ops.aten._to_copy.default
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))
