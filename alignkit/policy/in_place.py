"""Gradients that are added to `.grad` by who computes them, in place of autograd."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_in_place = False


@contextlib.contextmanager
def accumulate_in_place() -> Iterator[None]:
    """Let the head and the layers of policy/cpu add to `.grad` themselves in a plain `backward()` of one rank.

    For a head of 152k x 896 a weight gradient is 544 MB, and autograd makes one for each use of a tied weight and each
    micro-batch. Elsewhere gradients go by autograd's own way, so that `torch.autograd.grad`, hooks and FSDP2 see them.
    A process group of one, as vLLM makes in the process, shards nothing.
    """
    global _in_place
    group = torch.distributed
    is_shared = group.is_available() and group.is_initialized() and group.get_world_size() > 1
    before, _in_place = _in_place, not is_shared
    try:
        yield
    finally:
        _in_place = before


def accumulate_grad(parameter: Tensor, grad: Tensor) -> Tensor | None:
    """Add to `parameter.grad` and return None, or return the gradient for autograd to add."""
    if not _in_place or not parameter.is_leaf:
        return grad.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = grad.to(parameter.dtype)
    else:
        parameter.grad.add_(grad)
    return None


def grad_buffer(parameter: Tensor) -> Tensor | None:
    """Return `parameter.grad` to add to, zeros where there was none; None where autograd is to add."""
    if not _in_place or not parameter.is_leaf:
        return None
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
