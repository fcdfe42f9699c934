"""The training loop: one for every method.

Each step's rows, and every random number in it, follow from (seed, epoch, step) alone; packing only lays the rows out.
Ctrl-C and SIGTERM save a checkpoint after the step in progress. Nothing is written after a non-finite loss, gradient
or weight.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from alignkit.data.reading.split import derived_seed
from alignkit.distributed.fsdp import clip
from alignkit.errors import Interrupted, RunStopped
from alignkit.memory import give_back
from alignkit.methods import Method, MethodConfig
from alignkit.policy.policy import Policy
from alignkit.progress import Progress, shown
from alignkit.tracking import Tracker
from alignkit.training.checkpoints import checkpoint
from alignkit.training.checkpoints.run_folder import RunFolder
from alignkit.training.gradient import health_checks as guards
from alignkit.training.gradient import tally
from alignkit.training.gradient.optimizer import late_terms, learning_rate, make_optimizer, short_warmup
from alignkit.training.gradient.speed import Utilisation
from alignkit.training.gradient.step import MicroBatch, StepResult, accumulate, tokens_of
from alignkit.training.inputs.models import Models
from alignkit.training.inputs.setup import Inputs, micro_batch_tokens
from alignkit.training.lifecycle.deadlines import DeadlinePassed, Deadlines
from alignkit.training.lifecycle.memory_owners import memory_line
from alignkit.training.lifecycle.signals import Broken, Signals, noted_signals
from alignkit.training.loop import start
from alignkit.training.loop.alarms import alarms
from alignkit.training.loop.row_step import RowStep
from alignkit.training.loop.state import TrainState
from alignkit.training.rollouts.eval_loss import EvalResult, eval_pairs, show_samples, validate
from alignkit.training.rollouts.sample_log import shown_line
from alignkit.training.rollouts.sampling import Group
from alignkit.training.rollouts.scoring import Scoring
from alignkit.training.rollouts.source import RolloutSource

_logger = logging.getLogger(__name__)


class Loop:
    """Trains one method on prepared inputs."""

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        inputs: Inputs,
        models: Models,
        run: RunFolder,
        *,
        trackers: Sequence[Tracker],
        progress: Progress,
        max_missing: float,
        deadlines: Deadlines,
        load_start: Callable[[], Policy],
        go_on: Callable[..., str],
    ) -> None:
        self.go_on = go_on  # training/resume.py's resume_command, of this run
        self.method, self.config, self.inputs, self.models, self.run = method, config, inputs, models, run
        self.trackers, self.progress, self.world = trackers, progress, models.world
        self.deadlines, self._load_start = deadlines, load_start
        deadlines.left = self._what_is_saved
        self.optimizer = make_optimizer(models.policy.parameters(), config)
        self.position = TrainState()
        self.kept_step = 0  # the step whose weights the policy holds at the end
        self._signals = Signals()
        self._saved_at: tuple[int, int] | None = None
        self._is_whole = True  # False while an optimizer step changes the weights
        self.utilisation = Utilisation(models.policy, models.world)
        prompts_per_step = config.batch_size
        scoring = Scoring(
            inputs.judges, max_missing=max_missing, save=self.save, deadlines=deadlines, world=models.world, go_on=go_on
        )
        self.rollouts = RolloutSource(
            method, config, inputs, models, run, scoring=scoring, prompts_per_step=prompts_per_step, note=progress.note
        )
        self.rows = RowStep(
            method,
            config,
            inputs,
            micro_batch_tokens=micro_batch_tokens(models.policy.device),
            rollouts=self.rollouts,
            world=models.world,
        )
        steps = config.epochs * self.rows.steps_per_epoch * self.rollouts.sampled.updates_per_batch
        self.num_steps = min(steps, config.max_steps or steps)

    def resume(self, found: Path) -> None:
        """Go back to a checkpoint: what was written after it is written again."""
        self.models.use_path(checkpoint.read_state(found)["path"])  # the reference may be computed again by it
        state = checkpoint.load(found, policy=self.models.policy, optimizer=self.optimizer)
        self.position = TrainState(**{key: state[key] for key in asdict(TrainState()) if key in state})
        self.rollouts.load(state["rollouts"])
        self._saved_at = self.position.step, self.position.measured

    def train(self) -> None:
        """Run to the last step or the early stop; afterwards the policy holds the weights to keep.

        Raises:
            Interrupted: a signal came; a checkpoint was saved.
            RunStopped: the loss was not finite, too many scores were missing, no rewards differed, a deadline
                passed, or memory ran out.
        """
        self.progress.start(f"{self.method.name}", self.num_steps)
        self.progress.advance(self.position.step)
        if (line := short_warmup(self.config, self.num_steps)) is not None:
            self.progress.note(line)
        for line in late_terms(self.config, self.num_steps):
            self.progress.note(line)
        give_back()
        try:
            with noted_signals(self.world) as self._signals:
                self._measure()
                while self.position.step < self.num_steps and not self._stops_early():
                    self._step()
                    self._measure()
                self._refuse_no_signal()
            self._keep_best()
            self._measure_pairs()
            for line in tally.lines(self.position.tally, self.config):
                self.progress.note(line)
            if self.position.step < self.num_steps:  # it stopped early; else this was said before
                for line in late_terms(self.config, self.position.step):
                    self.progress.note(line)
        except Broken:
            self.stop_interrupted()
        except DeadlinePassed as passed:
            self._stop_late(passed)
        finally:
            self.progress.stop()

    def _refuse_no_signal(self) -> None:
        """A run whose rewards taught nothing is not done."""
        signal = self.rollouts.signal
        if not signal.is_missing:
            return
        rewards = [key.removeprefix("reward ") for key in self.inputs.fingerprints if key.startswith("reward ")]
        text = (
            f"{self.method.name}: no group of this run had differing rewards ({signal.kinds()}): nothing was learnt, "
            "no model is written; checkpoints and samples stay; correct the reward and go on with: "
            f"{self.go_on(rewards)}"
        )
        raise self.world.reported_by_rank0(RunStopped(text))

    def stop_interrupted(self) -> NoReturn:
        """Save where the run is, unless that is saved, and say how it goes on."""
        if self._saved_at != (self.position.step, self.position.measured):
            self.save()
        where = f"step {self.position.step} of {self.num_steps}"
        text = f"interrupted after {where}; go on with: {self.go_on()}"
        raise self.world.reported_by_rank0(Interrupted(text))

    def _stop_late(self, passed: DeadlinePassed) -> NoReturn:
        """Save where the run is, unless a step had half changed the weights, or other ranks wait elsewhere."""
        _logger.error("%s", memory_line(self.models, self.optimizer))
        if self._is_whole and self.world.size == 1 and self._saved_at != (self.position.step, self.position.measured):
            self.save()
        raise RunStopped(
            f"step {self.position.step + 1}: {passed}; where each thread was stands in {self.deadlines.log}; "
            f"{self._what_is_saved()}"
        ) from passed

    def _what_is_saved(self) -> str:
        if self._saved_at is None:
            return f"nothing is saved yet, begin again with: {self.go_on()}"
        return f"saved after step {self._saved_at[0]}, go on with: {self.go_on()}"

    def _step(self) -> None:
        started = time.monotonic()
        step = self.position.step + 1
        own = (self.world.rank,) if self.world.rank else ()
        torch.manual_seed(derived_seed(self.config.seed, "torch", step, *own))  # dropout, where a model has any
        taken = self.rollouts if self.method.trains_on.is_sampled else self.rows
        micro_batches, metrics = taken.step(step)
        began = time.monotonic()
        with self.deadlines.phase("train"):
            result, trained = self._train(micro_batches, step)
        metrics |= trained | self.utilisation.of(micro_batches, time.monotonic() - began)
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
        metrics |= self.models.sampler.metrics
        metrics |= result.logged | {f"grad_norm/{name}": norm for name, norm in result.grad_norms.items()}
        metrics |= {f"{tally.LIMITED}{name}": float(is_so) for name, is_so in result.limited.items()}
        tally.count(self.position.tally, metrics)
        self._log({name: x for name, x in metrics.items() if math.isfinite(x)})
        self.progress.advance(1, **shown(metrics, self.method.shown))
        self.position.seconds += time.monotonic() - started

    def _train(self, micro_batches: list[MicroBatch], step: int) -> tuple[StepResult, dict[str, float]]:
        """Change the weights; afterwards the run is at `step`."""
        self.optimizer.zero_grad(set_to_none=True)
        result = self._accumulate(micro_batches, step)
        self.rollouts.check_ratio(result.logged, step)
        rate = learning_rate(self.config, step=step, num_steps=self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        metrics = {"learning_rate": rate}
        if self.method.trains_on.is_sampled:
            metrics["no_update"] = float(not micro_batches)  # no moment, no decay: there is no gradient
        if micro_batches:
            metrics["grad_norm"] = self._clip(micro_batches, step)
            metrics["grad_clipped"] = float(metrics["grad_norm"] > self.config.max_grad_norm)
            self._is_whole = False
            self.optimizer.step()
            guards.refuse_non_finite_weights(
                self.models.policy, step=step, saved=self._what_is_saved(), world=self.world
            )
        self.position.step = step
        self._is_whole = True
        return result, metrics

    def _accumulate(self, micro_batches: list[MicroBatch], step: int) -> StepResult:
        if not micro_batches:
            return StepResult(0.0, {})
        models = self.models
        result = accumulate(
            models.policy,
            self.method,
            self.config,
            micro_batches,
            reference=models.reference,
            world=self.world,
            left_out=self.rollouts.left_out,
        )
        guards.refuse_non_finite("loss", result.loss, models.whole_policy, micro_batches, step=step, world=self.world)
        return result

    def _clip(self, micro_batches: list[MicroBatch], step: int) -> float:
        norm = clip(self.models.policy.parameters(), self.config.max_grad_norm)
        guards.refuse_non_finite(
            "gradient norm", norm, self.models.whole_policy, micro_batches, step=step, world=self.world
        )
        return norm

    def _flag_spike(self, loss: float, micro_batches: list[MicroBatch]) -> None:
        line = guards.spike_line(self.position.losses, loss, micro_batches, step=self.position.step, world=self.world)
        if line is not None:
            _logger.warning("%s", line)
            self._log({"loss_spike": loss})
        self.position.losses = [*self.position.losses, loss][-guards.MAX_LOSSES :]

    def _measure(self) -> None:
        """Validate, draw samples and save where that is due after this step and not done.

        Raises:
            Broken: a signal came. What was measured is thrown away and measured again when the run goes on.
        """
        step = self.position.step
        last = step in (0, self.num_steps)
        validates = last or step % self.config.validation_interval == 0
        shows = bool(self.inputs.validation.trees) and "scalar_head" not in self.method.needs
        shows &= last or step % self.config.sample_interval == 0
        with self._signals.breakable():
            if step == self.position.measured:
                return
            started = time.monotonic()
            validation, shown = EvalResult({}, math.nan), []
            with self.models.whole() as models:
                if validates:
                    sampled = partial(self.rollouts.validate, step, models)
                    validation = validate(self.method, self.config, self.inputs, models, sampled, step)
                if shows:
                    shown = show_samples(self.config, self.inputs, models, step=step, deadlines=self.deadlines)
        improved = validation.objective < self.position.best
        if improved:
            self.position.best, self.position.best_step = validation.objective, step
        self._tell(validation.metrics, shown, step)
        self.position.measured = step
        self.position.seconds += time.monotonic() - started
        if 0 < step < self.num_steps and (improved or step % self.config.checkpoint_interval == 0):
            self.save()

    def _tell(self, metrics: dict[str, float], shown: Sequence[Group], step: int) -> None:
        """Log what was measured."""
        self.run.add_samples([shown_line(group, step) for group in shown])
        if shown:
            metrics["samples/length"] = float(np.mean([len(group.completions[0].ids) for group in shown]))
        if step == 0:
            self.position.first_metrics = metrics
        for line in alarms(metrics, self.position.first_metrics):
            self.progress.note(line)
        self._log(metrics)

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
        self.kept_step = best
        if best == 0:
            start.put_back(self.models.policy, self._load_start)
            self.progress.note(
                "no step made the validation better: the model is kept as it was before the first step; lower "
                "--learning-rate, or look at the rows"
            )
            return
        if not self.world.run_on_rank0(lambda: checkpoint.is_good(self.run.checkpoints, best, self.run.id)):
            raise RunStopped(
                f"the best weights, of step {best}, are damaged on disk; go on from a checkpoint before them, which "
                f"trains them again, with: {self.go_on()}"
            )
        checkpoint.load_weights(checkpoint.place(self.run.checkpoints, best), self.models.policy)
        self.progress.note(f"the weights of step {best} are kept: their validation was the best")

    def _measure_pairs(self) -> None:
        """Say what a reward model knows of held-out pairs beyond their look."""
        if "scalar_head" not in self.method.needs:
            return
        with self.models.whole() as models:
            held_out = eval_pairs(self.inputs, models)
        if held_out is not None:
            self._log(held_out.metrics())
            for line in held_out.lines():
                self.progress.note(line)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        checkpoint.save(
            self.run.checkpoints,
            run=self.run.id,
            step=self.position.step,
            policy=self.models.policy,
            optimizer=self.optimizer,
            state=asdict(self.position)
            | {"path": self.models.policy.path, "lines": self.run.sync_lines(), "rollouts": self.rollouts.state()},
            world=self.world,
            go_on=self.go_on,
        )
        self._saved_at = self.position.step, self.position.measured

    def _log(self, metrics: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(self.position.step, metrics, tokens_seen=self.position.tokens_seen)
