"""Log-probs of drawn samples under other weights or kernels than those that drew them. P prompts, G group, T tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from alignkit.policy.policy import Policy
from alignkit.training.distributed import own_rows
from alignkit.training.draw import Group, unrewarded_micro
from alignkit.training.journal import Journal
from alignkit.training.models import Models
from alignkit.training.setup import row_capacity
from alignkit.training.step import Micro


def reference_kl(models: Models, groups: Sequence[Group]) -> np.ndarray:
    """k1 of each completion at its temperature, the sum of log pi - log pi_ref, nats: float64 [P, G].

    pi are the sampler's log-probs; a token where they are not finite has training's. Each rank computes its share.
    """
    size = len(groups[0].completions)
    trees = [group.tree(range(size)) for group in groups]
    with models.whole() as whole:
        assert whole.reference is not None
        rows, is_spare = own_rows(trees, row_capacity(whole.policy.device), whole.world)
        reference = whole.reference

        def compute() -> list[tuple[int, list[float]]]:
            found: list[Any] = []
            for numbers in [] if is_spare else rows:
                micro = unrewarded_micro([groups[n] for n in numbers])
                reference_T = reference.logprobs(micro.pack, micro.temperature_N).cpu().double().numpy()
                drawn_T = _known_logprobs(whole.policy, micro)
                kl_N = np.bincount(micro.pack.completion_T, drawn_T - reference_T, len(numbers) * size)
                found += zip(numbers, kl_N.reshape(len(numbers), size).tolist(), strict=True)
            return found

        by_group = dict(pair for part in whole.world.each(compute) for pair in part)
    return np.array([by_group[n] for n in range(len(groups))])


def _known_logprobs(policy: Policy, micro: Micro) -> np.ndarray:
    """The samples' log-probs under the weights that drew them, float32 [T]: the sampler's, else training's."""
    assert micro.behaviour_T is not None
    known_T = np.isfinite(micro.behaviour_T)
    if known_T.all():
        return micro.behaviour_T
    with torch.no_grad():
        own_T = policy(micro.pack, micro.temperature_N).logprob_T.float().cpu().numpy()
    return np.where(known_T, micro.behaviour_T, own_T)


def recomputed(policy: Policy, micros: Sequence[Micro], journal: Journal, batch: int, key: str) -> list[Micro]:
    """Add what the weights that drew a batch give its samples in training: before its first update, journalled."""
    if not micros:
        return []
    lengths = [len(micro.pack.target_T) for micro in micros]
    known_T = journal.recomputed(batch, key)
    if known_T is None:
        with torch.no_grad():
            found = [policy(m.pack, m.temperature_N).logprob_T.float().cpu().numpy() for m in micros]
        known_T = np.concatenate(found)
        journal.keep_recomputed(batch, key, known_T)
    parts = np.split(known_T, np.cumsum(lengths)[:-1])
    return [replace(micro, trainer_T=part) for micro, part in zip(micros, parts, strict=True)]
