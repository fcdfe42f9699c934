"""The export's proof is of the trained policy, and a folder that fails it takes nobody's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import HELPERS
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


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_rounding_is_measured_from_what_training_computed_which_in_bf16_saw_rounded_weights(
    tmp_path: Path, precision: str
) -> None:
    source = _older(tmp_path / "source")
    chat = make_chat(find_model(str(source)), ModelSection())

    def rounding(moved: float) -> float:
        policy = load_policy(source, precision=precision)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "_proj.weight" in name:
                    parameter.mul_(1 + moved)
        folder = tmp_path / str(moved)
        return export(policy, chat, folder, trees=_trees(), source=source, dtype=torch.bfloat16).rounding_mean

    less_than_bf16_resolves = 2**-10
    if precision == "bf16":
        assert rounding(less_than_bf16_resolves) == rounding(0)
    else:
        assert rounding(less_than_bf16_resolves) > rounding(0) == 0


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
    assert 0 < finished["exported_rounding_mean_nats"] < finished["exported_rounding_nats"]
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


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import numpy as np, torch
from alignkit.config.settings import ModelSection
from alignkit.data.chat.chat import make_chat
from alignkit.data.trees.trees import tree
from alignkit.policy.load import load_policy
from alignkit.pretrained.names import find_model
from alignkit.training.run.export import export

model, folder = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
trees = [tree("0", np.arange(5, 12), [(np.array([7, 8, 9, 258]), np.ones(4, bool))])]
seen, die_at = 0, 0
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.call_function")

def watch(event, arguments):
    global seen
    if event in EVENTS and (str(folder.parent) in " ".join(map(str, arguments)) or event == "ctypes.call_function"):
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

def write(bias):
    policy = load_policy(model, precision="fp32")
    with torch.no_grad():
        policy.base.model.norm.weight += bias
    export(policy, make_chat(find_model(str(model)), ModelSection()), folder, trees=trees)

def whole(path):
    return {f.name: f.read_bytes() for f in path.iterdir()}

sys.addaudithook(watch)
write(0.0)
old, seen = whole(folder), 0
write(0.5)
new, count = whole(folder), seen
assert old.keys() == new.keys() and old != new
points = sorted({*range(count // 8, count, count // 8), *range(count - 10, count + 10)})
ends = []
for at in points:
    child = os.fork()
    if child == 0:
        seen, die_at = 0, at
        write(0.5 if ends[-1:] == ["old"] or not ends else 0.0)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    here = whole(folder if folder.exists() else folder.with_name(f".{folder.name}.old"))
    assert here in (old, new), (at, killed, sorted(here))
    ends.append("old" if here == old else "new")
    print(at, killed, ends[-1])
    if killed == 0:
        break
"""


@pytest.mark.slow
def test_a_kill_while_a_model_is_replaced_leaves_one_whole_model(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(model), str(tmp_path / "out" / "model"), str(HELPERS)]
    (tmp_path / "out").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) > 12 and [int(killed) for _, killed, _ in lines] == [-signal.SIGKILL] * (len(lines) - 1) + [0]
    assert {state for *_, state in lines} == {"old", "new"}, done.stdout


def test_a_disk_that_fills_while_a_model_is_replaced_leaves_the_old_one(
    model: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _export(load_policy(model, precision="fp32"), model, small_disk / "out")
    before = {file.name: file.read_bytes() for file in (small_disk / "out").iterdir()}
    size = len(before["model.safetensors"])
    monkeypatch.setattr("alignkit.training.run.export.check_space", lambda folder, needed: None)
    for left in (size // 2, size + 1000):  # amid the weights, amid the tokenizer
        filler = small_disk / "filler"
        filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - left))
        with pytest.raises(RunStopped, match=r"out: the model cannot be written: .*; make room and go on with"):
            _export(load_policy(model, precision="fp32"), model, small_disk / "out")
        filler.unlink()
        assert {file.name: file.read_bytes() for file in (small_disk / "out").iterdir()} == before
        assert [path.name for path in small_disk.iterdir()] == ["out"]
