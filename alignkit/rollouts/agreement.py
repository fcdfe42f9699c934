"""Whether a sampler's copy of the weights is the policy's: log-probs of the same samples, compared after every update.

The distance is the mean over tokens of |log p(sampler) - log p(policy)|, both at the sample's temperature. What is
healthy differs by precision and model: in fp32 1e-6 to 1e-4, in bf16 0.03 to 0.08 nats. So the first comparison of a
run, of weights that were just loaded, is the measure of the later ones; itself it must be below a bound that no loaded
weights exceed. Tokens whose log-prob the sampler does not know (nan or infinite) are left out, unless most are: a copy
that computes nonsense gives nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.errors import RunStopped
from alignkit.policy.policy import Policy
from alignkit.rollouts.sampler import Completion, Request

MAX_TOKENS = 512  # compared at each update: what a forward pass over these takes
_FLOOR = 1e-4  # nats: what kernels of other shapes differ by in fp32
_LARGEST_HEALTHY = {True: 0.2, False: 1e-3}  # nats; True: one of the two computes in bf16
_FACTOR = 2.0  # a later distance above so many times the healthy one is no rounding
MAX_UNKNOWN = 0.5  # share of tokens without a finite log-prob, above which a sampler is not to be trusted


Sample = tuple[Request, Completion]


class Agreement:
    """Compares a sampler's log-probs with its policy's after every update; the first comparison is the measure."""

    def __init__(self, policy: Policy, *, sampler: str) -> None:
        self._policy, self._sampler = policy, sampler
        self.healthy: float | None = None

    def check(self, samples: Sequence[Sample]) -> float:
        """Compare samples of the weights as they are now; returns their distance in nats per token.

        Raises:
            RunStopped: the sampler's weights are stale: not those that are trained.
        """
        found = distance(self._policy, _some(samples))
        if self.healthy is None:
            largest = _LARGEST_HEALTHY[self._policy.autocast is not None]
            if not found <= largest:
                self._stop(found, f"the first ones loaded may differ by {largest:g}")
            self.healthy = found
        limit = max(_FACTOR * self.healthy, _FLOOR)
        if not found <= limit:
            self._stop(found, f"at the start of this run they differed by {self.healthy:.2g}, the limit is {limit:.2g}")
        return found

    def _stop(self, found: float, measure: str) -> None:
        raise RunStopped(
            f"stale weights: --sampler {self._sampler} does not generate from the weights that are trained: log-probs "
            f"of the same samples differ by {found:.2g} nats per token ({measure}); nothing was trained on these "
            "samples; report this with the versions of `alignkit doctor`, or use --sampler transformers"
        )


def distance(policy: Policy, samples: Sequence[Sample]) -> float:
    """Mean |log p(sampler) - log p(policy)| over the completions' tokens, in nats; a prompt is computed once.

    nan where the sampler gave most tokens no finite log-prob.
    """
    groups = _by_prompt(samples)
    in_order = [one for group in groups for one in group]
    trees = [
        tree("", np.asarray(group[0][0].prompt_ids), [(c.ids, np.ones(len(c.ids), bool)) for _, c in group])
        for group in groups
    ]
    temperature_N = np.array([request.temperature or 1.0 for request, _ in in_order], np.float32)
    was_training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            ours_T = policy(lay_out(trees), temperature_N).logprob_T.float().cpu().numpy()
    finally:
        policy.train(was_training)
    theirs_T = np.concatenate([completion.logprobs for _, completion in in_order])
    known_T = np.isfinite(theirs_T)
    return float(np.abs(theirs_T - ours_T)[known_T].mean()) if known_T.mean() >= 1 - MAX_UNKNOWN else math.nan


def _some(samples: Sequence[Sample]) -> list[Sample]:
    """The first completions that hold MAX_TOKENS with their prompts, each prompt once; at least one."""
    kept: list[Sample] = []
    tokens = 0
    for group in _by_prompt(samples):
        tokens += len(group[0][0].prompt_ids)
        for one in group:
            tokens += len(one[1].ids)
            if kept and tokens > MAX_TOKENS:
                return kept
            kept.append(one)
    return kept


def _by_prompt(samples: Sequence[Sample]) -> list[list[Sample]]:
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for one in samples:
        groups.setdefault(tuple(one[0].prompt_ids), []).append(one)
    return list(groups.values())
