"""Which trees an optimizer step takes, and how this rank lays them into rows: known before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alignkit.data.prepared.store import Stored
from alignkit.distributed.fsdp import shard_and_pack
from alignkit.distributed.ranks import World
from alignkit.methods import MethodConfig
from alignkit.training.gradient.order import step_rows, steps_per_epoch


class StepRows:
    """The rows of a run's steps on its data.

    Args:
        training: the rows of the data.
        micro_batch_tokens: tokens of one micro-batch.
    """

    def __init__(self, training: Stored, config: MethodConfig, *, micro_batch_tokens: int, world: World) -> None:
        self.trees, self.seed, self.micro_batch_tokens, self.world = (
            training.trees,
            config.seed,
            micro_batch_tokens,
            world,
        )
        self.prompts_per_step = config.batch_size
        self.steps_per_epoch = steps_per_epoch(len(self.trees), self.prompts_per_step)

    def numbers(self, step: int) -> np.ndarray:
        """Return the numbers of the trees of a step (from 1), of all ranks."""
        return step_rows(len(self.trees), self.prompts_per_step, seed=self.seed, step=step)

    def own(self, step: int) -> tuple[list[list[int]], bool]:
        """Return this rank's rows of a step as places in `numbers`, and whether they count for nothing."""
        return shard_and_pack([self.trees[n] for n in self.numbers(step)], self.micro_batch_tokens, self.world)

    def from_step(self, first: int) -> Iterator[list[int]]:
        """Yield this rank's rows of an epoch's steps from one on, as tree numbers; those that count for nothing not."""
        for step in range(first, first + self.steps_per_epoch):
            numbers = self.numbers(step)
            rows, is_padding = self.own(step)
            yield from ([] if is_padding else ([int(numbers[n]) for n in row] for row in rows))
