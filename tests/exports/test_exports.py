"""A run taken home: each file is loaded again by its own reader, and is as near to the trained policy as it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_engines import needs_vllm

import alignkit
from alignkit import api
from alignkit.cli.main import main
from alignkit.config.settings import ModelSection
from alignkit.data.chat.chat import CHATML, make_chat
from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.exports import gguf_file
from alignkit.exports.modelfile import modelfile
from alignkit.pretrained.names import find_model

ROWS = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"it is {n}"} for n in range(24)]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "initializer_range": 0.15}  # attention counts
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "a")]  # without one llama.cpp reads no tokenizer
TALK = [("system", "Be kind. {{ x }}"), ("user", "Hi\n<b>"), ("assistant", "é 中"), ("user", "Why?")]


def lora_run(folder: Path, kind: str) -> alignkit.Run:
    base = tiny_model(folder / f"base-{kind}", kind=kind, merges=MERGES, **SIZES)
    return alignkit.train(
        "sft",
        model=base,
        data=ROWS,
        split=0.3,
        out=folder / f"run-{kind}",
        lora_rank=4,
        lora_alpha=32,
        lora_dropout=0.1,
        lora_targets=["q_proj,k_proj", "down_proj"],
        learning_rate=2e-2,
        max_steps=6,
        batch_size=8,
        precision="fp32",
        max_new_tokens=4,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> alignkit.Run:
    return lora_run(tmp_path_factory.mktemp("runs"), "llama")


def in_go(template: str, messages: list[tuple[str, str]]) -> str:
    """A template of Go, as far as a Modelfile of ours uses it."""
    head, turns, answer = re.fullmatch(
        r'\{\{ if ne \(index \.Messages 0\)\.Role "system" \}\}(.*?)\{\{ end \}\}'
        r"\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*?)",
        template,
        re.DOTALL,
    ).groups()  # type: ignore[union-attr]
    around = {
        role: body.split("{{ .Content }}")
        for role, body in re.findall(r'\{\{ if eq \.Role "(\w+)" \}\}(.*?)\{\{ end \}\}', turns, re.DOTALL)
    }
    text = "" if messages[0][0] == "system" else head
    text += "".join(around[role][0] + content + around[role][1] for role, content in messages) + answer
    return text.replace('{{ "{{" }}', "{{")


def test_a_merged_model_and_its_gguf_are_those_that_were_trained(run: alignkit.Run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert (settings["lora_alpha"], settings["lora_dropout"]) == (32, 0.1)
    assert set(settings["target_modules"]) == {"q_proj", "k_proj", "down_proj"}

    found = alignkit.export(run, tmp_path / "out", gguf="q8_0", ollama=True)
    folder, gguf = found.differences
    assert folder.mean < 1e-5 and folder.same_ids == folder.same_answers == folder.num_prompts == 20
    assert 1e-5 < gguf.mean < 0.05 and gguf.mean < gguf.largest
    kept = json.loads((tmp_path / "out" / "export.json").read_text())
    assert kept == [one.as_json() for one in found.differences]

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(run.info["model"])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert model.dtype == torch.float32 and (model.state_dict()[name] - base.state_dict()[name]).abs().max() > 1e-3
    assert tokenizer.eos_token == "<|im_end|>" and set(model.generation_config.eos_token_id) == {256, 258}

    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith("FROM ./run-llama.q8_0.gguf\n") and text.count("PARAMETER stop") == 2
    template = re.search(r'TEMPLATE """(.*)"""', text, re.DOTALL)[1]  # type: ignore[index]
    for messages in (TALK, TALK[1:], TALK[1:2]):
        said = [{"role": role, "content": content} for role, content in messages]
        expected = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert in_go(template, messages) == expected

    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "transformers"') and "it was not judged" in card
    assert "licence of the model that was trained is not known" in card and "nats per token" in card


def test_an_adapter_on_its_base_is_the_policy(run: alignkit.Run, tmp_path: Path) -> None:
    found = api.export(str(run.path), tmp_path / "out", adapter=True)
    assert [one.reader.split()[0] for one in found.differences] == ["peft"]
    assert found.differences[0].mean < 1e-5 and found.differences[0].same_answers == 20
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == run.info["model"]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_bf16_differs_by_its_rounding_and_a_folder_that_cannot_be_pushed_stays(
    run: alignkit.Run, tmp_path: Path
) -> None:
    with pytest.raises(RunStopped, match=r"the hub cannot be reached.*is whole, push it later: hf upload me/mine"):
        api.export(str(run.path), tmp_path / "out", dtype="bf16", push="me/mine")
    (folder,) = json.loads((tmp_path / "out" / "export.json").read_text())
    assert 1e-5 < folder["mean"] < 0.02 and folder["what"] == "folder, bfloat16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_export_that_is_not_the_policy_is_not_kept(
    run: alignkit.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "_turned", lambda name, array, config: array)
    with pytest.raises(RunStopped, match=r"run-llama\.f16\.gguf: .* nats per token .*: more than 0\.02; not kept"):
        api.export(str(run.path), tmp_path / "out", gguf="f16")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_by_name(
    run: alignkit.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpt2 = tiny_model(tmp_path / "gpt2", kind="gpt2", n_embd=48, n_head=4, n_layer=2)
    with pytest.raises(InputError, match="a model of type gpt2 is not written as GGUF, llama and qwen2 are"):
        api.export(str(gpt2), tmp_path / "out", gguf="f16")
    with pytest.raises(UsageError, match="gpt2 has no adapter"):
        api.export(str(gpt2), tmp_path / "out", adapter=True)
    with pytest.raises(UsageError, match="an adapter alone is not written as GGUF"):
        api.export(str(run.path), tmp_path / "out", adapter=True, gguf="f16")
    with pytest.raises(UsageError, match="write OWNER/NAME"):
        api.export(str(run.path), tmp_path / "out", push="no owner")
    assert main(["export", str(run.path), "--to", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_adapter_options_that_nothing_reads_are_refused(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    given: dict[str, Any] = {"model": base, "data": ROWS, "out": tmp_path / "run"}
    with pytest.raises(UsageError, match=r"^lora_alpha: no adapter is trained; add lora_rank=16"):
        alignkit.train("sft", lora_alpha=8, **given)
    with pytest.raises(UsageError, match="no linear layer of that name; did you mean 'q_proj'"):
        alignkit.train("sft", lora_rank=2, lora_targets=["q_prj"], **given)
    pairs = [row | {"rejected": "no"} for row in ROWS]
    with pytest.raises(UsageError, match="dpo compares log-probs"):
        alignkit.train("dpo", lora_rank=2, lora_dropout=0.1, **given | {"data": pairs})


HEADED = (
    "<|endoftext|>{% if messages[0]['role'] != 'system' %}[S]You are kind.[/S]{% endif %}{% for m in messages %}"
    "[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, HEADED], ids=["chatml", "headed"])
def test_a_modelfile_says_what_the_template_says(template: str, tmp_path: Path) -> None:
    model = find_model(str(tiny_model(tmp_path / "model", template=template)))
    chat = make_chat(model, ModelSection())
    text = re.search(r'TEMPLATE """(.*)"""', modelfile(chat, gguf="x.gguf", end_ids=[258]), re.DOTALL)[1]  # type: ignore[index]
    for messages in (TALK, TALK[1:], TALK[1:2]):
        assert in_go(text, messages) == chat.prompt([{"role": role, "content": said} for role, said in messages])


def test_a_template_that_does_more_is_refused(tmp_path: Path) -> None:
    counting = CHATML.replace("{{ message['role'] }}", "{{ message['role'] }}{{ loop.index }}")
    model = find_model(str(tiny_model(tmp_path / "model", template=counting)))
    with pytest.raises(InputError, match="cannot be said in a Modelfile"):
        modelfile(make_chat(model, ModelSection()), gguf="x.gguf", end_ids=[])


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_llama_cpp_reads_what_was_trained(kind: str, run: alignkit.Run, tmp_path: Path) -> None:
    trained = run if kind == "llama" else lora_run(tmp_path, kind)
    (_, gguf) = api.export(str(trained.path), tmp_path / "out", gguf="f16").differences
    assert gguf.reader.startswith("llama.cpp by xllamacpp") and gguf.same_ids == 20 and gguf.mean < 0.02


@needs_vllm
@pytest.mark.slow
def test_vllm_answers_as_transformers_does(tmp_path: Path) -> None:
    """Its own engine, template and tokenizer, in another process, as an engine leaves its process changed."""
    model = tiny_model(tmp_path / "base", hidden_size=128, initializer_range=0.15)
    trained = {"learning_rate": 1e-3, "max_steps": 2, "batch_size": 8, "precision": "fp32", "max_new_tokens": 4}
    run = alignkit.train("sft", model=model, data=ROWS, split=0.3, out=tmp_path / "run", **trained)
    folder = tmp_path / "taken"
    api.export(str(run.path), to=folder)
    talks = [[{"role": "user", "content": f"Say {n}."}] for n in range(5)]
    code = (
        "import json, sys\n"
        "from vllm import LLM, SamplingParams\n"
        "engine = LLM(sys.argv[1], dtype='float32', enforce_eager=True, max_model_len=128)\n"
        "greedy = SamplingParams(temperature=0, max_tokens=16)\n"
        "answers = engine.chat(json.loads(sys.argv[2]), greedy, use_tqdm=False)\n"
        "print(json.dumps([[a.prompt_token_ids, list(a.outputs[0].token_ids)] for a in answers]))\n"
    )
    asked = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    words = [sys.executable, "-W", "ignore", "-c", code, str(folder), json.dumps(talks)]
    done = subprocess.run(words, env=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    tokenizer, policy = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    expected = []
    for talk in talks:
        prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        ids = policy.generate(**prompt, max_new_tokens=16, do_sample=False)[0].tolist()
        length = prompt["input_ids"].shape[1]
        expected.append([ids[:length], ids[length:]])
    assert found == expected and len({tuple(answer) for _, answer in found}) > 1
