"""The micro-batches of a step on rows of the data, with samples for their prompts where the method draws some.

Which rows a step takes follows from (seed, epoch, step) alone. The step on samples alone is rollout_step.py.
"""

from __future__ import annotations

from alignkit.data.packs import lay_out
from alignkit.methods import Method, MethodConfig
from alignkit.policy.ranks import World
from alignkit.training.draw import unrewarded_micro
from alignkit.training.rollout_step import RolloutStep
from alignkit.training.sample_lines import lengths
from alignkit.training.setup import Inputs
from alignkit.training.step import Micro
from alignkit.training.step_rows import StepRows


class RowStep:
    """Lays out a step's rows, this rank's share of them.

    Args:
        row_capacity: tokens of one micro-batch.
        rollouts: draws the samples of a method on rows that also samples.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        inputs: Inputs,
        *,
        row_capacity: int,
        rollouts: RolloutStep,
        world: World,
    ) -> None:
        self.method, self.config, self.inputs, self.rollouts = method, config, inputs, rollouts
        self.layout = StepRows(inputs.training, config, row_capacity=row_capacity, world=world)
        self.steps_per_epoch = self.layout.steps_per_epoch

    def step(self, step: int) -> tuple[list[Micro], dict[str, float]]:
        """Return the step's micro-batches and what its samples' lengths were."""
        training = self.inputs.training
        pairs = [(training.rows[n], training.trees[n]) for n in self.layout.numbers(step)]
        temperatures = self.method.temperatures(step, self.config)
        groups = self.rollouts.draw(pairs, temperatures, step) if temperatures else []
        trees = [tree for _, tree in pairs]
        micros = []
        rows, is_spare = self.layout.own(step)
        for row in rows:
            samples = unrewarded_micro([groups[n] for n in row]) if groups else None
            micros.append(Micro(lay_out([trees[n] for n in row]), samples=samples, is_spare=is_spare))
        return micros, lengths(groups) if groups else {}
