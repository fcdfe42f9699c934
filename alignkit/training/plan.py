"""`--plan`: the memory and disk a run needs, from the model's files alone; nothing is loaded.

    weights, gradient    4 bytes a parameter each (fp32)
    optimizer            8 bytes a trained parameter (two moments)
    reference            4 bytes a parameter, where the method needs a frozen copy
    activations          tokens of a row x layers x (10 H + 4 I) x bytes of the compute type; kept for the backward pass
    head                 one chunk of fp32 logits, three times
    disk                 12 bytes a trained parameter a checkpoint, two and the best kept, and 4 for the model

H hidden size, I intermediate size. An estimate: kernels' workspace and the framework are not in it.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from alignkit.config_file import Resolved
from alignkit.errors import InputError
from alignkit.methods import Method
from alignkit.policy.load import autocast_type, pick_device
from alignkit.policy.logprobs import CHUNK_BYTES
from alignkit.policy.names import find_model
from alignkit.training.setup import ROW_CAPACITY


def plan(method: Method, resolved: Resolved) -> list[str]:
    """Return one line for each part and the sums.

    Raises:
        InputError: the model folder has no config.json or no safetensors.
    """
    folder = find_model(resolved.model.model).folder
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    parameters = count_parameters(folder)
    rank = resolved.model.lora_rank
    trained = parameters if rank is None else _lora_parameters(config, rank)
    has_copy = "reference" in method.needs and rank is None
    device = pick_device()
    size = 4 if autocast_type(resolved.model.precision, device) is None else 2
    hidden, inner, layers = (
        config["hidden_size"],
        config.get("intermediate_size", 4 * config["hidden_size"]),
        config["num_hidden_layers"],
    )
    memory = {
        "weights": 4 * parameters,
        "gradient": 4 * trained,
        "optimizer": 8 * trained,
        "reference": 4 * parameters if has_copy else 0,
        "activations": ROW_CAPACITY * layers * (10 * hidden + 4 * inner) * size,
        "head": 3 * CHUNK_BYTES,
    }
    disk = 3 * 12 * trained + 4 * parameters
    lines = [f"{name:<12} {_mib(count)}" for name, count in memory.items() if count]
    lines.append(f"{'memory':<12} {_mib(sum(memory.values()))} on {device.type}, for rows of {ROW_CAPACITY} tokens")
    lines.append(f"{'disk':<12} {_mib(disk)}")
    return lines


def count_parameters(folder: Path) -> int:
    """Count a folder's parameters from the headers of its safetensors files."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for dimension in tensor["shape"]:
                    count *= dimension
                total += count
    if not total:
        raise InputError(f"{folder}: no safetensors in this model folder")
    return total


def _lora_parameters(config: dict[str, Any], rank: int) -> int:
    """Adapters on the seven linear layers of a block, rank x (inputs + outputs) each."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or hidden // heads
    keys = config.get("num_key_value_heads", heads) * head_size
    widths = [(hidden, heads * head_size), (hidden, keys), (hidden, keys), (heads * head_size, hidden)]
    widths += [(hidden, inner), (hidden, inner), (inner, hidden)]
    return config["num_hidden_layers"] * sum(rank * (a + b) for a, b in widths)


def _mib(count: int) -> str:
    return f"{count / 2**20:>9,.0f} MiB"
