"""Rewarded groups -> advantages -> this rank's micro-batches, with the log-probs that a loss compares.

    rewarded_micro_batches  advantages, which groups are computed, and what the step's means count beside them
    unrewarded_micro_batch  samples without advantages: of a method on rows that also samples
    split                   a group longer than a micro-batch, apart
    reference_kl            k1 of each completion, before the rewards become advantages
    with_old_logprobs       what the weights that drew the samples give them in training

P prompts, G group, N completions, T scored tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from alignkit.data.trees.packs import lay_out, pack_evenly
from alignkit.data.trees.trees import Tree
from alignkit.distributed.fsdp import shard_and_pack
from alignkit.distributed.ranks import ALONE, World
from alignkit.methods import Method, MethodConfig, sampled_options
from alignkit.policy.policy import Policy
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.step import MicroBatch
from alignkit.training.rollouts.journal import Journal
from alignkit.training.rollouts.sampling import Group


def rewarded_micro_batches(
    method: Method,
    config: MethodConfig,
    groups: Sequence[Group],
    rewards_PG: np.ndarray,
    *,
    capacity: int,
    world: World = ALONE,
) -> tuple[list[MicroBatch], dict[str, int]]:
    """Turn rewards into advantages and pack this rank's samples into micro-batches.

    A group of equal rewards has advantages of 0. Where the loss has no KL it adds nothing to the gradient and is not
    computed. It is counted all the same: the step's means are over all sampled groups, whatever their rewards.

    Args:
        rewards_PG: float64 [P, G], nan where missing.
        capacity: tokens of a micro-batch.

    Returns:
        the micro-batches; and what the step's means divide by beside them.
    """
    sampled = sampled_options(config)
    advantages_PG, equal_P = method.advantages(rewards_PG, config), zero_variance_groups(rewards_PG)
    advantages_PG[equal_P] *= 0.0  # nan stays nan
    if sampled.mask_truncated_completions:
        advantages_PG = drop_truncated(advantages_PG, groups)
    kept_P = ~equal_P | (sampled.zero_variance_groups == "keep" or sampled.kl_in_loss > 0)
    micro_batches = sample_micro_batches(
        groups, advantages_PG, capacity, kept_P=kept_P, splits=sampled.splits_groups, world=world
    )
    return micro_batches, counts_left_out(groups, advantages_PG, kept_P)


def zero_variance_groups(rewards_PG: np.ndarray) -> np.ndarray:
    """Which groups have several rewards, all the same, and so teach nothing: bool [P]."""
    present_P = (~np.isnan(rewards_PG)).sum(1)
    highest_P = np.max(rewards_PG, axis=1, initial=-math.inf, where=~np.isnan(rewards_PG))
    lowest_P = np.min(rewards_PG, axis=1, initial=math.inf, where=~np.isnan(rewards_PG))
    # `initial` makes a row of nan alone -inf and inf: never equal
    return (present_P > 1) & (highest_P == lowest_P)


def drop_truncated(advantages_PG: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """Put nan for truncated completions: their siblings were compared with them, they are not trained on."""
    truncated_PG = np.array([[completion.truncated for completion in group.completions] for group in groups])
    return np.where(truncated_PG, np.nan, advantages_PG)


def sample_micro_batches(
    groups: Sequence[Group],
    advantages_PG: np.ndarray,
    capacity: int,
    *,
    kept_P: np.ndarray,
    splits: bool = False,
    world: World = ALONE,
) -> list[MicroBatch]:
    """Pack this rank's samples of the kept groups; a sample whose advantage is nan is left out.

    Args:
        splits: a group that is longer than a micro-batch may be computed in parts; its advantages are the group's.
    """
    # the numbers of a group's completions that have an advantage; a part's tree holds its own alone, in this order
    parts_of = [
        split(group, np.flatnonzero(~np.isnan(advantages)), capacity if splits else None)
        for group, advantages in zip(groups, advantages_PG, strict=True)
    ]
    kept = [
        (group, which, advantages)
        for group, advantages, is_kept, parts in zip(groups, advantages_PG, kept_P, parts_of, strict=True)
        if is_kept
        for which in parts
    ]
    trees = [group.tree(which.tolist()) for group, which, _ in kept]
    rows, is_padding = shard_and_pack(trees, capacity, world)
    seen = {n for n, (group, _, _) in enumerate(kept) if n and kept[n - 1][0] is group}
    made = [_micro_batch([kept[n] for n in numbers], [trees[n] for n in numbers]) for numbers in rows]
    return [
        replace(micro, num_continued=len(seen.intersection(numbers)), is_padding=is_padding)
        for micro, numbers in zip(made, rows, strict=True)
    ]


def split(group: Group, which: np.ndarray, capacity: int | None) -> list[np.ndarray]:
    """Share a group's completions among as few trees of at most `capacity` tokens as hold them, evenly; None: one tree.

    Each tree has the prompt once more. A completion that is longer with its prompt has a tree of its own.

    Args:
        which: int64, numbers of the completions.
    """
    own = [group.completions[k].ids for k in which]
    room = 0 if capacity is None else max(1, capacity - len(group.prompt_ids))
    if capacity is None or sum(map(len, own)) <= room:
        return [which] if len(which) else []
    return [which[part] for part in pack_evenly(own, room)]


def counts_left_out(groups: Sequence[Group], advantages_PG: np.ndarray, kept_P: np.ndarray) -> dict[str, int]:
    """Count what the groups that are not kept would have had in the step, as the step's means divide by it."""
    trained = [
        [len(completion.ids) for completion, x in zip(group.completions, advantages, strict=True) if not np.isnan(x)]
        for group, advantages, is_kept in zip(groups, advantages_PG, kept_P, strict=True)
        if not is_kept
    ]
    num_groups = sum(bool(lengths) for lengths in trained)
    return {
        "tokens": sum(map(sum, trained)),
        "completions": sum(map(len, trained)),
        "pairs": num_groups,
        "groups": num_groups,
    }


def unrewarded_micro_batch(groups: Sequence[Group]) -> MicroBatch:
    """Pack all samples of some prompts into one micro-batch, without advantages."""
    everyone = np.arange(len(groups[0].completions))
    kept = [(group, everyone, None) for group in groups]
    return _micro_batch(kept, [group.tree(everyone.tolist()) for group in groups])


def _micro_batch(kept: Sequence[tuple[Group, np.ndarray, np.ndarray | None]], trees: Sequence[Tree]) -> MicroBatch:
    sampler_logprobs = [group.completions[k].logprobs for group, which, _ in kept for k in which]
    temperature = [group.temperatures[k] for group, which, _ in kept for k in which]
    advantage = [advantages[k] for _, which, advantages in kept if advantages is not None for k in which]
    return MicroBatch(
        lay_out(trees),
        temperature_N=np.array(temperature, np.float32),
        sampler_logprob_T=np.concatenate(sampler_logprobs),
        advantage_N=np.array(advantage, np.float32) if advantage else None,
    )


def reference_kl(models: Models, groups: Sequence[Group]) -> np.ndarray:
    """k1 of each completion at its temperature, the sum of log pi - log pi_ref, nats: float64 [P, G].

    pi are the sampler's log-probs; a token where they are not finite has training's. Each rank computes its share.
    """
    everyone, capacity = np.arange(len(groups[0].completions)), models.micro_batch_tokens
    parts = [(n, which) for n, group in enumerate(groups) for which in split(group, everyone, capacity)]
    trees = [groups[n].tree(which.tolist()) for n, which in parts]
    with models.unsharded() as whole:
        assert whole.reference is not None
        rows, is_padding = shard_and_pack(trees, capacity, whole.world)
        reference = whole.reference

        def compute() -> list[tuple[int, int, float]]:
            found: list[Any] = []
            for numbers in [] if is_padding else rows:
                micro_batch = _micro_batch(
                    [(groups[n], which, None) for n, which in (parts[number] for number in numbers)],
                    [trees[number] for number in numbers],
                )
                reference_T = reference.logprobs(micro_batch.pack, micro_batch.temperature_N).cpu().double().numpy()
                policy_T = _known_logprobs(whole.policy, micro_batch)
                places = [(n, int(k)) for n, which in (parts[number] for number in numbers) for k in which]
                # bincount with weights sums each completion's tokens
                kl_N = np.bincount(micro_batch.pack.completion_T, policy_T - reference_T, len(places))
                found += [(*place, kl) for place, kl in zip(places, kl_N.tolist(), strict=True)]
            return found

        kl_PG = np.zeros((len(groups), len(everyone)))
        for n, k, kl in (one for part in whole.world.run_on_all(compute) for one in part):
            kl_PG[n, k] = kl
    return kl_PG


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
    """Add the log-probs that training gives the samples before the batch's first update; they are journalled."""
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
