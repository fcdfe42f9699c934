"""A group longer than a micro-batch is computed in parts: the step's loss and gradient are those of the whole group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.grpo import AGGREGATIONS, GRPO, GRPOConfig
from tiny_models import tiny_model
from torch import Tensor

from alignkit.data.reading.rows import to_row
from alignkit.methods import Batch
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.rollouts.sampler import Completion
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.step import accumulate, count
from alignkit.training.rollouts.micro_batches import reference_kl, rewarded_micro_batches, split
from alignkit.training.rollouts.sampling import Group

LENGTHS = [[7, 3, 9, 5], [4, 6, 2, 8]]
PROMPT = 10  # tokens; a group is longer than the micro-batches of SMALL tokens below
SMALL, LARGE = 24, 200


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Policy]:
    folder: Path = tiny_model(tmp_path_factory.mktemp("model"))
    policy, other = (load_policy(folder, precision="fp32") for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy, other


@pytest.fixture
def groups() -> list[Group]:
    rng = np.random.default_rng(0)
    made = []
    for n, lengths in enumerate(LENGTHS):
        completions = tuple(
            Completion(rng.integers(5, 200, k).astype(np.int32), rng.normal(-5.5, 0.1, k).astype(np.float32), False)
            for k in lengths
        )
        row = to_row({"id": str(n), "prompt": "Hi"}, where="test")
        prompt = rng.integers(5, 200, PROMPT).astype(np.int32)
        made.append(Group(row, prompt, 4, completions, (0.6, 0.8, 1.0, 1.2), ("",) * len(lengths)))
    return made


REWARDS = np.array([[0.0, 1.0, np.nan, 0.5], [1.0, 0.0, 0.0, 0.25]])


def gradient(
    policies: tuple[Policy, Policy], groups: list[Group], method: GRPO, config: GRPOConfig, capacity: int
) -> tuple[Tensor, float, int]:
    """The step's gradient, its loss and in how many micro-batches it was computed."""
    policy, other = policies
    micro_batches, left_out = rewarded_micro_batches(method, config, groups, REWARDS, capacity=capacity)
    policy.zero_grad()
    reference = Reference(policy, frozen=other) if config.kl else None
    result, _ = accumulate(policy, method, config, micro_batches, reference=reference, left_out=left_out).read()
    grads = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return torch.cat(grads), result.loss, len(micro_batches)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    "options", [{"kl": 0.0}, *({"kl": 0.3, "kl_estimator": name} for name in ("k1", "k2", "k3"))], ids=str
)
def test_loss_and_gradient_do_not_depend_on_how_groups_are_split(
    policies: tuple[Policy, Policy], groups: list[Group], aggregation: str, options: dict[str, Any]
) -> None:
    config = GRPOConfig(aggregation=aggregation, scale="group-deviation", **options)
    whole, loss, rows = gradient(policies, groups, GRPO(), config, LARGE)
    parted, parted_loss, parts = gradient(policies, groups, GRPO(), config, SMALL)
    assert rows == 1 and parts >= 4
    assert parted_loss == pytest.approx(loss, rel=1e-5)
    assert float((parted - whole).norm() / whole.norm()) < 1e-5


class OverGroups(GRPO):
    """Divides by the step's groups, which a split group must count as one."""

    def loss(self, batch: Batch, config: GRPOConfig) -> Tensor:
        batch.log(tokens=batch.logprob_T)
        return batch.mean(batch.spread(batch.advantage_N) * batch.logprob_T, over="groups")


def test_a_split_group_is_counted_once(policies: tuple[Policy, Policy], groups: list[Group]) -> None:
    config = GRPOConfig(kl=0.0)
    counts = []
    for capacity in (SMALL, LARGE):
        micro_batches, left_out = rewarded_micro_batches(OverGroups(), config, groups, REWARDS, capacity=capacity)
        counts.append(count(micro_batches, left_out=left_out)[0])
    assert counts[0] == counts[1] == {"tokens": 35, "completions": 7, "pairs": 2, "groups": 2}
    whole, loss, _ = gradient(policies, groups, OverGroups(), config, LARGE)
    parted, parted_loss, _ = gradient(policies, groups, OverGroups(), config, SMALL)
    assert parted_loss == pytest.approx(loss, rel=1e-5)
    assert float((parted - whole).norm() / whole.norm()) < 1e-5


def test_a_loss_that_compares_siblings_keeps_a_group_whole(
    policies: tuple[Policy, Policy], groups: list[Group]
) -> None:
    """The baseline of k1-to-go is of the siblings in the same batch."""
    _, _, rows = gradient(policies, groups, GRPO(), GRPOConfig(kl=0.3, kl_estimator="k1-to-go"), SMALL)
    assert rows == 2


def test_parts_hold_every_completion_once_and_are_no_longer_than_a_micro_batch(groups: list[Group]) -> None:
    which = np.array([0, 1, 3])
    assert [part.tolist() for part in split(groups[0], which, None)] == [[0, 1, 3]]
    assert [part.tolist() for part in split(groups[0], which, PROMPT + 15)] == [[0, 1, 3]]
    assert sorted(part.tolist() for part in split(groups[0], which, PROMPT + 8)) == [[0], [1, 3]]
    assert [part.tolist() for part in split(groups[0], np.array([2]), 5)] == [[2]]  # longer than a micro-batch alone
    assert split(groups[0], np.array([], int), 5) == []


def test_the_kl_of_each_completion_is_the_same_from_parts(policies: tuple[Policy, Policy], groups: list[Group]) -> None:
    policy, other = policies
    sampler: Any = None
    whole, parted = (
        reference_kl(Models(policy, Reference(policy, frozen=other), sampler, micro_batch_tokens=tokens), groups)
        for tokens in (LARGE, SMALL)
    )
    assert np.abs(whole).max() > 0.1
    np.testing.assert_allclose(parted, whole, rtol=1e-5, atol=1e-5)
