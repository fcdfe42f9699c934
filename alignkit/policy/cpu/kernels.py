"""The one entry to what a policy computes with on a CPU, in place of torch's layers, attention and heap."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import nn

from alignkit.data.trees.packs import Span
from alignkit.policy.cpu import activation_arena, layers
from alignkit.policy.cpu.split_attention import SegmentLayout


class CpuKernels:
    """Layers, tree attention and memory of one policy on a CPU.

    Args:
        body: the decoder, whose layers are replaced while they are switched on.
    """

    def __init__(self, body: nn.Module) -> None:
        self._layers = layers.find(body)

    def switch(self, on: bool) -> None:
        """Let the decoder compute by the layers of layers.py, or by its own again."""
        layers.switch(self._layers, on)

    def layout(self, spans: Sequence[Span]) -> SegmentLayout:
        """Describe a row of trees for split_attention.py."""
        return SegmentLayout.of(spans)

    def activation_memory(self) -> AbstractContextManager[object]:
        """Memory for what forward passes inside save; it goes back to the system at the end of the block."""
        return activation_arena.use_arena()
