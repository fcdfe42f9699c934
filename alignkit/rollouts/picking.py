"""The next token of each row, by one uniform number and the inverse of the cumulative probability.

Everything stays on the logits' device, without a look at a value, so that a CUDA graph can hold it. B rows, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alignkit.rollouts.sampler import Request

_BLOCK = 256  # tokens of the vocabulary


@dataclass(frozen=True)
class Rules:
    """How the rows' tokens are picked.

    Args:
        temperature_B: float32 [B], 1 where a row is greedy.
        top_p_B: float32 [B].
        is_greedy_B: bool [B].
        some_tempered, some_greedy, all_greedy, some_nucleus: what these tensors hold, or may hold later, known to the
            host.
    """

    temperature_B: Tensor
    top_p_B: Tensor
    is_greedy_B: Tensor
    some_tempered: bool
    some_greedy: bool
    all_greedy: bool
    some_nucleus: bool

    @classmethod
    def of(cls, requests: Sequence[Request], device: torch.device) -> Rules:
        greedy = [request.temperature == 0 for request in requests]
        return cls(
            torch.tensor([request.temperature or 1.0 for request in requests], device=device),
            torch.tensor([request.top_p for request in requests], device=device),
            torch.tensor(greedy, device=device),
            some_tempered=any(request.temperature not in (0, 1) for request in requests),
            some_greedy=any(greedy),
            all_greedy=all(greedy),
            some_nucleus=any(request.top_p < 1 for request in requests),
        )

    def take(self, row_N: Tensor) -> Rules:
        """Return these rows' rules, int64 [N]."""
        return replace(
            self,
            temperature_B=self.temperature_B[row_N],
            top_p_B=self.top_p_B[row_N],
            is_greedy_B=self.is_greedy_B[row_N],
        )

    def put(self, row_N: Tensor, others: Rules) -> None:
        """Give rows other rules, in place; the flags hold for both."""
        self.temperature_B[row_N] = others.temperature_B
        self.top_p_B[row_N] = others.top_p_B
        self.is_greedy_B[row_N] = others.is_greedy_B


def uniform_numbers(request: Request) -> np.ndarray:
    """The numbers that pick a request's tokens, float64 [max_new_tokens]."""
    numbers: np.ndarray = np.random.Generator(np.random.Philox(key=request.seed)).random(request.max_new_tokens)
    return numbers


def pick(logits_BV: Tensor, uniform_B: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Sample one token per row.

    Over the vocabulary there is one pass of exponentials, of weights exp(logit / t - highest) that are not normalised.

    Args:
        logits_BV: float32 [B, V]; it is changed.
        uniform_B: float32 [B], from 0 to 1.

    Returns:
        tokens, int64 [B]; their log-probs, float32 [B], at the row's temperature (1 where it is 0), before top-p.
    """
    scaled_BV = logits_BV.div_(rules.temperature_B[:, None]) if rules.some_tempered else logits_BV
    highest_B, likeliest_B = scaled_BV.max(-1)
    weight_BV = (scaled_BV - highest_B[:, None]).exp_()
    sums = _block_sums(weight_BV)
    if rules.all_greedy:
        token_B = likeliest_B
    else:
        kept_BV, kept_sums = weight_BV, sums
        if rules.some_nucleus:
            # the log-prob below stays that before top-p: `sums` is of all tokens
            kept_BV = weight_BV * _nucleus(weight_BV / sums.sum(-1, keepdim=True), rules.top_p_B)
            kept_sums = _block_sums(kept_BV)
        token_B = _inverse_cdf(kept_BV, kept_sums, uniform_B)
        # a sum rounded down may point behind the last possible token
        token_B = torch.where(kept_BV.gather(-1, token_B[:, None])[:, 0] > 0, token_B, likeliest_B)
        if rules.some_greedy:
            token_B = torch.where(rules.is_greedy_B, likeliest_B, token_B)
    chosen_B = scaled_BV.gather(-1, token_B[:, None])[:, 0] - highest_B - sums.sum(-1).log()
    return token_B, chosen_B.float()


def _block_sums(weight_BV: Tensor) -> Tensor:
    """Sums over blocks of the vocabulary, float64 [B, blocks]."""
    whole = weight_BV.shape[1] // _BLOCK * _BLOCK
    sums = weight_BV[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1, dtype=torch.float64)
    if whole == weight_BV.shape[1]:
        return sums
    return torch.cat([sums, weight_BV[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)], 1)


def _inverse_cdf(weight_BV: Tensor, sums: Tensor, uniform_B: Tensor) -> Tensor:
    """Take the token at which the cumulative weight first exceeds a uniform number's share of the whole.

    Sums are float64, over blocks of the vocabulary first and then within one block.
    """
    ends = sums.cumsum(-1)
    goal = uniform_B.double()[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, goal, right=True).clamp(max=ends.shape[1] - 1)
    # the last block may reach beyond the vocabulary: those places are clamped, and weigh nothing
    place = block * _BLOCK + torch.arange(_BLOCK, device=block.device)
    exists = place < weight_BV.shape[1]
    inner = weight_BV.gather(1, place.clamp(max=weight_BV.shape[1] - 1)).double().mul_(exists).cumsum(-1)
    rest = goal - (ends - sums).gather(1, block)
    token = (block * _BLOCK + torch.searchsorted(inner, rest, right=True).clamp(max=_BLOCK - 1)).clamp(
        max=weight_BV.shape[1] - 1
    )
    return token[:, 0]


def _nucleus(prob_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """Mark the smallest set of likeliest tokens whose probability reaches top-p."""
    sorted_BV, order_BV = prob_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = before_BV < top_p_B.double()[:, None]
    kept_BV[:, 0] = True
    return torch.zeros_like(kept_BV).scatter(-1, order_BV, kept_BV)
