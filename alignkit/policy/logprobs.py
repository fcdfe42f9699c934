"""Log-probs of scored tokens only, a tile of the vocabulary at a time: a row's logits are never all held on a CPU.

    logprob_t = z_t[y_t] - log sum_v exp(z_t[v]),   z_t = g(a_t) / temperature_t,   a_t = W h_t + b
    entropy_t = log sum_v exp(z_t[v]) - sum_v p_t(v) z_t[v]                           (without gradient)

    g(a) = s a, or c tanh(s a / c) where the model soft-caps         g'(a) = s, or s (1 - (g(a) / c)^2)

Most heads have s = 1 and no b. Phi's has a bias, Cohere and Granite scale, Gemma 2 soft-caps (head.py finds out).
The backward pass computes most tiles' logits again. CUDA has its own way in cuda/head.py: some tokens at a time.

Precision under a bf16 compute type: the hidden states' gradient is summed over the tiles in fp32 and rounded once at
the end, because a rounding of each tile's share biases training. A tile's rows of W's gradient come from one product
over all the tokens, whose sums are fp32 as well. It is rounded once per micro-batch, as autocast rounds every other
layer's. Micro-batches add up in fp32.
Shape letters: alignkit/policy/__init__.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from alignkit.policy.cuda.head import chunked_logprobs
from alignkit.policy.head import PLAIN, HeadForm
from alignkit.policy.in_place import accumulate_grad, grad_buffer

CHUNK_BYTES = 8 * 2**20  # of a tile's fp32 logits; about five times as much is held beside the gradients
KNOWN_BYTES = 16 * 2**20  # of the first tiles' logits in the compute type, which are not computed again
MIN_TILE = 256  # columns


def token_logprobs(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    target_T: Tensor,
    temperature_T: Tensor,
    *,
    bias_V: Tensor | None = None,
    form: HeadForm = PLAIN,
    entropy: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor | None]:
    """Score targets under the tempered distributions.

    Args:
        hidden_TH: [T, H], hidden states that predict the targets, in the compute type.
        weight_VH: [V, H], the head's weight.
        target_T: int64 [T], token ids.
        temperature_T: float32 [T], above 0.
        bias_V: [V], the head's bias, where it has one.
        form: the model's scale and soft-cap.
        entropy: also return the distributions' entropies.
        chunk_bytes: size of a tile on a CPU: of its logits in fp32, and of its rows of W in the compute type.

    Returns:
        log-probs, float32 [T], with gradient; entropies in nats, float32 [T], without, or None.
    """
    if hidden_TH.is_cuda and hidden_TH.dtype != torch.float64:
        return chunked_logprobs(hidden_TH, weight_VH, target_T, temperature_T, bias_V, form, entropy)
    num_tokens, size = hidden_TH.shape
    width = chunk_bytes // max(4 * num_tokens, hidden_TH.element_size() * size)
    width = max(min(MIN_TILE, weight_VH.shape[0]), width)
    apply: Callable[..., tuple[Tensor, Tensor]] = _TokenLogprobs.apply
    logprob_T, entropy_T = apply(hidden_TH, weight_VH, bias_V, target_T, temperature_T, form, width, entropy)
    return logprob_T, entropy_T if entropy else None


def head_logits(hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None = None, form: HeadForm = PLAIN) -> Tensor:
    """Logits [T, V] in fp32, or fp64 for states of fp64, of W in the states' type. In place: without gradient."""
    product = (hidden_TH @ weight_VH.to(hidden_TH.dtype).t()).to(_wide(hidden_TH))
    return form.logits_(product if bias_V is None else product.add_(bias_V))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        temperature_T: Tensor,
        form: HeadForm,
        width: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        chosen_T, mean_T = (hidden_TH.new_zeros(len(target_T), dtype=_wide(hidden_TH)) for _ in range(2))
        normalizer_T = torch.full_like(chosen_T, -torch.inf)
        known: dict[int, Tensor] = {}
        # A log-sum-exp over tiles, as FlashAttention's: each tile adds its own to what the tiles before it gave.
        for start, weight in _tiles(weight_VH, width, hidden_TH.dtype):
            product = hidden_TH @ weight.t()
            if (len(known) + 1) * product.nbytes <= KNOWN_BYTES and any(ctx.needs_input_grad):
                known[start] = product
            logits = _logits(product, _part(bias_V, start, weight), form).div_(temperature_T[:, None])
            inside, column = _place(target_T, start, len(weight))
            chosen_T = torch.where(inside, logits.gather(-1, column[:, None])[:, 0], chosen_T)
            largest_T = logits.amax(-1)  # subtracted before exp, so that nothing overflows
            shifted = logits.sub_(largest_T[:, None])
            powers = shifted.exp() if entropy else shifted.exp_()
            sum_T = powers.sum(-1)
            tile_T = largest_T + sum_T.log()
            before_T, normalizer_T = normalizer_T, torch.logaddexp(normalizer_T, tile_T)
            if entropy:
                # mean_T = sum p z over the tiles so far: the old mean and the tile's own, each by its share of the mass
                tile_mean_T = powers.mul_(shifted).sum(-1) / sum_T + largest_T
                mean_T = mean_T * (before_T - normalizer_T).exp() + tile_mean_T * (tile_T - normalizer_T).exp()
            del weight, product, logits, shifted, powers  # before the next tile's are made
        ctx.save_for_backward(hidden_TH, target_T, temperature_T, normalizer_T)
        # Parameters are held by ctx, not saved: they are there anyway, and their `.grad` is added to.
        ctx.weight, ctx.bias, ctx.form, ctx.width, ctx.known = weight_VH, bias_V, form, width, known
        entropy_T = normalizer_T - mean_T
        ctx.mark_non_differentiable(entropy_T)
        return chosen_T - normalizer_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TH, target_T, temperature_T, normalizer_T = ctx.saved_tensors
        weight_VH, bias_V, form = ctx.weight, ctx.bias, ctx.form
        scale_T = (grads[0] / temperature_T).to(normalizer_T.dtype) * form.scale  # dL/dlogprob / temperature x s
        wide_hidden = hidden_TH.new_zeros(hidden_TH.shape, dtype=normalizer_T.dtype)
        total_VH = grad_buffer(weight_VH) if ctx.needs_input_grad[1] else None
        grad_weight = torch.empty_like(weight_VH) if ctx.needs_input_grad[1] and total_VH is None else None
        grad_bias = torch.empty_like(bias_V) if ctx.needs_input_grad[2] else None
        for start, weight in _tiles(weight_VH, ctx.width, hidden_TH.dtype):
            # share = dL/da of this tile = scale (onehot(y) - softmax(z)) g'(a) / s, formed in the logits' own memory
            product = ctx.known.pop(start, None)
            product = hidden_TH @ weight.t() if product is None else product
            logits = _logits(product, _part(bias_V, start, weight), form)
            slope = None if form.softcap is None else _slope(logits, form)  # from g(a), so before that is overwritten
            share = logits.div_(temperature_T[:, None])
            share.sub_(normalizer_T[:, None]).exp_().mul_(-scale_T[:, None])  # exp(z - log-sum-exp) = softmax(z)
            inside, column = _place(target_T, start, len(weight))
            share.scatter_add_(-1, column[:, None], torch.where(inside, scale_T, 0)[:, None])
            if slope is not None:
                share.mul_(slope)
            if grad_bias is not None:
                grad_bias[start : start + len(weight)] = share.sum(0)
            narrow = share.to(hidden_TH.dtype)  # dh += share W and dW = share^T h are products in the compute type
            _add_product(wide_hidden, share, narrow, weight)
            for rows in _rows(start, start + len(weight), hidden_TH.shape[1]):
                columns = narrow[:, rows.start - start : rows.stop - start]
                if total_VH is not None:
                    total_VH[rows] += columns.t() @ hidden_TH
                elif grad_weight is not None:
                    grad_weight[rows] = columns.t() @ hidden_TH
            del weight, product, logits, slope, share, narrow, columns
        grad_bias = None if grad_bias is None else accumulate_grad(bias_V, grad_bias)
        return wide_hidden.to(hidden_TH.dtype), grad_weight, grad_bias, None, None, None, None, None


def _tiles(weight_VH: Tensor, width: int, compute: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the rows of each tile, in the compute type."""
    for start in range(0, weight_VH.shape[0], width):
        yield start, weight_VH[start : start + width].to(compute)


def _rows(start: int, end: int, size: int) -> Iterator[slice]:
    """Cut a tile's rows of W's gradient into parts of half CHUNK_BYTES in fp32."""
    step = max(1, CHUNK_BYTES // (8 * size))
    for at in range(start, end, step):
        yield slice(at, min(at + step, end))


def _part(bias_V: Tensor | None, start: int, weight: Tensor) -> Tensor | None:
    return None if bias_V is None else bias_V[start : start + len(weight)]


def _logits(product: Tensor, bias: Tensor | None, form: HeadForm) -> Tensor:
    """g(W h + b) in fp32, of a tile's W h, which stays as it is."""
    wide = product.to(_wide(product), copy=True)
    return form.logits_(wide if bias is None else wide.add_(bias))


def _slope(logits: Tensor, form: HeadForm) -> Tensor:
    """g'(a) / s = 1 - (g / c)^2, from g."""
    assert form.softcap is not None
    return logits.div(form.softcap).square_().neg_().add_(1)


def _place(target_T: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Return which targets lie in the tile, bool [T], and their column in it, 0 for the others, int64 [T]."""
    column = target_T - start
    inside = (column >= 0) & (column < width)
    return inside, torch.where(inside, column, 0)


def _wide(x: Tensor) -> torch.dtype:
    """Type that sums are kept in: fp32, or fp64 for a model of fp64."""
    return torch.promote_types(x.dtype, torch.float32)


def _add_product(total_TH: Tensor, share: Tensor, narrow: Tensor, narrow_weight: Tensor) -> None:
    """total += share @ weight, not rounded on the way: products of narrow matrices whose sums stay fp32.

    A CPU has no such product. There a second product gives the rounding error of the first: `addmm` forms
    narrow @ weight - high in fp32 and rounds only that. The sum is 3e-6 off where one product is 2e-3 off, and faster
    than a product of fp32 matrices.
    """
    if narrow.dtype == total_TH.dtype:
        total_TH.addmm_(share, narrow_weight)
    else:
        high = torch.mm(narrow, narrow_weight)
        total_TH.add_(high).add_(torch.addmm(high, narrow, narrow_weight, beta=-1))
