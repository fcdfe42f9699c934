"""Which weights decay, which rates the steps have, and an optimizer's state that does not depend on its groups."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_models import tiny_model

from alignkit.methods import MethodConfig
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.checkpoints import checkpoint
from alignkit.training.gradient.optimizer import late_terms, learning_rate, make_optimizer, short_warmup


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))  # Qwen2: norms, and biases of queries, keys and values


def _steps(policy: Policy, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for parameter in policy.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", ["adam", "adamw", "adam-8bit", "adamw-8bit"])
def test_weight_decay_pulls_at_matrices_and_spares_norms_and_biases(name: str, model: Path) -> None:
    decayed, plain = (load_policy(model, precision="fp32") for _ in range(2))
    for policy, decay in ((decayed, 0.3), (plain, 0.0)):
        _steps(policy, make_optimizer(policy.parameters(), MethodConfig(optimizer=name, weight_decay=decay)), count=1)
    others = dict(plain.named_parameters())
    moved = {name for name, p in decayed.named_parameters() if not torch.equal(p, others[name])}
    assert moved == {name for name in others if "norm" not in name and "bias" not in name}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_two_groups_without_decay_give_the_same_bits_as_one(kind: Any, model: Path) -> None:
    ours, theirs = (load_policy(model, precision="fp32") for _ in range(2))
    config = MethodConfig(optimizer=kind.__name__.lower(), learning_rate=1e-3)
    _steps(ours, make_optimizer(ours.parameters(), config))
    _steps(theirs, kind(theirs.parameters(), lr=1e-3, weight_decay=0.0, fused=True))
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_of_one_group_goes_on_with_two(model: Path, tmp_path: Path) -> None:
    config = MethodConfig(learning_rate=1e-3)
    one, two = (load_policy(model, precision="fp32") for _ in range(2))
    single = torch.optim.Adam(one.parameters(), lr=1e-3, fused=True)
    _steps(one, single)
    before = copy.deepcopy(single.state_dict()["state"])
    checkpoint.save(tmp_path, step=3, policy=one, optimizer=single, state={})
    with safe_open(tmp_path / "step-000003" / "optimizer.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("2.exp_avg"), before[2]["exp_avg"])
    double = make_optimizer(two.parameters(), config)
    checkpoint.load(tmp_path / "step-000003", policy=two, optimizer=double)
    _steps(one, single)
    _steps(two, double)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("schedule", "peak_next", "last"), [("linear", 20 / 21, 1 / 21), ("cosine", 0.99442, 0.00558), ("constant", 1, 1)]
)
def test_no_step_has_a_rate_of_0_and_the_peak_is_the_last_warm_up_step(
    schedule: str, peak_next: float, last: float
) -> None:
    config = MethodConfig(learning_rate=1.0, warmup_steps=10, schedule=schedule)
    rates = [learning_rate(config, step=step, num_steps=30) for step in range(1, 31)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == pytest.approx(peak_next, abs=1e-5) and rates[29] == pytest.approx(last, abs=1e-5)


def test_the_schedule_is_transformers_over_one_step_more_without_its_first_step_at_0() -> None:
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 10, 31)
    found = []
    for _ in range(31):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    config = MethodConfig(learning_rate=1.0, warmup_steps=10)
    assert [learning_rate(config, step=step, num_steps=30) for step in range(1, 31)] == pytest.approx(found[1:])


def test_a_run_shorter_than_its_warm_up_says_how_far_its_rate_rises() -> None:
    config = MethodConfig(learning_rate=1e-4, warmup_steps=10)
    assert short_warmup(config, 10) is None
    said = str(short_warmup(config, 4))
    assert "ends after 4 of its 10 warm-up steps" in said and "never passes 4e-05, 40% of --learning-rate" in said


def test_a_run_that_ends_before_a_term_is_first_applied_says_so() -> None:
    class Late(MethodConfig):
        @property
        def late_terms(self) -> dict[str, tuple[str, int]]:
            return {"bonus": ("bonus_interval", 100)}

    assert late_terms(MethodConfig(), 1) == late_terms(Late(), 100) == []
    (said,) = late_terms(Late(), 20)
    assert "ends after 20 steps, before the bonus is first applied, at step 100" in said
    assert said.endswith("lower --bonus-interval")
