"""What a run computes with, and how several ranks share it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from alignkit.distributed.fsdp import SharedSampler, Whole, shard
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
    gathers: Whole | None = None
    """Where the policy is sharded: what gives all ranks all its weights."""
    apart: Reference | None = None
    """The reference that belongs to the gathered policy."""

    @contextmanager
    def whole(self) -> Iterator[Models]:
        """What each rank computes with apart from the others, without gradient; every rank must ask."""
        if self.gathers is None:
            yield self
            return
        with self.gathers.gathered() as policy:
            yield replace(self, policy=policy, reference=self.apart, gathers=None)

    @contextmanager
    def whole_policy(self) -> Iterator[Policy]:
        """The policy of `whole`."""
        with self.whole() as models:
            yield models.policy

    def use_path(self, path: str) -> None:
        """Switch between the tree path and the plain path, while the policy has the reference's weights."""
        if path == self.policy.path:
            return
        self.policy.use_path(path)
        if self.gathers is not None:
            self.gathers.plain.use_path(path)
        if self.reference is not None:
            with self.whole_policy() as policy:
                self.reference.know_again(policy)


def shared(models: Models, world: World, *, compiled: bool) -> Models:
    """Shard the policy among the ranks, and let them share the drawing of samples."""
    if world.size == 1:
        return models
    reference = models.reference
    whole = shard(models.policy, world, compiled=compiled)
    return Models(
        whole.sharded,
        None if reference is None else reference.under(whole.sharded),
        SharedSampler(models.sampler, world, whole.gathered),
        world,
        whole,
        reference,
    )
