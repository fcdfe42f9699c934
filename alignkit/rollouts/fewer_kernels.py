"""A model's own layers with fewer kernels, for decoding: the same numbers, but for sums in another order.

Under autocast each of q, k and v, and each of gate and up, casts the same input again, and has a small product of its
own: here the input is cast once, and they are one product of their weights, one below the other, whose bf16 copies
stand in for autocast's. A norm is six kernels; torch has it as one. Of some 1,100 kernels of a step of Qwen2.5-0.5B
about 390 are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm

from alignkit.policy.cuda.layers import JOINED, CopyingLinear

_SAME = 1e-5  # relative L2 to the module's own output, fp32


@contextmanager
def fewer_kernels(body: nn.Module) -> Iterator[None]:
    """Let a decoder's linear layers and norms compute this way for a while, without gradient."""
    forward_of: dict[Any, Callable[..., Tensor]] = {}
    kinds: dict[type[nn.Module], bool] = {}
    casts = _Casts()
    for module in body.modules():
        for names in JOINED:
            parts = [getattr(module, name, None) for name in names]
            if _can_join(parts):
                joined = _Joined(parts, casts)
                forward_of |= {part: partial(joined.part, place) for place, part in enumerate(parts)}
        if module in forward_of or "forward" in vars(module):
            continue
        if type(module) is nn.Linear:
            forward_of[module] = partial(casts.linear, module)
        elif type(module).__name__.endswith("RMSNorm"):
            norm = partial(_norm, module, type(module).forward)
            if type(module) not in kinds:
                kinds[type(module)] = _is_same(module, norm)
            if kinds[type(module)]:
                forward_of[module] = norm
    for module, forward in forward_of.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forward_of:
            del module.forward


class _Casts:
    """Keeps the last tensor that a linear layer was given, and its copy in autocast's type."""

    def __init__(self) -> None:
        self._given: Tensor | None = None
        self._cast: Tensor | None = None

    def cast(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if x.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
            return x
        if self._given is not x or self._cast is None:
            self._given, self._cast = x, x.to(torch.get_autocast_dtype(kind))
        return self._cast

    def linear(self, module: nn.Linear, x: Tensor) -> Tensor:
        return linear(self.cast(x), module.weight, module.bias)


class _Joined:
    """Linear layers that read the same tensor, as one product; the last of them to ask frees it."""

    def __init__(self, parts: Sequence[Any], casts: _Casts) -> None:
        narrow = torch.get_autocast_dtype(parts[0].weight.device.type)
        self._weight = torch.cat([part.weight.detach().to(narrow) for part in parts])
        self._bias = None if parts[0].bias is None else torch.cat([part.bias.detach().to(narrow) for part in parts])
        self._sizes = [part.out_features for part in parts]
        self._casts = casts
        self._given: Tensor | None = None
        self._made: dict[int, Tensor] = {}

    def part(self, place: int, x: Tensor) -> Tensor:
        """Return the output of one of the layers."""
        if self._given is not x or place not in self._made:
            self._given = x
            made = linear(self._casts.cast(x), self._weight, self._bias).split(self._sizes, -1)
            self._made = dict(enumerate(made))
        out = self._made.pop(place)
        if not self._made:
            self._given = None
        return out


def _can_join(parts: Sequence[Any]) -> bool:
    """Whether they are plain layers in fp32, whose weights autocast would copy."""
    if not all(type(part) in (nn.Linear, CopyingLinear) and "forward" not in vars(part) for part in parts):
        return False
    same = {(part.in_features, part.bias is None) for part in parts}
    kind = parts[0].weight.device.type
    return len(same) == 1 and torch.is_autocast_enabled(kind) and {p.weight.dtype for p in parts} == {torch.float32}


def _norm(module: Any, own: Callable[..., Tensor], x: Tensor) -> Tensor:
    """x / rms(x) * weight, where both have one type; a norm of queries or keys gets bf16 and stays as it is."""
    if x.dtype != module.weight.dtype:
        return own(module, x)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))
    return rms_norm(x, module.weight.shape, module.weight, eps)


def _is_same(module: Any, forward: Callable[[Tensor], Tensor]) -> bool:
    """Whether it gives what the module gives, on random numbers: some norms multiply by 1 + weight."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 1 or weight.dtype != torch.float32:
        return False
    x = 3 * torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        own, ours = module(x), forward(x)
    return own.shape == ours.shape and bool((own - ours).norm() <= _SAME * own.norm())
