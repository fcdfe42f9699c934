"""GRPO's variants: each against a case computed by hand, and the combinations that are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from alignkit_plugins.group_advantages import group_advantages
from alignkit_plugins.grpo import AGGREGATIONS, GRPO, GRPOConfig
from alignkit_plugins.kl_in_loss import KL_IN_LOSS

from alignkit.config import file as config_file
from alignkit.errors import UsageError
from alignkit.testing import batch

NAN = math.nan


def advantages(rewards: list[list[float]], **options: object) -> list[list[float]]:
    config = GRPOConfig(group_size=len(rewards[0]), **options)
    return GRPO().advantages(np.array(rewards), config).tolist()


def test_baselines_on_a_group_computed_by_hand() -> None:
    group = [[1.0, 2.0, 3.0, 6.0]]
    # others' means: 11/3, 10/3, 3, 2; the group's: 3
    assert advantages(group)[0] == pytest.approx([1 - 11 / 3, 2 - 10 / 3, 0.0, 4.0])
    assert advantages(group, baseline="group-mean")[0] == pytest.approx([-2.0, -1.0, 0.0, 3.0])
    # temperatures 0.6, 1, 0.6, 1: 1 against 3, 2 against 6
    within = advantages(group, baseline="within-temperature", temperatures=(0.6, 1.0))
    assert within[0] == pytest.approx([-2.0, -4.0, 2.0, 4.0])


def test_group_mean_is_leave_one_out_times_a_constant() -> None:
    rewards = np.random.default_rng(0).normal(size=(5, 4)).tolist()
    loo, mean = np.array(advantages(rewards)), np.array(advantages(rewards, baseline="group-mean"))
    assert np.allclose(mean, 3 / 4 * loo)


def test_group_deviation_divides_by_n_minus_one_and_has_a_floor() -> None:
    scaled = advantages([[1.0, 3.0, 5.0]], baseline="group-mean", scale="group-deviation", min_deviation=0.1)
    assert scaled[0] == pytest.approx([-1.0, 0.0, 1.0])  # deviation 2
    near = advantages([[0.0, 0.0, 0.003]], baseline="group-mean", scale="group-deviation", min_deviation=0.1)
    assert near[0] == pytest.approx([-0.01, -0.01, 0.02])


@pytest.mark.parametrize("scale", ["none", "group-deviation"])
@pytest.mark.parametrize("baseline", ["leave-one-out", "group-mean", "within-temperature"])
def test_a_missing_reward_leaves_its_group_as_if_it_had_not_been_drawn(baseline: str, scale: str) -> None:
    options = {"baseline": baseline, "scale": scale, "min_deviation": 1e-3}
    found = group_advantages(np.array([[1.0, NAN, 2.0, 5.0]]), temperatures=(1.0,) * 4, **options)
    without = group_advantages(np.array([[1.0, 2.0, 5.0]]), temperatures=(1.0,) * 3, **options)
    assert np.isnan(found[0, 1]) and found[0, [0, 2, 3]] == pytest.approx(without[0])
    alone = group_advantages(np.array([[NAN, NAN, 2.0, NAN]]), temperatures=(1.0,) * 4, **options)
    assert np.isnan(alone).all()


def test_aggregations_on_two_completions_computed_by_hand() -> None:
    rows = batch([[0.0, 0.0, 0.0], [0.0]], groups=[0, 0])
    x = torch.tensor([1.0, 2.0, 6.0, 5.0])
    config = GRPOConfig(max_new_tokens=10)
    found = {name: aggregate(rows, x, config).item() for name, aggregate in AGGREGATIONS.items()}
    assert found == pytest.approx({"completion-sum": 7.0, "token": 3.5, "sequence": 4.0, "constant": 0.7})


@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_each_aggregation_weighs_tokens_as_its_equation_says(aggregation: str) -> None:
    flat = torch.tensor([-1.0, -2.0, -3.0])
    group = batch(
        [[-1.0, -2.0], [-3.0]],
        groups=[0, 0],
        sampler_logprob_T=flat,
        reference_T=flat,
        advantage_N=torch.tensor([2.0, -2.0]),
    )
    GRPO().loss(group, GRPOConfig(aggregation=aggregation, max_new_tokens=4)).backward()
    weights = {
        "completion-sum": [1 / 2, 1 / 2, 1 / 2],
        "token": [1 / 3, 1 / 3, 1 / 3],
        "sequence": [1 / 4, 1 / 4, 1 / 2],
        "constant": [1 / 8, 1 / 8, 1 / 8],
    }[aggregation]
    assert group.logprob_T.grad.tolist() == pytest.approx([-2 * weights[0], -2 * weights[1], 2 * weights[2]])


def test_kl_estimators_on_numbers_computed_by_hand() -> None:
    d, ratio = torch.tensor([math.log(2.0), -math.log(2.0)]), torch.tensor([1.0, 1.5])
    rows = batch([[0.0], [0.0]])
    assert KL_IN_LOSS["k1-to-go"](rows, d, ratio).tolist() == pytest.approx([0.6931, -0.6931], abs=1e-4)
    assert KL_IN_LOSS["k2"](rows, d, ratio).tolist() == pytest.approx([0.2402, 0.2402], abs=1e-4)
    k3 = KL_IN_LOSS["k3"](rows, d, ratio).tolist()
    assert k3 == pytest.approx([0.5 - 1 + 0.6931, 1.5 * (2 - 1 - 0.6931)], abs=1e-4)


def test_k1_in_a_loss_would_pull_nowhere() -> None:
    logits = torch.tensor([0.2, -0.4, 1.0], requires_grad=True)
    logp = logits.log_softmax(-1)
    surrogate = (logp.detach().exp() * (logp - torch.tensor([0.5, 0.1, -0.3]).log_softmax(-1))).sum()
    (found,) = torch.autograd.grad(surrogate, logits)
    assert torch.allclose(found, torch.zeros(3), atol=1e-6)


def test_without_a_ratio_the_gradient_is_the_log_probs_whatever_the_sampler_said() -> None:
    group = batch(
        [[-1.0, -2.0], [-3.0]],
        groups=[0, 0],
        sampler_logprob_T=torch.tensor([-9.0, -9.0, -9.0]),
        reference_T=torch.tensor([-1.0, -2.0, -3.0]),
        advantage_N=torch.tensor([2.0, -2.0]),
    )
    GRPO().loss(group, GRPOConfig(ratio="none")).backward()
    assert group.logprob_T.grad.tolist() == pytest.approx([-1.0, -1.0, 1.0])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"group_size": 1}, "a lone sample has no sibling"),
        ({"top_p": 0.9}, "the ratio takes the whole one"),
        ({"updates_per_batch": 2, "ratio": "none"}, "several updates on one batch need the ratio"),
        ({"baseline": "within-temperature"}, "needs every temperature twice"),
        ({"temperatures": [0.0]}, "likeliest-token sample has no gradient"),
        ({"temperatures": [0.6, math.nan]}, "--temperatures: .* a list of numbers .no nan or infinity. is allowed"),
        ({"temperatures": [math.inf]}, "--temperatures: .* a list of numbers .no nan or infinity. is allowed"),
    ],
)
def test_combinations_that_would_be_wrong_are_refused_with_the_reason(options: dict, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        config_file.resolve(GRPO, options=options, config=None)


def test_combinations_that_are_right_are_taken() -> None:
    assert GRPOConfig(kl_estimator="k1").kl_in_reward == 0.1 and GRPOConfig(kl_estimator="k1").kl_in_loss == 0
    assert GRPOConfig(kl_estimator="k3").kl_in_loss == 0.1 and GRPOConfig(kl_estimator="k3").kl_in_reward == 0
    assert GRPOConfig(top_p=0.9, ratio="none").top_p == 0.9
    assert GRPOConfig(baseline="within-temperature", group_size=8).baseline == "within-temperature"


def test_truncated_importance_weights_on_a_case_computed_by_hand() -> None:
    """Training gives 0.4, 0.9 where the sampler gave 0.2, 0.3: weights 2 and 3, the latter cut at 2.5; the ratio is 1.

    Advantages 1 and -1: terms -1 * 2 and +1 * 2.5, mean over two completions 0.25; gradients -2 / 2 and 2.5 / 2.
    """
    training, sampler = torch.tensor([0.4, 0.9]).log(), torch.tensor([0.2, 0.3]).log()
    group = batch(
        [[float(training[0])], [float(training[1])]],
        sampler_logprob_T=sampler,
        old_logprob_T=training,
        advantage_N=torch.tensor([1.0, -1.0]),
    )
    loss = GRPO().loss(group, GRPOConfig(kl=0.0, importance_sampling_correction=2.5))
    assert float(loss.detach()) == pytest.approx(0.25)
    loss.backward()
    assert group.logprob_T.grad.tolist() == pytest.approx([-1.0, 1.25])
    assert group.logged["ratio"][0].tolist() == pytest.approx([1.0, 1.0])
    assert group.logged["mismatch_weight"][0].tolist() == pytest.approx([2.0, 3.0])
    assert group.logged["mismatch_cut"][0].tolist() == [0.0, 1.0]
    without = GRPO().loss(group, GRPOConfig(kl=0.0))
    assert float(without.detach()) == pytest.approx(0.0)  # logged or not, nothing is weighed unless it is asked for
