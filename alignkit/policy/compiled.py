"""The decoder layers as one compiled function (torch.compile), which all of a policy's layers share.

It computes the tree path in the run's own precision. All else computes by the layers as they are: the plain path,
which the start-up checks compare with, and with it generation, whose key cache changes from token to token; and the
checks in fp32. Otherwise their graphs would fill dynamo's entries, and the graph that trains would not be compiled.

A row has any length: `dynamic=True` makes one graph for all. One more is made for each of: with and without gradient,
training and evaluation mode, a frozen reference's weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

MIN_TOKENS = 129  # of a row: FlexAttention computes up to 128 by other kernels, in a graph of their own
_MOST_GRAPHS = 24  # of one kind of layer; dynamo's own limit of 8 is below what two policies and a window need


class CompiledLayers:
    """The compiled forward of each decoder layer of a body.

    Args:
        backend: torch.compile's.
    """

    def __init__(self, body: nn.Module, *, backend: str = "inductor") -> None:
        import torch._dynamo.config as limits

        limits.recompile_limit = max(limits.recompile_limit, _MOST_GRAPHS)
        layers = decoder_layers(body)
        compiled: dict[type[nn.Module], Callable[..., Any]] = {
            cls: torch.compile(cls.forward, dynamic=True, backend=backend) for cls in {type(layer) for layer in layers}
        }
        self._forward_of = [(layer, functools.partial(compiled[type(layer)], layer)) for layer in layers]

    def switch(self, on: bool) -> None:
        """Let the layers compute by the compiled function, or by their own again."""
        for layer, forward in self._forward_of:
            layer.__dict__.pop("forward", None)
            if on:
                layer.forward = forward


def decoder_layers(body: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of a body: its longest list of modules."""
    lists = [module for module in body.children() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
