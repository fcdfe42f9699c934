"""Tree attention on a CPU, segment by segment: a prompt sees itself, a completion its prompt and itself.

Forward is torch's kernel. Backward is written out, a block of queries at a time (P the weights, G the gradient of the
output, s the scale):

    S = s Q K^T     P = softmax(S)     dV = P^T G     dS = P (G V^T - rowsum(P G V^T))     dQ = s dS K     dK = s dS^T Q

S and P are formed in fp32, products of bf16 matrices as autocast forms them. bench/results/train_step.json is measured
with it: torch's kernel takes 1.4 to 2.8 times as long on 2 cores, and through autograd a prompt's keys and values would
be kept once more for each completion, each mask in each layer, and the output in two layouts.
Shapes: H query heads, K key heads, S tokens of the row, D head size, n queries of a block, M keys that they see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from alignkit.data.trees.packs import Span
from alignkit.policy.cpu import activation_arena as kept

BLOCK = 256  # queries of a block: what is held of it is H x BLOCK x M numbers


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
class Split:
    """A row of trees as segments, in the order they lie."""

    segments: Sequence[Segment]
    _masks: dict[Any, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Split:
        segments = []
        for span in spans:
            prompt = slice(span.start, span.prompt_end)
            segments += [Segment(prompt, slice(0, 0))] if span.prompt_end > span.start else []
            segments += [Segment(slice(*completion), prompt) for completion in span.completions]
        return cls(segments)

    def mask(self, segment: Segment, dtype: torch.dtype) -> Tensor | None:
        """Return 0 where a completion's tokens see and -inf where not, [n, M]; made once for all layers."""
        if not segment.before:
            return None
        key = segment.size, segment.before, dtype
        if key not in self._masks:
            mask = torch.full((segment.size, segment.before + segment.size), -torch.inf, dtype=dtype)
            self._masks[key] = mask.triu_(segment.before + 1)
        return self._masks[key]


def attend(
    query: Tensor, key: Tensor, value: Tensor, split: Split, scale: float | None, *, compute: torch.dtype | None = None
) -> Tensor:
    """Attend within trees: query [1, H, S, D], key and value [1, K, S, D] -> [1, S, H, D].

    Args:
        scale: of the scores; default 1 / sqrt(D).
        compute: type of what is kept and of the result; default the query's.
    """
    apply: Any = _Attention.apply
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return apply(query, key, value, split, scale, compute or query.dtype, kept.current())


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        split: Split,
        scale: float,
        compute: torch.dtype,
        chunks: kept.Chunks | None,
    ) -> Tensor:
        ctx.types = [x.dtype for x in (query, key, value)]
        query, key, value = (kept.moved(chunks, x, compute) for x in (query, key, value))
        attended = kept.empty(chunks, query.transpose(1, 2).shape, compute)
        for one in split.segments:
            mask = split.mask(one, query.dtype)
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
        ctx.split, ctx.scale = split, scale
        return attended

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        # many blocks' shares of a key's and a value's gradient are summed in fp32
        grad_key, grad_value = (torch.zeros_like(x, dtype=_wide(x)) for x in (key, value))
        for one in ctx.split.segments:
            for block, shares in _blocks(query, key, value, grads[0], one, ctx.scale):
                grad_query[:, :, block] = shares[0]
                seen = block.stop - one.own.start
                for total, share in ((grad_key, shares[1]), (grad_value, shares[2])):
                    total[:, :, one.prompt] += share[:, : one.before]
                    total[:, :, one.own][:, :, :seen] += share[:, one.before :]
        found = zip((grad_query, grad_key, grad_value), ctx.types, strict=True)
        return *(x.to(dtype) for x, dtype in found), None, None, None, None


def _blocks(
    query: Tensor, key: Tensor, value: Tensor, grad: Tensor, one: Segment, scale: float
) -> Iterator[tuple[slice, tuple[Tensor, Tensor, Tensor]]]:
    """Yield each block's queries, their gradient [H, n, D], and its share of the keys' and values' [K, M, D]."""
    _, heads, _, size = query.shape
    keys, values = one.seen(key)[0], one.seen(value)[0]
    wide_keys = keys.to(_wide(key)).mul(scale)
    for start in range(one.own.start, one.own.stop, BLOCK):
        block = slice(start, min(start + BLOCK, one.own.stop))
        seen = one.before + block.stop - one.own.start
        grouped = (len(keys), -1, size)  # the heads that share keys stand one after another: one product for them
        own = query[0, :, block].reshape(grouped)
        own_grad = grad[0, block].transpose(0, 1).reshape(grouped)
        weights = _weights(own, wide_keys[:, :seen], num_queries=block.stop - block.start)
        of_values = weights.transpose(1, 2) @ own_grad
        of_scores = own_grad @ values[:, :seen].transpose(1, 2)
        of_scores = torch._softmax_backward_data(of_scores, weights, -1, weights.dtype)
        of_query = (of_scores @ keys[:, :seen]).mul_(scale)
        of_keys = (of_scores.transpose(1, 2) @ own).mul_(scale)
        yield block, (of_query.view(heads, -1, size), of_keys, of_values)


def _weights(query: Tensor, wide_keys: Tensor, *, num_queries: int) -> Tensor:
    """softmax(S) of a block, whose queries are the last of the keys: [K, H / K x n, M], in the queries' type."""
    scores = query.to(wide_keys.dtype) @ wide_keys.transpose(1, 2)
    later = torch.full((num_queries, num_queries), -torch.inf, dtype=scores.dtype).triu_(1)
    scores.unflatten(1, (-1, num_queries))[..., -num_queries:] += later
    return scores.softmax(-1).to(query.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
