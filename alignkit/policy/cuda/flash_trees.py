"""Tree attention by FlashAttention's kernels, in two calls that are put together by their log-sum-exps.

A row of trees is two sets of spans without a mask in them:

    own      a prompt with its first completion, which follows it; each further completion alone; causal
    further  the further completions of a tree, over the keys of its prompt; all of them are seen

    out = exp(l_1 - l) out_1 + exp(l_2 - l) out_2,   l = log(exp l_1 + exp l_2)

Going backward, both calls get the joint out and l: a kernel forms p = exp(q k - l) and dS = p (dp - sum(dout out)),
which are then the joint softmax's. Ring attention does so across devices (Liu et al., 2023). The kernels are torch's
own copy of FlashAttention 2 (Dao, 2023), in bf16 or fp16; FlexAttention computes fp32 and sliding windows. On an H100 a
row of 7,102 tokens, 14 heads of 64, took 0.46 ms forward and backward, and 1.16 ms by FlexAttention.

Backward, sums over the blocks of keys have a fixed order, so that a resumed run is equal to the bit; without it the
kernel takes 0.16 ms less.
Shape letters: alignkit/policy/__init__.py; F further tokens, U tokens of their prompts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignkit.data.trees.packs import Span
from alignkit.policy.attention import FlexLayout
from alignkit.policy.transfer import HOST, to_device

_LARGEST_HEAD = 256  # numbers
_SIZES = f"{HOST}flash_sizes"


def is_available(device: torch.device, head_size: int) -> bool:
    """Whether torch has the kernels for a head of this size on a device."""
    return (
        device.type == "cuda"
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and head_size % 8 == 0
        and head_size <= _LARGEST_HEAD
    )


@dataclass(frozen=True)
class FlashLayout:
    """A row of trees as spans.

    Args:
        marks: int32, on the device: where own spans end, the places of further tokens, where their spans end, the
            places of their prompts' tokens, where those spans end. Kernels want ends in int32: none is cast.
        sizes: int64 [8], on the host: the length of each of the five, and the longest span of each of the three kinds.
            All in two tensors, so that a compiled layer is one graph whatever the trees.
        windowed: for layers with a sliding window, where there are some.
    """

    marks: Tensor
    sizes: Tensor
    windowed: FlexLayout | None = None

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device, windowed: FlexLayout | None = None) -> FlashLayout:
        """Make the layout of a row that is not moved with others."""
        (tensors,) = to_device([span_arrays(spans)], device)
        return cls.made(tensors, windowed)

    @classmethod
    def made(cls, tensors: Mapping[str, Tensor], windowed: FlexLayout | None = None) -> FlashLayout:
        """Make the layout of `span_arrays`, moved; memory of its own, since compiled code guards a view's place."""
        return cls(tensors["flash_marks"].clone(), tensors[_SIZES], windowed)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None = None
    ) -> Tensor:
        if window is not None:
            assert self.windowed is not None
            return self.windowed.attend(query, key, value, scale, window)
        compute = value.dtype  # rotary embeddings leave queries and keys in the residual's fp32
        query, key, value = (x[0].transpose(0, 1).to(compute) for x in (query, key, value))
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        attended: Tensor = _attend(query, key, value, self.marks, self.sizes, scale)[0]
        return attended[None]


def span_arrays(spans: Sequence[Span]) -> dict[str, np.ndarray]:
    """Find the spans: what `FlashLayout` is made of, by name."""
    own, further, prompts = [0], [], []
    for span in spans:
        own += [end for _, end in span.completions] or [span.prompt_end]
        if len(span.completions) > 1:
            further.append((span.completions[1][0], span.completions[-1][1]))
            prompts.append((span.start, span.prompt_end))
    parts = [np.array(own), *_places(further), *_places(prompts)]
    longest = [int(np.diff(ends).max(initial=0)) for ends in (parts[0], parts[2], parts[4])]
    return {"flash_marks": np.concatenate(parts).astype(np.int32), _SIZES: np.array([*map(len, parts), *longest])}


def _places(spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The places in spans, one span after another, and where each ends among them, from 0."""
    places = [np.arange(start, end) for start, end in spans]
    return np.concatenate([np.zeros(0, int), *places]), np.cumsum([0, *map(len, places)])


@torch.library.custom_op("alignkit::attend_trees", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, marks: Tensor, sizes: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Query [S, A, D], key and value [S, K, D] -> attended [S, A, D], log-sum-exp fp32 [A, S]."""
    own, over_prompt, further, prompt = _split(marks, sizes)
    out, total = _flash(query, key, value, own, scale, causal=True)
    if len(further):
        few = query[further], key[prompt], value[prompt]
        out_prompt, total_prompt = _flash(*few, over_prompt, scale, causal=False)
        total_own = total[:, further]
        joint = torch.logaddexp(total_own, total_prompt)
        share, share_prompt = ((part - joint).exp().t()[:, :, None] for part in (total_own, total_prompt))
        out[further] = (out[further] * share + out_prompt * share_prompt).to(out.dtype)
        total[:, further] = joint
    return out, total


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, marks: Tensor, sizes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[1::-1], dtype=torch.float32)


@torch.library.custom_op("alignkit::attend_trees_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    marks: Tensor,
    sizes: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from that of what was attended [S, A, D]."""
    own, over_prompt, further, prompt = _split(marks, sizes)
    grad = grad.contiguous()
    grads = _flash_backward(grad, query, key, value, out, total, own, scale, causal=True)
    if len(further):
        few = query[further], key[prompt], value[prompt], out[further], total[:, further].contiguous()
        more = _flash_backward(grad[further], *few, over_prompt, scale, causal=False)
        for whole, places, part in zip(grads, (further, prompt, prompt), more, strict=True):
            whole[places] += part  # no place is there twice
    return grads


@_attend_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors[:3], *output, *tensors[3:])
    ctx.mark_non_differentiable(output[1])


def _grads(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(grad, *ctx.saved_tensors, ctx.scale), None, None, None


_attend.register_autograd(_grads, setup_context=_keep)


class Spans(NamedTuple):
    """Where spans of queries end and those of keys, int32 from 0, and how long the longest of each is."""

    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int


def _split(marks: Tensor, sizes: Tensor) -> tuple[Spans, Spans, Tensor, Tensor]:
    """Own spans, the further ones over their prompts, the places of further tokens [F] and of their prompts' [U]."""
    *lengths, longest, longest_further, longest_prompt = sizes.tolist()
    own, further, further_ends, prompt, prompt_ends = marks.split(lengths)
    over_prompt = Spans(further_ends, prompt_ends, longest_further, longest_prompt)
    return Spans(own, own, longest, longest), over_prompt, further.long(), prompt.long()


def _flash(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attend within spans: what was attended, and its log-sum-exp fp32 [A, S]."""
    found = torch.ops.aten._flash_attention_forward(query, key, value, *spans, 0.0, causal, False, scale=scale)
    return found[0], found[1]


def _flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    spans: Spans,
    scale: float,
    *,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    random = torch.empty(2, dtype=torch.uint64, device=query.device)  # of dropout, which there is none of
    given = grad, query, key, value, out, total, *spans, 0.0, causal, random, random.new_empty(0)
    with _in_fixed_order():
        grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(*given, scale=scale)
    return grads


@contextlib.contextmanager
def _in_fixed_order() -> Iterator[None]:
    """Let torch's kernels sum in a fixed order for a while."""
    before, fills = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
