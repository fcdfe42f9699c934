"""What makes a decoding step cheap where memory is slow: nothing is copied that is only read.

A model of grouped queries (H query heads, K key heads, G = H / K) needs no copies of its keys for each query head: with
one new token per row, the G queries of a key head attend as if they were G positions. Keys and values lie in buffers
with room, so that a step writes one token instead of copying the whole past. B rows, T new tokens, L past and new
tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from alignkit.policy.policy import Policy

NAME = "alignkit-decode"
_ROOM = 32  # tokens a buffer grows by


class GrowingLayer(DynamicLayer):
    """Keys and values [B, K, L, D] as views of buffers that are written in place, in the values' type."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it without types
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, K, T, D] and return all."""
        # Under autocast a rotary embedding leaves keys fp32; attention would round all of them again for each token.
        key_states = key_states.to(value_states.dtype)
        past = self.get_seq_length()
        end = past + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            self._buffers = (_with_room(self.keys, key_states, end), _with_room(self.values, value_states, end))
        keys, values = self._buffers
        keys[:, :, past:end] = key_states
        values[:, :, past:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows; the next update moves them into new buffers."""
        super().batch_select_indices(indices)
        self._buffers = None


def make_cache(policy: Policy) -> DynamicCache:
    """An empty cache for the policy's model; layers of other kinds than full attention keep transformers' own."""
    cache = DynamicCache(config=policy.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    layer: Any
    for layer in cache.layers:
        if not hasattr(layer, "batch_select_indices"):  # a convolution's or a linear attention's state
            layer.batch_select_indices = layer.reorder_cache
    return cache


@contextmanager
def grouped_attention(policy: Policy) -> Iterator[None]:
    """Attend by `attend` for a while, where the model's attention is the plain one; else leave the model's own."""
    if policy.tree_refusal is not None:
        yield
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    with policy.attending_by(NAME):
        yield


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention, query [B, H, T, D], key and value [B, K, L, D] -> [B, T, H, D]."""
    rows, heads, new, size = query.shape
    key_heads = key.shape[1]
    if new == 1:
        # heads of one group adjoin, so that the new token's G queries become G positions of their key head
        grouped = query.reshape(rows, key_heads, heads // key_heads, size)
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
        return out.reshape(rows, 1, heads, size), None
    causal = attention_mask is None
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, is_causal=causal, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).contiguous(), None


def _with_room(old: Tensor | None, new: Tensor, end: int) -> Tensor:
    rows, heads, _, size = new.shape
    buffer = new.new_empty(rows, heads, end + _ROOM, size)
    if old is not None and old.numel():
        buffer[:, :, : old.shape[-2]] = old
    return buffer
