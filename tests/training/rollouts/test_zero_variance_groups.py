"""Groups of equal rewards in a step: the mean gradient over every batch that can be drawn is the objective's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.grpo import GRPO, GRPOConfig
from tabular import World, gradient
from torch import Tensor, nn

from alignkit.data.reading.rows import to_row
from alignkit.data.trees.packs import Pack
from alignkit.policy.policy import Output
from alignkit.rollouts.sampler import Completion
from alignkit.training.gradient.step import accumulate
from alignkit.training.rollouts.micro_batches import rewarded_micro_batches
from alignkit.training.rollouts.sampling import Group

LONG, SHORT = World(2), World(1)
TEMPERATURES = (0.6, 1.2)


class Tabular(nn.Module):
    """A policy of two prompts, each with a table of its own; as a reference it has other tables."""

    device = torch.device("cpu")

    def __init__(self, tables: Sequence[Tensor]) -> None:
        super().__init__()
        self.tables = nn.ParameterList(nn.Parameter(table.detach()) for table in tables)

    def arrays(self, pack: Pack, temperature_N: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def forward(self, pack: Pack, temperature_N: np.ndarray, *, entropy: bool = False, tensors: Any = None) -> Output:
        parts = np.split(pack.target_T, np.cumsum(pack.num_tokens_N)[:-1])
        found = []
        for ids, group, temperature in zip(parts, pack.group_N, temperature_N, strict=True):
            world, table = ((LONG, SHORT)[n := int(pack.trees[group].prompt.ids[0])], self.tables[n])
            logprob = (table / float(np.float64(temperature).round(6))).log_softmax(-1)
            place = {p: k for k, p in enumerate(world.prefixes)}
            found += [logprob[place[tuple(ids[:t].tolist())], int(ids[t])] for t in range(len(ids))]
        return Output(torch.stack(found))

    def activation_memory(self) -> AbstractContextManager[object]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def known(self, pack: Pack, temperature_N: np.ndarray) -> None:
        return None

    def logprobs(self, pack: Pack, temperature_N: np.ndarray, *, tensors: Any) -> Tensor:
        return self(pack, temperature_N).logprob_T.detach()


def groups_of(prompt: int, world: World, table: Tensor) -> list[tuple[Group, float]]:
    """Every group of a prompt with its probability."""
    logprobs = [world.logprobs(table.detach(), t) for t in TEMPERATURES]
    found = []
    for drawn in itertools.product(range(len(world.completions)), repeat=len(TEMPERATURES)):
        own = [logprobs[k][n] for k, n in enumerate(drawn)]
        completions = tuple(
            Completion(np.array(world.completions[n], np.int32), x.float().numpy(), False)
            for n, x in zip(drawn, own, strict=True)
        )
        row = to_row({"id": str(prompt), "prompt": "Hi"}, where="test")
        texts = tuple(str(world.completions[n]) for n in drawn)
        group = Group(row, np.array([prompt], np.int32), 0, completions, TEMPERATURES, texts)
        found.append((group, float(sum(x.sum() for x in own).exp())))
    return found


def reward(group: Group) -> list[float]:
    """One bit: many groups have equal rewards."""
    return [float(completion.ids[0] == 1) for completion in group.completions]


@pytest.mark.parametrize("zero_variance_groups", ["skip", "keep"])
@pytest.mark.parametrize(
    "options",
    [
        {"kl": 0.0},
        {"kl": 0.5, "kl_estimator": "k1-to-go"},
        {"kl": 0.5, "kl_estimator": "k2"},
        {"kl": 0.5, "kl_estimator": "k1"},
    ],
    ids=["no-kl", "k1-to-go", "k2", "reward"],
)
def test_the_mean_gradient_of_a_step_is_the_objectives_whatever_groups_are_equal(
    options: dict[str, Any], zero_variance_groups: str
) -> None:
    config = GRPOConfig(group_size=2, temperatures=TEMPERATURES, zero_variance_groups=zero_variance_groups, **options)
    tables, others = [LONG.table(5), SHORT.table(6)], [LONG.table(7), SHORT.table(8)]
    policy, reference = Tabular(tables), Tabular(others)
    worlds = (LONG, SHORT)
    drawn = [groups_of(n, world, tables[n]) for n, world in enumerate(worlds)]
    found, num_computed = [torch.zeros_like(table) for table in tables], 0
    for (first, chance), (second, other_chance) in itertools.product(*drawn):
        rewards_PG = np.array([reward(first), reward(second)])
        if config.kl_in_reward:
            rewards_PG -= config.kl_in_reward * np.array([completion_kl(g, others) for g in (first, second)])
        micro_batches, left_out = rewarded_micro_batches(GRPO(), config, [first, second], rewards_PG, capacity=64)
        policy.zero_grad()
        if micro_batches:
            accumulate(
                policy, GRPO(), config, micro_batches, reference=reference if config.kl else None, left_out=left_out
            )
            num_computed += sum(micro_batch.pack.num_completions for micro_batch in micro_batches)
        for total, table in zip(found, policy.tables, strict=True):
            total += chance * other_chance * (0.0 if table.grad is None else table.grad)
    for n, world in enumerate(worlds):
        rewards = [float(completion[0] == 1) for completion in world.completions]
        objective = -world.reward(tables[n], rewards, TEMPERATURES) / 2  # the mean over two prompts
        kl = world.next_token_kl if config.kl_estimator == "k2" else world.kl
        objective = objective + config.kl * kl(tables[n], others[n], TEMPERATURES) / 2
        expected = gradient(objective, tables[n])
        assert float((found[n] - expected).norm() / expected.norm()) < 1e-6  # advantages are float32
    everything = 4 * len(drawn[0]) * len(drawn[1])
    assert (num_computed < everything) == (zero_variance_groups == "skip" and config.kl == 0)


def completion_kl(group: Group, others: Sequence[Tensor]) -> list[float]:
    n = int(group.prompt_ids[0])
    world, found = (LONG, SHORT)[n], []
    for completion, t in zip(group.completions, TEMPERATURES, strict=True):
        which = world.completions.index(tuple(completion.ids.tolist()))
        found.append(float((torch.as_tensor(completion.logprobs) - world.logprobs(others[n].detach(), t)[which]).sum()))
    return found


def test_a_missing_reward_is_not_counted_and_an_equal_group_is() -> None:
    groups = [groups_of(0, LONG, LONG.table(5))[9][0], groups_of(1, SHORT, SHORT.table(6))[3][0]]
    config = GRPOConfig(group_size=2, temperatures=TEMPERATURES, kl=0.0)
    lengths = [[len(c.ids) for c in group.completions] for group in groups]

    def laid_out(*rewards: list[float]) -> tuple[int, dict[str, int]]:
        micro_batches, left_out = rewarded_micro_batches(GRPO(), config, groups, np.array(rewards), capacity=64)
        return sum(micro_batch.pack.num_completions for micro_batch in micro_batches), left_out

    nothing = {"tokens": 0, "completions": 0, "pairs": 0, "groups": 0}
    assert laid_out([1.0, 0.0], [0.0, 1.0]) == (4, nothing)
    equal = {"tokens": sum(lengths[1]), "completions": 2, "pairs": 1, "groups": 1}
    assert laid_out([1.0, 0.0], [0.5, 0.5]) == (2, equal)
    assert laid_out([1.0, 0.0], [0.5, np.nan]) == (2, nothing)  # a sample without a sibling
    both = {
        name: count + (sum(lengths[0]) if name == "tokens" else 2 if name == "completions" else 1)
        for name, count in equal.items()
    }
    assert laid_out([1.0, 1.0], [0.5, 0.5]) == (0, both)
