"""The training loop: one for every method, in a run, a notebook or a benchmark.

Each step's rows, and every random number in it, follow from (seed, epoch, step) alone. Ctrl-C and SIGTERM save a
checkpoint after the step in progress. What a step does to the weights is update.py's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.memory import give_back
from alignkit.methods import Method, MethodConfig
from alignkit.training.gradient.models import Models
from alignkit.training.lifecycle.deadlines import DeadlinePassed, Deadlines
from alignkit.training.lifecycle.signals import Broken, Signals, noted_signals
from alignkit.training.loop import health_checks as health
from alignkit.training.loop.reporter import Reporter
from alignkit.training.loop.saver import Saver, TrainState
from alignkit.training.loop.source import StepSource, seed_step
from alignkit.training.loop.update import Update


@dataclass(frozen=True)
class EvalResult:
    """Numbers by metric name, and the one that decides which weights are best (lower is better; nan: none)."""

    metrics: dict[str, float]
    objective: float
    samples: tuple[Mapping[str, Any], ...] = ()
    """Lines of samples.jsonl."""


class Evaluation:
    """Measures nothing: a loop without validation rows."""

    cost_steps: float = 0.0
    """Optimizer steps that take about as long as one validation."""

    def measure(self, step: int, *, validates: bool, shows: bool) -> EvalResult:
        """Measure the weights as they are after a step (0: before the first).

        Args:
            validates: validation is due.
            shows: samples to read are due.
        """
        return EvalResult({}, math.nan)

    def at_end(self) -> tuple[dict[str, float], list[str]]:
        """Measure the weights that are kept: metrics, and lines for whoever watches."""
        return {}, []


class Loop:
    """Trains one method.

    Args:
        models: the policy, and its reference where the loss reads one.
        source: gives each step its micro-batches.
        evaluation: default: nothing is measured.
        saver: default: nothing is kept.
        deadlines: default: none.
        reporter: default: nothing is said.
        saves_end: keep a checkpoint of the last step, before the best weights may be put in its place.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        models: Models,
        source: StepSource,
        *,
        evaluation: Evaluation | None = None,
        saver: Saver | None = None,
        deadlines: Deadlines | None = None,
        reporter: Reporter | None = None,
        saves_end: bool = False,
        names: health.Names = list,
    ) -> None:
        self.method, self.config, self.models, self.source = method, config, models, source
        self.evaluation, self.saver = evaluation or Evaluation(), saver or Saver()
        self.deadlines = deadlines or Deadlines({}, log=Path())
        self.reporter, self.world = reporter or Reporter(), models.world
        self.position = TrainState()
        self.num_steps = config.num_steps(source.steps_per_epoch)
        planned = config.planned_steps(source.steps_per_epoch)
        self.validation_interval = config.steps_between_validations(planned, cost_steps=self.evaluation.cost_steps)
        self.update = Update(
            method,
            config,
            models,
            source,
            self.position,
            num_steps=self.num_steps,
            saved=self.saver.what_is_saved,
            names=names,
        )
        self.saves_end = saves_end
        self.kept_step = 0  # the step whose weights the policy holds at the end
        self.saver.attach(self.position, self.update.optimizer, source, check_weights=self.update.check_weights)
        self._signals = Signals()

    def train(self) -> None:
        """Run to the last step or the early stop; afterwards the policy holds the weights to keep.

        Raises:
            Interrupted: a signal came; a checkpoint was saved.
            RunStopped: the loss was not finite, too many scores were missing, no rewards differed, a deadline
                passed, or memory ran out.
        """
        self.reporter.start(self.method.name, self.num_steps, self.position.step)
        self.reporter.note(self.update.lines_before())
        try:
            with noted_signals(self.world, self._answer) as self._signals:
                self.measure()
                while self.position.step < self.num_steps and not self._stops_early():
                    self.step()
                    self.measure()
                self.update.check_weights()
                self.source.finish()
            self._keep_best()
            metrics, lines = self.evaluation.at_end()
            self._log(metrics)
            tallied = health.tally_lines(self.position.tally, self.config)
            self.reporter.note([*lines, *tallied, *self.update.lines_after()])
        except Broken:
            self.saver.stop_interrupted(self.num_steps)
        except DeadlinePassed as passed:
            self.saver.stop_late(passed, self.deadlines.log, is_whole=self.update.is_whole)
        finally:
            self.reporter.stop()

    def step(self) -> None:
        """Make one optimizer step and log it.

        Raises:
            RunStopped: as `train`.
        """
        self.saver.check()
        began, step = self.reporter.begin_step(), self.position.step + 1
        seed_step(self.config.seed, step, self.world)
        micro_batches, metrics = self.source.step(step)
        with self.deadlines.phase("train"):
            result, of_update = self.update.make(micro_batches, step)
        metrics |= of_update | self.update.numbers(micro_batches, result, began=began)
        health.count_in_tally(self.position.tally, metrics)
        self._log({name: x for name, x in metrics.items() if math.isfinite(x)})
        self.position.seconds += self.reporter.end_step(metrics, self.method.shown)

    def measure(self) -> None:
        """Validate, sample and save where that is due after this step and not done.

        Raises:
            Broken: a signal came. What was measured is thrown away and measured again when the run goes on.
        """
        step = self.position.step
        is_end = step in (0, self.num_steps)
        validates = is_end or step % self.validation_interval == 0
        shows = is_end or step % self.config.sample_interval == 0
        found = EvalResult({}, math.nan)
        with self._signals.breakable():
            if step == self.position.measured:
                return
            started = time.monotonic()
            if validates or shows:
                self.update.check_weights()
                give_back()
                found = self.evaluation.measure(step, validates=validates, shows=shows)
        improved = found.objective < self.position.best
        if improved:
            self.position.best, self.position.best_step = found.objective, step
        if validates or shows:
            self.saver.add_samples(found.samples)  # none makes the file too
        if step == 0:
            self.position.first_metrics = found.metrics
        self.reporter.note(health.alarms(found.metrics, self.position.first_metrics))
        self._log(found.metrics)
        self.position.measured = step
        self.position.seconds += time.monotonic() - started
        keeps = improved and bool(self.config.early_stopping_steps)  # nothing else reads the best weights
        is_due = step < self.num_steps and (keeps or step % self.config.checkpoint_interval == 0)
        if step and (is_due or (self.saves_end and step == self.num_steps)):
            self.saver.save(waits=False)

    def _answer(self, breaks: bool) -> None:
        self.reporter.answer(breaks, self.saver.saved_step)

    def _stops_early(self) -> bool:
        patience, best = self.config.early_stopping_steps, self.position.best_step
        since = self.position.step - best
        if not patience or since < patience or math.isinf(self.position.best):
            return False
        where = f"at {best}" if best else "before the first step"
        self.reporter.note([f"stopped early: no better validation for {since} steps (best {where})"])
        return True

    def _keep_best(self) -> None:
        """With early stopping the best validated weights are kept, the start's among them; otherwise the last."""
        best = self.position.best_step
        self.kept_step = self.position.step
        if not self.config.early_stopping_steps or math.isinf(self.position.best) or best == self.position.step:
            return
        if (line := self.saver.put_back(best)) is not None:
            self.kept_step = best
            self.reporter.note([line])

    def _log(self, metrics: Mapping[str, float]) -> None:
        self.reporter.log(self.position.step, metrics, tokens_seen=self.position.tokens_seen)
