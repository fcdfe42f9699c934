"""The KL to the reference as a term of a loss on drawn samples. T scored tokens, N completions.

    d_t = log pi(y_t | x, y_<t) - log pi_ref(y_t | x, y_<t)          KL(pi || pi_ref) = E_{y ~ pi} [ sum_t d_t ]

By the score function the gradient of Eq. 6's KL, that of whole completions, is

    grad KL = E [ sum_t ( sum_{s >= t} d_s ) grad log pi(y_t | x, y_<t) ]

A token answers for its own d_t and for the divergence of all that it leads to. What a loss can have:

k1-to-go  the coefficient sum_{s >= t} d_s - b_t, detached, times the ratio, whose gradient is grad log pi where it is
          1: Eq. 6's gradient. b_t comes from the same sum of the *other* samples of the prompt that reached token t. It
          knows nothing of y_t, so the gradient stays right on average, whatever temperatures the others have. The value
          is d_t.
k2        d_t^2 / 2, whose gradient is d_t grad log pi: that of each *next token's* KL, with the visited prefix held
          fixed (Schulman 2020; Tang and Munos 2025). The rest of the sum is left out.
k3        (exp(-d_t) - 1 + d_t) times the ratio: the same gradient as k2 on average. Without the ratio it would be
          another divergence's (TRL's and DeepSeek-V3.2's correction).

What k2 and k3 leave out is small near the reference and grows with the distance. Enumerated over completions of at most
9 tokens it is 9 % of the gradient at 0.06 nats per completion, 25 % at 0.36 nats and 44 % at 1.2 nats.

The ratio is pi / what drew the token. On the samples of the current weights it is 1 and k1-to-go is exact. In later
updates on one batch it weighs each token, as it weighs the policy term; how likely the rest of the completion has
become is left out of both. k2 has no ratio: in later updates its tokens count as they were drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from alignkit.plugin import Batch

MAX_LOG_RATIO = 20.0
"""A log-ratio is cut here before it is exponentiated: exp(89) is infinite in float32, and inf x 0 is nan in the loss.
A ratio of exp(20) is 5e8, far beyond any clip range; such a token's own gradient is cut off."""


def ratio_of(log_ratio_T: Tensor) -> Tensor:
    """exp of a log-ratio, finite whatever it is: [T] -> [T]."""
    return log_ratio_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def to_go(batch: Batch, x_T: Tensor) -> Tensor:
    """Sum of x over this token and those after it in the same completion: [T] -> [T]."""
    x_NL, cell_T, _ = _table(batch, x_T.double())
    before_T = x_NL.cumsum(1).flatten()[cell_T] - x_T
    return batch.spread(batch.collect(x_T)) - before_T.to(x_T.dtype)


def baseline(batch: Batch, left_T: Tensor) -> Tensor:
    """What the sum to go of a token is compared with, from the prompt's other completions alone: [T] -> [T].

    m^2 / (m + 2/n) with the mean m of the n that are that long, 0 where m is negative or n is 0. Near the reference the
    sum's variance is about twice its mean, so that m has the variance 2 m / n, and of its multiples this one leaves the
    least noise. All of m would add more noise than it takes away below 2/n nats.
    """
    mean_T, others_T = siblings_mean(batch, left_T)
    mean_T = mean_T.clamp(min=0)
    return mean_T**2 / (mean_T + 2 / others_T.clamp(min=1)) * (others_T > 0)


def siblings_mean(batch: Batch, x_T: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of x at the same place of the prompt's other completions that are that long, and their number: [T], [T]."""
    x_NL, _, place_T = _table(batch, x_T)
    is_there_NL, _, _ = _table(batch, x_T.new_ones(len(x_T)))
    # Completions of a prompt adjoin: a prompt's number is how often the group changed before; there are at most N.
    prompt_N = batch.group_N.diff(prepend=batch.group_N[:1]).ne(0).cumsum(0)
    size_N = prompt_N.new_zeros(len(prompt_N)).index_add(0, prompt_N, prompt_N.new_ones(len(prompt_N)))
    own_T = batch.spread(prompt_N) * x_NL.shape[1] + place_T
    sum_T, others_T = (_sum(part_NL, size_N).flatten()[own_T] for part_NL in (x_NL, is_there_NL))
    others_T = others_T - 1
    return (sum_T - x_T) / others_T.clamp(min=1), others_T


def _table(batch: Batch, x_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay x out by completion and place, 0 behind a completion's end: [N, longest], and each token's cell and place."""
    assert batch.lengths is not None
    length_N, longest = batch.num_tokens_N, max(batch.lengths, default=0)
    place_T = length_N.new_ones(len(x_T)).cumsum(0) - 1 - batch.spread(length_N.cumsum(0) - length_N)
    cell_T = batch.completion_T * longest + place_T
    x_NL = x_T.new_zeros(len(length_N) * longest).index_copy(0, cell_T, x_T).view(len(length_N), longest)
    return x_NL, cell_T, place_T


def _sum(x_NL: Tensor, size_N: Tensor) -> Tensor:
    """Sum over so many rows each, always in the same order: [N, L] -> [N, L]."""
    import torch

    return torch.segment_reduce(x_NL, "sum", lengths=size_N, unsafe=True)


def _k1_to_go(batch: Batch, log_ratio_T: Tensor, ratio_T: Tensor) -> Tensor:
    d_T = log_ratio_T.detach()
    left_T = to_go(batch, d_T)
    return d_T + (ratio_T - ratio_T.detach()) * (left_T - baseline(batch, left_T))


def _k2(batch: Batch, log_ratio_T: Tensor, ratio_T: Tensor) -> Tensor:
    return log_ratio_T**2 / 2


def _k3(batch: Batch, log_ratio_T: Tensor, ratio_T: Tensor) -> Tensor:
    return ratio_T * (ratio_of(-log_ratio_T) - 1 + log_ratio_T)


KL_IN_LOSS: dict[str, Callable[[Batch, Tensor, Tensor], Tensor]] = {"k1-to-go": _k1_to_go, "k2": _k2, "k3": _k3}
"""batch, d = log pi - log pi_ref a token, pi / what drew the token -> the term of each token, [T]."""
