"""The gradient of a step, however it is split into micro-batches, and of losses of two terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.dpo import DPO, DPOConfig
from alignkit_plugins.sft import SFT, SFTConfig
from alignkit_plugins.sft_lenpen import SFTLengthPenalty, SFTLengthPenaltyConfig
from small_runs import random_pairs
from tiny_models import tiny_model

from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.methods import Method, MethodConfig
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.gradient.optimizer import make_optimizer
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.step import MicroBatch, accumulate
from alignkit.units import Pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def gradient_of(
    policy: Policy, method: Method, config: MethodConfig, micro_batches: list[MicroBatch], reference: Any = None
) -> torch.Tensor:
    policy.zero_grad(set_to_none=True)
    accumulate(policy, method, config, micro_batches, reference=reference)
    return torch.cat([p.grad.flatten().double() for p in policy.parameters()])


@pytest.mark.parametrize("split", [[6], [1, 5], [2, 2, 2], [1] * 6])
@pytest.mark.parametrize(
    ("method", "config"), [(SFT(), SFTConfig()), (SFT(), SFTConfig(reduction="example-sum")), (DPO(), DPOConfig())]
)
def test_gradient_does_not_depend_on_the_split_into_micro_batches(
    model: Path, method: Method, config: MethodConfig, split: list[int]
) -> None:
    policy = load_policy(model, precision="fp32")
    reference = Reference(policy, frozen=load_policy(model, precision="fp32"))
    trees = random_pairs(6)
    whole = gradient_of(policy, method, config, [MicroBatch(lay_out(trees))], reference)
    ends = np.cumsum(split)
    parts = [MicroBatch(lay_out(trees[end - size : end])) for end, size in zip(ends, split, strict=True)]
    assert (gradient_of(policy, method, config, parts, reference) - whole).norm() <= 1e-5 * whole.norm()


class TwoTerms(Method):
    """A likelihood over tokens and a square over completions: their denominators grow differently."""

    name, Config, trains_on = "two-terms", MethodConfig, Pairs()

    def loss(self, batch: Any, config: Any) -> torch.Tensor:
        return batch.mean(-batch.logprob_T, over="tokens") + batch.mean(batch.logprob_N**2, over="completions")


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
@pytest.mark.parametrize("split", [[1] * 6, [2, 4], [5, 1], [3, 1, 2]], ids=str)
def test_two_terms_with_different_denominators_accumulate_exactly(
    model: Path, split: list[int], dtype: torch.dtype, limit: float
) -> None:
    policy = load_policy(model, precision="fp32").to(dtype)
    trees = random_pairs(6, seed=1)
    ends = np.cumsum(split)
    parts = [MicroBatch(lay_out(trees[end - size : end])) for end, size in zip(ends, split, strict=True)]
    whole = gradient_of(policy, TwoTerms(), MethodConfig(), [MicroBatch(lay_out(trees))])
    loss = accumulate(policy, TwoTerms(), MethodConfig(), [MicroBatch(lay_out(trees))]).read()[0].loss
    assert (gradient_of(policy, TwoTerms(), MethodConfig(), parts) - whole).norm() <= limit * whole.norm()
    assert accumulate(policy, TwoTerms(), MethodConfig(), parts).read()[0].loss == pytest.approx(loss, rel=1e-6)


def test_the_penaltys_gradient_is_held_to_its_ratio_of_the_likelihoods(model: Path) -> None:
    policy = load_policy(model, precision="fp32")
    rows, rng = random_pairs(3), np.random.default_rng(5)
    drawn = [
        tree(
            r.row_id, r.prompt.ids, [(rng.integers(0, 256, k), np.ones(k, bool)) for k in (40, 90)], reference_length=2
        )
        for r in rows
    ]
    plain = gradient_of(policy, SFT(), SFTConfig(), [MicroBatch(lay_out(rows))])
    micro_batches = [MicroBatch(lay_out(rows), samples=MicroBatch(lay_out(drawn)))]
    for ratio in (1.0, 0.25):
        config = SFTLengthPenaltyConfig(penalty=1.0, max_penalty_ratio=ratio)
        policy.zero_grad(set_to_none=True)
        result, _ = accumulate(policy, SFTLengthPenalty(), config, micro_batches).read()
        both = torch.cat([p.grad.flatten().double() for p in policy.parameters()])
        assert result.grad_norms["penalty"] > result.grad_norms["likelihood"]  # it had to be scaled down
        assert float((both - plain).norm()) == pytest.approx(ratio * float(plain.norm()), rel=1e-4)
    for parameter in policy.parameters():
        parameter.grad = None


def test_a_penalty_spike_leaves_adams_second_moment_within_twice_plain_sfts(model: Path) -> None:
    rows, rng = random_pairs(3), np.random.default_rng(6)
    drawn = [
        tree(
            r.row_id, r.prompt.ids, [(rng.integers(0, 256, k), np.ones(k, bool)) for k in (30, 100)], reference_length=2
        )
        for r in rows
    ]
    moments = []
    for method, config, samples in (
        (SFT(), SFTConfig(), None),
        (SFTLengthPenalty(), SFTLengthPenaltyConfig(penalty=1.0), MicroBatch(lay_out(drawn))),
    ):
        policy = load_policy(model, precision="fp32")
        optimizer = make_optimizer(policy.parameters(), config)
        for step in range(1, 5):
            optimizer.zero_grad()
            accumulate(policy, method, config, [MicroBatch(lay_out(rows), samples=samples if step == 2 else None)])
            torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
        states = optimizer.state_dict()["state"].values()
        moments.append(sum(float(state["exp_avg_sq"].sum()) for state in states))
    assert moments[1] <= 2 * moments[0]
