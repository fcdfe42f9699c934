"""Triton kernel of the head: a row of logits gives its log-prob, its entropy and its gradient.

One program a row, which reads it once. head.py's `plain_rows` is the same in plain torch. Imported only where a kernel
is launched.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # columns of a program's step: 8 a thread, two or one 16-byte reads
NUM_WARPS = 8


def launch(
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
    """Run the kernel; arguments as of head.py's `plain_rows`, whose rows may lie apart."""
    num_tokens, vocab = logits_TV.shape
    rows_kernel[(num_tokens,)](
        logits_TV,
        logits_TV.stride(0),
        bias_V,
        target_T,
        temperature_T,
        logprob_T,
        entropy_T,
        share_TV,
        0 if share_TV is None else share_TV.stride(0),
        factor_T,
        vocab,
        scale,
        softcap,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )


@triton.jit
def rows_kernel(
    logits_ptr,
    logits_stride,
    bias_ptr,
    target_ptr,
    temperature_ptr,
    logprob_ptr,
    entropy_ptr,
    share_ptr,
    share_stride,
    factor_ptr,
    vocab,
    scale,
    softcap,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # row x vocabulary passes 2^31
    logits_ptr += row * logits_stride
    if share_ptr is not None:
        share_ptr += row * share_stride
    target = tl.load(target_ptr + row)
    inverse = 1 / tl.load(temperature_ptr + row)

    # exp(z - level) sums up in fp32 at any level near the largest z. One is guessed, so that the row is read once.
    column = tl.arange(0, BLOCK)
    first = _capped(logits_ptr, bias_ptr, column, column < vocab, scale, softcap) * inverse
    chosen = _capped(logits_ptr, bias_ptr, target, True, scale, softcap)
    level = tl.maximum(tl.max(tl.where(column < vocab, first, -float("inf")), 0), chosen * inverse)
    largest, total, moment = _sums(
        logits_ptr, bias_ptr, share_ptr, entropy_ptr, vocab, inverse, level, scale, softcap, BLOCK
    )
    if largest - level > 20:  # rare: a level too low. Far from exp's limits, and from those of factor x gradient
        level = largest
        largest, total, moment = _sums(
            logits_ptr, bias_ptr, share_ptr, entropy_ptr, vocab, inverse, level, scale, softcap, BLOCK
        )
    tl.store(logprob_ptr + row, chosen * inverse - level - tl.log(total))
    if entropy_ptr is not None:
        tl.store(entropy_ptr + row, tl.log(total) - moment / total)
    if share_ptr is not None:
        tl.debug_barrier()  # another thread has written this column's -power
        share = (total - tl.exp(chosen * inverse - level)) * _slope(chosen, scale, softcap)
        tl.store(share_ptr + target, share.to(share_ptr.dtype.element_ty))
        tl.store(factor_ptr + row, inverse / total)


@triton.jit
def _sums(logits_ptr, bias_ptr, share_ptr, entropy_ptr, vocab, inverse, level, scale, softcap, BLOCK: tl.constexpr):
    """Return the largest z, sum_v power_v and sum_v power_v (z_v - level) with power_v = exp(z_v - level).

    Each thread adds up its own columns, and all of them at the end. -power_v g'(a_v) is written as share.
    """
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    moment = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < vocab
        capped = _capped(logits_ptr, bias_ptr, column, inside, scale, softcap)
        z = capped * inverse
        power = tl.where(inside, tl.exp(z - level), 0)
        largest = tl.maximum(largest, tl.where(inside, z, -float("inf")))
        total += power
        if entropy_ptr is not None:
            moment += power * (z - level)
        if share_ptr is not None:
            share = -power * _slope(capped, scale, softcap)
            tl.store(share_ptr + column, share.to(share_ptr.dtype.element_ty), mask=inside)
    return tl.max(largest, 0), tl.sum(total, 0), tl.sum(moment, 0)


@triton.jit
def _capped(logits_ptr, bias_ptr, column, inside, scale, softcap):
    """g(a) of these columns."""
    a = tl.load(logits_ptr + column, mask=inside, other=0).to(tl.float32)
    if bias_ptr is not None:
        a += tl.load(bias_ptr + column, mask=inside, other=0).to(tl.float32)
    a *= scale
    if softcap is not None:
        a = softcap * (1 - 2 / (1 + tl.exp(2 * a / softcap)))  # c tanh(a / c)
    return a


@triton.jit
def _slope(capped, scale, softcap):
    """g'(a), from g(a)."""
    slope = scale
    if softcap is not None:
        slope = scale * (1 - (capped / softcap) * (capped / softcap))
    return slope
