"""A PEFT folder as a model: what it computes is what PEFT computes, training goes on from it, and it names no code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_model

import alignkit
from alignkit.errors import InputError, UsageError
from alignkit.pretrained.names import find_model

ROWS = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"it is {n}", "rejected": f"no {n}"} for n in range(16)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by PEFT alone: no layer of ours wrote it, and B is not 0."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("peft")
    base = tiny_model(folder / "base", kind="llama", initializer_range=0.15)
    settings = LoraConfig(
        r=3, lora_alpha=12, lora_dropout=0.1, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder / "adapter")
    return folder / "adapter"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path_factory.getbasetemp() / "adapters-cache"))


def train(method: str, model: Path, out: Path, **options: Any) -> alignkit.Run:
    given: dict[str, Any] = {"data": ROWS, "split": 0.3, "batch_size": 8, "precision": "fp32", "max_new_tokens": 4}
    return alignkit.train(method, model=model, out=out, **given | options)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(40)[None]).logits
    return found


def test_an_adapter_stands_for_base_and_adapter_in_one(adapter: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    source = find_model(str(adapter))
    ours = logits(AutoModelForCausalLM.from_pretrained(source.folder))
    torch.testing.assert_close(ours, logits(AutoPeftModelForCausalLM.from_pretrained(adapter)), rtol=1e-4, atol=1e-5)
    assert (ours - logits(AutoModelForCausalLM.from_pretrained(source.base))).abs().max() > 0.1
    found = alignkit.export(adapter, tmp_path / "out")  # merged, and compared with the adapter on its base
    assert found.differences[0].mean < 1e-5 and found.differences[0].same_answers == 20


def test_training_goes_on_from_an_adapter_and_ends_as_one_on_the_same_base(adapter: Path, tmp_path: Path) -> None:
    run = train("dpo", adapter, tmp_path / "run", max_steps=3, learning_rate=1e-2)
    first = run.metrics.filter(run.metrics["step"] == 0)
    margins = dict(zip(first["name"], first["value"], strict=True))
    assert margins["validation/margin"] == pytest.approx(0, abs=1e-5)  # the reference is the adapter's model
    section = run.info["config"]["model"]
    assert (section["lora_rank"], section["lora_alpha"]) == (3, 12)
    assert section["lora_targets"] == ["down_proj", "q_proj"]
    before, after = (load_file(f / "adapter_model.safetensors") for f in (adapter, run.path / "adapter"))
    moved = {name: (before[name] - after[name]).abs().max() for name in before}
    assert before.keys() == after.keys() and all(0 < gap < 0.1 for gap in moved.values())

    found = alignkit.export(run, tmp_path / "out", adapter=True)
    assert found.differences[0].mean < 1e-5 and found.differences[0].same_ids == 20
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(adapter.parent / "base") and settings["r"] == 3


def test_a_start_that_nothing_was_better_than_is_given_back(adapter: Path, tmp_path: Path) -> None:
    held = [{"id": f"v{n}", "prompt": f"Say it, {n}.", "chosen": f"no {n}", "rejected": f"it is {n}"} for n in range(8)]
    options = {"max_steps": 2, "learning_rate": 0.02, "early_stopping_steps": 1, "validation_interval": 1}
    run = train("dpo", adapter, tmp_path / "run", split=held, **options)
    assert run.info["finished"]["kept_step"] == 0
    before, after = (load_file(f / "adapter_model.safetensors") for f in (adapter, run.path / "adapter"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def changed(adapter: Path, folder: Path, **settings: object) -> Path:
    shutil.copytree(adapter, folder)
    content = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(content | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "use_dora is 'True', which is not computed here; merge it"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"a_later_setting": 3}, "a_later_setting is '3'"),
        ({"peft_type": "IA3"}, "an adapter of type 'IA3'; LoRA is read"),
        ({"r": 2_000_000_000}, "its config says rank 2000000000"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'; a whole number"),
        ({"base_model_name_or_path": "someone/base"}, r"'someone/base', which is not on this machine; fetch it \(hf"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path names no model; write there"),
    ],
)
def test_what_a_folder_says_is_no_more_than_numbers_and_a_name(
    adapter: Path, tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        find_model(str(changed(adapter, tmp_path / "other", **settings)))


def test_no_class_and_no_pattern_of_a_folder_is_used(adapter: Path, tmp_path: Path) -> None:
    mapping = {"base_model_class": "Popen", "parent_library": "subprocess"}
    other = changed(adapter, tmp_path / "other", auto_mapping=mapping, target_modules=r"(.*)*(q_proj|down_proj)$")
    source = find_model(str(other))
    assert source.adapter is not None and len(source.adapter.targets) == 4  # whole paths, of two layers
    assert logits_of(source.folder).equal(logits_of(find_model(str(adapter)).folder))


def logits_of(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    return logits(AutoModelForCausalLM.from_pretrained(folder))


def test_weights_that_are_no_plain_pairs_are_refused(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other = changed(adapter, tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    save_file(
        weights | {"base_model.model.model.embed_tokens.weight": torch.ones(2, 2)}, other / "adapter_model.safetensors"
    )
    with pytest.raises(InputError, match=r"embed_tokens\.weight is no part of a plain LoRA adapter"):
        find_model(str(other))
    (other / "adapter_model.safetensors").rename(other / "adapter_model.bin")
    with pytest.raises(InputError, match="is a pickle, which is not read"):
        find_model(str(other))


def test_another_shape_than_the_adapters_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^lora_rank: training goes on from the adapter .* lora_rank is 3; leave it"):
        train("sft", adapter, tmp_path / "run", lora_rank=8)
    assert not (tmp_path / "run").exists()
