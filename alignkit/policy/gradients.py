"""Weight gradients added straight to `.grad`, without a tensor of the weight's size on the way.

For a head of 152k x 896 that tensor is 544 MB, and autograd makes one for each use of a tied weight and micro-batch.
Only inside `straight_into_grad` (a plain `backward()` in one process); elsewhere gradients go by autograd's own way, so
that `torch.autograd.grad`, hooks and FSDP2 see them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_is_straight = False


@contextlib.contextmanager
def straight_into_grad() -> Iterator[None]:
    """Let the layers of `lean` and the head add to `.grad` themselves while one process goes backward."""
    global _is_straight
    before, _is_straight = _is_straight, not (torch.distributed.is_available() and torch.distributed.is_initialized())
    try:
        yield
    finally:
        _is_straight = before


def is_straight() -> bool:
    return _is_straight


def give(parameter: Tensor, grad: Tensor) -> Tensor | None:
    """Add to `parameter.grad` and return None, or return the gradient for autograd to add."""
    if not _is_straight or not parameter.is_leaf:
        return grad.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = grad.to(parameter.dtype)
    else:
        parameter.grad.add_(grad)
    return None


def room(parameter: Tensor) -> Tensor | None:
    """Return `parameter.grad` to add to, zeros where there was none; None where autograd is to add."""
    if not _is_straight or not parameter.is_leaf:
        return None
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
