"""Layers of CUDA, computed on a CPU: near autocast's numbers, renewed with the weights, frozen ones held in bf16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn

from alignkit.methods import MethodConfig
from alignkit.policy.cuda.layers import CudaLayers, hold_frozen
from alignkit.policy.in_place import accumulate_in_place
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.gradient.optimizer import make_optimizer

IDS = torch.arange(40).reshape(2, 20) % 250


def gradients(policy: Policy) -> Tensor:
    """The gradient of the hidden states' sum with unequal weights, under the policy's precision."""
    policy.zero_grad()
    with policy.on_path("plain"), policy.computing():
        states = policy.body(input_ids=IDS, use_cache=False).last_hidden_state.float()
    (states * torch.linspace(-1, 1, states.numel()).view(states.shape)).sum().backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_the_gradient_is_as_near_to_fp32s_as_autocasts_and_the_same_where_it_is_added_in_place(
    lora_rank: int | None, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path, hidden_size=64)
    exact = gradients(load_policy(folder, precision="fp32", lora_rank=lora_rank))
    usual = gradients(load_policy(folder, precision="bf16", lora_rank=lora_rank))
    policy = load_policy(folder, precision="bf16", lora_rank=lora_rank)
    layers = CudaLayers(policy.base, policy.body, torch.bfloat16)
    layers.switch(True)
    layers.renew()
    ours = gradients(policy)
    assert 0 < relative(ours, exact) < 1.2 * relative(usual, exact) < 0.05
    with accumulate_in_place():
        assert relative(gradients(policy), ours) < 1e-6
    layers.remove()
    assert relative(gradients(policy), usual) == 0


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_copies_follow_the_weights(optimizer: str, tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path), precision="bf16")
    layers = CudaLayers(policy.base, policy.body, torch.bfloat16)
    stepping = make_optimizer(policy.parameters(), MethodConfig(optimizer=optimizer, learning_rate=0.1))
    (layer,) = [m for name, m in policy.body.named_modules() if name == "layers.0.self_attn.k_proj"]
    layers.renew()
    product, place = layer.product, layer.place
    assert (len(product.sizes), place) == (3, 1)
    first = product.narrow_weights[place].clone()
    gradients(policy)
    stepping.step()
    layers.renew()
    assert torch.equal(product.narrow_weights[place], layer.weight.to(torch.bfloat16))
    assert not torch.equal(product.narrow_weights[place], first)
    with torch.no_grad():
        layer.bias.add_(1)
    layers.renew()
    assert torch.equal(product.narrow_biases[place], layer.bias.to(torch.bfloat16))


def test_a_frozen_base_in_bf16_gives_autocasts_numbers_and_keeps_the_residual_stream_in_fp32(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, hidden_size=64)
    usual = load_policy(folder, precision="bf16", lora_rank=4)
    policy = load_policy(folder, precision="bf16", lora_rank=4)
    with torch.no_grad():  # as in a folder of bf16: nothing is rounded by holding it so
        for model in (usual, policy):
            for parameter in model.parameters():
                parameter.copy_(parameter.to(torch.bfloat16))
    hold_frozen(policy.base, torch.bfloat16)
    layers = CudaLayers(policy.base, policy.body, torch.bfloat16)
    layers.renew()
    held = {p.dtype for p in policy.parameters() if not p.requires_grad and p.ndim > 1}
    assert held == {torch.bfloat16} and {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    with torch.no_grad(), policy.computing(), policy.on_path("plain"), usual.on_path("plain"):
        assert policy.base.get_input_embeddings()(IDS).dtype == torch.float32
        ours, theirs = (model.body(input_ids=IDS).last_hidden_state for model in (policy, usual))
    assert torch.equal(ours, theirs)
    with policy.in_fp32(), policy.on_path("plain"):
        assert policy.model(input_ids=IDS).logits.dtype == torch.float32


def test_norms_of_other_models_stay_their_own() -> None:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    for kind, is_replaced in ((Qwen2RMSNorm, True), (GemmaRMSNorm, False)):
        body = nn.Sequential(kind(8))
        layers = CudaLayers(body, body, torch.bfloat16)
        x = torch.randn(3, 8)
        own = body(x)
        layers.switch(True)
        assert ("forward" in vars(body[0])) == is_replaced
        torch.testing.assert_close(body(x), own)
