"""Whether a sampler's copy of the weights is the policy's: log-probs of the same samples, compared after every update.

The distance is the mean over tokens of |log p(sampler) - log p(policy)|, both at the sample's temperature. What is
healthy differs by precision and model: in fp32 1e-6 to 1e-4, in bf16 0.03 to 0.08 nats. So the first comparison of a
run, of weights that were just loaded, is the measure of the later ones; itself it must be below a bound that no loaded
weights exceed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alignkit.data.packs import lay_out
from alignkit.data.trees import Tree
from alignkit.errors import RunStopped
from alignkit.policy.policy import Policy

MAX_TOKENS = 4096  # compared at each update: what a forward pass over these takes
_FLOOR = 1e-4  # nats: what kernels of other shapes differ by in fp32
_LARGEST_HEALTHY = {True: 0.2, False: 1e-3}  # nats; True: one of the two computes in bf16
_FACTOR = 2.0  # a later distance above so many times the healthy one is no rounding


@dataclass(frozen=True)
class Sampled:
    """A drawn completion as a tree of its own, the sampler's log-probs of it [T], and its temperature."""

    tree: Tree
    logprob_T: np.ndarray
    temperature: float


class Agreement:
    """Compares a sampler's log-probs with its policy's after every update; the first comparison is the measure."""

    def __init__(self, policy: Policy, *, sampler: str) -> None:
        self._policy, self._sampler = policy, sampler
        self.healthy: float | None = None

    def check(self, samples: Sequence[Sampled]) -> float:
        """Compare samples drawn from the weights as they are now; returns their distance in nats a token.

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
            f"of the same samples differ by {found:.2g} nats a token ({measure}); nothing was trained on these "
            "samples; report this with the versions of `alignkit doctor`, or use --sampler transformers"
        )


def distance(policy: Policy, samples: Sequence[Sampled]) -> float:
    """Mean |log p(sampler) - log p(policy)| over the samples' tokens, in nats."""
    was_training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            pack = lay_out([one.tree for one in samples])
            temperature_N = np.array([one.temperature for one in samples], np.float32)
            ours_T = policy(pack, temperature_N).logprob_T.float().cpu().numpy()
    finally:
        policy.train(was_training)
    theirs_T = np.concatenate([one.logprob_T for one in samples])
    return float(np.abs(theirs_T - ours_T).mean())


def _some(samples: Sequence[Sampled]) -> list[Sampled]:
    """The first samples that hold MAX_TOKENS together, at least one."""
    ends = np.cumsum([len(one.tree) for one in samples])
    return list(samples[: max(1, int(np.searchsorted(ends, MAX_TOKENS, side="right")))])
