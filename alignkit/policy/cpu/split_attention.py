"""Tree attention on a CPU, segment by segment: a prompt sees itself, a completion its prompt and itself.

Forward is torch's kernel. Backward is written out, a block of queries at a time (P the weights, G the gradient of the
output, s the scale):

    S = s Q K^T     P = softmax(S)     dV = P^T G     dS = P (G V^T - rowsum(P G V^T))     dQ = s dS K     dK = s dS^T Q

S and P are formed in fp32, products of bf16 matrices as autocast forms them. bench/results/train_step.json is measured
with it: torch's kernel takes 1.4 to 2.8 times as long on 2 cores. Through autograd, a prompt's keys and values would be
saved once more for each completion, each mask in each layer, and the output in two layouts.
Shape letters: alignkit/policy/__init__.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from alignkit.data.trees.packs import Span
from alignkit.policy.cpu import activation_arena
from alignkit.policy.cpu.layers import compute_type

BLOCK = 256  # queries of a block; A x BLOCK x M numbers are held at a time


@dataclass(frozen=True)
class Segment:
    """A prompt or a completion: its [start, end) in the row, and its prompt's, empty where nothing is before it."""

    own: slice
    prompt: slice

    @property
    def size(self) -> int:
        return int(self.own.stop - self.own.start)

    @property
    def before(self) -> int:
        """Tokens that all of its own see."""
        return int(self.prompt.stop - self.prompt.start)

    def seen(self, x: Tensor) -> Tensor:
        """Keys or values that its last token sees, of the row's [1, K, S, D]."""
        own = x[:, :, self.own]
        return torch.cat([x[:, :, self.prompt], own], 2) if self.before else own


@dataclass(frozen=True)
class SegmentLayout:
    """A row of trees as segments, in the order they lie."""

    segments: Sequence[Segment]
    _masks: dict[Any, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, spans: Sequence[Span]) -> SegmentLayout:
        segments = []
        for span in spans:
            prompt = slice(span.start, span.prompt_end)
            segments += [Segment(prompt, slice(0, 0))] if span.prompt_end > span.start else []
            segments += [Segment(slice(*completion), prompt) for completion in span.completions]
        return cls(segments)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None = None
    ) -> Tensor:
        """Attend within trees in autocast's type, as attention.py's `TreeLayout` says."""
        return attend(query, key, value, self, scale, window=window, compute=compute_type(query))

    def mask(self, segment: Segment, dtype: torch.dtype, window: int | None = None) -> Tensor | None:
        """Return 0 where a segment's tokens see and -inf where not, [B, M]. It is made once for all layers.

        A segment with nothing before it, and no window shorter than itself, needs no mask: torch's kernel has a causal
        mode.
        """
        if window is not None and window >= segment.before + segment.size:
            window = None
        if not segment.before and window is None:
            return None
        key = segment.size, segment.before, dtype, window
        if key not in self._masks:
            mask = torch.full((segment.size, segment.before + segment.size), -torch.inf, dtype=dtype)
            mask.triu_(segment.before + 1)  # query i sees the prompt and the keys up to its own
            self._masks[key] = mask if window is None else mask + _beyond(mask, window)
        return self._masks[key]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SegmentLayout,
    scale: float | None,
    *,
    window: int | None = None,
    compute: torch.dtype | None = None,
) -> Tensor:
    """Attend within trees: query [1, A, S, D], key and value [1, K, S, D] -> [1, S, A, D].

    Args:
        scale: of the scores; default 1 / sqrt(D).
        window: how many positions a token sees, its own included; default all.
        compute: type of what is saved and of the result; default the query's.
    """
    apply: Any = _SplitAttention.apply
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return apply(query, key, value, layout, scale, window, compute or query.dtype, activation_arena.current())


class _SplitAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: SegmentLayout,
        scale: float,
        window: int | None,
        compute: torch.dtype,
        arena: activation_arena.Arena | None,
    ) -> Tensor:
        ctx.types = [x.dtype for x in (query, key, value)]
        query, key, value = (activation_arena.cast(arena, x, compute) for x in (query, key, value))
        attended = activation_arena.empty(arena, query.transpose(1, 2).shape, compute)
        for one in layout.segments:
            mask = layout.mask(one, query.dtype, window)
            out = scaled_dot_product_attention(
                query[:, :, one.own],
                one.seen(key),
                one.seen(value),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=True,
            )
            attended[:, one.own] = out.transpose(1, 2)
        ctx.save_for_backward(query, key, value)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        return attended

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        grad_query = torch.empty_like(query)  # each query is in one block, so its gradient is written once
        # A prompt's keys and values get a share from each block of each completion: many small terms, summed in fp32.
        grad_key, grad_value = (torch.zeros_like(x, dtype=_wide(x)) for x in (key, value))
        for one in ctx.layout.segments:
            for block, shares in _blocks(query, key, value, grads[0], one, ctx.scale, ctx.window):
                grad_query[:, :, block] = shares[0]
                seen = block.stop - one.own.start  # own keys that the block sees, after the prompt's
                for total, share in ((grad_key, shares[1]), (grad_value, shares[2])):
                    total[:, :, one.prompt] += share[:, : one.before]
                    total[:, :, one.own][:, :, :seen] += share[:, one.before :]
        # back to the types that came in, which autocast may have rounded from
        found = zip((grad_query, grad_key, grad_value), ctx.types, strict=True)
        return *(x.to(dtype) for x, dtype in found), None, None, None, None, None


def _blocks(
    query: Tensor, key: Tensor, value: Tensor, grad: Tensor, one: Segment, scale: float, window: int | None
) -> Iterator[tuple[slice, tuple[Tensor, Tensor, Tensor]]]:
    """Yield each block's queries, their gradient [A, B, D], and its share of the keys' and values' [K, M, D]."""
    _, heads, _, size = query.shape
    keys, values = one.seen(key)[0], one.seen(value)[0]
    wide_keys = keys.to(_wide(key)).mul(scale)  # s K, once for all blocks
    for start in range(one.own.start, one.own.stop, BLOCK):
        block = slice(start, min(start + BLOCK, one.own.stop))
        seen = one.before + block.stop - one.own.start
        grouped = (len(keys), -1, size)  # [K, A / K x B, D]: heads that share keys lie side by side, one product each
        own = query[0, :, block].reshape(grouped)
        own_grad = grad[0, block].transpose(0, 1).reshape(grouped)
        weights = _weights(own, wide_keys[:, :seen], block.stop - block.start, window)  # P, made again
        grad_values = weights.transpose(1, 2) @ own_grad  # dV = P^T G, already summed over the heads of a key head
        grad_weights = own_grad @ values[:, :seen].transpose(1, 2)  # dP = G V^T
        grad_scores = torch._softmax_backward_data(
            grad_weights, weights, -1, weights.dtype
        )  # dS = P (dP - rowsum(P dP))
        grad_query = (grad_scores @ keys[:, :seen]).mul_(scale)  # dQ = s dS K
        grad_keys = (grad_scores.transpose(1, 2) @ own).mul_(scale)  # dK = s dS^T Q
        yield block, (grad_query.view(heads, -1, size), grad_keys, grad_values)


def _weights(query: Tensor, wide_keys: Tensor, num_queries: int, window: int | None) -> Tensor:
    """softmax(S) of a block, whose queries are the last of the keys: [K, A / K x B, M], in the queries' type."""
    scores = query.to(wide_keys.dtype) @ wide_keys.transpose(1, 2)
    # Of the block's own B keys, which come last, a query sees those up to itself.
    later = torch.full((num_queries, num_queries), -torch.inf, dtype=scores.dtype).triu_(1)
    by_head = scores.unflatten(1, (-1, num_queries))
    by_head[..., -num_queries:] += later
    if window is not None and window < scores.shape[-1]:
        by_head += _beyond(by_head[0, 0], window)
    return scores.softmax(-1).to(query.dtype)


def _beyond(scores_BM: Tensor, window: int) -> Tensor:
    """-inf at the keys that lie outside of each query's window, else 0; the queries are the last B of the M keys."""
    num_queries, num_keys = scores_BM.shape
    # query i is key M - B + i, and sees keys above M - B + i - window
    return torch.full_like(scores_BM, -torch.inf).tril_(num_keys - num_queries - window)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
