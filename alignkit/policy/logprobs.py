"""Log-probs of scored tokens only, in chunks: no full-vocabulary logits of a whole row are ever held.

    logprob_t = z_t[y_t] - log sum_v exp(z_t[v]),   z_t = W h_t / temperature

The backward pass computes each chunk's logits again; the gradient of W is accumulated in fp32, whatever the compute
type, because rounding every chunk's share to bf16 biases training. Shapes: T scored tokens, H hidden size, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 32 * 2**20  # of fp32 logits


def token_logprobs(
    hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor, temperature_T: Tensor, *, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Return float32 [T], the log-prob of each target under the tempered distribution, with gradient.

    Args:
        hidden_TH: [T, H], hidden states that predict the targets, in the compute type.
        weight_VH: [V, H], the head's weight.
        target_T: int64 [T], token ids.
        temperature_T: float32 [T], above 0.
    """
    size = max(1, chunk_bytes // (4 * weight_VH.shape[0]))
    apply: Callable[..., Tensor] = _TokenLogprobs.apply
    return apply(hidden_TH, weight_VH, target_T, temperature_T, size)


def plain_token_logprobs(hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor, temperature_T: Tensor) -> Tensor:
    """The same in one piece, by torch's own log-softmax: the reference for `token_logprobs`."""
    logits = torch.nn.functional.linear(hidden_TH, weight_VH.to(hidden_TH.dtype)).float() / temperature_T[:, None]
    return logits.log_softmax(-1).gather(-1, target_T[:, None])[:, 0]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor, temperature_T: Tensor, size: int
    ) -> Tensor:
        weight = weight_VH.to(hidden_TH.dtype)
        logprob_T = torch.empty(len(target_T), dtype=torch.float32, device=hidden_TH.device)
        for at in range(0, len(target_T), size):
            chunk = slice(at, at + size)
            logits = _logits(hidden_TH[chunk], weight, temperature_T[chunk])
            chosen = logits.gather(-1, target_T[chunk, None])[:, 0]
            logprob_T[chunk] = chosen - logits.logsumexp(-1)
        ctx.save_for_backward(hidden_TH, weight_VH, target_T, temperature_T)
        ctx.size = size
        return logprob_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_T,) = grads
        hidden_TH, weight_VH, target_T, temperature_T = ctx.saved_tensors
        weight = weight_VH.to(hidden_TH.dtype)
        needs_weight = ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden_TH)
        grad_weight = torch.zeros_like(weight_VH, dtype=torch.float32) if needs_weight else None
        for at in range(0, len(target_T), ctx.size):
            chunk = slice(at, at + ctx.size)
            # d logprob / d z = onehot(y) - softmax(z); z carries 1 / temperature
            grad_logits = _logits(hidden_TH[chunk], weight, temperature_T[chunk]).softmax(-1).neg_()
            grad_logits.scatter_add_(-1, target_T[chunk, None], torch.ones_like(grad_logits[:, :1]))
            grad_logits.mul_((grad_T[chunk] / temperature_T[chunk])[:, None])
            grad_hidden[chunk] = grad_logits.to(weight.dtype) @ weight
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits.to(weight.dtype), hidden_TH[chunk])
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight_VH.dtype), None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: Tensor) -> Tensor:
    return (hidden @ weight.t()).float().div_(temperature[:, None])


def _add_product(total_VH: Tensor, grad_logits: Tensor, hidden: Tensor) -> None:
    """total += grad_logits^T @ hidden, accumulated in fp32."""
    if grad_logits.dtype == torch.float32 or grad_logits.device.type != "cuda":
        total_VH.addmm_(grad_logits.t().float(), hidden.float())
    else:
        total_VH.add_(torch.mm(grad_logits.t(), hidden, out_dtype=torch.float32))
