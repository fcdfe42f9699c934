"""The texts that `alignkit init` writes: a preset's set-up, or the numbers that fit this machine."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from alignkit.cli import machine
from alignkit.cli.own_rows import OwnRows, read_own
from alignkit.config.settings import DEFAULT_DATA, DEFAULT_MODEL
from alignkit.errors import InputError, UsageError
from alignkit.presets import Line, Machine, Preset, Setup, cpu_lines
from alignkit.pretrained.weights import weight_files
from alignkit.registry import registry

_DEFAULT_MODEL_BYTES = 494_032_768 * 4
_TRAINED_BYTES = 16  # a parameter in fp32: weight, gradient and Adam's two moments
_FROZEN_BYTES = 4
_FEW_PASSES = 10  # over the rows; no method's epochs are more


def of_preset(name: str, model: str | None, data: str | None) -> Setup:
    """Return a preset's set-up.

    Raises:
        UsageError: the preset names model and data itself, and another was given.
    """
    preset = registry().find("preset", name)
    if (model or data) and not preset.can_be_changed:
        raise UsageError(
            f"--{name} names the model and the data itself: leave --model and --data out, or leave out --{name}"
        )
    here = machine.look(hub=preset.needs_hub)
    found: Setup = preset().setup(here, model=model or preset.model, data=data or preset.data)
    return found


def for_this_machine(model: str | None, data: str | None) -> tuple[Setup, OwnRows | None]:
    """Return a set-up whose numbers fit this machine's device and memory, and the rows that they fit."""
    here = machine.look(hub=not (model and data))
    offline = _without_hub() if here.hub_problem else None
    notes = []
    if here.hub_problem and offline is not None:
        model, data = model or offline.model, data or offline.data
        notes = [f"{here.hub_problem}: the file names {model} and {data}, which need no network"]
    own = data
    model, data = model or DEFAULT_MODEL, data or DEFAULT_DATA
    max_length = 2048 if here.device_gib >= 20 else 1024 if here.device_gib >= 10 else 512
    rows = read_own(own, model, limit=max_length) if own else None
    if isinstance(rows, str):
        notes.append(rows)
        rows = None
    num_prompts = 120 if here.device == "cpu" else 500
    width = 1.96 * 50 / math.sqrt(num_prompts)
    tables = {
        "model": [Line("model", model, "a run, a model folder or a hub name"), *_lora(model, here)],
        "data": [
            Line("data", data, "a file, a folder, a plugin's data set, or hub-name:split"),
            Line("max_length", max_length, f"prompt + completion in tokens; fits {here.device_gib:.0f} GiB"),
        ],
        "judge": [
            Line("judge", "auto", "the best that answers and can score the rows"),
            Line("num_prompts", num_prompts, f"a win rate is then known to about +-{width:.0f} points"),
        ],
    }
    if here.device == "cpu":
        tables["train"] = cpu_lines()
        looked_for = Line(
            "difference", 10.0, "points that are looked for; so few prompts find 5 too seldom for a verdict"
        )
        tables["judge"].append(looked_for)
    if rows is not None:
        notes += rows.notes()
        tables["data"] = [Line("data", data, "your rows"), *rows.split_lines(), rows.max_length(max_length)]
        if rows.num_held <= num_prompts:  # all of them are judged
            del tables["judge"][1]
        if (line := rows.difference_line()) is not None:
            tables["judge"] = [*(other for other in tables["judge"] if other.key != line.key), line]
        _shorten(tables.get("train", []), rows)
    return Setup([f"For {here.device_name} with {here.device_gib:.0f} GiB of memory."], tables, notes), rows


def _shorten(lines: list[Line], rows: OwnRows) -> None:
    """Leave max_steps out where the rows are few, or say how much of them it sees."""
    at = next((number for number, line in enumerate(lines) if line.key == "max_steps"), None)
    if at is None:
        return
    steps, batch = (int(str(line.value)) for key in ("max_steps", "batch_size") for line in lines if line.key == key)
    passes = steps * batch / rows.num_training
    if passes >= _FEW_PASSES:
        del lines[at]
    else:
        why = f"no GPU: {passes:.2g} passes over the rows; leave it out to train all epochs"
        lines[at] = Line("max_steps", steps, why)


def _without_hub() -> type[Preset] | None:
    """The first preset whose model and data need no network."""
    presets = (registry().find("preset", name) for name in registry().names("preset"))
    return next((preset for preset in presets if not preset.needs_hub), None)


def _lora(model: str, here: Machine) -> list[Line]:
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


def text(setup: Setup) -> str:
    """Lay a set-up out as TOML; JSON's strings, numbers, booleans and lists are TOML's too."""
    blocks = ["\n".join(f"# {line}" for line in setup.head)]
    for name, lines in setup.tables.items():
        keys = [(f"{line.key} = {json.dumps(line.value, ensure_ascii=False)}", line.why) for line in lines]
        width = max(len(key) for key, _ in keys)
        blocks.append("\n".join([f"[{name}]", *(f"{key:<{width}}  # {why}" for key, why in keys)]))
    return "\n\n".join(blocks) + "\n"
