"""What a run measures between its steps: validation, samples to read, and a reward model's held-out pairs."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from alignkit.methods import Method, MethodConfig, sampled_options
from alignkit.training.gradient.models import Models
from alignkit.training.inputs.setup import Inputs
from alignkit.training.lifecycle.deadlines import Deadlines
from alignkit.training.loop.train_loop import EvalResult, Evaluation
from alignkit.training.rollouts.eval_loss import eval_pairs, show_samples, validate
from alignkit.training.rollouts.sample_log import shown_line
from alignkit.training.rollouts.source import RolloutSource


class RunEvaluation(Evaluation):
    """Measures a run's weights on its validation rows, with all the weights on every rank.

    Args:
        rollouts: evaluates a method that trains on samples.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        inputs: Inputs,
        models: Models,
        rollouts: RolloutSource,
        deadlines: Deadlines,
    ) -> None:
        self.method, self.config, self.inputs, self.models = method, config, inputs, models
        self.rollouts, self.deadlines = rollouts, deadlines
        self.cost_steps = validation_steps(method, config, len(inputs.validation.trees))

    def measure(self, step: int, *, validates: bool, shows: bool) -> EvalResult:
        shows &= bool(self.inputs.validation.trees) and "scalar_head" not in self.method.needs
        found, groups = EvalResult({}, math.nan), []
        with self.models.unsharded() as models:
            if validates:
                sampled = partial(self.rollouts.validate, step, models)
                found = validate(self.method, self.config, self.inputs, models, sampled, step)
            if shows:
                groups = show_samples(self.config, self.inputs, models, step=step, deadlines=self.deadlines)
        if step == 0:
            found = replace(found, metrics=found.metrics | self._rows_not_used())
        if not groups:
            return found
        length = float(np.mean([len(group.completions[0].ids) for group in groups]))
        samples = tuple(shown_line(group, step) for group in groups)
        return replace(found, metrics=found.metrics | {"samples/length": length}, samples=samples)

    def _rows_not_used(self) -> dict[str, float]:
        """How many training rows were left out on purpose, and how many skipped, where any were."""
        training = self.inputs.training
        counts = {"rows/left_out": len(training.left_out), "rows/skipped": len(training.skipped)}
        return {name: float(count) for name, count in counts.items() if count}

    def at_end(self) -> tuple[dict[str, float], list[str]]:
        """Measure what a reward model knows of held-out pairs beyond their look."""
        if "scalar_head" not in self.method.needs:
            return {}, []
        with self.models.unsharded() as models:
            held_out = eval_pairs(self.inputs, models)
        return ({}, []) if held_out is None else (held_out.metrics(), held_out.lines())


def validation_steps(method: Method, config: MethodConfig, num_rows: int) -> float:
    """Optimizer steps that take about as long as one validation on so many rows.

    A step costs three forward passes over its rows, a validation one over its own; where samples are drawn, drawing
    them decides.
    """
    if method.trains_on.is_sampled:
        drawn = config.batch_size * len(method.temperatures(1, config))
        return min(sampled_options(config).validation_prompts, num_rows) / max(1, drawn)
    return num_rows / (3 * config.batch_size)
