"""A policy's weights under the names of its checkpoint format, LoRA adapters merged out of place."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from alignkit.policy.four_bits import numbers
from alignkit.policy.policy import Policy


def merged_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the model; an adapted one as W + scaling B A, the policy itself is left alone.

    Merging in place and taking it back would round the frozen weights. A tied head is named like the rest.
    """
    base = policy.base
    for name, tensor in base.state_dict().items():
        if ".lora_" in name:
            continue
        owner, _, kind = name.rpartition(".base_layer.")
        if not owner:
            yield name, tensor
        elif kind == "weight":
            layer = base.get_submodule(owner)
            deltas = [layer.get_delta_weight(adapter) for adapter in layer.active_adapters]
            yield f"{owner}.{kind}", (numbers(layer.base_layer) + sum(deltas)).detach()
        elif not kind.startswith("weight."):  # a 4-bit weight's scales
            yield f"{owner}.{kind}", tensor
