"""Log-probs of scored tokens on CUDA, a chunk of tokens at a time over the whole vocabulary.

The formulas are those of logprobs.py. A card wants few large kernels where a CPU wants tiles that fit its cache:

    chunk   a = W h is formed in fp32; one kernel (head_kernel.py) reads it once and writes log-probs and, in the
            compute type, their gradient by all logits, but for one factor a token that is known at a row's end only:
                dlogprob_t / da_tv = factor_t share_tv
                share_tv = (onehot(y_t)_v sum_u e_tu - e_tv) g'(a_tv)    e_tv = exp(z_tv - level_t), at any level
                factor_t = 1 / (temperature_t sum_u e_tu)
    block   some chunks, whose shares lie together: one product gives   unit_t = sum_v share_tv W_v

The loss's gradient by log-probs is one factor a token too, and known in the backward pass only. So both are multiplied
in where little lies, with scale_t = dL/dlogprob_t factor_t:

    dL/dh_t = scale_t unit_t        dL/dW = share^T (scale h)        dL/db = share^T scale

The shares of the last block are kept for the backward pass. Those of other blocks are formed again, where W or b is
trained at all: with a frozen head (LoRA) the forward pass has all that is needed.
Products have the compute type's factors and fp32 sums; W's gradient is added up in fp32 by the products themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.policy.head import HeadForm
from alignkit.policy.in_place import accumulate_grad, grad_buffer

CHUNK_BYTES = 320 * 2**20  # of a chunk's fp32 logits
# A block's shares take at most this part of the card: of its memory, not of what is free just now, so that a resumed
# run adds in the same order.
CARD_SHARE = 32
STEP = 512  # tokens that memory is taken by


class Sizes(NamedTuple):
    """How many tokens a chunk and a block have."""

    chunk: int
    block: int


def sizes_for(vocab: int, element_size: int, card_bytes: int) -> Sizes:
    """Return how many tokens a chunk and a block have, for a head of `vocab` rows on a card of so much memory."""
    chunk = _whole(CHUNK_BYTES // (4 * vocab))
    return Sizes(chunk, max(chunk, _whole(card_bytes // CARD_SHARE // (element_size * vocab))))


def memory_bytes(num_tokens: int, vocab: int, element_size: int, card_bytes: int) -> int:
    """Return what the head holds at its peak beside W, its copy in the compute type and its gradient."""
    chunk, block = (_held(num_tokens, size) for size in sizes_for(vocab, element_size, card_bytes))
    return vocab * (4 * chunk + element_size * block)


def chunked_logprobs(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    target_T: Tensor,
    temperature_T: Tensor,
    bias_V: Tensor | None,
    form: HeadForm,
    entropy: bool,
    sizes: Sizes | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return what `token_logprobs` does; on a CPU too, slowly, for tests and counts."""
    if sizes is None:
        card_bytes = torch.cuda.get_device_properties(hidden_TH.device).total_memory
        sizes = sizes_for(len(weight_VH), hidden_TH.element_size(), card_bytes)
    apply: Callable[..., tuple[Tensor, Tensor]] = _ChunkedLogprobs.apply
    trains = torch.is_grad_enabled()
    logprob_T, entropy_T = apply(hidden_TH, weight_VH, bias_V, target_T, temperature_T, form, entropy, sizes, trains)
    return logprob_T, entropy_T if entropy else None


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        temperature_T: Tensor,
        form: HeadForm,
        entropy: bool,
        sizes: Sizes,
        trains: bool,
    ) -> tuple[Tensor, Tensor]:
        # `needs_input_grad` says the same under no_grad
        by_hidden, by_weight, by_bias = (trains and needed for needed in ctx.needs_input_grad[:3])
        narrow_VH = weight_VH.to(hidden_TH.dtype)
        rows = _Rows(hidden_TH, narrow_VH, bias_V, target_T, temperature_T, form, sizes)
        blocks = _parts(0, len(target_T), sizes.block)
        share_BV, factor_T = None, None
        if by_hidden or by_weight or by_bias:
            share_BV, factor_T = rows.new_share(), torch.empty_like(temperature_T)
        unit_TH = torch.empty_like(hidden_TH, dtype=torch.float32) if by_hidden else None
        logprob_T, entropy_T = torch.empty_like(temperature_T), torch.empty_like(temperature_T)
        for block in blocks:
            rows.score(block, logprob_T, entropy_T if entropy else None, share_BV, factor_T)
            if unit_TH is not None and share_BV is not None:
                _product(share_BV[: block.stop - block.start], narrow_VH, out=unit_TH[block])
        again = (by_weight or by_bias) and len(blocks) > 1
        ctx.save_for_backward(
            hidden_TH,
            target_T,
            temperature_T,
            factor_T,
            unit_TH,
            share_BV if by_weight or by_bias else None,
            narrow_VH if again else None,
        )
        # Parameters are held by ctx, not saved: they are there anyway, and their `.grad` is added to.
        ctx.weight, ctx.bias, ctx.form, ctx.sizes, ctx.blocks = weight_VH, bias_V, form, sizes, blocks
        ctx.mark_non_differentiable(entropy_T)
        ctx.set_materialize_grads(False)
        return logprob_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TH, target_T, temperature_T, factor_T, unit_TH, share_BV, narrow_VH = ctx.saved_tensors
        _, by_weight, by_bias = ctx.needs_input_grad[:3]
        scale_T1 = (grads[0] * factor_T)[:, None]
        grad_hidden = None if unit_TH is None else _scaled(unit_TH, scale_T1, hidden_TH.dtype)
        own_VH = grad_buffer(ctx.weight) if by_weight else None
        total_VH = torch.zeros_like(ctx.weight, dtype=torch.float32) if by_weight and own_VH is None else own_VH
        grad_bias = torch.zeros_like(ctx.bias, dtype=torch.float32)[:, None] if by_bias else None
        if by_weight or by_bias:
            scaled_TH = _scaled(hidden_TH, scale_T1, hidden_TH.dtype)
            for block in reversed(ctx.blocks):
                if block is not ctx.blocks[-1]:
                    rows = _Rows(hidden_TH, narrow_VH, ctx.bias, target_T, temperature_T, ctx.form, ctx.sizes)
                    rows.score(block, torch.empty_like(temperature_T), None, share_BV, torch.empty_like(factor_T))
                share_VB = share_BV[: block.stop - block.start].t()
                if total_VH is not None:
                    _add_product(total_VH, share_VB, scaled_TH[block])
                if grad_bias is not None:
                    _add_product(grad_bias, share_VB, scale_T1[block].to(hidden_TH.dtype))
        grad_weight = None if total_VH is None or total_VH is own_VH else total_VH.to(ctx.weight.dtype)
        grad_bias = None if grad_bias is None else accumulate_grad(ctx.bias, grad_bias[:, 0])
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None, None


class _Rows(NamedTuple):
    """The rows of logits, of which a chunk is held at a time."""

    hidden_TH: Tensor
    narrow_VH: Tensor
    bias_V: Tensor | None
    target_T: Tensor
    temperature_T: Tensor
    form: HeadForm
    sizes: Sizes

    def new_share(self) -> Tensor:
        """Return memory for a block's shares, in the compute type."""
        return _aligned(_held(len(self.target_T), self.sizes.block), len(self.narrow_VH), self.hidden_TH)

    def score(
        self,
        block: slice,
        logprob_T: Tensor,
        entropy_T: Tensor | None,
        share_BV: Tensor | None,
        factor_T: Tensor | None,
    ) -> None:
        """Fill a block's rows of the results; the block's shares begin at share_BV's first row."""
        size = _held(len(self.target_T), self.sizes.chunk)
        logits_CV = _aligned(size, len(self.narrow_VH), self.hidden_TH, dtype=torch.float32)
        for chunk in _parts(block.start, block.stop, self.sizes.chunk):
            logits = logits_CV[: chunk.stop - chunk.start]
            _product(self.hidden_TH[chunk], self.narrow_VH.t(), out=logits)
            score_rows(
                logits,
                self.bias_V,
                self.target_T[chunk],
                self.temperature_T[chunk],
                self.form.scale,
                self.form.softcap,
                logprob_T[chunk],
                None if entropy_T is None else entropy_T[chunk],
                None if share_BV is None else share_BV[chunk.start - block.start : chunk.stop - block.start],
                None if factor_T is None else factor_T[chunk],
            )


def plain_rows(
    logits_TV: Tensor,
    bias_V: Tensor | None,
    target_T: Tensor,
    temperature_T: Tensor,
    scale: float,
    softcap: float | None,
    logprob_T: Tensor,
    entropy_T: Tensor | None,
    share_TV: Tensor | None,
    factor_T: Tensor | None,
) -> None:
    """Fill logprob_T, entropy_T, share_TV and factor_T from rows of W h: what the kernel does, in plain torch.

    Args:
        logits_TV: W h, float32 [T, V].
        bias_V: [V].
        target_T: int64 [T].
        temperature_T: float32 [T].
        scale: s of g.
        softcap: c of g.
        logprob_T: z of the target - log sum_v exp(z_v), float32 [T].
        entropy_T: nats, float32 [T].
        share_TV: (onehot sum_u e_u - e) g'(a) [T, V], in the compute type; with factor_T, or both None.
        factor_T: 1 / (temperature sum_u e_u), float32 [T].
    """
    form = HeadForm(scale, softcap)
    capped_TV = form.logits_(logits_TV.clone() if bias_V is None else logits_TV + bias_V)
    z_TV = capped_TV / temperature_T[:, None]
    logprob_TV = z_TV.log_softmax(-1)
    logprob_T.copy_(logprob_TV.gather(-1, target_T[:, None])[:, 0])
    if entropy_T is not None:
        entropy_T.copy_(-(logprob_TV.exp() * logprob_TV).sum(-1))
    if share_TV is not None and factor_T is not None:
        slope: float | Tensor = scale if softcap is None else scale * (1 - (capped_TV / softcap).square())
        power_TV = (z_TV - z_TV.amax(-1, keepdim=True)).exp()
        total_T1 = power_TV.sum(-1, keepdim=True)
        share_TV.copy_(power_TV.neg().scatter_add_(-1, target_T[:, None], total_T1) * slope)
        factor_T.copy_(1 / (temperature_T * total_T1[:, 0]))


# One operator, so that a dispatch mode counts one launch and fake tensors pass through.
score_rows = torch.library.custom_op(
    "alignkit::score_rows",
    plain_rows,
    mutates_args=("logprob_T", "entropy_T", "share_TV", "factor_T"),
    schema="(Tensor logits_TV, Tensor? bias_V, Tensor target_T, Tensor temperature_T, float scale, float? softcap, "
    "Tensor(a!) logprob_T, Tensor(b!)? entropy_T, Tensor(c!)? share_TV, Tensor(d!)? factor_T) -> ()",
)


@score_rows.register_kernel("cuda")
def _(logits_TV: Tensor, *args: Any) -> None:
    from alignkit.policy.cuda.head_kernel import launch  # triton is needed on a card only

    with torch.cuda.device(logits_TV.device):
        launch(logits_TV, *args)


@score_rows.register_fake
def _(*args: Any) -> None:
    return None


def _parts(start: int, stop: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]


def _whole(tokens: int) -> int:
    """Round down to what a product's tiles fill."""
    return max(128, tokens // 128 * 128)


def _held(num_tokens: int, size: int) -> int:
    """Return for how many tokens memory is taken: in steps, so that micro-batches take the same pieces again."""
    return min(size, -(-num_tokens // STEP) * STEP)


def _aligned(rows: int, columns: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return memory whose rows begin at multiples of 128 bytes or more: products are slow on a vocabulary of 50,257."""
    return like.new_empty((rows, -(-columns // 64) * 64), dtype=dtype)[:, :columns]


def _scaled(x_TH: Tensor, scale_T1: Tensor, dtype: torch.dtype) -> Tensor:
    """x scale, formed in fp32 and rounded in one kernel."""
    return torch.mul(x_TH, scale_T1, out=torch.empty_like(x_TH, dtype=dtype))


def _product(a: Tensor, b: Tensor, *, out: Tensor) -> None:
    """out = a b, whose sums are not rounded where out is fp32."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    elif a.is_cuda:
        torch.mm(a, b, out_dtype=out.dtype, out=out)
    else:  # a CPU has no such product
        torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, added by the product itself, which reads and writes the total once."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))
