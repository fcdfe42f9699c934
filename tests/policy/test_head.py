"""Heads with more than a matrix: measured, trained with the model's own log-probs, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from alignkit.data.trees.packs import Pack, lay_out
from alignkit.data.trees.trees import tree
from alignkit.policy.head import HeadForm, UnknownHeadError, find_form
from alignkit.policy.load import load_policy
from alignkit.policy.logprobs import head_logits, token_logprobs
from alignkit.policy.policy import Policy
from alignkit.training.gradient.reference import Reference, exact_kl

HEADS: dict[str, tuple[dict[str, Any], HeadForm]] = {
    "llama": ({}, HeadForm()),
    "phi": ({}, HeadForm()),
    "gemma2": ({"head_dim": 12, "final_logit_softcapping": 4.0}, HeadForm(softcap=4.0)),
    "cohere": ({"logit_scale": 0.0625}, HeadForm(0.0625)),
    "granite": ({"logits_scaling": 8.0}, HeadForm(0.125)),
    "hyperclovax": ({"logits_scaling": 8.0}, HeadForm(8.0)),  # the same field, the other way round
    "falcon_h1": ({"lm_head_multiplier": 0.3}, HeadForm(0.3)),
}


def loaded(kind: str, folder: Path) -> Policy:
    """A fp64 policy with logits of many sizes, on the plain path: policy/cpu's norms stay fp32 and round otherwise."""
    made = tiny_model(folder, kind=kind, tied=kind == "cohere", **HEADS[kind][0])
    policy = load_policy(made, precision="fp32", attention="plain")
    policy = policy.double().eval()
    head = policy.base.get_output_embeddings()
    with torch.no_grad():
        head.weight.normal_(std=1.0, generator=torch.Generator().manual_seed(1))
        if head.bias is not None:
            head.bias.normal_(std=2.0, generator=torch.Generator().manual_seed(2))
    return policy


def row() -> Pack:
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 256, n), np.ones(n, bool)) for n in (7, 5)]
    return lay_out([tree("row", rng.integers(0, 256, 9), parts)])


def own_logprobs(policy: Policy, pack: Pack, temperature_N: np.ndarray) -> torch.Tensor:
    """By the model's own forward pass, its own logits and torch's log-softmax."""
    found = []
    (one,) = pack.trees
    for completion, temperature in zip(one.completions, temperature_N, strict=True):
        ids = torch.as_tensor(np.concatenate([one.prompt.ids, completion.ids]).astype(np.int64))
        logits = policy.model(input_ids=ids[None], use_cache=False).logits[0] / float(temperature)
        at = torch.arange(len(one.prompt), len(ids))
        found.append(logits[at - 1].log_softmax(-1).gather(-1, ids[at, None])[:, 0])
    return torch.cat(found)


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind != "falcon_h1"])
def test_a_head_is_trained_with_the_models_own_log_probs_and_gradients(kind: str, tmp_path: Path) -> None:
    policy, pack, temperature_N = loaded(kind, tmp_path), row(), np.array([0.75, 1.5])
    assert policy.head_form == HEADS[kind][1]
    results = []
    for logprob_T in (policy(pack, temperature_N).logprob_T, own_logprobs(policy, pack, temperature_N)):
        policy.zero_grad()
        (logprob_T * torch.linspace(-1, 2, len(logprob_T))).sum().backward()
        grads = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
        results.append((logprob_T.detach(), grads))
    (ours, our_grads), (theirs, their_grads) = results
    # fp64, but for norms and softmaxes that are fp32 in any type and round otherwise where rows are computed together.
    assert (ours - theirs).abs().max() < 1e-6
    assert our_grads.keys() == their_grads.keys()
    for name, grad in our_grads.items():
        assert (grad - their_grads[name]).norm() <= 1e-6 * their_grads[name].norm() + 1e-12, name


@pytest.mark.parametrize("kind", HEADS)
def test_a_heads_form_is_measured_on_a_model_without_weights(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_model(tmp_path, kind=kind, **HEADS[kind][0]))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    assert find_form(model) == HEADS[kind][1]
    assert model.get_output_embeddings() is head and "forward" not in vars(model.base_model)


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (1.0, 2.0), (2.5, 1.5)])
def test_the_tiled_heads_gradients_are_autograds(scale: float, softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    form = HeadForm(scale, softcap)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight, bias = random(11, 8), random(300, 8), random(300)
    target, temperature = torch.randint(0, 300, (11,), generator=generator), random(11).abs() + 0.5
    results = []
    for tiled in (True, False):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        if tiled:
            logprob = token_logprobs(*leaves[:2], target, temperature, bias_V=leaves[2], form=form, chunk_bytes=1)[0]
        else:
            inner = scale * (leaves[0] @ leaves[1].t() + leaves[2])
            logits = inner if softcap is None else softcap * torch.tanh(inner / softcap)
            logprob = (logits / temperature[:, None]).log_softmax(-1).gather(-1, target[:, None])[:, 0]
        (logprob * torch.linspace(-1, 2, 11)).sum().backward()
        results.append((logprob.detach(), *(x.grad for x in leaves)))
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() < 1e-12
    _, entropy = token_logprobs(
        hidden, weight, target, temperature, bias_V=bias, form=form, entropy=True, chunk_bytes=1
    )
    expected = torch.distributions.Categorical(logits=head_logits(hidden, weight, bias, form) / temperature[:, None])
    assert entropy is not None and (entropy - expected.entropy()).abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["phi", "gemma2", "granite"])
def test_exact_kl_reads_the_models_own_logits(kind: str, tmp_path: Path) -> None:
    policy, frozen, pack = loaded(kind, tmp_path / "a"), loaded(kind, tmp_path / "b"), row()
    with torch.no_grad():
        policy.base.get_output_embeddings().weight.mul_(1.1)
        logs = []
        for one in (policy, frozen):
            logits = one.model(input_ids=torch.as_tensor(pack.ids_S[None, :16].astype(np.int64))).logits[0]
            logs.append(logits.log_softmax(-1))
    expected = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)[8:15]  # the first completion's scored tokens
    found = exact_kl(policy, Reference(policy, frozen=frozen), pack)[:7]
    assert (found - expected.float()).abs().max() < 1e-6


def test_a_head_of_another_form_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    policy = loaded("llama", tmp_path)
    head = policy.base.get_output_embeddings()
    policy.base.lm_head = torch.nn.Sequential(head, torch.nn.LayerNorm(272))
    with pytest.raises(UnknownHeadError, match="Sequential, not one matrix"):
        find_form(policy.base)
    policy.base.lm_head = head
    original = type(policy.base).forward

    def squared(*args: Any, **kwargs: Any) -> Any:
        out = original(policy.base, *args, **kwargs)
        out.logits = out.logits.square()
        return out

    policy.base.forward = squared
    with pytest.raises(UnknownHeadError, match="no scaled or soft-capped W h"):
        find_form(policy.base)
    assert policy.base.get_output_embeddings() is head
