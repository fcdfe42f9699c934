"""The training loop: one for every method.

Each step's rows follow from (seed, epoch, step) alone; packing only lays them into rows of tokens. Ctrl-C and SIGTERM
save a checkpoint after the step in progress. Nothing is written after a non-finite loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import numpy as np
import torch

from alignkit.data.packs import lay_out, pack
from alignkit.errors import Interrupted, RunStopped
from alignkit.methods import Method, MethodConfig
from alignkit.progress import Progress
from alignkit.tracking import Tracker
from alignkit.training import checkpoint
from alignkit.training.alarms import alarms
from alignkit.training.draw import unrewarded_micro
from alignkit.training.optimizer import learning_rate, make_optimizer
from alignkit.training.order import EpochPacking, step_rows, steps_per_epoch
from alignkit.training.rollout_step import RolloutStep
from alignkit.training.run_folder import RunFolder
from alignkit.training.sample_lines import lengths, shown_line
from alignkit.training.setup import ROW_CAPACITY, Inputs, Models
from alignkit.training.signals import noted_signals
from alignkit.training.step import Micro, StepResult, accumulate
from alignkit.training.validation import show_samples, validate


@dataclass
class Position:
    """Where a run is, kept in its checkpoints."""

    step: int = 0
    tokens_seen: int = 0
    best: float = math.inf
    best_step: int = 0
    seconds: float = 0.0
    first_metrics: dict[str, float] = field(default_factory=dict)


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
    ) -> None:
        self.method, self.config, self.inputs, self.models, self.run = method, config, inputs, models, run
        self.trackers, self.progress = trackers, progress
        self.rollouts = RolloutStep(
            method, config, inputs, models, run, max_missing=max_missing, save=self._save
        )  # fmt: skip
        self.optimizer = make_optimizer(models.policy.parameters(), config)
        self.position = Position()
        self.rows_per_step = config.batch_size * config.accumulation
        per_epoch = steps_per_epoch(len(inputs.training.trees), self.rows_per_step)
        self.packing = None
        if config.pack_scope == "epoch":
            lengths_P = inputs.training.trees.lengths()
            self.packing = EpochPacking(
                lengths_P, capacity=ROW_CAPACITY, rows_per_step=self.rows_per_step, seed=config.seed
            )
            per_epoch = self.packing.steps_per_epoch
        self.num_steps = min(config.epochs * per_epoch, config.max_steps or config.epochs * per_epoch)

    def resume(self) -> bool:
        """Go back to the newest good checkpoint; False where there is none."""
        found = checkpoint.newest(self.run.checkpoints)
        if found is None:
            return False
        state = checkpoint.load(found, policy=self.models.policy, optimizer=self.optimizer)
        self.position = Position(**{key: state[key] for key in asdict(Position())})
        return True

    def train(self) -> None:
        """Run to the last step or the early stop; afterwards the policy holds the weights to keep.

        Raises:
            Interrupted: a signal came; a checkpoint was saved.
            RunStopped: the loss was not finite, too many scores were missing, or memory ran out.
        """
        self.progress.start(f"{self.method.name}", self.num_steps)
        self.progress.advance(self.position.step)
        try:
            with noted_signals() as interrupted:
                if self.position.step == 0:
                    self._measure(shows=True, validates=True)
                while self.position.step < self.num_steps and not self._stops_early():
                    self._step()
                    if interrupted():
                        self._save()
                        where = f"step {self.position.step} of {self.num_steps}"
                        raise Interrupted(f"interrupted after {where}; go on with --resume --out {self.run.path}")
            self._keep_best()
        except torch.OutOfMemoryError as error:
            raise RunStopped(
                f"out of memory at step {self.position.step + 1}: lower --batch-size or --max-length, or train a LoRA "
                f"adapter with --lora-rank 16 ({str(error).splitlines()[0]})"
            ) from error
        finally:
            self.progress.stop()

    def _step(self) -> None:
        started = time.monotonic()
        step = self.position.step + 1
        micros, metrics = self._micros(step)
        self.optimizer.zero_grad(set_to_none=True)
        result = self._accumulate(micros, step)
        rate = learning_rate(self.config, step=step, num_steps=self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if micros:
            metrics["grad_norm"] = self._clip(step)
            self.optimizer.step()
        self.position.step = step
        computed = sum(len(m.pack.ids_S) + (len(m.samples.pack.ids_S) if m.samples else 0) for m in micros)
        self.position.tokens_seen += computed
        elapsed = time.monotonic() - started
        metrics |= {"loss": result.loss, "learning_rate": rate, "tokens_per_s": computed / elapsed, "seconds": elapsed}
        metrics |= result.logged | {f"grad_norm/{name}": norm for name, norm in result.grad_norms.items()}
        self._log({name: x for name, x in metrics.items() if math.isfinite(x)})
        self.progress.advance(1, **_shown(metrics))
        self._after(step)
        self.position.seconds += time.monotonic() - started

    def _micros(self, step: int) -> tuple[list[Micro], dict[str, float]]:
        """The step's rows of trees: from the data, from samples, or both."""
        rows = None if self.packing is None else self.packing.step(step)
        if rows is None:
            numbers = step_rows(len(self.inputs.training.trees), self.rows_per_step, seed=self.config.seed, step=step)
        else:
            numbers = np.concatenate(rows)
            ends = np.cumsum([0, *map(len, rows)])
            rows = [list(range(first, last)) for first, last in pairwise(ends)]
        pairs = [(self.inputs.training.rows[n], self.inputs.training.trees[n]) for n in numbers]
        temperatures = self.method.temperatures(step, self.config)
        groups = self.rollouts.draw(pairs, temperatures, step) if temperatures else []
        if self.method.trains_on == "samples":
            return self.rollouts.rewarded(groups, step)
        trees = [tree for _, tree in pairs]
        micros = []
        for row in pack(trees, ROW_CAPACITY) if rows is None else rows:
            samples = unrewarded_micro([groups[n] for n in row]) if groups else None
            micros.append(Micro(lay_out([trees[n] for n in row]), samples=samples))
        return micros, lengths(groups) if groups else {}

    def _accumulate(self, micros: list[Micro], step: int) -> StepResult:
        if not micros:
            return StepResult(0.0, {})
        result = accumulate(self.models.policy, self.method, self.config, micros, reference=self.models.reference)
        if not math.isfinite(result.loss):
            raise RunStopped(
                f"the loss of step {step} is {result.loss}; its rows: {_row_ids(micros)}; nothing was changed"
            )
        return result

    def _clip(self, step: int) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self.models.policy.parameters(), self.config.max_grad_norm))
        if not math.isfinite(norm):
            raise RunStopped(f"the gradient norm of step {step} is {norm}; nothing was changed")
        return norm

    def _after(self, step: int) -> None:
        """Validation, samples and checkpoints where they are due."""
        last = step == self.num_steps
        improved = self._measure(
            validates=step % self.config.validation_interval == 0 or last,
            shows=step % self.config.sample_interval == 0 or last,
        )
        if not last and (improved or step % self.config.checkpoint_interval == 0):
            self._save()

    def _measure(self, *, validates: bool, shows: bool) -> bool:
        """Validate and draw samples where asked; returns whether these weights are the best so far."""
        metrics: dict[str, float] = {}
        improved = False
        step = self.position.step
        if validates:
            validation = validate(self.method, self.config, self.inputs, self.models)
            metrics |= validation.metrics
            improved = step > 0 and validation.objective < self.position.best
            if improved:
                self.position.best, self.position.best_step = validation.objective, step
        if shows and self.inputs.validation.trees and "scalar_head" not in self.method.needs:
            groups = show_samples(self.config, self.inputs, self.models, step=step)
            self.run.add_samples([shown_line(group, step) for group in groups])
            if groups:
                metrics["samples/length"] = float(np.mean([len(group.completions[0].ids) for group in groups]))
        if step == 0:
            self.position.first_metrics = metrics
        for line in alarms(metrics, self.position.first_metrics):
            self.progress.note(line)
        self._log(metrics)
        return improved

    def _stops_early(self) -> bool:
        patience = self.config.early_stopping_steps
        since = self.position.step - self.position.best_step
        if patience is None or since < patience or self.position.best_step == 0:
            return False
        self.progress.note(f"stopped early: no better validation for {since} steps (best at {self.position.best_step})")
        return True

    def _keep_best(self) -> None:
        """With early stopping the best validated weights are kept, otherwise the last."""
        best = self.position.best_step
        if self.config.early_stopping_steps is not None and 0 < best < self.position.step:
            checkpoint.load_weights(self.run.checkpoints / f"step-{best:06d}", self.models.policy)
            self.progress.note(f"the weights of step {best} are kept: their validation was the best")

    def _save(self) -> None:
        checkpoint.save(
            self.run.checkpoints, step=self.position.step, policy=self.models.policy, optimizer=self.optimizer,
            state=asdict(self.position),
        )  # fmt: skip

    def _log(self, metrics: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(self.position.step, metrics, tokens_seen=self.position.tokens_seen)


def _row_ids(micros: Sequence[Micro]) -> str:
    ids = [tree.row_id for micro in micros for tree in micro.pack.trees]
    return ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    """What the progress line shows."""
    names = ("loss", "reward", "accuracy", "samples_length", "tokens_per_s")
    return {name: metrics[name] for name in names if name in metrics and math.isfinite(metrics[name])}
