"""Base weights in 4 bits under a LoRA adapter (QLoRA; Dettmers et al., 2023): NF4 with doubly quantized scales.

The linear layers hold 4 bits per weight and compute with the numbers those stand for, under autocast like any other
layer. Embeddings, head and norms stay fp32. The adapter is trained on *these* numbers, so an export merges it into them
and not into the folder's weights: the saved model is the one that was trained. This needs the extra `bitsandbytes`. It
was tried on a CPU; it is made for a GPU.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.errors import UsageError

BYTES_PER_WEIGHT = 0.516  # 4 bits, 8 bits for the scale of 64, and a share of the scales' own


def require(lora_rank: int | None) -> None:
    """Check that 4-bit base weights have what they need, before anything is loaded.

    Raises:
        UsageError: no adapter is trained, or bitsandbytes is not installed.
    """
    if lora_rank is None:
        raise UsageError("--quantize 4bit: 4-bit weights cannot be trained themselves; add --lora-rank 16")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "--quantize 4bit needs bitsandbytes, which is not installed: pip install 'alignkit[bitsandbytes]'; without "
            "it --lora-rank alone keeps fp32 base weights"
        )


def quantize(model: nn.Module, head: nn.Module | None, device: torch.device) -> None:
    """Put every linear layer but the head into 4 bits on the device, one after another."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child is head:
                continue
            narrow = Linear4bit(
                child.in_features,
                child.out_features,
                bias=child.bias is not None,
                quant_type="nf4",
                compute_dtype=torch.float32,
                device="meta",
            )
            narrow.weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
            narrow.bias = child.bias
            narrow = narrow.to(device)
            narrow.forward = functools.partial(_forward, narrow)
            setattr(parent, name, narrow)


def _forward(layer: Any, x: Tensor) -> Tensor:
    """Compute x W^T + b by a product of our own.

    bitsandbytes' CPU kernels have no backward pass once they were used without gradient.
    """
    kind = x.device.type
    compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    apply: Callable[..., Tensor] = _NarrowLinear.apply
    return apply(x.to(compute), layer)


class _NarrowLinear(torch.autograd.Function):
    """x W^T + b. W is frozen, and formed from its 4 bits in the forward pass and once more in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return nn.functional.linear(x, computed_weight(layer, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ computed_weight(ctx.layer, grad.dtype), None  # dx = dy W; a frozen W gets no gradient


def restore(model: nn.Module) -> None:
    """Turn every 4-bit layer back into a linear layer of the numbers that it computed with."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_narrow(child):
                weight = computed_weight(child)
                wide = nn.Linear(weight.shape[1], weight.shape[0], bias=child.bias is not None, device="meta")
                wide.weight, wide.bias = nn.Parameter(weight, requires_grad=False), child.bias  # type: ignore[assignment]
                setattr(parent, name, wide)


def is_narrow(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit"


def computed_weight(layer: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weight that a linear layer computes with [O, I]; one of 4 bits is formed in this type at once."""
    if not is_narrow(layer):
        weight: Tensor = layer.weight
        return weight
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(layer.weight.quant_state)
    state.dtype = dtype
    found: Tensor = dequantize_4bit(layer.weight.data, state)
    return found
