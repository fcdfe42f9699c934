"""Weights in 4 bits under an adapter and moments in 8: trained, resumed and exported, or refused by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

import alignkit
from alignkit.config import file as config_file
from alignkit.errors import Interrupted, UsageError
from alignkit.policy.four_bits import computed_weight, is_narrow
from alignkit.policy.load import load_policy
from alignkit.registry import registry
from alignkit.training.checkpoints import checkpoint
from alignkit.training.loop.train_loop import Loop
from alignkit.training.run.plan import make_plan


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("given")
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"{n}", "rejected": "no"} for n in range(20)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    model = tiny_model(folder / "model", hidden_size=64, intermediate_size=128)
    return {
        "model": str(model),
        "data": str(folder / "rows.jsonl"),
        "split": "0.2",
        "max_steps": 4,
        "max_new_tokens": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 1,
        "precision": "fp32",
        "checkpoint_interval": 2,
    }


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"optimizer": "adamw-8bit"}, "optimizer='adamw-8bit'"),
        ({"quantize": "4bit", "lora_rank": 4}, "quantize='4bit'"),
    ],
)
def test_what_needs_bitsandbytes_says_so_first(
    given: dict[str, Any], option: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(UsageError, match=rf"{text} needs bitsandbytes.*pip install 'alignkit\[bitsandbytes\]'"):
        alignkit.train("sft", **(given | {"data": "none.jsonl"}), **option)


def test_four_bits_without_an_adapter_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be trained themselves; add lora_rank"):
        alignkit.train("sft", **(given | {"data": "none.jsonl"}), quantize="4bit")


def test_four_bits_are_planned_with_less(given: dict[str, Any]) -> None:
    def memory(**options: Any) -> dict[str, int]:
        cls = registry().find("method", "sft")
        return make_plan(
            cls(), config_file.resolve(cls, options={"model": given["model"], **options}, config=None)
        ).memory

    assert memory(optimizer="adamw-8bit")["optimizer"] * 4 == memory()["optimizer"]
    assert 4 * 272 * 64 < memory(quantize="4bit", lora_rank=4)["weights"] < memory()["weights"] / 2


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_an_adapter_to_4_bit_weights_is_trained_and_exported_as_it_was(
    given: dict[str, Any], method: str, tmp_path: Path
) -> None:
    run = alignkit.train(method, **given, out=str(tmp_path / "run"), quantize="4bit", lora_rank=4)
    losses = run.metrics.filter(run.metrics["name"] == "loss")["value"]
    assert losses[-1] < losses[0]
    assert run.info["finished"]["exported_difference_nats"] < 1e-3
    exported = load_policy(run.path / "model", precision="fp32")
    assert not any(is_narrow(module) for module in exported.modules())


def test_weights_merged_for_a_sampler_are_those_of_an_export(given: dict[str, Any]) -> None:
    policy = load_policy(given["model"], precision="fp32", lora_rank=4, in_four_bits=True)
    whole = load_policy(given["model"], precision="fp32")
    names = dict(whole.base.state_dict())
    found = dict(policy.merged_weights())
    assert {name: tuple(x.shape) for name, x in found.items()} == {name: tuple(x.shape) for name, x in names.items()}
    off = [float((found[name] - x).norm() / x.norm()) for name, x in names.items() if "proj" in name]
    assert min(off) > 0.02 and max(off) < 0.2  # 4 bits are not nothing, and not noise


def test_moments_in_8_bits_survive_a_checkpoint(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = given | {"optimizer": "adamw-8bit"}
    whole = alignkit.train("sft", **options, out=str(tmp_path / "whole"))
    original = Loop.step

    def step(self: Loop) -> None:
        original(self)
        if self.position.step == 2:
            self.saver.save()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", step)
        with pytest.raises(Interrupted):
            alignkit.train("sft", **options, out=str(tmp_path / "run"))
    assert checkpoint.newest(tmp_path / "run" / "checkpoints") is not None
    resumed = alignkit.train("sft", **options, out=str(tmp_path / "run"), resume=True)
    one, other = (load_policy(r.path / "model", precision="fp32").state_dict() for r in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_4_bit_weight_is_formed_in_bf16_as_it_is_rounded_from_fp32(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path, hidden_size=64), precision="bf16", lora_rank=4, in_four_bits=True)
    layers = [module for module in policy.modules() if is_narrow(module)]
    assert layers
    for layer in layers:
        narrow = computed_weight(layer, torch.bfloat16)
        assert narrow.dtype == torch.bfloat16 and torch.equal(narrow, computed_weight(layer).to(torch.bfloat16))
