"""How often the host waits for the device in a step of each method: once, where the step has its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.dpo import DPO, DPOConfig
from alignkit_plugins.grpo import GRPO, GRPOConfig
from alignkit_plugins.kto import KTO, KTOConfig
from alignkit_plugins.reward import Reward, RewardConfig
from alignkit_plugins.sft import SFT, SFTConfig
from alignkit_plugins.sft_lenpen import SFTLengthPenalty, SFTLengthPenaltyConfig
from alignkit_plugins.transformers_sampler import TransformersSampler
from host_waits import host_waits
from small_runs import random_pairs
from tiny_models import tiny_model

from alignkit.data.trees.packs import lay_out
from alignkit.distributed.fsdp import clip
from alignkit.methods import Method
from alignkit.policy.load import load_policy
from alignkit.tracking import Tracker
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.step import MicroBatch, accumulate
from alignkit.training.loop.reporter import Reporter
from alignkit.training.loop.source import StepSource
from alignkit.training.loop.train_loop import Loop


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


class Rows(StepSource):
    """Two micro-batches of pairs a step, with what a sampler and scores would add; counts the waits of each step."""

    steps_per_epoch = 3

    def __init__(self, name: str) -> None:
        self.has_samples, self.is_labelled = name == "sft-lenpen", name == "kto"
        self.waits, self.found = [], []  # type: ignore[var-annotated]

    def step(self, step: int) -> tuple[list[MicroBatch], dict[str, float]]:
        self.waits.append(list(self.found))  # of the step before
        self.found.clear()
        self.step_number = step
        return [self._row(seed) for seed in (step, step + 100)], {}

    @property
    def mismatched(self) -> list[MicroBatch] | None:
        return [self._row(self.step_number + 200)] if self.is_labelled else None

    def _row(self, seed: int) -> MicroBatch:
        pack = lay_out(random_pairs(2, seed=seed))
        if self.is_labelled:
            pack = replace(pack, label_N=np.array([1, 0, 0, 1], np.float32))
        row = MicroBatch(
            pack,
            temperature_N=np.full(4, 0.8, np.float32),
            sampler_logprob_T=np.full(len(pack.target_T), -5.0, np.float32),
            advantage_N=np.array([1, -1, 0.5, -0.5], np.float32),
        )
        return MicroBatch(pack, samples=row) if self.has_samples else row


class Numbers(Tracker):
    name = "numbers"

    def __init__(self) -> None:
        self.seen: list[Mapping[str, float]] = []

    def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
        self.seen.append(metrics)


ONCE: dict[str, Any] = {"epochs": 1, "validation_interval": 250}  # a validation waits too
METHODS: list[tuple[Method, Any]] = [
    (SFT(), SFTConfig(**ONCE)),
    (SFTLengthPenalty(), SFTLengthPenaltyConfig(**ONCE)),
    (DPO(), DPOConfig(**ONCE)),
    (KTO(), KTOConfig(**ONCE)),
    (Reward(), RewardConfig(**ONCE)),
    (GRPO(), GRPOConfig(kl=0.1, **ONCE)),
]


@pytest.mark.parametrize(("method", "config"), METHODS, ids=lambda x: getattr(x, "name", ""))
def test_the_host_waits_for_the_device_once_in_a_step(model: Path, method: Method, config: Any) -> None:
    is_scored = "scalar_head" in method.needs
    policy = load_policy(model, precision="fp32", scalar_head=is_scored)
    reference = None if is_scored else Reference(policy, frozen=load_policy(model, precision="fp32"))
    models = Models(policy, reference, TransformersSampler(policy, end_ids=frozenset()))
    source, numbers = Rows(method.name), Numbers()
    loop = Loop(method, config, models, source, reporter=Reporter([numbers]))
    before = torch.cat([p.detach().flatten() for p in policy.parameters()])
    with host_waits() as source.found:
        loop.train()
    first, *steps = [*source.waits, source.found]
    assert first == [] and len(steps) == 3
    assert [len(found) for found in steps] == [1, 1, 2], steps  # the weights that the last step leaves are looked at
    assert sum("grad_norm" in metrics for metrics in numbers.seen) == 3
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in policy.parameters()]))


@pytest.mark.gpu
@pytest.mark.parametrize(("method", "config"), METHODS, ids=lambda x: getattr(x, "name", ""))
def test_a_gpu_computes_a_gradient_without_one_wait(tmp_path: Path, method: Method, config: Any) -> None:
    is_scored = "scalar_head" in method.needs
    folder = tiny_model(tmp_path / "model", hidden_size=64)
    policy = load_policy(folder, precision="bf16", scalar_head=is_scored)
    reference = None if is_scored else Reference(policy, frozen=load_policy(folder, precision="bf16"))
    source = Rows(method.name)
    rows, _ = source.step(1)
    mismatched = source.mismatched
    before = torch.cuda.get_sync_debug_mode()
    try:
        for mode in ("default", "error"):  # kernels are compiled in the first
            torch.cuda.set_sync_debug_mode(mode)
            found = accumulate(policy, method, config, rows, reference=reference, mismatched=mismatched)
            norm = clip(policy.parameters(), 1.0)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    result, values = found.read(norm=norm)
    assert np.isfinite(result.loss) and values["norm"] > 0
