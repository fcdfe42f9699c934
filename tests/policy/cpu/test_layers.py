"""Layers that save less: the modules' own outputs and gradients, whichever way the gradients go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.policy.cpu import layers
from alignkit.policy.in_place import accumulate_in_place
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def pack_of(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    trees = [
        tree(f"r{n}", rng.integers(0, 256, 6), [(rng.integers(0, 256, k), np.ones(k, bool)) for k in (5, 9)])
        for n in range(4)
    ]
    return lay_out(trees)


def gradients_of(policy: Policy, in_place: bool, times: int = 2) -> dict[str, torch.Tensor]:
    policy.zero_grad(set_to_none=True)
    for seed in range(times):
        scores = policy(pack_of(seed)).logprob_T
        loss = (scores * torch.linspace(-1, 1, len(scores))).sum()
        if in_place:
            with accumulate_in_place():
                loss.backward()
        else:
            loss.backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("tied", "lora_rank"), [(True, None), (False, None), (True, 4)])
def test_gradients_added_in_place_are_those_that_autograd_adds(
    tied: bool, lora_rank: int | None, tmp_path: Path
) -> None:
    policy = load_policy(tiny_model(tmp_path, tied=tied), precision="fp32", lora_rank=lora_rank)
    in_place, usual = gradients_of(policy, True), gradients_of(policy, False)
    assert in_place.keys() == usual.keys() == {n for n, p in policy.named_parameters() if p.requires_grad}
    for name in usual:
        assert torch.allclose(in_place[name], usual[name], rtol=1e-5, atol=1e-6 * float(usual[name].abs().max())), name


@pytest.mark.parametrize("world_size", [1, 2])
def test_gradients_are_added_in_place_unless_several_ranks_share_them(world_size: int) -> None:
    """vLLM makes a process group of one in the process. One of this test's own needs a process without an engine's."""
    code = f"""
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore
from alignkit.policy.in_place import accumulate_in_place, grad_buffer
torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size={world_size})
with accumulate_in_place():
    print(grad_buffer(torch.zeros(2, 3, requires_grad=True)) is not None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(world_size == 1)


def test_a_padding_id_gets_no_gradient_as_in_torch() -> None:
    ids, weight = torch.tensor([[1, 0, 2, 1]]), torch.randn(4, 3)
    found = []
    for turned in (True, False):
        module = nn.Embedding(4, 3, padding_idx=0, _weight=weight.clone())
        layers.switch(layers.find(module), turned)
        (module(ids) * torch.arange(4.0)[:, None]).sum().backward()
        found.append(module.weight.grad)
    assert torch.equal(found[0], found[1]) and not found[0][0].any() and found[0][1].any()


def saved_bytes(policy: Policy) -> int:
    """Bytes that a forward pass saves for the backward pass, without the weights."""
    saved: dict[int, torch.UntypedStorage] = {}
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}

    def note(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage  # held, so that no other gets its place
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        output = policy(lay_out([tree("r", np.arange(100), [(np.arange(100), np.ones(100, bool))])]))
    assert output.logprob_T.requires_grad
    return sum(storage.nbytes() for storage in saved.values())


def test_less_than_two_thirds_is_saved_for_the_backward_pass(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path, hidden_size=64, intermediate_size=192), precision="bf16")
    ours = saved_bytes(policy)
    layers.switch(layers.find(policy.body), False)
    assert ours < 0.66 * saved_bytes(policy)


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_gradient_checkpointing_saves_less_and_changes_no_gradient(lora_rank: int | None, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, num_hidden_layers=4)
    usual, again = (
        load_policy(folder, precision="fp32", lora_rank=lora_rank, gradient_checkpointing=on) for on in (False, True)
    )
    assert saved_bytes(again) < 0.5 * saved_bytes(usual)
    theirs, ours = gradients_of(usual, True), gradients_of(again, True)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6 * float(theirs[name].abs().max())), name


def test_under_bf16_the_gradient_is_as_near_to_fp32s_as_the_modules_own(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, hidden_size=64, intermediate_size=192)
    exact = gradients_of(load_policy(folder, precision="fp32"), False)
    policy = load_policy(folder, precision="bf16")

    def error() -> float:
        found = gradients_of(policy, True)
        return relative(*(torch.cat([g[name].flatten() for name in exact]) for g in (found, exact)))

    ours = error()
    layers.switch(layers.find(policy.body), False)
    assert ours < 1.1 * error()


def test_a_module_that_computes_something_else_keeps_its_own_forward() -> None:
    class ShiftedRMSNorm(nn.Module):
        """Gemma's: the weight is kept as its difference from 1."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.full((8,), 0.5)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + self.weight)

    class GeluMLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)
            self.down_proj = nn.Linear(16, 8, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(nn.functional.gelu(self.gate_proj(x)) * self.up_proj(x))

    assert layers.find(ShiftedRMSNorm()) == []
    assert [type(module) for module, _ in layers.find(GeluMLP())] == [nn.Linear] * 3
