"""Where a run is, and how it is kept: what a checkpoint holds, the way back to one, what is logged when a run stops."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from alignkit.errors import Interrupted, RunStopped
from alignkit.policy.policy import Policy
from alignkit.progress import phase
from alignkit.training.checkpoints import checkpoint
from alignkit.training.checkpoints.background import Background
from alignkit.training.checkpoints.run_folder import RunFolder
from alignkit.training.gradient.models import Models
from alignkit.training.lifecycle.memory_owners import memory_line
from alignkit.training.loop.health_checks import Tally
from alignkit.training.loop.source import StepSource

_logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """Where a run is, kept in its checkpoints.

    Args:
        measured: the last step after which validation and samples, if due, are done.
        losses: of the last steps, which a spike is compared with.
        tally: in how many steps what held them back, did.
    """

    step: int = 0
    measured: int = -1
    tokens_seen: int = 0
    best: float = math.inf
    best_step: int = 0
    seconds: float = 0.0
    first_metrics: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    tally: Tally = field(default_factory=dict)


class Saver:
    """Keeps nothing: the loop of a notebook or a benchmark."""

    def attach(
        self,
        state: TrainState,
        optimizer: torch.optim.Optimizer,
        source: StepSource,
        *,
        check_weights: Callable[[], None],
    ) -> None:
        """Called once by the loop: what there is to keep.

        Args:
            check_weights: stops the run where the weights are not finite; they are not saved then.
        """
        self.state, self.optimizer, self.source, self.check_weights = state, optimizer, source, check_weights

    def save(self, *, waits: bool = True) -> None:
        """Write a checkpoint of this step.

        Args:
            waits: until it is on the disk; else that may be done while training goes on.
        """

    def check(self) -> None:
        """Raise what failed since `save` did not wait: RunStopped where the disk refused."""

    def finish(self) -> None:
        """Wait until what `save` did not wait for is on the disk. Raises as `check`."""

    def close(self) -> None:
        """The same, where something else ends the run: what fails is logged."""

    def add_samples(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Keep lines of samples."""

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint that is on the disk."""
        return None

    def put_back(self, best: int) -> str | None:
        """Give the policy the weights of the best step (0: the start); returns a line, or None where none are kept."""
        return None

    def what_is_saved(self, *, waits: bool = True) -> str:
        """Say what there is to go on from.

        Args:
            waits: for what is being saved, so that it counts.
        """
        return "nothing is saved"

    def stop_interrupted(self, num_steps: int) -> NoReturn:
        """Save where the run is, unless that is saved, and stop.

        Raises:
            Interrupted: always; says how the run goes on.
        """
        raise Interrupted(f"interrupted after step {self.state.step} of {num_steps}")

    def stop_late(self, passed: BaseException, log: Path, *, is_whole: bool) -> NoReturn:
        """Save where the run is, where that is sound, and stop.

        Args:
            passed: the deadline that passed.
            log: where the stacks stand.
            is_whole: no optimizer step has half changed the weights.

        Raises:
            RunStopped: always.
        """
        raise RunStopped(
            f"step {self.state.step + 1}: {passed}; where each thread was stands in {log}; {self.what_is_saved()}"
        ) from passed


class RunSaver(Saver):
    """Keeps a run in its folder.

    Args:
        load_start: gives the policy as it was before the first step, on the CPU.
        go_on: `resume_command` of this run (training/run/resume.py).

    Checkpoints that nobody waits for are written in the background where `writes_in_background` says so.
    """

    def __init__(
        self, run: RunFolder, models: Models, *, load_start: Callable[[], Policy], go_on: Callable[..., str]
    ) -> None:
        self.run, self.models, self.go_on, self._load_start = run, models, go_on, load_start
        self._saved_at: tuple[int, int] | None = None
        self._writing: tuple[int, int] | None = None  # what the background is at
        self._background = Background() if writes_in_background(models) else None
        self._said: tuple[tuple[int, int] | None, str] | None = None

    def resume(self, found: Path) -> None:
        """Go back to a checkpoint: what was written after it is written again."""
        self.models.use_path(checkpoint.read_state(found)["path"])  # the reference may be computed again by it
        kept = checkpoint.load(found, policy=self.models.policy, optimizer=self.optimizer)
        for key in asdict(self.state):
            if key in kept:
                setattr(self.state, key, kept[key])
        self.source.load(kept["rollouts"])
        self._saved_at = self._place

    def save(self, *, waits: bool = True) -> None:
        self.check_weights()
        self.finish()
        with phase("saving"):
            is_saved = checkpoint.save(
                self.run.checkpoints,
                run=self.run.id,
                step=self.state.step,
                policy=self.models.policy,
                optimizer=self.optimizer,
                state=asdict(self.state)
                | {"path": self.models.policy.path, "lines": self.run.sync_lines(), "rollouts": self.source.state()},
                world=self.models.world,
                go_on=self.go_on,
                background=None if waits else self._background,
            )
        if is_saved:
            self._saved_at = self._place
        else:
            self._writing = self._place

    def check(self) -> None:
        if self._background is not None and not self._background.is_writing:
            self.finish()

    def finish(self) -> None:
        if self._background is None:
            return
        try:
            self._background.wait()
        except Exception:
            self._writing = None
            raise
        self._saved_at, self._writing = self._writing or self._saved_at, None

    def close(self) -> None:
        try:
            self.finish()
        except RunStopped as error:
            _logger.error("%s", error)

    def add_samples(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.run.add_samples(lines)

    def put_back(self, best: int) -> str | None:
        self.finish()
        if best == 0:
            put_back_start(self.models.policy, self._load_start)
            return (
                "no step made the validation better: the model is kept as it was before the first step; lower "
                "--learning-rate, or look at the rows"
            )
        if not self.models.world.run_on_rank0(lambda: checkpoint.is_good(self.run.checkpoints, best, self.run.id)):
            raise RunStopped(
                f"the best weights, of step {best}, are damaged on disk; go on from a checkpoint before them, which "
                f"trains them again, with: {self.go_on()}"
            )
        checkpoint.load_weights(checkpoint.place(self.run.checkpoints, best), self.models.policy)
        return f"the weights of step {best} are kept: their validation was the best"

    def what_is_saved(self, *, waits: bool = True) -> str:
        if waits:
            self.close()
        if self._said is None or self._said[0] != self._saved_at:  # asked in every step: run.json is read once
            at = self._saved_at
            text = "nothing is saved yet, begin again" if at is None else f"saved after step {at[0]}, go on"
            self._said = self._saved_at, f"{text} with: {self.go_on()}"
        return self._said[1]

    def stop_interrupted(self, num_steps: int) -> NoReturn:
        self.finish()
        if self._saved_at != self._place:
            self.save()
        text = f"interrupted after step {self.state.step} of {num_steps}; go on with: {self.go_on()}"
        raise self.models.world.reported_by_rank0(Interrupted(text))

    def stop_late(self, passed: BaseException, log: Path, *, is_whole: bool) -> NoReturn:
        _logger.error("%s", memory_line(self.models, self.optimizer))
        self.finish()
        # other ranks may wait elsewhere: a checkpoint, which all write together, would hang
        if is_whole and self.models.world.size == 1 and self._saved_at != self._place:
            self.save()
        super().stop_late(passed, log, is_whole=is_whole)

    @property
    def saved_step(self) -> int | None:
        return self._saved_at and self._saved_at[0]

    @property
    def _place(self) -> tuple[int, int]:
        return self.state.step, self.state.measured


def writes_in_background(models: Models) -> bool:
    """Whether checkpoints are written while training goes on.

    They are beside one GPU. Several ranks agree on each checkpoint in messages that a thread would mix with those of
    the steps. On a CPU the copy takes memory, and the thread cores, that the steps use.
    """
    return models.policy.device.type == "cuda" and models.world.size == 1


def put_back_start(policy: Policy, load: Callable[[], Policy]) -> None:
    """Give a policy's trained weights the values of before the first step; every rank must ask.

    A new adapter begins as nothing (B = 0) and keeps its base, so it needs no second copy. A whole model, and an
    adapter that was trained before, is loaded again; gradients are dropped first, so that it needs no more room than a
    step did.

    Args:
        load: gives the policy as it was, on the CPU.
    """
    for parameter in policy.parameters():
        parameter.grad = None
    with torch.no_grad():
        if policy.has_adapter and policy.starts_at_base:
            _reset_adapter(policy)
            return
        before = dict(load().named_parameters())
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad:
                _fill(parameter, before[name])


def _reset_adapter(policy: Policy) -> None:
    for module in policy.modules():
        own: Any = module
        if hasattr(module, "lora_B"):
            for matrix in own.lora_B.values():
                matrix.weight.zero_()
        if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
            before = dict(own.original_module.named_parameters())
            for trained in own.modules_to_save.values():
                for name, parameter in trained.named_parameters():
                    parameter.copy_(before[name])


def _fill(parameter: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into a parameter, or into this rank's shard of it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        local = whole.to(parameter.to_local().device)
        parameter.copy_(distribute_tensor(local, parameter.device_mesh, parameter.placements))
    else:
        parameter.copy_(whole)
