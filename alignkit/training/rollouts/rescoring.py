"""Log-probs of drawn samples under other weights or kernels than those that drew them. P prompts, G group, T tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from alignkit.distributed.fsdp import shard_and_pack
from alignkit.policy.policy import Policy
from alignkit.training.gradient.step import MicroBatch
from alignkit.training.inputs.models import Models
from alignkit.training.inputs.setup import micro_batch_tokens
from alignkit.training.rollouts.journal import Journal
from alignkit.training.rollouts.sampling import Group, unrewarded_micro_batch


def reference_kl(models: Models, groups: Sequence[Group]) -> np.ndarray:
    """k1 of each completion at its temperature, the sum of log pi - log pi_ref, nats: float64 [P, G].

    pi are the sampler's log-probs; a token where they are not finite has training's. Each rank computes its share.
    """
    size = len(groups[0].completions)
    trees = [group.tree(range(size)) for group in groups]
    with models.whole() as whole:
        assert whole.reference is not None
        rows, is_padding = shard_and_pack(trees, micro_batch_tokens(whole.policy.device), whole.world)
        reference = whole.reference

        def compute() -> list[tuple[int, list[float]]]:
            found: list[Any] = []
            for numbers in [] if is_padding else rows:
                micro_batch = unrewarded_micro_batch([groups[n] for n in numbers])
                reference_T = reference.logprobs(micro_batch.pack, micro_batch.temperature_N).cpu().double().numpy()
                drawn_T = _known_logprobs(whole.policy, micro_batch)
                kl_N = np.bincount(micro_batch.pack.completion_T, drawn_T - reference_T, len(numbers) * size)
                found += zip(numbers, kl_N.reshape(len(numbers), size).tolist(), strict=True)
            return found

        by_group = dict(pair for part in whole.world.run_on_all(compute) for pair in part)
    return np.array([by_group[n] for n in range(len(groups))])


def _known_logprobs(policy: Policy, micro_batch: MicroBatch) -> np.ndarray:
    """The samples' log-probs under the weights that drew them, float32 [T]: the sampler's, else training's."""
    assert micro_batch.sampler_logprob_T is not None
    known_T = np.isfinite(micro_batch.sampler_logprob_T)
    if known_T.all():
        return micro_batch.sampler_logprob_T
    with torch.no_grad():
        own_T = policy(micro_batch.pack, micro_batch.temperature_N).logprob_T.float().cpu().numpy()
    return np.where(known_T, micro_batch.sampler_logprob_T, own_T)


def with_old_logprobs(
    policy: Policy, micro_batches: Sequence[MicroBatch], journal: Journal, batch: int, key: str
) -> list[MicroBatch]:
    """Add what the weights that drew a batch give its samples in training: before its first update, journalled."""
    if not micro_batches:
        return []
    lengths = [len(micro_batch.pack.target_T) for micro_batch in micro_batches]
    known_T = journal.old_logprobs(batch, key)
    if known_T is None:
        with torch.no_grad():
            found = [policy(m.pack, m.temperature_N).logprob_T.float().cpu().numpy() for m in micro_batches]
        known_T = np.concatenate(found)
        journal.keep_old_logprobs(batch, key, known_T)
    parts = np.split(known_T, np.cumsum(lengths)[:-1])
    return [replace(micro_batch, old_logprob_T=part) for micro_batch, part in zip(micro_batches, parts, strict=True)]
