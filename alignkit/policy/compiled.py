"""The decoder layers as one compiled function (torch.compile), which all of a policy's layers share.

It computes the tree path in the run's own precision. All else computes by the layers as they are: the plain path,
which the start-up checks compare with, and with it generation, whose key cache changes from token to token; and the
checks in fp32. Otherwise their graphs would fill dynamo's entries, and the graph that trains would not be compiled.

A row has any length: `dynamic=True` makes one graph for all. One more is made for each of: with and without gradient,
training and evaluation mode, a frozen reference's weights.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

MIN_TOKENS = 129  # of a row: FlexAttention computes up to 128 by other kernels, in a graph of their own
_TOGETHER = 2**24  # numbers of gradients that are added at once
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
        self._earlier: dict[Tensor, Tensor] = {}
        self._came: list[Tensor] = []
        for layer in layers:
            for parameter in layer.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(self._take)

    def switch(self, on: bool) -> None:
        """Let the layers compute by the compiled function, or by their own again."""
        for layer, forward in self._forward_of:
            layer.__dict__.pop("forward", None)
            if on:
                layer.forward = forward

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """Add the layers' gradients to those of earlier micro-batches in few launches; autograd takes one for each.

        What was added up so far is put aside, so that autograd keeps each new gradient as it comes; the numbers are the
        same. At most `_TOGETHER` numbers and one tensor wait.
        """
        parameters = (parameter for layer, _ in self._forward_of for parameter in layer.parameters())
        self._earlier = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
        for parameter in self._earlier:
            parameter.grad = None
        try:
            yield
        finally:
            self._add()
            for parameter, total in self._earlier.items():
                parameter.grad = total
            self._earlier = {}

    def _take(self, parameter: Tensor) -> None:
        if parameter in self._earlier:
            self._came.append(parameter)
            if sum(x.numel() for x in self._came) >= _TOGETHER:
                self._add()

    def _add(self) -> None:
        if self._came:
            totals = [self._earlier[parameter] for parameter in self._came]
            torch._foreach_add_(totals, [parameter.grad for parameter in self._came if parameter.grad is not None])
        for parameter in self._came:
            parameter.grad = None
        self._came = []


def decoder_layers(body: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of a body: its longest list of modules."""
    lists = [module for module in body.children() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
