"""The micro-batches of a step on rows of the data, with samples for their prompts where the method draws some.

Which rows a step takes follows from (seed, epoch, step) alone. The step on samples alone is rollout_step.py.
"""

from __future__ import annotations

import numpy as np

from alignkit.data.packs import lay_out
from alignkit.methods import Method, MethodConfig
from alignkit.policy.ranks import World
from alignkit.training.distributed import own_rows
from alignkit.training.draw import unrewarded_micro
from alignkit.training.order import EpochPacking, step_rows, steps_per_epoch
from alignkit.training.rollout_step import RolloutStep
from alignkit.training.sample_lines import lengths
from alignkit.training.setup import ROW_CAPACITY, Inputs
from alignkit.training.step import Micro


class RowStep:
    """Lays out a step's rows, this rank's share of them.

    Args:
        rows_per_step: trees of one optimizer step, over all ranks.
        row_capacity: tokens of one micro-batch.
        rollouts: draws the samples of a method on rows that also samples.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        inputs: Inputs,
        *,
        rows_per_step: int,
        row_capacity: int,
        rollouts: RolloutStep,
        world: World,
    ) -> None:
        self.method, self.config, self.inputs, self.rollouts, self.world = method, config, inputs, rollouts, world
        self.rows_per_step, self.row_capacity = rows_per_step, row_capacity
        self.steps_per_epoch = steps_per_epoch(len(inputs.training.trees), rows_per_step)
        self._packing = None
        if config.pack_scope == "epoch":
            lengths_P = inputs.training.trees.lengths()
            self._packing = EpochPacking(
                lengths_P, capacity=ROW_CAPACITY, rows_per_step=rows_per_step, seed=config.seed
            )
            self.steps_per_epoch = self._packing.steps_per_epoch

    def step(self, step: int) -> tuple[list[Micro], dict[str, float]]:
        """Return the step's micro-batches and what its samples' lengths were."""
        training = self.inputs.training
        if self._packing is None:
            numbers = step_rows(len(training.trees), self.rows_per_step, seed=self.config.seed, step=step)
        else:
            numbers = np.concatenate(self._packing.step(step))
        pairs = [(training.rows[n], training.trees[n]) for n in numbers]
        temperatures = self.method.temperatures(step, self.config)
        groups = self.rollouts.draw(pairs, temperatures, step) if temperatures else []
        trees = [tree for _, tree in pairs]
        micros = []
        rows, is_spare = own_rows(trees, self.row_capacity, self.world)
        for row in rows:
            samples = unrewarded_micro([groups[n] for n in row]) if groups else None
            micros.append(Micro(lay_out([trees[n] for n in row]), samples=samples, is_spare=is_spare))
        return micros, lengths(groups) if groups else {}
