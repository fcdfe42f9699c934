"""One optimizer update: the gradient of a step's micro-batches, clipped, at the step's learning rate.

    g <- gradient;   g <- g min(1, max_grad_norm / |g|);   weights <- optimizer(g, learning rate of the step)

No weight changes after a non-finite loss or gradient, and nothing may be kept of a non-finite weight: `check_weights`.
The host waits for the device once in an update, where the gradient is there: losses, logs and norms, and whether the
weights that the update before left are finite, are read together.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from torch import Tensor

from alignkit.distributed.fsdp import clip
from alignkit.methods import Method, MethodConfig
from alignkit.policy.policy import finite_total
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.optimizer import late_terms, learning_rate, make_optimizer, short_warmup
from alignkit.training.gradient.speed import Utilisation
from alignkit.training.gradient.step import MicroBatch, StepResult, accumulate, tokens_of
from alignkit.training.loop import health_checks as health
from alignkit.training.loop.saver import TrainState
from alignkit.training.loop.source import StepSource

_logger = logging.getLogger(__name__)


class Update:
    """Changes the weights of one policy, update after update.

    Args:
        position: where the run is; an update moves it to its step.
        num_steps: updates in all; the learning rate follows from it.
        saved: says what is on disk, where a weight is not finite.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        models: Models,
        source: StepSource,
        position: TrainState,
        *,
        num_steps: int,
        saved: Callable[[], str],
        names: health.Names = list,
    ) -> None:
        self.method, self.config, self.models, self.source = method, config, models, source
        self.position, self.num_steps, self.saved, self.names = position, num_steps, saved, names
        self.world = models.world
        self.optimizer = make_optimizer(models.policy.parameters(), config)
        self.utilisation = Utilisation(models.policy, models.world)
        self.is_whole = True  # False while the weights change
        self._weights: Tensor | None = None  # `finite_total` after the last update, until it is read

    def lines_before(self) -> list[str]:
        """What is worth a line of the schedule, before the first update."""
        line = short_warmup(self.config, self.num_steps)
        return [*([] if line is None else [line]), *late_terms(self.config, self.num_steps)]

    def lines_after(self) -> list[str]:
        """The same where the run stopped early."""
        step = self.position.step
        return late_terms(self.config, step) if step < self.num_steps else []

    def make(self, micro_batches: list[MicroBatch], step: int) -> tuple[StepResult, dict[str, float]]:
        """Change the weights; returns what the loss found, and numbers of the update to log.

        Args:
            micro_batches: this rank's; without any, where the source allows it, no weight, moment or decay changes.
            step: from 1.

        Raises:
            RunStopped: the loss or the gradient is not finite, or the source refuses what the loss logged.
        """
        self.optimizer.zero_grad(set_to_none=True)  # of whoever called backward before
        result = StepResult(0.0, {})
        rate = learning_rate(self.config, step=step, num_steps=self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        metrics = {"learning_rate": rate}
        if self.source.may_be_empty:
            metrics["no_update"] = float(not micro_batches)
        if not micro_batches:
            self.source.check(result.logged, step)
        else:
            self.utilisation.clock.start()
            result, norm = self._gradient(micro_batches, step)
            self.utilisation.clock.turn()
            metrics |= {"grad_norm": norm, "grad_clipped": float(norm > self.config.max_grad_norm)}
            self.is_whole = False
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)  # else it lies beside what validation loads
            self._weights = finite_total(p for p in self.models.policy.parameters() if p.requires_grad)
            self.utilisation.clock.stop()
        self.position.step = step
        self.is_whole = True
        return result, metrics

    def numbers(self, micro_batches: list[MicroBatch], result: StepResult, *, began: float) -> dict[str, float]:
        """Numbers of the whole step to log, after `make`; a spike of the loss is said.

        Args:
            began: when the step began, by the monotonic clock.
        """
        metrics = self.utilisation.of(micro_batches)
        if micro_batches and self._is_spike(result.loss, micro_batches):
            metrics["loss_spike"] = result.loss
        tokens = self.world.all_reduce_sums(tokens_of(micro_batches))
        computed, scored = int(tokens["computed"]), int(tokens["scored"])
        self.position.tokens_seen += computed
        elapsed = time.monotonic() - began
        metrics |= {
            "loss": result.loss,
            "seconds": elapsed,
            "tokens_per_s": computed / elapsed,
            "scored_tokens_per_s": scored / elapsed,
        }
        metrics |= result.logged | {f"grad_norm/{name}": norm for name, norm in result.grad_norms.items()}
        return metrics | {f"{health.LIMITED}{name}": float(is_so) for name, is_so in result.limited.items()}

    def check_weights(self) -> None:
        """Stop where the last update left a weight nan or infinite: before weights are measured, kept or saved."""
        if self._weights is not None:
            total, self._weights = float(self._weights), None
            self._refuse_weights(total)

    def _gradient(self, micro_batches: list[MicroBatch], step: int) -> tuple[StepResult, float]:
        """Compute the gradient, clipped; returns what the loss found, and the norm before."""
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

    def _refuse_weights(self, total: float) -> None:
        if not all(map(math.isfinite, self.world.gather(total))):
            step, saved = self.position.step, self.saved
            health.refuse_non_finite_weights(self.models.policy, step=step, saved=saved, world=self.world)

    def _refuse_non_finite(self, name: str, value: float, micro_batches: list[MicroBatch], step: int) -> None:
        whole = self.models.unsharded_policy
        health.refuse_non_finite(name, value, whole, micro_batches, step=step, names=self.names, world=self.world)

    def _is_spike(self, loss: float, micro_batches: list[MicroBatch]) -> bool:
        before, step = self.position.losses, self.position.step
        line = health.spike_line(before, loss, micro_batches, step=step, names=self.names, world=self.world)
        self.position.losses = [*before, loss][-health.MAX_LOSSES :]
        if line is not None:
            _logger.warning("%s", line)
        return line is not None
