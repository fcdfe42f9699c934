"""Tree attention: a prompt computed once for all its completions, in an unforked transformers model.

A completion sees its prompt and itself; trees of one row do not see each other. Registered with transformers'
`AttentionInterface` under a name that has no mask function, so that the model passes no mask and the layout travels
as the keyword argument `tree`.

CPU: two kinds of scaled-dot-product calls, prompt (causal) and completion over [prompt; completion]. CUDA:
FlexAttention with one block mask a forward pass. The stock kernels build a wrong mask for trees from position ids.
Shapes: B = 1, H query heads, K key heads, S tokens of the row, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from alignkit.data.packs import Span

NAME = "alignkit-tree"


@dataclass(frozen=True)
class TreeLayout:
    """Where the trees of a row lie; `block_mask` is FlexAttention's, on CUDA only."""

    spans: Sequence[Span]
    block_mask: Any = None


def layout(spans: Sequence[Span], device: torch.device) -> TreeLayout:
    """Describe a row of trees for the attention function of this device."""
    return TreeLayout(spans, _block_mask(spans, device) if device.type == "cuda" else None)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within trees: query [1, H, S, D], key and value [1, K, S, D] -> [1, S, H, D]."""
    if tree is None:
        raise ValueError("tree attention was called without the keyword argument tree")
    if attention_mask is not None or dropout:
        raise ValueError("tree attention takes no attention mask and no dropout")
    if tree.block_mask is not None:
        attended = _compiled_flex()(query, key, value, block_mask=tree.block_mask, scale=scaling, enable_gqa=True)
    else:
        attended = _split_attention(query, key, value, tree.spans, scaling)
    return attended.transpose(1, 2).contiguous(), None


def _split_attention(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scale: float | None) -> Tensor:
    """Attend segment by segment.

    Rows are split once rather than sliced: a slice's gradient is as long as the whole row.
    """
    sizes = [end - start for span in spans for start, end in ((span.start, span.prompt_end), *span.completions)]
    parts = zip(*(x.split(sizes, 2) for x in (query, key, value)), strict=True)
    pieces = []
    for span in spans:
        query_part, prompt_key, prompt_value = next(parts)
        if span.prompt_end > span.start:
            pieces.append(_causal(query_part, prompt_key, prompt_value, scale))
        for _ in span.completions:
            query_part, own_key, own_value = next(parts)
            if span.prompt_end == span.start:
                pieces.append(_causal(query_part, own_key, own_value, scale))
            else:
                keys, values = torch.cat([prompt_key, own_key], 2), torch.cat([prompt_value, own_value], 2)
                pieces.append(_after_prompt(query_part, keys, values, scale))
    return torch.cat(pieces, 2)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)


def _after_prompt(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attend from a completion to its prompt and, causally, to itself: the keys' last tokens are the queries'."""
    num_own, num_seen = query.shape[2], key.shape[2]
    seen = torch.ones(num_own, num_seen, dtype=torch.bool, device=query.device).tril(num_seen - num_own)
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=True)


def marks(spans: Sequence[Span]) -> tuple[Tensor, Tensor]:
    """Number the tree and the segment (0 = prompt) of each token: int32 [S], int32 [S]."""
    trees: list[Tensor] = []
    segments: list[Tensor] = []
    for number, span in enumerate(spans):
        sizes = [span.prompt_end - span.start, *(end - start for start, end in span.completions)]
        trees.append(torch.full((sum(sizes),), number, dtype=torch.int32))
        segments.extend(torch.full((size,), segment, dtype=torch.int32) for segment, size in enumerate(sizes))
    return torch.cat(trees), torch.cat(segments)


def sees(tree_S: Tensor, segment_S: Tensor) -> Any:
    """FlexAttention's mask function: same tree, not later, and the key in the prompt or in the query's completion."""

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_tree = tree_S[query] == tree_S[key]
        on_path = (segment_S[key] == 0) | (segment_S[key] == segment_S[query])
        return (query >= key) & same_tree & on_path

    return mask


def _block_mask(spans: Sequence[Span], device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    tree_S, segment_S = (x.to(device) for x in marks(spans))
    size = len(tree_S)
    return create_block_mask(sees(tree_S, segment_S), None, None, size, size, device=str(device))


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def register() -> None:
    """Make `tree_attention` known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)


def supports_trees(config: Any) -> str | None:
    """Say why a model's configuration rules tree attention out, or None where it can be used.

    The plain path then serves; so it does when the start-up check finds a difference.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"layers of kind {', '.join(sorted(kinds - {'full_attention'}))}"
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        return f"a sliding window of {text.sliding_window} tokens"
    if getattr(text, "attention_dropout", 0.0):
        return f"attention dropout {text.attention_dropout}"
    if getattr(text, "attn_logit_softcapping", None):
        return "soft-capped attention"
    return None
