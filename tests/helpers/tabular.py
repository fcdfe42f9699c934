"""A policy small enough to enumerate: one table of logits, a row for each prefix of a completion. float64.

Three tokens, of which 0 ends; a completion has at most `longest` tokens and is cut there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from alignkit_plugins.grpo import GRPO, GRPOConfig
from torch import Tensor

from alignkit.methods import Batch

END, NUM_TOKENS = 0, 3


@dataclass(frozen=True)
class World:
    """All completions of at most `longest` tokens, and all the prefixes that a token can follow."""

    longest: int

    @property
    def prefixes(self) -> list[tuple[int, ...]]:
        return [p for n in range(self.longest) for p in itertools.product((1, 2), repeat=n)]

    @property
    def completions(self) -> list[tuple[int, ...]]:
        return [(*p, END) for p in self.prefixes] + list(itertools.product((1, 2), repeat=self.longest))

    def table(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(self.prefixes), NUM_TOKENS, dtype=torch.float64, generator=generator).requires_grad_()

    def logprobs(self, table: Tensor, temperature: float) -> list[Tensor]:
        """The log-prob of each token of each completion."""
        place, logprob = {p: n for n, p in enumerate(self.prefixes)}, (table / temperature).log_softmax(-1)
        return [torch.stack([logprob[place[c[:n]], c[n]] for n in range(len(c))]) for c in self.completions]

    def probabilities(self, table: Tensor, temperature: float) -> Tensor:
        return torch.stack([x.sum() for x in self.logprobs(table, temperature)]).exp()

    def reward(self, table: Tensor, rewards: Sequence[float], temperatures: Sequence[float]) -> Tensor:
        """Mean over the temperatures of the expected reward."""
        values = torch.tensor(rewards, dtype=torch.float64)
        return sum((self.probabilities(table, t) * values).sum() for t in temperatures) / len(temperatures)

    def kl(self, table: Tensor, reference: Tensor, temperatures: Sequence[float]) -> Tensor:
        """Mean over the temperatures of KL(pi || pi_ref) of whole completions."""
        total = torch.zeros((), dtype=torch.float64)
        for t in temperatures:
            own, other = (torch.stack([x.sum() for x in self.logprobs(one, t)]) for one in (table, reference.detach()))
            total = total + (own.exp() * (own - other)).sum() / len(temperatures)
        return total

    def next_token_kl(self, table: Tensor, reference: Tensor, temperatures: Sequence[float]) -> Tensor:
        """The same with the probability of each prefix held fixed: only each next token's KL has a gradient."""
        total = torch.zeros((), dtype=torch.float64)
        for t in temperatures:
            own, other = ((one / t).log_softmax(-1) for one in (table, reference.detach()))
            kl = (own.exp() * (own - other)).sum(-1)
            place = {p: n for n, p in enumerate(self.prefixes)}
            visited = [sum((own[place[p[:n]], p[n]] for n in range(len(p))), own.new_zeros(())) for p in self.prefixes]
            total = total + (torch.stack(visited).detach().exp() * kl).sum() / len(temperatures)
        return total


def gradient(of: Tensor, table: Tensor) -> Tensor:
    return torch.autograd.grad(of, table, retain_graph=True)[0]


def expected_gradient(
    world: World,
    config: GRPOConfig,
    table: Tensor,
    *,
    reference: Tensor,
    rewards: Sequence[float],
    drawn_from: Tensor | None = None,
) -> Tensor:
    """The mean of GRPO's gradient over every group that can be drawn, each with its probability.

    Args:
        drawn_from: the weights that drew the samples; default: the policy's own.
    """
    temperatures, completions = config.group_temperatures, world.completions
    drawn_from = table if drawn_from is None else drawn_from
    own, old, ref = ([world.logprobs(x, t) for t in temperatures] for x in (table, drawn_from, reference))
    groups = list(itertools.product(range(len(completions)), repeat=len(temperatures)))
    chance_P = torch.stack([sum(old[k][c].sum() for k, c in enumerate(group)).detach().exp() for group in groups])

    def flat(of: list[list[Tensor]]) -> Tensor:
        return torch.cat([of[k][c] for group in groups for k, c in enumerate(group)])

    rewards_PG = np.array([[rewards[c] for c in group] for group in groups])
    if config.kl_in_reward:
        kl = [
            [float((a - b).detach().sum()) for a, b in zip(*pair, strict=True)] for pair in zip(old, ref, strict=True)
        ]
        rewards_PG -= config.kl_in_reward * np.array([[kl[k][c] for k, c in enumerate(group)] for group in groups])
    live_T = flat(own)
    leaf_T = live_T.detach().requires_grad_()
    length_N = torch.tensor([len(completions[c]) for group in groups for c in group])
    group_N = torch.arange(len(groups)).repeat_interleave(len(temperatures))
    batch = Batch(
        logprob_T=leaf_T,
        completion_T=torch.arange(len(length_N)).repeat_interleave(length_N),
        group_N=group_N,
        num_tokens_N=length_N,
        reference_length_N=torch.zeros_like(length_N),
        denominators={"completions": len(temperatures)},
        sampler_logprob_T=flat(old).detach(),
        reference_T=flat(ref).detach() if config.kl else None,
        advantage_N=torch.as_tensor(GRPO().advantages(rewards_PG, config)).flatten(),
    )
    (slope_T,) = torch.autograd.grad(GRPO().loss(batch, config), leaf_T)
    return gradient((batch.spread(chance_P[group_N]) * slope_T * live_T).sum(), table)
