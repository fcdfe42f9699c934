"""What a model is, from config.json and its class alone: its sizes, whatever their names, and what rules it out.

The class is made without weights, so a run refuses what it cannot train before any data are prepared. Sizes are read by
transformers' own common names (`attribute_map` leads `n_embd` to `hidden_size`), widths of layers from the layers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from alignkit.errors import InputError
from alignkit.policy.head import UnknownHeadError, find_form
from alignkit.pretrained.read import empty_model, named_context, quieten, read_config
from alignkit.pretrained.weights import check_weights, weight_files

_STATES_TRAINED = {"linear_attention", "full_attention"}  # the plain path and batched.py compute both
_NAMED = {"hidden_size": "hidden size", "num_hidden_layers": "number of layers", "num_attention_heads": "heads"}


@dataclass(frozen=True)
class Architecture:
    """Sizes of a causal model, or of one with a scalar head.

    Args:
        model_type: as transformers names it.
        vocab: rows of the embedding.
        hidden, layers, inner: hidden size, number of layers, and the widest input of a layer's matrices.
        query_width, key_width: queries of a token in a layer, and keys.
        context: positions that the model was made for; None where it names none.
        positions: the most it can have, where positions are rows of a table; else None.
        matrices: (inputs, outputs) of each matrix of the layers, which an adapter is put on.
        num_narrow: how many of their weights `--quantize 4bit` holds in 4 bits.
    """

    model_type: str
    vocab: int
    hidden: int
    layers: int
    inner: int
    query_width: int
    key_width: int
    context: int | None
    positions: int | None
    matrices: tuple[tuple[int, int], ...]
    num_narrow: int


def read_architecture(folder: Path, *, scalar_head: bool = False) -> Architecture:
    """Examine a model folder.

    Raises:
        InputError: config.json is damaged, or of a model that cannot be trained; the text names its type and the cause.
    """
    try:
        content = (folder / "config.json").read_bytes()
    except OSError as error:
        raise InputError(f"{folder}: no readable config.json ({error.strerror})") from error
    return _examined(folder, content, scalar_head)


def tensor_sizes(folder: Path) -> list[int]:
    """Return how many numbers each tensor of a model's weights has, from the files' headers.

    Raises:
        InputError: as `check_weights`.
    """
    check_weights(folder)
    return [math.prod(shape) for file in weight_files(folder).values() for shape in _shapes(file)]


def refusal(config: Any) -> str | None:
    """Return why a model of this configuration cannot be trained, or None."""
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        return "it has an encoder, which is not computed"
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts")):
        return "a mixture of experts; its balance loss is not computed"
    for name, rate in text.to_dict().items():
        if "drop" in name and isinstance(rate, int | float) and not 0 <= rate < 1:
            return f"its config.json gives {name} {rate}, which is no probability below 1"
    return None


def num_positions(model: Any) -> int | None:
    """Return how many positions a model has where they are rows of a learned table, as GPT-2's; else None."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings())
    rows = {table.num_embeddings for table in tables}
    return context if context and rows & {context, context + 2} else None  # OPT has two rows more


def cache_argument(model: Any) -> str | None:
    """Return what a model's `forward` calls the keys and values of earlier tokens; None where it takes none."""
    known = inspect.signature(type(model).forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in known), None)  # transformers 5.24 renamed it


def head_size(text: Any) -> int:
    """Return the numbers of one attention head."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def key_width(text: Any) -> int:
    """Return how many numbers a token's keys are in a layer, from the configuration of a language model."""
    return int((getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_size(text))


@lru_cache(maxsize=64)
def _examined(folder: Path, content: bytes, scalar_head: bool) -> Architecture:
    quieten()
    config = read_config(folder, **({"num_labels": 1} if scalar_head else {}))
    text = config.get_text_config()
    hidden, num_layers, heads = (_size(folder, config, name) for name in _NAMED)
    num_tensors = len(tensor_sizes(folder)) if any(folder.glob("*.safetensors")) else 0
    if num_layers > num_tensors > 0:
        raise _refused(
            folder, config, f"its config.json names {num_layers} layers, and its weights have {num_tensors} tensors"
        )
    if (reason := refusal(config)) is not None:
        raise _refused(folder, config, reason)
    model = _empty(folder, config, scalar_head)
    if getattr(model, "_is_stateful", False) and set(getattr(text, "layer_types", None) or []) != _STATES_TRAINED:
        raise _refused(folder, config, "it keeps a state besides keys and values, which is not computed")
    if not scalar_head and cache_argument(model) is None:
        raise _refused(folder, config, "it keeps no keys and values, so nothing can be sampled from it")
    if any(name.rpartition(".")[2] == "experts" for name, _ in model.named_modules()):
        raise _refused(folder, config, "a mixture of experts; its balance loss is not computed")
    if not scalar_head:
        try:
            find_form(model)
        except UnknownHeadError as error:
            raise _refused(folder, config, str(error)) from error
    head = model.get_output_embeddings()
    outside = {id(head), id(getattr(model, "score", None))}
    matrices: list[Any] = [m for m in model.modules() if _is_matrix(m) and id(m) not in outside]
    linear = [m for m in matrices if isinstance(m, nn.Linear)]
    shapes = [m.weight.shape[::-1] if isinstance(m, nn.Linear) else m.weight.shape for m in matrices]
    return Architecture(
        model_type=config.model_type,
        vocab=model.get_input_embeddings().weight.shape[0],
        hidden=hidden,
        layers=num_layers,
        inner=max((int(shape[0]) for shape in shapes), default=hidden),
        query_width=heads * head_size(text),
        key_width=key_width(text),
        context=named_context(folder, config),
        positions=num_positions(model),
        matrices=tuple((int(a), int(b)) for a, b in shapes),
        num_narrow=sum(m.weight.numel() for m in linear),
    )


def _is_matrix(module: nn.Module) -> bool:
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"  # GPT-2's, stored transposed


def _size(folder: Path, config: Any, name: str) -> int:
    size = getattr(config.get_text_config(), name, None)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise _refused(folder, config, f"its config.json gives no usable {_NAMED[name]} ({name}: {size!r})")
    return size


def _empty(folder: Path, config: Any, scalar_head: bool) -> Any:
    """Make the model without weights."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForSequenceClassification if scalar_head else AutoModelForCausalLM
    if type(config) not in kind._model_mapping:
        known = "classifier, which a reward model is," if scalar_head else "causal language model"
        raise _refused(folder, config, f"transformers has no {known} of it")
    return empty_model(kind, folder, config=config)


def _refused(folder: Path, config: Any, reason: str) -> InputError:
    return InputError(f"{folder}: a model of type {config.model_type} cannot be trained: {reason}")


def _shapes(file: Path) -> Iterator[list[int]]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        for name in opened.keys():  # noqa: SIM118  # no mapping
            yield opened.get_slice(name).get_shape()
