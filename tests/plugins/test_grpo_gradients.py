"""GRPO's expected gradient against the derivative of its objective: every group of a policy that can be enumerated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.grpo import GRPO, GRPOConfig
from alignkit_plugins.kl_in_loss import baseline, siblings_mean, to_go
from tabular import World, expected_gradient, gradient

from alignkit.testing import batch

TEMPERATURES = [(1.0, 1.0), (0.6, 1.2), (0.5, 1.0, 1.5)]
COMPLETION_KL: list[dict[str, Any]] = [{"kl_estimator": "k1-to-go"}, {"kl_estimator": "k1"}]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def config(temperatures: tuple[float, ...], **more: Any) -> GRPOConfig:
    return GRPOConfig(temperatures=temperatures, group_size=len(temperatures), **more)


@pytest.mark.parametrize("temperatures", TEMPERATURES)
@pytest.mark.parametrize("options", COMPLETION_KL, ids=["to-go", "reward"])
def test_k1_to_go_and_k1_in_the_reward_have_the_gradient_of_equation_six(
    options: dict[str, Any], temperatures: tuple[float, ...]
) -> None:
    world = World(3)
    table, reference = world.table(5), world.table(6)
    rewards = np.random.default_rng(1).normal(size=len(world.completions)).tolist()
    objective = -world.reward(table, rewards, temperatures) + 0.7 * world.kl(table, reference, temperatures)
    found = expected_gradient(
        world, config(temperatures, kl=0.7, **options), table, reference=reference, rewards=rewards
    )
    assert relative(found, gradient(objective, table)) < 1e-10


@pytest.mark.parametrize("temperatures", TEMPERATURES)
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_k2_and_k3_have_the_gradient_of_each_next_tokens_kl_with_its_prefix_held_fixed(
    estimator: str, temperatures: tuple[float, ...]
) -> None:
    world = World(3)
    table, reference = world.table(5), world.table(6)
    same = [0.0] * len(world.completions)
    found = expected_gradient(
        world, config(temperatures, kl=1.0, kl_estimator=estimator), table, reference=reference, rewards=same
    )
    assert relative(found, gradient(world.next_token_kl(table, reference, temperatures), table)) < 1e-10
    assert relative(found, gradient(world.kl(table, reference, temperatures), table)) > 0.5  # not Eq. 6's


def test_samples_of_older_weights_are_weighed_by_their_ratio() -> None:
    """Exact where a completion is one token; in longer ones each token has its own ratio, as the policy term has."""
    world = World(1)
    table, reference, older = world.table(5), world.table(6), world.table(7)
    rewards = [0.3, -1.0, 0.4]
    options = config((0.6, 1.2), kl=0.7, kl_estimator="k1-to-go", clip_ratio=1e6)
    objective = -world.reward(table, rewards, (0.6, 1.2)) + 0.7 * world.kl(table, reference, (0.6, 1.2))
    found = expected_gradient(world, options, table, reference=reference, rewards=rewards, drawn_from=older)
    assert relative(found, gradient(objective, table)) < 1e-10


def test_k1_to_go_has_the_value_of_k1_and_a_baseline_of_those_that_came_so_far() -> None:
    group = batch([[-1.0, -2.0, -3.0], [-1.0], [-2.0, -2.0]], groups=[0, 0, 0])
    d = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    left = to_go(group, d)
    assert left.tolist() == [7.0, 6.0, 4.0, 8.0, 48.0, 32.0]
    # place 1: the two others; place 2: one other; place 3: none
    mean, others = siblings_mean(group, left)
    assert mean.tolist() == [28.0, 32.0, 0.0, 27.5, 7.5, 6.0] and others.tolist() == [2, 1, 0, 2, 2, 1]
    assert baseline(group, left).tolist()[:3] == pytest.approx([28**2 / 29, 32**2 / 34, 0.0])
    other = batch([[-1.0, -2.0], [-3.0], [-1.0, -1.0]], groups=[0, 0, 1])
    assert siblings_mean(other, torch.arange(5.0))[0].tolist() == [2.0, 0.0, 0.0, 0.0, 0.0]
    assert baseline(other, torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0])).tolist()[0] == 0.0  # the other's is negative


@pytest.mark.parametrize(("distance", "most"), [(0.1, 1.05), (0.4, 0.95), (0.8, 0.5)])
def test_the_baseline_takes_noise_away_far_from_the_reference_and_adds_next_to_none_near_it(
    distance: float, most: float
) -> None:
    """Completions of 60 tokens that depend on nothing before: a coefficient is as noisy as its sum to go."""
    generator = torch.Generator().manual_seed(0)
    places, samples = torch.arange(60), 4
    ref = 1.5 * torch.randn(60, 8, generator=generator)
    own, ref = (ref + distance * torch.randn(60, 8, generator=generator)).log_softmax(-1), ref.log_softmax(-1)
    with_it = without = 0.0
    for _ in range(100):
        drawn = torch.multinomial(own.exp(), samples, replacement=True, generator=generator).T  # [samples, 60]
        group = batch([[0.0] * 60] * samples, groups=[0] * samples)
        left = to_go(group, (own[places, drawn] - ref[places, drawn]).flatten())
        with_it += float(((left - baseline(group, left)) ** 2).sum())
        without += float((left**2).sum())
    assert with_it / without < most


def one_token(ratios: list[float], advantages: list[float], **more: Any) -> Any:
    """A batch of completions of one token with these ratios, none of them near a reference."""
    before = -torch.tensor(ratios).log()
    groups = [0] * len(ratios)
    return batch(
        [[0.0]] * len(ratios), groups=groups, sampler_logprob_T=before, advantage_N=torch.tensor(advantages), **more
    )


def test_clipped_counts_the_gradients_that_clipping_took_and_no_others() -> None:
    group = one_token([1.5, 1.5, 0.5, 0.5, 1.0, 1.5], [1.0, -1.0, 1.0, -1.0, 1.0, 0.0])
    GRPO().loss(group, GRPOConfig(kl=0.0)).backward()
    assert group.logged["clipped"][0].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert (group.logprob_T.grad == 0).tolist() == [True, False, False, True, False, True]


def test_the_upper_end_of_the_clip_range_is_its_own_option() -> None:
    group = one_token([1.25, 1.35, 0.75], [1.0, 1.0, -1.0])
    loss = GRPO().loss(group, GRPOConfig(kl=0.0, clip_ratio=0.2, clip_ratio_high=0.3))
    assert loss.item() == pytest.approx(-(1.25 + 1.3 - 0.8) / 3)
    assert group.logged["clipped"][0].tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("estimator", ["k1-to-go", "k2", "k3"])
@pytest.mark.parametrize("ratio", [math.exp(-80), math.exp(80)])
def test_a_ratio_beyond_float32_leaves_loss_and_gradient_finite(ratio: float, estimator: str) -> None:
    group = batch(
        [[-1.0, -2.0], [-1.0]],
        sampler_logprob_T=torch.tensor([-1.0 - math.log(ratio) * 2, -2.0, -1.0]),
        reference_T=torch.tensor([150.0, -1.0, -1.0]),
        advantage_N=torch.tensor([0.0, -1.0]),
    )
    loss = GRPO().loss(group, GRPOConfig(kl=0.1, kl_estimator=estimator))
    loss.backward()
    assert loss.isfinite() and group.logprob_T.grad.isfinite().all()


@pytest.mark.parametrize("estimator", ["k1-to-go", "k2", "k3"])
@pytest.mark.parametrize("unknown", [math.nan, -math.inf, math.inf])
def test_a_token_whose_sampler_gave_no_log_prob_is_left_out_and_counted(unknown: float, estimator: str) -> None:
    def step(first: float, **more: Any) -> tuple[Any, list[float]]:
        group = batch(
            [[-1.0, -2.0], [-3.0]],
            sampler_logprob_T=torch.tensor([first, -2.0, -3.0]),
            reference_T=torch.tensor([-1.5, -2.5, -2.0]),
            advantage_N=torch.tensor([2.0, -2.0]),
            **more,
        )
        loss = GRPO().loss(group, GRPOConfig(kl_estimator=estimator, importance_sampling_correction=2.0))
        loss.backward()
        assert loss.isfinite()
        return group.logged, group.logprob_T.grad.tolist()

    logged, slope = step(unknown)
    assert slope[0] == 0.0 and slope[1:] == step(-1.0)[1][1:]  # its place in the mean stays
    assert logged["unknown_logprobs"][0].tolist() == [1.0, 0.0, 0.0]
    assert logged["sampling_gap"][0].tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]  # the gaps, and which count
    _, slope = step(-1.0, old_logprob_T=torch.tensor([unknown, -2.0, -3.0]))
    assert slope[0] == 0.0 and slope[1] != 0.0


def test_without_a_ratio_no_log_prob_of_the_sampler_is_needed() -> None:
    group = batch(
        [[-1.0, -2.0], [-3.0]], sampler_logprob_T=torch.full((3,), math.nan), advantage_N=torch.tensor([2.0, -2.0])
    )
    GRPO().loss(group, GRPOConfig(kl=0.0, ratio="none", top_p=0.9)).backward()
    assert group.logprob_T.grad.tolist() == [-1.0, -1.0, 1.0]
    assert group.logged["unknown_logprobs"][0].tolist() == [0.0, 0.0, 0.0]
