"""Where an optimizer step's micro-batches come from: `StepSource`, and the rows of the data as the simplest one.

Which rows a step sees is a pure function of (seed, epoch, step), whatever the packing or the resume. Each epoch is its
own permutation of the rows; a step takes the next `batch_size` of them, this rank its share, packed into micro-batches.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from alignkit.data.reading.split import derived_seed
from alignkit.data.trees.flat import FlatTrees, Lazy
from alignkit.data.trees.mismatched import Mismatched
from alignkit.data.trees.packs import MICRO_BATCH_TOKENS, lay_out
from alignkit.data.trees.trees import Tree
from alignkit.distributed.fsdp import shard_and_pack
from alignkit.distributed.ranks import ALONE, World
from alignkit.methods import MethodConfig
from alignkit.training.gradient.step import MicroBatch


def seed_step(seed: int, step: int, world: World = ALONE) -> None:
    """Seed what torch draws in an optimizer step (dropout, where a model has any), apart on each rank."""
    own = (world.rank,) if world.rank else ()
    torch.manual_seed(derived_seed(seed, "torch", step, *own))


class StepSource(ABC):
    """Gives each optimizer step its micro-batches."""

    steps_per_epoch: int
    """Optimizer steps of one pass over the data."""
    may_be_empty: ClassVar[bool] = False
    """Whether a step may have nothing to compute; it then changes no weight, and is counted."""

    @abstractmethod
    def step(self, step: int) -> tuple[list[MicroBatch], dict[str, float]]:
        """Return this rank's micro-batches of a step (from 1), and numbers to log with it."""

    @property
    def mismatched(self) -> Sequence[MicroBatch] | None:
        """This rank's rows of the last step's prompts with answers to others, where the loss needs them."""
        return None

    @property
    def left_out(self) -> Mapping[str, int]:
        """What the last step's means divide by beside its micro-batches, by name; see `gradient.step.count`."""
        return {}

    def check(self, logged: dict[str, float], step: int) -> None:
        """Look at what the step's loss logged, before a weight changes. Raises RunStopped where it cannot be right."""

    def finish(self) -> None:
        """Called after the last step. Raises RunStopped where nothing was learnt."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, of JSON types."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint's state."""


class RowSource(StepSource):
    """The rows of the data, in the order that the seed gives.

    Args:
        trees: a tree per row.
        micro_batch_tokens: tokens of one micro-batch; a longer tree has its own.
        mismatched: for a loss that needs them, every step's prompts with answers to others; packed by themselves.
    """

    def __init__(
        self,
        trees: Sequence[Tree],
        config: MethodConfig,
        *,
        micro_batch_tokens: int = MICRO_BATCH_TOKENS,
        world: World = ALONE,
        mismatched: Mismatched | None = None,
    ) -> None:
        self.trees: Lazy[Tree] = trees if isinstance(trees, Lazy) else FlatTrees.of(trees)
        self.config, self.micro_batch_tokens, self.world = config, micro_batch_tokens, world
        self.steps_per_epoch = steps_per_epoch(len(trees), config.batch_size)
        self._beside: MismatchedSource | None = None
        self._mismatched: list[MicroBatch] | None = None
        if mismatched is not None:
            self._beside = MismatchedSource(mismatched, config, micro_batch_tokens=micro_batch_tokens, world=world)

    @property
    def mismatched(self) -> Sequence[MicroBatch] | None:
        return self._mismatched

    def step(self, step: int) -> tuple[list[MicroBatch], dict[str, float]]:
        if self._beside is not None:
            self._mismatched, _ = self._beside.step(step)
        numbers = self.numbers(step)
        rows, is_padding = self.own(step)
        return [self._micro_batch(numbers[row], is_padding=is_padding) for row in rows], {}

    def _micro_batch(self, numbers: np.ndarray, *, is_padding: bool) -> MicroBatch:
        return MicroBatch(lay_out(self.trees, numbers), is_padding=is_padding)

    def numbers(self, step: int) -> np.ndarray:
        """Return the numbers of the trees of a step (from 1), of all ranks."""
        return step_rows(len(self.trees), self.config.batch_size, seed=self.config.seed, step=step)

    def own(self, step: int) -> tuple[list[list[int]], bool]:
        """Return this rank's micro-batches of a step as places in `numbers`, and whether they are padding."""
        return shard_and_pack(self.trees.some(self.numbers(step)), self.micro_batch_tokens, self.world)

    def from_step(self, first: int) -> Iterator[list[int]]:
        """Yield this rank's micro-batches of an epoch's steps from one on, as tree numbers; without padding."""
        for step in range(first, first + self.steps_per_epoch):
            numbers = self.numbers(step)
            rows, is_padding = self.own(step)
            yield from ([] if is_padding else ([int(numbers[n]) for n in row] for row in rows))


class MismatchedSource(RowSource):
    """Prompts with answers to others, as they lie: step after step, all of a run's steps in one epoch."""

    def __init__(
        self, trees: Mismatched, config: MethodConfig, *, micro_batch_tokens: int = MICRO_BATCH_TOKENS, world: World
    ) -> None:
        super().__init__(trees, config, micro_batch_tokens=micro_batch_tokens, world=world)
        self._ends = trees.step_ends
        self.steps_per_epoch = len(trees.step_ends) - 1

    def numbers(self, step: int) -> np.ndarray:
        return np.arange(self._ends[step - 1], self._ends[step])


def source_of(trees: Sequence[Tree], config: MethodConfig, *, micro_batch_tokens: int, world: World) -> RowSource:
    """Return what gives trees to the steps: rows of the data, or prompts with answers to others."""
    if isinstance(trees, Mismatched):
        return MismatchedSource(trees, config, micro_batch_tokens=micro_batch_tokens, world=world)
    return RowSource(trees, config, micro_batch_tokens=micro_batch_tokens, world=world)


def run_rows(num_rows: int, config: MethodConfig) -> Iterator[np.ndarray]:
    """Yield the row numbers of each optimizer step of a run."""
    for step in range(1, config.num_steps(steps_per_epoch(num_rows, config.batch_size)) + 1):
        yield step_rows(num_rows, config.batch_size, seed=config.seed, step=step)


def steps_per_epoch(num_rows: int, prompts_per_step: int) -> int:
    """Optimizer steps of one pass over the rows; the last may see fewer rows."""
    return -(-num_rows // prompts_per_step)


def step_rows(num_rows: int, prompts_per_step: int, *, seed: int, step: int) -> np.ndarray:
    """Return the row numbers of an optimizer step (from 1), int64 [<= prompts_per_step]."""
    epoch, place = divmod(step - 1, steps_per_epoch(num_rows, prompts_per_step))
    return _order(num_rows, seed, epoch)[place * prompts_per_step : (place + 1) * prompts_per_step]


@functools.lru_cache(maxsize=2)  # an epoch has many steps; the next one's first batch may be read ahead
def _order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=(seed << 64) + epoch)).permutation(num_rows)
    order.flags.writeable = False
    return order
