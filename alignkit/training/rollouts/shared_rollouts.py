"""What several ranks do once for all of them while samples are drawn: rank 0 keeps the journal and asks the judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.distributed.fsdp import packed, unpacked
from alignkit.distributed.ranks import World
from alignkit.rollouts.sampler import Completion
from alignkit.scoring.rewards import Rewards
from alignkit.training.rollouts.journal import Journal


def make_journal(folder: Path, run: str, world: World) -> Journal:
    """Return the journal of a run, named by its id, for this rank."""
    return Journal(folder, run) if world.size == 1 else SharedJournal(folder, run, world)


class SharedJournal(Journal):
    """A journal that rank 0 reads and writes; every rank must ask."""

    def __init__(self, folder: Path, run: str, world: World) -> None:
        super().__init__(folder, run)
        self._world = world

    def completions(self, batch: int, round_: int, key: str) -> list[Completion] | None:
        def read() -> list[list[Any]] | None:
            found = super(SharedJournal, self).completions(batch, round_, key)
            return None if found is None else packed(found)

        found = self._world.run_on_rank0(read)
        return None if found is None else unpacked(found)

    def keep_completions(self, batch: int, round_: int, key: str, completions: Sequence[Completion]) -> None:
        self._world.run_on_rank0(lambda: super(SharedJournal, self).keep_completions(batch, round_, key, completions))

    def scored(self, batch: int, round_: int, key: str) -> Rewards | None:
        def read() -> dict[str, Any] | None:
            found = super(SharedJournal, self).scored(batch, round_, key)
            return None if found is None else _encoded(found)

        found = self._world.run_on_rank0(read)
        return None if found is None else _decoded(found)

    def keep_scored(self, batch: int, round_: int, key: str, rewards: Rewards) -> None:
        self._world.run_on_rank0(lambda: super(SharedJournal, self).keep_scored(batch, round_, key, rewards))

    def prune(self, before: int) -> None:
        self._world.run_on_rank0(lambda: super(SharedJournal, self).prune(before))


def shared_rewards(work: Callable[[], Rewards], world: World) -> Rewards:
    """Let rank 0 find rewards, and give them to every rank; what it raises, all raise."""
    return work() if world.size == 1 else _decoded(world.run_on_rank0(lambda: _encoded(work())))


def _encoded(rewards: Rewards) -> dict[str, Any]:
    return {
        "total": rewards.total_PG.tolist(),
        "by_name": {name: x.tolist() for name, x in rewards.by_name.items()},
        "num_missing": rewards.num_missing,
        "reasons": list(rewards.reasons),
    }


def _decoded(found: dict[str, Any]) -> Rewards:
    by_name = {name: np.array(x, float) for name, x in found["by_name"].items()}
    return Rewards(np.array(found["total"], float), by_name, found["num_missing"], tuple(found["reasons"]))
