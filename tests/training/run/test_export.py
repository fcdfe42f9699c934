"""The export's proof is of the trained policy, and a folder that fails it takes nobody's place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SPECIAL, tiny_model

import alignkit
from alignkit.config.settings import ModelSection
from alignkit.data.chat.chat import CHATML, make_chat
from alignkit.data.trees.trees import Tree, tree
from alignkit.errors import RunStopped
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.pretrained.names import find_model
from alignkit.pretrained.read import load_tokenizer, read_config
from alignkit.training.run.export import export


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def _trees() -> list[Tree]:
    return [tree("0", np.arange(5, 12), [(np.array([7, 8, 9, 258]), np.ones(4, bool))])]


def _adapted(model: Path) -> Policy:
    policy = load_policy(model, precision="fp32", lora_rank=4)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return policy


def _export(policy: Policy, model: Path, folder: Path) -> float:
    return export(policy, make_chat(find_model(str(model)), ModelSection()), folder, trees=_trees()).difference


def test_a_merged_adapter_gives_the_policy_that_was_trained(model: Path, tmp_path: Path) -> None:
    assert _export(_adapted(model), model, tmp_path / "out") < 1e-5
    assert (tmp_path / "out" / "config.json").exists()


def test_an_adapter_lost_in_merging_fails_the_proof(model: Path, tmp_path: Path) -> None:
    policy = _adapted(model)
    policy.model.merge_and_unload = policy.model.unload  # drops the adapter
    with pytest.raises(RunStopped, match=r"differs by 0\.\d+ nats from the trained model; not used"):
        _export(policy, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_nan_fails_the_proof_and_the_one_before_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(model, precision="fp32")
    _export(policy, model, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with torch.no_grad():
        policy.base.model.norm.weight[0] = float("nan")
    with pytest.raises(RunStopped):
        _export(policy, model, tmp_path / "out")
    original = Policy.forward

    def spoilt(self: Policy, *given: Any, **more: Any) -> Any:
        output = original(self, *given, **more)
        return output._replace(logprob_T=output.logprob_T * float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "forward", spoilt)
        with pytest.raises(RunStopped, match="differs by nan nats"):
            _export(load_policy(model, precision="fp32"), model, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def _older(folder: Path) -> Path:
    """A model folder as transformers 4 wrote it: bf16, `rope_theta`, a class of its own, tokens by number."""
    tiny_model(folder, kind="qwen2", rope_theta=1e6)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"], config["dtype"]
    config |= {"rope_theta": 1e6, "torch_dtype": "bfloat16", "rope_scaling": None}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: x.to(torch.bfloat16) for name, x in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokenizer = {
        "added_tokens_decoder": {str(256 + n): {"content": text, **flags} for n, text in enumerate(SPECIAL)},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": CHATML,
        "eos_token": "<|endoftext|>",
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "chat_template.jinja").unlink()
    return folder


def _train(model: Path, folder: Path) -> Path:
    rows = [{"prompt": f"{n}?", "chosen": f"yes {n}"} for n in range(9)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"data": str(folder / "rows.jsonl"), "split": "0.2", "max_steps": 1, "max_new_tokens": 4}
    return alignkit.train("sft", model=str(model), out=str(folder / "run"), **given).path / "model"


def test_a_folder_of_transformers_4_stays_one_that_it_loads_in_its_own_type(tmp_path: Path) -> None:
    source = _older(tmp_path / "source")
    made = _train(source, tmp_path)
    assert {x.dtype for x in load_file(made / "model.safetensors").values()} == {torch.bfloat16}
    finished = json.loads((made.parent / "run.json").read_text())["finished"]
    assert finished["exported_difference_nats"] <= 1e-4 and 0 < finished["exported_rounding_nats"] < 0.1
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, made))
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert changed <= {"eos_token_id", "pad_token_id"} and after["rope_theta"] == 1e6
    before, after = (json.loads((folder / "tokenizer_config.json").read_text()) for folder in (source, made))
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert changed == {"eos_token", "pad_token", "added_tokens_decoder"}  # it had no token to pad with
    assert after["added_tokens_decoder"].pop("259")["content"] == "<|pad|>" == after["pad_token"]
    assert after["added_tokens_decoder"] == before["added_tokens_decoder"]


def test_a_folder_of_transformers_5_is_saved_as_4_reads_it(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "source", kind="qwen2", rope_theta=1e6)
    path = source / "tokenizer_config.json"
    content = json.loads(path.read_text()) | {"extra_special_tokens": ["<|im_start|>"], "is_local": True}
    path.write_text(json.dumps(content | {"tokenizer_class": "TokenizersBackend"}))
    made = _train(source, tmp_path)
    config = json.loads((made / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1e6
    assert config["dtype"] == "float32"
    tokenizer = json.loads((made / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast" and tokenizer["chat_template"] == CHATML
    assert tokenizer["additional_special_tokens"] == ["<|im_start|>"]
    assert not {"extra_special_tokens", "is_local", "local_files_only", "backend"} & set(tokenizer)
    text = "<|im_start|>a\u00e9<|im_end|>"
    assert load_tokenizer(made).encode(text) == load_tokenizer(source).encode(text)
    assert read_config(made).rope_parameters == read_config(source).rope_parameters


@pytest.mark.parametrize("spare", [False, True])
def test_the_files_own_tokenizer_is_saved(spare: bool, tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "source")  # transformers makes another tokenizer of this folder, by its model's type
    file = source / "tokenizer.json"
    content = json.loads(file.read_text())
    if spare:
        content["added_tokens"].append(content["added_tokens"][0] | {"id": 259, "content": "<|spare|>"})
        file.write_text(json.dumps(content))
    saved = json.loads((_train(source, tmp_path) / "tokenizer.json").read_text())
    pad = {"id": 259, "content": "<|spare|>" if spare else "<|pad|>"}
    assert saved["added_tokens"][:3] == content["added_tokens"][:3]
    assert [{name: token[name] for name in pad} for token in saved["added_tokens"][3:]] == [pad]
    assert {**saved, "added_tokens": 0} == {**content, "added_tokens": 0}
