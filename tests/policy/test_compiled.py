"""Compiled layers: the same numbers as the layers as they are, and no compilation after the first steps.

CUDA's attention has no backward pass on a CPU. So steps of training attend by a dense mask, and FlexAttention is
compiled for forward passes alone. The graph of its backward pass is only on a card.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention

import alignkit
from alignkit.data.trees.packs import Pack, Span, lay_out
from alignkit.data.trees.trees import tree
from alignkit.policy.attention import FlexLayout, TreeLayout, marks, sees
from alignkit.policy.cuda.layers import CudaLayers
from alignkit.policy.in_place import accumulate_in_place
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.rollouts.batched import BatchedGeneration
from alignkit.rollouts.sampler import Request

pytestmark = [  # torch's own, while it traces
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
BACKEND = "aot_eager"  # traces forward and backward like Inductor, and makes no kernels


@dataclass(frozen=True)
class DenseLayout:
    """A row of trees as one S x S mask: attention that a CPU computes in a graph, backward too."""

    mask_SS: Tensor

    @classmethod
    def of(cls, spans: Sequence[Span]) -> DenseLayout:
        tree_S, segment_S, position_S = map(torch.from_numpy, marks(spans))
        place_S = torch.arange(len(tree_S))
        none = torch.zeros(())
        return cls(sees(tree_S, segment_S, position_S)(none, none, place_S[:, None], place_S))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None = None
    ) -> Tensor:
        out = scaled_dot_product_attention(query, key, value, self.mask_SS, scale=scale, enable_gqa=True)
        return out.transpose(1, 2).contiguous()


class Kernels:
    """What a policy computes with here, in place of a CPU's layers and attention."""

    def __init__(self, body: nn.Module) -> None:
        pass

    def switch(self, on: bool) -> None:
        pass

    def layout(self, spans: Sequence[Span]) -> TreeLayout:
        return DenseLayout.of(spans)

    def activation_memory(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()


class FlexKernels(Kernels):
    def layout(self, spans: Sequence[Span]) -> TreeLayout:
        return FlexLayout.of(spans, torch.device("cpu"))


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute the layers as they are; nothing compiled is left of other tests."""
    monkeypatch.setattr("alignkit.policy.policy.CpuKernels", Kernels)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def graphs() -> int:
    """How many graphs dynamo has made."""
    return int(counters["stats"]["unique_graphs"])


def row(*trees: tuple[int, ...]) -> Pack:
    """A row of trees: the sizes of a prompt and its completions."""
    rng = np.random.default_rng(0)
    ids = [[rng.integers(0, 256, size) for size in sizes] for sizes in trees]
    return lay_out([tree("", prompt, [(x, np.ones(len(x), bool)) for x in c]) for prompt, *c in ids])


def scores_and_gradient(policy: Policy, pack: Pack) -> tuple[Tensor, Tensor]:
    policy.zero_grad()
    logprob_T = policy(pack).logprob_T
    (logprob_T * torch.linspace(-1, 1, len(logprob_T))).sum().backward()
    return logprob_T.detach(), torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"precision": "bf16"}, 5e-3), ({"precision": "fp32", "lora_rank": 4, "gradient_checkpointing": True}, 1e-5)],
    ids=str,
)
def test_compiled_layers_give_the_numbers_and_the_gradient_of_the_layers(
    options: dict[str, Any], tolerance: float, as_on_cuda: None, tmp_path: Path
) -> None:
    policy = load_policy(tiny_model(tmp_path), **options)
    CudaLayers(policy.base, policy.body, torch.bfloat16).renew()
    packs = row((60, 30, 40), (20, 10)), row((5, 3))
    theirs = [scores_and_gradient(policy, pack) for pack in packs]
    before = graphs()
    policy.compile_layers(backend=BACKEND)
    for pack, expected in zip(packs, theirs, strict=True):
        for ours, their in zip(scores_and_gradient(policy, pack), expected, strict=True):
            assert float((ours - their).norm() / their.norm()) < tolerance
    assert graphs() > before


def test_gradients_of_micro_batches_are_added_as_autograd_adds_them(as_on_cuda: None, tmp_path: Path) -> None:
    packs = row((60, 30, 40), (20, 10)), row((5, 3)), row((30, 9))

    def added(policy: Policy) -> list[Tensor]:
        for pack in packs:
            policy.backward(policy(pack).logprob_T.sum())
        return [p.grad for p in policy.parameters() if p.grad is not None]

    policy = load_policy(tiny_model(tmp_path), precision="fp32")
    policy.compile_layers(backend="eager")
    ours = added(policy)
    policy.zero_grad()
    for pack in packs:
        with accumulate_in_place():
            policy(pack).logprob_T.sum().backward()
    theirs = [p.grad for p in policy.parameters() if p.grad is not None]
    assert len(ours) == len(list(policy.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_rows_of_any_length_take_one_graph_of_flex_attention_and_generation_none(
    monkeypatch: pytest.MonkeyPatch, as_on_cuda: None, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path, num_hidden_layers=3)
    rows = [row((60, 30, 40), (60, 20)), row((5, 3)), row((100, 28)), row((300, 100, 20), (30, 20), (7, 1))]
    plain = load_policy(folder, precision="bf16", compiled=True)
    assert not plain.is_compiled  # on a CPU
    monkeypatch.setattr("alignkit.policy.policy.CpuKernels", FlexKernels)
    policy = load_policy(folder, precision="bf16")
    CudaLayers(policy.base, policy.body, torch.bfloat16).renew()
    policy.compile_layers(backend=BACKEND)
    before = graphs()
    sampler = BatchedGeneration(policy, end_ids=frozenset())
    with torch.no_grad():
        for number, pack in enumerate(rows):
            assert len(sampler.generate([Request([1, 2, 3], 1.0, 0, 4)])[0].ids) == 4
            with policy.on_path("plain"):
                policy(pack)
            assert graphs() == before + (number > 0)
            assert float((policy(pack).logprob_T - plain(pack).logprob_T).abs().mean()) < 0.02
    assert graphs() == before + 1


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_no_step_compiles_after_the_first_steps(
    method: str, as_on_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> Policy:
        policy = load_policy(*args, **options)
        policy.compile_layers(backend="eager")  # graphs alone are counted
        return policy

    monkeypatch.setattr("alignkit.training.inputs.weights.load_policy", load)
    rng = np.random.default_rng(1)
    rows = [
        {"id": f"r{n}", "prompt": f"Say {n}." * int(rng.integers(1, 9)), "chosen": f"{n}" * int(rng.integers(1, 60))}
        | {"rejected": "no"}
        for n in range(30)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    options: dict[str, Any] = {
        "model": str(tiny_model(tmp_path / "model")),
        "data": str(tmp_path / "rows.jsonl"),
        "precision": "bf16",
        "batch_size": 2,
        "max_new_tokens": 4,
        "validation_interval": 4,
        "sample_interval": 2,
        "split": "first-4",
    }
    if method == "grpo":
        (tmp_path / "rewards.py").write_text("def score(completion, row):\n    return sum(map(ord, completion)) % 7\n")
        options["reward"] = [f"{tmp_path / 'rewards.py'}:score"]
    alignkit.train(method, **options, max_steps=2, out=str(tmp_path / "first"))
    made = graphs()
    assert made > 0
    alignkit.train(method, **options, max_steps=12, out=str(tmp_path / "second"))
    assert graphs() == made
