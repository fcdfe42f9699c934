"""Tree attention: a prompt computed once for all its completions, in an unforked transformers model.

A completion sees its prompt and itself; trees of one row do not see each other. A layer with a sliding window of w
tokens sees the w positions that end at the query's own: position ids give the distance, not places in the row. The
function is registered with transformers' `AttentionInterface` under a name that has no mask function. So the model
passes no mask, and the layout travels as the keyword argument `tree`; a layer gives its window as `sliding_window`.

Here FlexAttention computes it, with one block mask per forward pass. On a CPU the policy gives a layout of policy/cpu,
and in bf16 on a GPU one of policy/cuda/flash_trees.py.
The stock kernels build a wrong mask for trees from position ids.
Shape letters: alignkit/policy/__init__.py; the batch is 1, a row of trees.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from alignkit.data.trees.packs import Span
from alignkit.policy.dropout import config_rates
from alignkit.policy.transfer import to_device

NAME = "alignkit-tree"
BLOCK = 128  # queries and keys of a block of FlexAttention's mask
_SLIDING = "sliding_attention"  # transformers' name in `layer_types`


class TreeLayout(Protocol):
    """Where the trees of a row lie, and how a device attends within them."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None = None
    ) -> Tensor:
        """Attend within trees: query [1, A, S, D], key and value [1, K, S, D] -> [1, S, A, D].

        Args:
            scale: of the scores; default 1 / sqrt(D).
            window: how many positions a token sees, its own included; default all.
        """


@dataclass(frozen=True)
class FlexLayout:
    """A row of trees as FlexAttention's block masks, one for each window."""

    masks: Mapping[int | None, Any]

    @classmethod
    def of(
        cls, spans: Sequence[Span], device: torch.device, windows: Collection[int | None] = frozenset({None})
    ) -> FlexLayout:
        """Make the masks of a row that is not moved with others."""
        (tensors,) = to_device([{"mask": mask_array(spans, windows)}], device)
        return cls.made(tensors["mask"], spans[-1].end, windows)

    @classmethod
    def made(cls, mask: Tensor, size: int, windows: Collection[int | None]) -> FlexLayout:
        """Make the masks, once for all layers of a forward pass, without an S x S matrix.

        Args:
            mask: `mask_array`, on the device.
            size: S, tokens of the row.
        """
        from torch.nn.attention.flex_attention import BlockMask

        blocks = -(-size // BLOCK)
        shapes = [(size,)] * 3 + ([(1, 1, blocks)] * 4 + [(1, 1, blocks, blocks)] * 4) * len(windows)
        # Tensors of their own, by one kernel: a view's place in its memory is a guard of compiled code.
        own = [mask.new_empty(shape) for shape in shapes]
        torch.split_with_sizes_copy(mask, [x.numel() for x in own], out=[x.view(-1) for x in own])
        lists = iter(own[3:])
        masks = {}
        for window in windows:
            counts, indices = ([next(lists) for _ in range(4)] for _ in range(2))
            masks[window] = BlockMask(
                (size, size),
                *(counts[0], indices[0], counts[1], indices[1]),
                *(counts[2], indices[2], counts[3], indices[3]),
                BLOCK_SIZE=(BLOCK, BLOCK),
                mask_mod=sees(own[0], own[1], own[2], window),
            )
        return cls(masks)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None = None
    ) -> Tensor:
        attended = _flex()(query, key, value, block_mask=self.masks[window], scale=scale, enable_gqa=True)
        return attended.transpose(1, 2).contiguous()


@dataclass(frozen=True)
class DenseLayout:
    """A row of trees as one S x S mask for each window: for a few short rows that no kernel is compiled for."""

    masks: Mapping[int | None, Tensor]

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device, windows: Collection[int | None]) -> DenseLayout:
        """Make the masks."""
        tree_S, segment_S, position_S = (torch.from_numpy(x).to(device) for x in marks(spans))
        place = torch.arange(len(tree_S), device=device)
        functions = {window: sees(tree_S, segment_S, position_S, window) for window in windows}
        return cls({window: mask(place, place, place[:, None], place) for window, mask in functions.items()})

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None = None
    ) -> Tensor:
        mask = self.masks[window]
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)
        return attended.transpose(1, 2).contiguous()


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeLayout | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within trees, as transformers calls an attention function: query [1, A, S, D] -> [1, S, A, D]."""
    if tree is None:
        raise ValueError("tree attention was called without the keyword argument tree")
    if attention_mask is not None or dropout:
        raise ValueError("tree attention takes no attention mask and no dropout")
    return tree.attend(query, key, value, scaling, sliding_window), None


def mask_array(spans: Sequence[Span], windows: Collection[int | None]) -> np.ndarray:
    """What `FlexLayout` is made of, int32: the tokens' marks, and for each window the lists of blocks."""
    found = marks(spans)
    lists = (x for window in windows for x in block_lists(spans, found[2], window))
    return np.concatenate([x.ravel() for x in (*found, *lists)])


def marks(spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the tree, the segment (0 = prompt) and the position of each token: int32 [S] each."""
    rows = [
        (number, segment, start, start if segment == 0 else start - (span.prompt_end - span.start), end - start)
        for number, span in enumerate(spans)
        for segment, (start, end) in enumerate(((span.start, span.prompt_end), *span.completions))
    ]
    tree, segment, start, zero, length = np.array(rows, np.int32).T
    position_S = np.arange(start[-1] + length[-1], dtype=np.int32) - np.repeat(zero, length)
    return np.repeat(tree, length), np.repeat(segment, length), position_S


def block_lists(
    spans: Sequence[Span], position_S: np.ndarray, window: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """List the blocks of the mask that hold something, as `create_block_mask` does; B blocks of `BLOCK` tokens.

    With a window a block may be listed in vain, where a tree begins in it.

    Returns:
        int32 [4, B], how many; int32 [4, B, B], which, those first: of each block of queries the blocks of keys that it
        sees in part, and in full; of each block of keys the blocks of queries that see it in part, and in full.
    """
    segments = np.array([one for s in spans for one in ((s.start, s.prompt_end), *s.completions)])
    is_prompt = np.array([first for s in spans for first in (True, *[False] * len(s.completions))])
    prompt_of = np.flatnonzero(is_prompt)[is_prompt.cumsum() - 1]
    edges = np.arange(0, len(position_S), BLOCK)
    # tokens of each segment in each block; float32 counts them exactly, a block holds BLOCK^2 pairs
    own = np.minimum(segments[:, 1], edges[:, None] + BLOCK) - np.maximum(segments[:, 0], edges[:, None])
    own = own.clip(min=0).astype(np.float32)
    # A query sees keys of its segment and, from a completion, of its prompt; below the diagonal all of them.
    seen = np.tril(own @ (own + np.where(is_prompt, 0, own[:, prompt_of])).T, -1)
    any_, full = seen > 0, seen == BLOCK**2
    if window is not None:
        first, last = (pick.reduceat(position_S, edges) for pick in (np.minimum, np.maximum))
        any_ &= first[:, None] - last < window  # the nearest pair of positions, whatever their trees
        full &= last[:, None] - first < window  # the farthest pair, which a full block does have
    partial = any_ & ~full | np.eye(len(edges), dtype=bool)  # a query sees itself, and none after it
    listed = np.stack([partial, full, partial.T, full.T])
    return listed.sum(-1, dtype=np.int32), np.argsort(~listed, axis=-1, kind="stable").astype(np.int32)


def sees(tree_S: Tensor, segment_S: Tensor, position_S: Tensor, window: int | None = None) -> Any:
    """FlexAttention's mask function: same tree, not later, the key in the prompt or in the query's completion.

    Args:
        window: the key is fewer than this many positions before the query.
    """

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_tree = tree_S[query] == tree_S[key]
        on_path = (segment_S[key] == 0) | (segment_S[key] == segment_S[query])
        seen = (query >= key) & same_tree & on_path
        return seen if window is None else seen & (position_S[query] - position_S[key] < window)

    return mask


def _flex() -> Any:
    """FlexAttention, compiled: within a compiled layer as a part of it, else alone."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compiled_flex()


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def register() -> None:
    """Make `tree_attention` known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)


def plain_kind(model: Any) -> str:
    """Return the attention that computes what the model's own code does; transformers' sdpa leaves out a soft-cap."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped or not getattr(model, "_supports_sdpa", False) else "sdpa"


def windows(model: Any) -> frozenset[int | None]:
    """Return the sliding windows of a model's layers in tokens; None stands for a layer that sees everything."""
    text = model.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if not window or not getattr(text, "use_sliding_window", True):
        return frozenset({None})
    kinds = getattr(text, "layer_types", None) or [_SLIDING]  # without kinds, every layer has it
    return frozenset(window if kind == _SLIDING else None for kind in kinds)


def tree_refusal(model: Any) -> str | None:
    """Return why a model rules tree attention out, or None: its attention and its positions must be open to us.

    The plain path then serves; so it does when the start-up check finds a difference.
    """
    if (reason := _config_refusal(model.config.get_text_config())) is not None:
        return reason
    if not model._can_set_attn_implementation():
        return "attention code of its own"
    if "position_ids" not in inspect.signature(type(model.get_decoder()).forward).parameters:
        return "positions that cannot be given"
    if any(name.endswith("sinks") for name, _ in model.named_parameters()):
        return "attention sinks"
    if windows(model) != {None} and "sliding_window=" not in inspect.getsource(sys.modules[type(model).__module__]):
        return "a sliding window that its attention is not told"  # only the mask has it, which we do not read
    return None


def _config_refusal(text: Any) -> str | None:
    kinds = set(getattr(text, "layer_types", None) or [])
    if others := kinds - {"full_attention", _SLIDING}:
        return f"layers of kind {', '.join(sorted(others))}"
    for name, rate in config_rates(text).items():
        if "att" in name.lower():
            return f"attention dropout ({name} {rate:g})"
    if getattr(text, "attn_logit_softcapping", None):
        return "soft-capped attention"
    if getattr(text, "v_head_dim", None):
        return "values of another size than keys"
    if getattr(text, "use_bidirectional_attention", None):
        return "attention to later tokens"
    return None
