"""The training loop: one for every method, in a run, a notebook or a benchmark.

Each step's rows, and every random number in it, follow from (seed, epoch, step) alone. Ctrl-C and SIGTERM save a
checkpoint after the step in progress. No weight changes after a non-finite loss or gradient, and nothing is saved after
a non-finite weight. The host waits for the device once in a step, where the gradient is there.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.data.reading.split import derived_seed
from alignkit.display import duration
from alignkit.distributed.fsdp import clip
from alignkit.memory import give_back
from alignkit.methods import Method, MethodConfig
from alignkit.policy.policy import finite_total
from alignkit.progress import Progress, Silent, shown
from alignkit.tracking import Tracker
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.optimizer import late_terms, learning_rate, make_optimizer, short_warmup
from alignkit.training.gradient.speed import Utilisation
from alignkit.training.gradient.step import MicroBatch, StepResult, accumulate, tokens_of
from alignkit.training.lifecycle.deadlines import DeadlinePassed, Deadlines
from alignkit.training.lifecycle.signals import Broken, Signals, noted_signals
from alignkit.training.loop import health_checks as health
from alignkit.training.loop.saver import Saver, TrainState
from alignkit.training.loop.source import StepSource

_logger = logging.getLogger(__name__)


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
        trackers: Sequence[Tracker] = (),
        progress: Progress | None = None,
        saves_end: bool = False,
        names: health.Names = list,
    ) -> None:
        self.method, self.config, self.models, self.source = method, config, models, source
        self.evaluation, self.saver = evaluation or Evaluation(), saver or Saver()
        self.deadlines = deadlines or Deadlines({}, log=Path())
        self.trackers, self.progress, self.world = trackers, progress or Silent(), models.world
        self.optimizer = make_optimizer(models.policy.parameters(), config)
        self.position = TrainState()
        self.saves_end, self.names = saves_end, names
        self.kept_step = 0  # the step whose weights the policy holds at the end
        self.saver.attach(self.position, self.optimizer, source, check_weights=self._check_weights)
        self._weights: Tensor | None = None  # `finite_total` after the last step, until it is read
        self._signals = Signals()
        self._step_began_s: float | None = None  # of the step in progress, by the monotonic clock
        self._step_s: float | None = None  # that the last step took
        self._is_whole = True  # False while an optimizer step changes the weights
        self.utilisation = Utilisation(models.policy, models.world)
        self.num_steps = config.num_steps(source.steps_per_epoch)
        planned = config.planned_steps(source.steps_per_epoch)
        self.validation_interval = config.steps_between_validations(planned, cost_steps=self.evaluation.cost_steps)

    def train(self) -> None:
        """Run to the last step or the early stop; afterwards the policy holds the weights to keep.

        Raises:
            Interrupted: a signal came; a checkpoint was saved.
            RunStopped: the loss was not finite, too many scores were missing, no rewards differed, a deadline
                passed, or memory ran out.
        """
        self.progress.start(f"{self.method.name} step", self.num_steps, self.position.step)
        if (line := short_warmup(self.config, self.num_steps)) is not None:
            self.progress.note(line)
        self._note(late_terms(self.config, self.num_steps))
        give_back()
        try:
            with noted_signals(self.world, self._answer) as self._signals:
                self.measure()
                while self.position.step < self.num_steps and not self._stops_early():
                    self.step()
                    self.measure()
                self._check_weights()
                self.source.finish()
            self._keep_best()
            metrics, lines = self.evaluation.at_end()
            self._log(metrics)
            self._note([*lines, *health.tally_lines(self.position.tally, self.config)])
            if self.position.step < self.num_steps:  # it stopped early; else this was logged before
                self._note(late_terms(self.config, self.position.step))
        except Broken:
            self.saver.stop_interrupted(self.num_steps)
        except DeadlinePassed as passed:
            self.saver.stop_late(passed, self.deadlines.log, is_whole=self._is_whole)
        finally:
            self.progress.stop()

    def step(self) -> None:
        """Make one optimizer step and log it.

        Raises:
            RunStopped: as `train`.
        """
        self.saver.check()
        self._step_began_s = started = time.monotonic()
        step = self.position.step + 1
        own = (self.world.rank,) if self.world.rank else ()
        torch.manual_seed(derived_seed(self.config.seed, "torch", step, *own))  # dropout, where a model has any
        micro_batches, metrics = self.source.step(step)
        with self.deadlines.phase("train"):
            result, trained = self._train(micro_batches, step)
        metrics = metrics | trained | self.utilisation.of(micro_batches)
        if micro_batches:
            self._flag_spike(result.loss, micro_batches)
        tokens = self.world.all_reduce_sums(tokens_of(micro_batches))
        computed, scored = int(tokens["computed"]), int(tokens["scored"])
        self.position.tokens_seen += computed
        elapsed = time.monotonic() - started
        metrics |= {
            "loss": result.loss,
            "seconds": elapsed,
            "tokens_per_s": computed / elapsed,
            "scored_tokens_per_s": scored / elapsed,
        }
        metrics |= result.logged | {f"grad_norm/{name}": norm for name, norm in result.grad_norms.items()}
        metrics |= {f"{health.LIMITED}{name}": float(is_so) for name, is_so in result.limited.items()}
        health.count_in_tally(self.position.tally, metrics)
        self._log({name: x for name, x in metrics.items() if math.isfinite(x)})
        self.progress.advance(1, **shown(metrics, self.method.shown))
        self._step_s, self._step_began_s = time.monotonic() - started, None
        self.position.seconds += self._step_s

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
                self._check_weights()
                found = self.evaluation.measure(step, validates=validates, shows=shows)
        improved = found.objective < self.position.best
        if improved:
            self.position.best, self.position.best_step = found.objective, step
        if validates or shows:
            self.saver.add_samples(found.samples)  # none makes the file too
        if step == 0:
            self.position.first_metrics = found.metrics
        self._note(health.alarms(found.metrics, self.position.first_metrics))
        self._log(found.metrics)
        self.position.measured = step
        self.position.seconds += time.monotonic() - started
        keeps = improved and self.config.early_stopping_steps is not None  # nothing else reads the best weights
        is_due = step < self.num_steps and (keeps or step % self.config.checkpoint_interval == 0)
        if step and (is_due or (self.saves_end and step == self.num_steps)):
            self.saver.save(waits=False)

    def _answer(self, breaks: bool) -> None:
        """Say at once what a signal does, and what is kept."""
        doing, began, last_s = "finishing this step", self._step_began_s, self._step_s
        if breaks:
            doing = "leaving what is being measured; it is measured again when the run goes on"
        elif began is not None and last_s is not None:
            doing += f", about {duration(max(1.0, began + last_s - time.monotonic()))}"
        saved = self.saver.saved_step
        kept = "nothing is saved yet" if saved is None else f"the last checkpoint is step {saved}"
        self.progress.note(f"{doing}, then saving; Ctrl-C again stops now: {kept}")

    def _train(self, micro_batches: list[MicroBatch], step: int) -> tuple[StepResult, dict[str, float]]:
        """Change the weights; afterwards the run is at `step`."""
        self.optimizer.zero_grad(set_to_none=True)
        result = StepResult(0.0, {})
        rate = learning_rate(self.config, step=step, num_steps=self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        metrics = {"learning_rate": rate}
        if self.source.may_be_empty:
            metrics["no_update"] = float(not micro_batches)  # no moment, no decay: there is no gradient
        if not micro_batches:
            self.source.check(result.logged, step)
        else:
            self.utilisation.clock.start()
            result, norm = self._gradient(micro_batches, step)
            self.utilisation.clock.turn()
            metrics |= {"grad_norm": norm, "grad_clipped": float(norm > self.config.max_grad_norm)}
            self._is_whole = False
            self.optimizer.step()
            self._weights = finite_total(p for p in self.models.policy.parameters() if p.requires_grad)
            self.utilisation.clock.stop()
        self.position.step = step
        self._is_whole = True
        return result, metrics

    def _gradient(self, micro_batches: list[MicroBatch], step: int) -> tuple[StepResult, float]:
        """Compute the gradient, clipped; returns what the step found, and the norm before.

        The step's one read: losses, logs and norms, and whether the weights that the step before left are finite.
        """
        found = accumulate(
            self.models.policy,
            self.method,
            self.config,
            micro_batches,
            reference=self.models.reference,
            world=self.world,
            left_out=self.source.left_out,
            mismatched=self.source.mismatched,
        )
        beside = {"norm": clip(self.models.policy.parameters(), self.config.max_grad_norm)}
        if self._weights is not None:
            beside["weights"], self._weights = self._weights, None
        result, values = found.read(self.world, **beside)
        if "weights" in values:
            self._refuse_weights(values["weights"])
        self._refuse_non_finite("loss", result.loss, micro_batches, step)
        self.source.check(result.logged, step)
        self._refuse_non_finite("gradient norm", values["norm"], micro_batches, step)
        return result, values["norm"]

    def _check_weights(self) -> None:
        """Stop where the last step left a weight nan or infinite: before weights are measured, kept or saved."""
        if self._weights is not None:
            total, self._weights = float(self._weights), None
            self._refuse_weights(total)

    def _refuse_weights(self, total: float) -> None:
        if not all(map(math.isfinite, self.world.gather(total))):
            saved = self.saver.what_is_saved
            health.refuse_non_finite_weights(self.models.policy, step=self.position.step, saved=saved, world=self.world)

    def _refuse_non_finite(self, name: str, value: float, micro_batches: list[MicroBatch], step: int) -> None:
        whole = self.models.unsharded_policy
        health.refuse_non_finite(name, value, whole, micro_batches, step=step, names=self.names, world=self.world)

    def _flag_spike(self, loss: float, micro_batches: list[MicroBatch]) -> None:
        before, step = self.position.losses, self.position.step
        line = health.spike_line(before, loss, micro_batches, step=step, names=self.names, world=self.world)
        if line is not None:
            _logger.warning("%s", line)
            self._log({"loss_spike": loss})
        self.position.losses = [*self.position.losses, loss][-health.MAX_LOSSES :]

    def _stops_early(self) -> bool:
        patience, best = self.config.early_stopping_steps, self.position.best_step
        since = self.position.step - best
        if patience is None or since < patience or math.isinf(self.position.best):
            return False
        where = f"at {best}" if best else "before the first step"
        self.progress.note(f"stopped early: no better validation for {since} steps (best {where})")
        return True

    def _keep_best(self) -> None:
        """With early stopping the best validated weights are kept, the start's among them; otherwise the last."""
        best = self.position.best_step
        self.kept_step = self.position.step
        if self.config.early_stopping_steps is None or math.isinf(self.position.best) or best == self.position.step:
            return
        if (line := self.saver.put_back(best)) is not None:
            self.kept_step = best
            self.progress.note(line)

    def _note(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.progress.note(line)

    def _log(self, metrics: Mapping[str, float]) -> None:
        for tracker in self.trackers if metrics else ():
            tracker.log(self.position.step, metrics, tokens_seen=self.position.tokens_seen)
