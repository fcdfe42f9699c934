"""The micro-batches of a step on rows of the data, with samples for their prompts where the method draws some.

Which rows a step takes follows from (seed, epoch, step) alone. The step on samples alone is rollouts/source.py.
"""

from __future__ import annotations

from alignkit.data.trees.packs import lay_out
from alignkit.distributed.ranks import World
from alignkit.methods import Method, MethodConfig
from alignkit.training.gradient.step import MicroBatch
from alignkit.training.gradient.step_rows import StepRows
from alignkit.training.inputs.setup import Inputs
from alignkit.training.rollouts.micro_batches import unrewarded_micro_batch
from alignkit.training.rollouts.sample_log import lengths
from alignkit.training.rollouts.source import RolloutSource


class RowStep:
    """Lays out a step's rows, this rank's share of them.

    Args:
        micro_batch_tokens: tokens of one micro-batch.
        rollouts: draws the samples of a method on rows that also samples.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        inputs: Inputs,
        *,
        micro_batch_tokens: int,
        rollouts: RolloutSource,
        world: World,
    ) -> None:
        self.method, self.config, self.inputs, self.rollouts = method, config, inputs, rollouts
        self.layout = StepRows(inputs.training, config, micro_batch_tokens=micro_batch_tokens, world=world)
        self.steps_per_epoch = self.layout.steps_per_epoch

    def step(self, step: int) -> tuple[list[MicroBatch], dict[str, float]]:
        """Return the step's micro-batches and what its samples' lengths were."""
        training, numbers = self.inputs.training, self.layout.numbers(step)
        temperatures = self.method.temperatures(step, self.config)
        groups = []
        if temperatures:
            pairs = [(training.rows[n], training.trees[n]) for n in numbers]
            groups = self.rollouts.sample(pairs, temperatures, step)
        micro_batches = []
        rows, is_padding = self.layout.own(step)
        for row in rows:
            samples = unrewarded_micro_batch([groups[n] for n in row]) if groups else None
            micro_batches.append(
                MicroBatch(lay_out(training.trees, numbers[row]), samples=samples, is_padding=is_padding)
            )
        return micro_batches, lengths(groups) if groups else {}
