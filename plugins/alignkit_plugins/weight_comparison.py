"""Whether an engine's tensors are the policy's, bit by bit, after each renewal.

Log-probs of samples say so too, but in bf16 rounding hides an update that did not arrive. So some tensors are compared
themselves, in the engine's type: those of two layers, the last and another one each time, and those outside the layers.

An engine may keep a tensor in another form: transposed, or packed for a CPU. What differs after the first renewal is
left out from then on; whether that renewal arrived, the log-probs say. vLLM puts the projections of queries, keys and
values into one tensor, and a gate and its values too: here they are put together in the same order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from alignkit.plugin import Policy

_FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj"}
_FUSED["up_proj"] = "gate_up_proj"

_PADDED = 64  # rows

Same = Callable[[str, Sequence["Tensor"]], "bool | None"]
"""Is an engine's tensor of this name made of these, one below the other? None: it has none that could be."""


class WeightComparison:
    """Compares an engine's tensors with the policy's; one for each engine."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._count = 0
        self._comparable: set[str] = set()
        self._num_layers = 0

    def differing(self, same: Same) -> list[str]:
        """Return the engine's names of tensors that are not the policy's; call it after every renewal."""
        first, self._count = self._count == 0, self._count + 1
        differing = []
        for name, parts in self._tensors(None if first else {self._count % self._num_layers, self._num_layers - 1}):
            if not first and name not in self._comparable:
                continue
            found = same(name, parts)
            if first and found:
                self._comparable.add(name)
            elif not first and not found:
                differing.append(name)
        return differing

    def _tensors(self, layers: set[int] | None) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield the tensors of some layers (None: all) and outside the layers by the engine's names."""
        parts: dict[str, list[Tensor]] = {}
        before: int | None = None
        for name, tensor in self._policy.merged_weights(lambda name: layers is None or _layer(name) in {None, *layers}):
            layer = _layer(name)
            if layer != before:  # a layer at a time: merged weights of all would be a second model
                yield from parts.items()
                parts, before = {}, layer
            self._num_layers = max(self._num_layers, 1 if layer is None else layer + 1)
            parts.setdefault(engine_name(name), []).append(tensor.detach())
        yield from parts.items()


def engine_name(name: str) -> str:
    """Return vLLM's name of the tensor that has this one of the checkpoint's in it."""
    return ".".join(_FUSED.get(part, part) for part in name.split("."))


def is_made_of(whole: Tensor, parts: Iterable[Tensor]) -> bool | None:
    """Compare a tensor of an engine in the process; behind its parts it may have rows of padding."""
    import torch

    at = 0
    for part in parts:
        own = whole[at : at + len(part)]
        if own.shape != part.shape:
            return None
        if not torch.equal(own, part.to(own)):
            return False
        at += len(part)
    return True


def has_digest(digest: str, parts: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Compare a SHA-256 of a server's tensor; vLLM pads a vocabulary with zeros to a multiple of 64 rows."""
    import torch

    found = hashlib.sha256()
    for part in parts:
        found.update(_bytes(part.to(dtype)))
    padding = -len(parts[0]) % _PADDED if len(parts) == 1 else 0
    padded = found.copy()
    padded.update(_bytes(torch.zeros(padding, *parts[0].shape[1:], dtype=dtype)))
    return digest in (found.hexdigest(), padded.hexdigest())


def _bytes(tensor: Tensor) -> Any:
    import torch

    return tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _layer(name: str) -> int | None:
    found = re.search(r"\.(\d+)\.", name)
    return None if found is None else int(found[1])
