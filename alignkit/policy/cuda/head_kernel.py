"""Triton kernel of the head: a row of logits gives its log-prob, its entropy and its gradient.

One program a row. It reads the row once for the sums, and once more where the gradient is asked for; the formulas are
those of logprobs.py, and head.py's `plain_rows` is the same in plain torch. Imported only where a kernel is launched.
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
    vocab,
    scale,
    softcap,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # row x vocabulary passes 2^31
    logits_ptr += row * logits_stride
    temperature = tl.load(temperature_ptr + row)
    target = tl.load(target_ptr + row)

    # A lane keeps its own largest z, sum of exp(z - largest) and sum of exp(z - largest) (z - largest) over its columns
    # (online softmax), so that the program's threads wait for each other once a row and not once a step.
    largest = tl.full((BLOCK,), -1e30, tl.float32)  # not -inf, whose products with 0 are nan
    total = tl.zeros((BLOCK,), tl.float32)
    moment = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < vocab
        z = _capped(logits_ptr, bias_ptr, column, inside, scale, softcap) / temperature
        z = tl.where(inside, z, -1e30)
        gap = z - largest
        power = tl.exp(-tl.abs(gap))  # one exp does: of z below the largest, or of the largest below z
        if entropy_ptr is not None:
            moment = tl.where(gap > 0, (moment - total * gap) * power, moment + power * gap)
        total = tl.where(gap > 0, total * power + 1, total + power)
        largest = tl.maximum(largest, z)
    peak = tl.max(largest, 0)
    gap = largest - peak
    power = tl.exp(gap)  # 0 for lanes without a column
    sum_ = tl.sum(total * power, 0)
    normalizer = peak + tl.log(sum_)
    chosen = _capped(logits_ptr, bias_ptr, target, True, scale, softcap) / temperature
    tl.store(logprob_ptr + row, chosen - normalizer)
    if entropy_ptr is not None:
        tl.store(entropy_ptr + row, tl.log(sum_) - tl.sum((moment + total * gap) * power, 0) / sum_)

    if share_ptr is not None:
        share_ptr += row * share_stride
        for start in range(0, vocab, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < vocab
            capped = _capped(logits_ptr, bias_ptr, column, inside, scale, softcap)
            p = tl.exp(capped / temperature - normalizer)
            slope = scale
            if softcap is not None:
                slope = scale * (1 - (capped / softcap) * (capped / softcap))
            share = tl.where(column == target, 1 - p, -p) * slope
            tl.store(share_ptr + column, share.to(share_ptr.dtype.element_ty), mask=inside)


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
