"""What a run computes with, and how several ranks share it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from alignkit.data.trees.packs import MICRO_BATCH_TOKENS
from alignkit.distributed.fsdp import FullParams, SharedSampler, shard
from alignkit.distributed.ranks import ALONE, World
from alignkit.policy.policy import Policy
from alignkit.rollouts.sampler import Sampler
from alignkit.training.gradient.reference import Reference


@dataclass(frozen=True)
class Models:
    """What a run computes with."""

    policy: Policy
    reference: Reference | None
    sampler: Sampler
    world: World = ALONE
    full_params: FullParams | None = None
    """Where the policy is sharded: what gives all ranks all its weights."""
    full_reference: Reference | None = None
    """The reference that belongs to the gathered policy."""
    micro_batch_tokens: int = MICRO_BATCH_TOKENS
    """Tokens that are computed at once; a tree that cannot be split and is longer has its own pass."""

    @contextmanager
    def unsharded(self) -> Iterator[Models]:
        """What each rank computes with apart from the others, without gradient; every rank must ask."""
        if self.full_params is None:
            yield self
            return
        with self.full_params.gathered() as policy:
            yield replace(self, policy=policy, reference=self.full_reference, full_params=None)

    @contextmanager
    def unsharded_policy(self) -> Iterator[Policy]:
        """The policy of `unsharded`."""
        with self.unsharded() as models:
            yield models.policy

    def use_path(self, path: str) -> None:
        """Switch between the tree path and the plain path, while the policy has the reference's weights."""
        if path == self.policy.path:
            return
        self.policy.use_path(path)
        if self.full_params is not None:
            self.full_params.plain.use_path(path)
        if self.reference is not None:
            with self.unsharded_policy() as policy:
                self.reference.know_again(policy)


def shared(models: Models, world: World) -> Models:
    """Shard the policy among the ranks, and let them share the drawing of samples."""
    if world.size == 1:
        return models
    reference = models.reference
    whole = shard(models.policy, world)
    return Models(
        whole.sharded,
        None if reference is None else reference.under(whole.sharded),
        SharedSampler(models.sampler, world, whole.gathered),
        world,
        whole,
        reference,
        models.micro_batch_tokens,
    )
