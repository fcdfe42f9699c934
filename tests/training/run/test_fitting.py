"""What a plan does with a GPU's free memory: the size of a micro-batch, vLLM's share, and refusals before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import stop_at, write_numbered_rows
from tiny_models import tiny_model

import alignkit
from alignkit.config import file as config_file
from alignkit.config.file import Resolved
from alignkit.errors import Interrupted, RunStopped, UsageError
from alignkit.memory import Card
from alignkit.methods import Method
from alignkit.registry import registry
from alignkit.training.run.fitting import refuse_unfit, that_fit
from alignkit.training.run.plan import USABLE, Plan, make_plan

MIB = 2**20
CONTEXT = 700  # MiB, of CUDA itself


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def resolved(name: str, model: Path, **options: Any) -> tuple[Method, Resolved]:
    cls = registry().find("method", name)
    given = {"model": str(model), "precision": "bf16", **options}
    return cls(), config_file.resolve(cls, options=given, config=None)


def on_card(name: str, model: Path, free: float, *, total: int = 24_000, longest: int = 100, **options: Any) -> Plan:
    method, told = resolved(name, model, **options)
    card = Card(total * MIB, int(free * MIB), "NVIDIA A10")
    made = make_plan(method, told, longest=longest, card=card)
    refuse_unfit(method, told, made)
    return made


def test_a_micro_batch_is_the_largest_that_the_free_memory_holds(model: Path) -> None:
    roomy = on_card("sft", model, 20_000, batch_size=1000)
    assert roomy.micro_batch_tokens == roomy.tokens == 16_384
    least = on_card("sft", model, 20_000, batch_size=1000, micro_batch_tokens=256)
    tight = on_card("sft", model, (roomy.total + least.total) / 2 / MIB / USABLE, batch_size=1000)
    assert 256 < tight.micro_batch_tokens < 16_384 and tight.total <= USABLE * tight.card.free  # type: ignore[union-attr]
    method, told = resolved("sft", model, batch_size=1000)
    larger = make_plan(method, told, longest=100, micro_batch_tokens=16_384, card=tight.card)
    assert larger.total > USABLE * tight.card.free  # type: ignore[union-attr]


def test_a_named_micro_batch_is_taken_whatever_the_card_holds(model: Path) -> None:
    assert on_card("sft", model, 10, batch_size=1000, micro_batch_tokens=2_000).tokens == 2_000
    assert on_card("dpo", model, 20_000, longest=700, micro_batch_tokens=200).tokens == 700  # a pair is not split


def test_vllm_gets_what_it_needs_of_what_the_policy_leaves(model: Path) -> None:
    given = on_card("grpo", model, 20_000, sampler="vllm", vllm_memory=0.5)
    assert given.memory["rollouts"] == 12_000 * MIB and given.total == given.always + 12_000 * MIB
    chosen = on_card("grpo", model, 20_000, sampler="vllm").vllm_memory
    assert chosen is not None and 0.05 < chosen < 0.2  # some 2 GiB beside this tiny model's weights and cache
    assert on_card("grpo", model, 20_000).vllm_memory is None


@pytest.mark.parametrize(
    ("options", "free", "error", "text"),
    [
        ({}, CONTEXT - 100, RunStopped, r"NVIDIA A10: 600 MiB of 24,000 MiB are free, which is too little for the "),
        ({}, CONTEXT - 100, RunStopped, "end what else runs there"),
        ({"total": CONTEXT}, CONTEXT - 50, RunStopped, "a smaller model; --micro-batch-tokens 256 tries it all the"),
        ({"sampler": "vllm", "vllm_memory": 0.9}, 20_000, UsageError, r"--vllm-memory 0.9 \(21,600 MiB\).*at most 0.7"),
        ({"sampler": "vllm", "vllm_memory": 0.01}, 20_000, UsageError, r"--vllm-memory 0.01 .*take at least 0.04"),
        ({"sampler": "vllm"}, 2_300, RunStopped, r"vLLM's least \d+ MiB beside it.*these need less: --sampler transf"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    model: Path, options: dict[str, Any], free: float, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as raised:
        on_card("grpo", model, free, **options)
    assert "\n" not in str(raised.value)


def test_fewer_tokens_at_once_are_proposed_before_anything_that_trains_otherwise(model: Path) -> None:
    method, told = resolved("sft", model, batch_size=1000, micro_batch_tokens=4_096)
    card = Card(24_000 * MIB, 20_000 * MIB)
    made = make_plan(method, told, longest=100, card=card)
    proposed = [text.partition(" (")[0] for text in that_fit(method, told, made.total, 100, card=card)]
    assert proposed[:2] == ["--micro-batch-tokens 3072", "--gradient-checkpointing"]
    assert proposed.index("--batch-size 1") > 1


def test_a_run_goes_on_with_the_micro_batches_it_began_with(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another card has room for others, but the sums of a step would be rounded in another order."""
    given: dict[str, Any] = {"model": str(model), "data": str(write_numbered_rows(tmp_path / "rows.jsonl"))}
    given |= {
        "out": str(tmp_path / "run"),
        "precision": "fp32",
        "max_new_tokens": 2,
        "split": "first-2",
        "max_steps": 2,
    }

    def recorded() -> int:
        return int(json.loads((tmp_path / "run/run.json").read_text())["micro_batch_tokens"])

    place = "alignkit.training.run.plan.find_card"
    with monkeypatch.context() as patch:
        patch.setattr(place, lambda: Card(80_000 * MIB, 80_000 * MIB))
        stop_at(1, patch)
        with pytest.raises(Interrupted):
            alignkit.train("sft", **given)
    assert recorded() == 16_384
    with monkeypatch.context() as patch:
        patch.setattr(place, lambda: Card(80_000 * MIB, CONTEXT * MIB))
        with pytest.raises(RunStopped, match=r"too little for this plan: .*16384 tries it .* allow_changed=.*micro_"):
            alignkit.train("sft", **given, resume=True)
    alignkit.train("sft", **given, resume=True)  # on a CPU, whose own would be 1,024
    assert recorded() == 16_384
