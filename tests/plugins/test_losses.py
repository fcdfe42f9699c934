"""Each method's loss: a case computed by hand, an independent reference, the gradient's sign."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.dpo import DPO, DPOConfig
from alignkit_plugins.grpo import GRPO, GRPOConfig
from alignkit_plugins.kl_in_loss import KL_IN_LOSS
from alignkit_plugins.reward import Reward, RewardConfig
from alignkit_plugins.sft import SFT, SFTConfig
from alignkit_plugins.sft_lenpen import SFTLengthPenalty, SFTLengthPenaltyConfig, baseline
from host_waits import host_waits

from alignkit.methods import Batch, leave_one_out_baseline
from alignkit.testing import batch


def test_sft_averages_over_tokens_and_by_option_over_examples() -> None:
    rows = batch([[-1.0, -2.0], [-3.0]], groups=[0, 1])
    assert SFT().loss(rows, SFTConfig()).item() == pytest.approx(2.0)
    assert SFT().loss(rows, SFTConfig(reduction="example-sum")).item() == pytest.approx(3.0)


def test_sft_gradient_raises_every_scored_log_prob() -> None:
    rows = batch([[-1.0, -2.0], [-3.0]], groups=[0, 1])
    SFT().loss(rows, SFTConfig()).backward()
    assert torch.equal(rows.logprob_T.grad, torch.full((3,), -1 / 3))


def test_dpo_equals_its_formula_on_a_case_computed_by_hand() -> None:
    pairs = batch(
        [[-1.0, -2.0], [-4.0], [-1.0], [-1.0, -1.0]], reference_T=torch.tensor([-1.5, -2.5, -3.0, -1.0, -2.0, -2.0])
    )
    # chosen - reference: +1.0, 0.0; rejected - reference: -1.0, +2.0; h = 2.0, -2.0
    expected = np.mean([-math.log(1 / (1 + math.exp(-0.2))), -math.log(1 / (1 + math.exp(0.2)))])
    assert DPO().loss(pairs, DPOConfig(beta=0.1)).item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(pairs.logged["accuracy"][0], torch.tensor([1.0, 0.0]))
    assert torch.allclose(pairs.logged["chosen_logprob"][0], torch.tensor([-1.5, -1.0]))


def test_dpo_starts_at_log_two_and_pushes_the_pair_apart() -> None:
    pairs = batch([[-1.0], [-2.0]], reference_T=torch.tensor([-1.0, -2.0]))
    loss = DPO().loss(pairs, DPOConfig())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert pairs.logprob_T.grad[0] < 0 < pairs.logprob_T.grad[1]


def test_reward_is_the_bradley_terry_log_likelihood() -> None:
    pairs = batch([[0.0], [0.0], [0.0], [0.0]], value_N=torch.tensor([2.0, 0.5, -1.0, 1.0], requires_grad=True))
    expected = np.mean([math.log1p(math.exp(-1.5)), math.log1p(math.exp(2.0))])
    assert Reward().loss(pairs, RewardConfig()).item() == pytest.approx(expected, rel=1e-6)


def log_sigma(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_half_a_tie_is_half_a_preference_each_way_for_dpo() -> None:
    reference_T = torch.tensor([-1.0, -2.0, -1.0, -2.0])
    labels = torch.tensor([1.0, 0.0, 0.0, 0.0])  # the second pair is a tie
    pairs = batch([[-0.5], [-3.0], [-0.5], [-3.0]], reference_T=reference_T, label_N=labels)
    margin = 0.5 * (0.5 - -1.0)
    expected = -(log_sigma(margin) + 0.5 * log_sigma(margin) + 0.5 * log_sigma(-margin)) / 2
    loss = DPO().loss(pairs, DPOConfig(beta=0.5, ties="half"))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    sigma = 1 / (1 + math.exp(-margin))
    assert pairs.logprob_T.grad.tolist() == pytest.approx(
        [0.5 * (sigma - 1) / 2, -0.5 * (sigma - 1) / 2, 0.5 * (sigma - 0.5) / 2, -0.5 * (sigma - 0.5) / 2], rel=1e-5
    )
    assert pairs.logprob_T.grad[0] < 0 < pairs.logprob_T.grad[2]  # a preference goes on, a tie is drawn together
    margins, counts = pairs.logged["margin"][0]
    assert counts.tolist() == [1.0, 0.0] and margins.tolist() == [pytest.approx(margin), 0.0]
    kept = DPO().loss(pairs, DPOConfig(beta=0.5, ties="keep"))
    assert kept.item() == pytest.approx(-log_sigma(margin), rel=1e-6)


def test_a_reward_of_a_tie_is_lowest_where_both_answers_have_the_same() -> None:
    for gap in (-2.0, 0.0, 2.0):
        value_N = torch.tensor([gap, 0.0], requires_grad=True)
        pairs = batch([[0.0], [0.0]], value_N=value_N, label_N=torch.zeros(2))
        loss = Reward().loss(pairs, RewardConfig(ties="half"))
        assert loss.item() == pytest.approx(-0.5 * log_sigma(gap) - 0.5 * log_sigma(-gap), rel=1e-6)
        loss.backward()
        assert torch.sign(value_N.grad).tolist() == [np.sign(gap), -np.sign(gap)]


def test_a_margin_is_taken_off_the_rewards_difference_and_never_added() -> None:
    value_N = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.25, 0.0], requires_grad=True)
    labels = torch.tensor([3.0, 0.0, -1.0, 0.0, 0.0, 0.0])  # by its scores the second pair is the other way round
    pairs = batch([[0.0]] * 6, value_N=value_N, label_N=labels)
    loss = Reward().loss(pairs, RewardConfig(margin=0.5))
    assert loss.item() == pytest.approx(-(log_sigma(1.5 - 1.5) + log_sigma(2.0) + log_sigma(0.25)) / 3, rel=1e-6)
    halved = Reward().loss(pairs, RewardConfig(margin=0.5, ties="half"))
    tie = 0.5 * log_sigma(0.25) + 0.5 * log_sigma(-0.25)
    assert halved.item() == pytest.approx(-(log_sigma(0.0) + log_sigma(2.0) + tie) / 3, rel=1e-6)
    assert pairs.logged["margin"][0].tolist() == [1.5, 2.0, 0.25]  # of the rewards themselves


def test_ties_count_half_in_accuracies() -> None:
    same = torch.tensor([-1.0, -1.0, -2.0, -1.0])
    pairs = batch([[-1.0], [-1.0], [-1.0], [-2.0]], reference_T=same)  # margins 0 and above
    DPO().loss(pairs, DPOConfig())
    assert pairs.logged["accuracy"][0].tolist() == [0.5, 1.0]
    valued = batch([[0.0]] * 4, value_N=torch.tensor([1.0, 1.0, 0.0, 1.0], requires_grad=True))
    Reward().loss(valued, RewardConfig())
    assert valued.logged["accuracy"][0].tolist() == [0.5, 0.0]


def test_leave_one_out_baseline_is_the_mean_of_the_others_and_skips_the_missing() -> None:
    rewards = np.array([[1.0, 2.0, 6.0], [1.0, np.nan, 3.0], [np.nan, np.nan, 5.0]])
    baseline = leave_one_out_baseline(rewards)
    assert baseline[0].tolist() == [4.0, 3.5, 1.5]
    assert baseline[1, 0] == 3.0 and baseline[1, 2] == 1.0
    assert np.isnan(baseline[2, 2])


def test_grpo_advantage_is_reward_minus_the_others_mean_and_not_divided_by_a_deviation() -> None:
    rewards = np.array([[1.0, 1.0, 1.0, 1.0000001]])
    advantages = GRPO().advantages(rewards, GRPOConfig())
    assert np.abs(advantages).max() < 1e-6
    assert np.isnan(GRPO().advantages(np.array([[1.0, np.nan, 2.0]]), GRPOConfig())[0, 1])


def test_grpo_on_fresh_samples_has_the_gradient_of_equation_six() -> None:
    logprobs = [[-1.0, -2.0], [-3.0]]
    flat = torch.tensor([-1.0, -2.0, -3.0])
    group = batch(logprobs, sampler_logprob_T=flat, reference_T=flat, advantage_N=torch.tensor([2.0, -2.0]))
    GRPO().loss(group, GRPOConfig(kl=0.5)).backward()
    # - sum_i A_i grad log pi(y_i) over the group, averaged over its two completions; the KL's gradient is 0 here
    assert torch.allclose(group.logprob_T.grad, torch.tensor([-1.0, -1.0, 1.0]))


def test_grpo_ratio_beyond_the_clip_range_stops_pushing() -> None:
    group = batch(
        [[-1.0], [-1.0]],
        sampler_logprob_T=torch.tensor([-2.0, 0.0]),
        reference_T=torch.tensor([-1.0, -1.0]),
        advantage_N=torch.tensor([1.0, -1.0]),
    )
    GRPO().loss(group, GRPOConfig(kl=0.0)).backward()
    assert torch.equal(group.logprob_T.grad, torch.zeros(2))
    assert group.logged["clipped"][0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_kl_estimators_are_zero_at_the_reference_and_pull_back_to_it(name: str) -> None:
    log_ratio = torch.tensor([0.0, 0.3, -0.3], requires_grad=True)
    kl = KL_IN_LOSS[name](batch([[0.0] * 3]), log_ratio, (log_ratio - log_ratio.detach()).exp())
    kl.sum().backward()
    assert kl[0] == 0 and kl[1] > 0 and kl[2] > 0
    assert log_ratio.grad[1] > 0 > log_ratio.grad[2]


@pytest.mark.parametrize("name", sorted(KL_IN_LOSS))
def test_kl_in_a_loss_has_the_gradient_of_the_reverse_kl_over_samples_of_one_token(name: str) -> None:
    logits = torch.tensor([0.2, -0.4, 1.0], requires_grad=True)
    reference = torch.tensor([0.5, 0.1, -0.3]).log_softmax(-1)
    logp = logits.log_softmax(-1)
    exact = (logp.exp() * (logp - reference)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    ratio = (logp - logp.detach()).exp()
    each = batch([[0.0]] * 3, groups=[0, 1, 2])
    surrogate = (logp.detach().exp() * KL_IN_LOSS[name](each, logp - reference, ratio)).sum()  # its mean over samples
    (found,) = torch.autograd.grad(surrogate, logits)
    assert torch.allclose(found, expected, atol=1e-6)


def test_length_penalty_follows_the_score_function_with_those_still_going_as_baseline() -> None:
    samples = batch([[-1.0] * 3, [-1.0] * 5, [-1.0] * 2, [-1.0] * 2], targets=torch.tensor([2, 2, 4, 4]))
    rows = batch([[-1.0], [-1.0]], groups=[0, 1], samples=samples)
    config = SFTLengthPenaltyConfig(penalty=0.5)
    terms = SFTLengthPenalty().loss(rows, config)
    assert list(terms) == ["likelihood", "penalty"]
    terms["penalty"].backward()
    # costs (1, 9) and (0, 0); up to its third token the longer one has the other beside it, 9 - 1, and from there on it
    # is compared with ending at once, 9 - 4 and 9 - 9; the shorter one always has the longer, 1 - 9
    advantages = torch.tensor([-8.0] * 3 + [8.0, 8.0, 8.0, 5.0, 0.0] + [0.0] * 4)
    assert torch.allclose(samples.logprob_T.grad, 0.5 * advantages / 4)  # lambda, 4 completions


def test_length_penalty_gradient_is_right_on_average() -> None:
    """Every pair of samples of a model that ends or goes on, weighted by its probability, against the derivative."""
    limit, target = 4, torch.tensor([1, 1])
    logits = torch.tensor([-1.0, 0.3, 0.8], dtype=torch.float64, requires_grad=True)  # of ending at tokens 1, 2, 3
    end, on = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    last = torch.zeros(1, dtype=torch.float64)  # at the limit there is no choice
    paths = [torch.cat([on[: n - 1], end[n - 1 : n] if n < limit else last]) for n in range(1, limit + 1)]
    chance = [path.sum().exp() for path in paths]
    exact = sum(p * max(0, n - 1) ** 2 for n, p in enumerate(chance, 1))
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    found = torch.zeros_like(logits)
    for i, j in itertools.product(range(limit), repeat=2):
        samples = batch([[0.0] * (i + 1), [0.0] * (j + 1)], targets=target)
        cost = torch.tensor([float(i**2), float(j**2)], dtype=torch.float64)
        advantage = samples.spread(cost) - baseline(samples, cost)
        surrogate = (advantage * torch.cat([paths[i], paths[j]])).sum() / 2
        (grad,) = torch.autograd.grad(surrogate, logits, retain_graph=True, allow_unused=True)
        if grad is not None:
            found += (chance[i] * chance[j]).detach() * grad
    assert torch.allclose(found, expected, rtol=1e-6)


def test_length_penalty_draws_only_at_its_interval() -> None:
    config = SFTLengthPenaltyConfig(penalty_interval=3, penalty_samples=2)
    assert [SFTLengthPenalty().temperatures(step, config) for step in (1, 2, 3)] == [(), (), (1.0, 1.0)]


def test_grpo_cycles_its_temperatures_in_the_group() -> None:
    config = GRPOConfig(group_size=6, temperatures=(0.6, 1.0))
    assert GRPO().temperatures(1, config) == (0.6, 1.0, 0.6, 1.0, 0.6, 1.0)


def test_the_preset_paper_has_the_papers_numbers() -> None:
    sft, dpo, grpo = (
        SFTLengthPenaltyConfig(**SFTLengthPenalty.presets["paper"]),
        DPOConfig(**DPO.presets["paper"]),
        GRPOConfig(**GRPO.presets["paper"]),
    )
    assert (sft.learning_rate, sft.batch_size, sft.epochs, sft.seed) == (1e-4, 4, 10, 16)
    assert (sft.warmup_steps, sft.penalty, sft.penalty_interval, sft.early_stopping_steps) == (10, 1e-3, 100, 2000)
    assert (sft.schedule, sft.optimizer, sft.max_new_tokens) == ("linear", "adam", 350)
    assert (dpo.learning_rate, dpo.batch_size, dpo.epochs, dpo.beta, dpo.seed) == (5e-6, 4, 3, 0.1, 42)
    assert (dpo.early_stopping_steps, dpo.validation_interval, dpo.sample_interval, dpo.max_new_tokens) == (
        2500,
        250,
        500,
        256,
    )
    assert (grpo.learning_rate, grpo.batch_size, grpo.kl, grpo.max_steps, grpo.seed) == (5e-6, 2, 0.1, 1000, 42)
    assert (grpo.num_prompts, grpo.group_size, grpo.warmup_steps, grpo.max_new_tokens) == (50, 4, 10, 256)
    assert (grpo.validation_interval, grpo.checkpoint_interval) == (20, 50)


def test_means_of_micro_batches_add_up_to_the_steps_mean() -> None:
    whole = batch([[-1.0, -2.0], [-4.0], [-1.0], [-3.0, -5.0]])
    first = batch([[-1.0, -2.0], [-4.0]])
    second = batch([[-1.0], [-3.0, -5.0]])
    for over in ("tokens", "completions", "pairs", "groups"):
        parts = [
            Batch(**{**vars(part), "denominators": whole.denominators}).mean(part.logprob_T, over=over)
            for part in (first, second)
        ]
        assert sum(parts).item() == pytest.approx(whole.mean(whole.logprob_T, over=over).item())


def test_select_keeps_tokens_with_their_completions() -> None:
    pairs = batch([[-1.0, -2.0], [-4.0], [-5.0], [-6.0, -7.0]])
    chosen, rejected = pairs.pairs()
    assert chosen.logprob_N.tolist() == [-3.0, -5.0] and rejected.logprob_N.tolist() == [-4.0, -13.0]
    assert rejected.num_tokens_N.tolist() == [1, 2] and rejected.completion_T.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (SFT(), SFTConfig()),
        (SFTLengthPenalty(), SFTLengthPenaltyConfig()),
        (DPO(), DPOConfig()),
        (Reward(), RewardConfig()),
        *((GRPO(), GRPOConfig(kl=0.1, kl_estimator=name)) for name in KL_IN_LOSS),
        (GRPO(), GRPOConfig(kl=0.1, importance_sampling_correction=2.0, aggregation="sequence")),
    ],
)
def test_no_loss_makes_the_host_wait_for_the_device(method: Any, config: Any) -> None:
    logprobs = [[-0.5, -1.0], [-0.25], [-1.5, -0.5, -2.0], [-1.0, -1.0]]
    known = {name: torch.linspace(-2, -1, 8) for name in ("reference_T", "sampler_logprob_T", "old_logprob_T")} | {
        name: torch.linspace(-1, 1, 4) for name in ("value_N", "advantage_N")
    }
    known["value_N"].requires_grad_()
    rows = batch(logprobs, **known, samples=batch(logprobs, groups=[0, 0, 1, 1]))
    with host_waits() as found:
        terms = method.loss(rows, config)
        sum(terms.values() if isinstance(terms, dict) else [terms]).backward()
    assert found == []
    with host_waits() as found:  # what they would be counted by
        rows.logprob_T[rows.logprob_T > -1].sum().item()
    assert [one.split(" at ")[0] for one in found] == ["index", "_local_scalar_dense"]


def test_a_mean_is_logged_of_the_elements_that_count() -> None:
    rows = batch([[-1.0, -2.0], [-4.0]], groups=[0, 1])
    rows.log(torch.tensor([True, False, True]), gap=torch.tensor([1.0, math.inf, 3.0]))
    assert rows.logged["gap"][0].tolist() == [[1.0, 0.0, 3.0], [1.0, 0.0, 1.0]]


def test_a_part_of_a_batch_holds_its_completions_tokens_in_order() -> None:
    rows = batch([[-1.0, -2.0], [-3.0], [-4.0, -5.0, -6.0], [-7.0]], reference_T=-torch.arange(1.0, 8.0))
    part = rows.select(slice(1, 3))
    assert part.logprob_T.tolist() == part.reference_T.tolist() == [-3.0, -4.0, -5.0, -6.0]
    assert (part.completion_T.tolist(), part.lengths) == ([0, 1, 1, 1], (1, 3))
    assert part.logprob_N.tolist() == [-3.0, -15.0]
    part.logprob_N.sum().backward()
    assert rows.logprob_T.grad.tolist() == [0, 0, 1, 1, 1, 1, 0]
