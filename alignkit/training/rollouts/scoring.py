"""Scores a step's groups by the run's judges, within the deadline; saves the run where they cannot be scored.

A remote judge is waited for: it scores what is drawn in a thread of its own while the next prompts' completions are
drawn (`Ahead`). The answers are the same, each item's score depends on nothing beside it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce

import numpy as np

from alignkit.distributed.ranks import ALONE, World
from alignkit.errors import InputError, RunStopped
from alignkit.scoring.judge import counted
from alignkit.scoring.rewards import Rewards, joined, reward
from alignkit.scoring.specs import NamedJudge
from alignkit.training.lifecycle.deadlines import Deadlines
from alignkit.training.rollouts.journal import decoded, encoded, journal_key
from alignkit.training.rollouts.sampling import Group

_logger = logging.getLogger(__name__)
PART = 8  # prompts whose completions are drawn while a remote judge scores those before


class Scoring:
    """Scores groups for a run.

    Args:
        max_missing: the run stops when more than this share of the scores asked for at once is missing.
        save: writes a checkpoint of the weights as they are.
        go_on: training/resume.py's resume_command, of this run.
    """

    def __init__(
        self,
        judges: Sequence[NamedJudge],
        *,
        max_missing: float,
        save: Callable[[], None],
        deadlines: Deadlines,
        world: World = ALONE,
        go_on: Callable[..., str],
    ) -> None:
        self.judges, self.max_missing, self.deadlines = judges, max_missing, deadlines
        self.save, self.world, self.go_on = save, world, go_on
        self._said_reasons: set[str] = set()
        self.is_remote = bool(judges) and all(named.judge.remote for named in judges) and world.size == 1

    @property
    def key(self) -> str:
        """A hash of the judges and their weights."""
        return journal_key(
            [[n.label, n.weight, n.judge.name, n.judge.version, n.judge.parameters()] for n in self.judges]
        )

    def score(self, groups: Sequence[Group], where: str) -> Rewards:
        """Score groups; `where` names what they are for, in messages.

        Raises:
            RunStopped: a judge failed, or too many scores are missing; a checkpoint was saved.
            InputError: the user's own reward failed on a row; a checkpoint was saved.
        """
        return self._checked(lambda: _shared_rewards(lambda: _rewards(groups, self.judges), self.world), where)

    def score_parts(self, parts: Iterable[Sequence[Group]], where: str) -> tuple[list[Group], Callable[[], Rewards]]:
        """Draw parts one after another; a remote judge scores each while the next is drawn.

        Returns all groups, and what gives their rewards, raising as `score`.
        """
        groups: list[Group] = []
        if not self.is_remote:
            for part in parts:
                groups += part
            return groups, partial(self.score, groups, where)
        ahead = Ahead(self.judges)
        try:
            for part in parts:
                ahead.add(part)
                groups += part
        finally:
            ahead.end()
        return groups, partial(self._checked, ahead.rewards, where)

    def _checked(self, found: Callable[[], Rewards], where: str) -> Rewards:
        with self.saving(where):
            with self.deadlines.phase("score"):
                rewards = found()
            num_scores = rewards.total_PG.size * len(self.judges)
            if rewards.num_missing > self.max_missing * num_scores:
                raise RunStopped(
                    f"{rewards.num_missing} of {num_scores} scores are missing: {counted(rewards.reasons)}"
                )
            self._say_missing(rewards, num_scores, where)
        return rewards

    def _say_missing(self, rewards: Rewards, num_scores: int, where: str) -> None:
        """Log missing scores that are few enough, when a reason comes up for the first time."""
        new = set(rewards.reasons) - self._said_reasons
        if new:
            self._said_reasons |= new
            _logger.warning(
                "%s: %d of %d scores are missing: %s", where, rewards.num_missing, num_scores, counted(rewards.reasons)
            )

    @contextmanager
    def saving(self, where: str) -> Iterator[None]:
        """Save the run where what is inside stops it, and say how it goes on."""
        try:
            yield
        except (RunStopped, InputError) as error:
            self.save()
            if error.corrects is None:
                how = f"the run is saved, go on with: {self.go_on()}"
            else:  # a KEY that is allowed to change need not: this goes on where nothing had to be corrected, too
                how = f"the run is saved; correct it and go on with: {self.go_on([error.corrects])}"
            stopped = type(error)(f"{where}: {error.line}; {how}")
            stopped.trace = error.trace
            raise self.world.reported_by_rank0(stopped) from error


class Ahead:
    """Scores parts in order in a thread of its own, which does not outlive the process."""

    def __init__(self, judges: Sequence[NamedJudge]) -> None:
        self._judges = judges
        self._parts: queue.SimpleQueue[Sequence[Group] | None] = queue.SimpleQueue()
        self._scored: queue.SimpleQueue[Rewards | BaseException] = queue.SimpleQueue()
        self._num_parts = 0
        threading.Thread(target=self._work, daemon=True, name="alignkit-scoring").start()

    def add(self, groups: Sequence[Group]) -> None:
        """Score these next."""
        self._num_parts += 1
        self._parts.put(groups)

    def end(self) -> None:
        """Say that no further part follows."""
        self._parts.put(None)

    def rewards(self) -> Rewards:
        """Wait for all parts; raises what the judges raised."""
        found: list[Rewards] = []
        for _ in range(self._num_parts):
            one = self._scored.get()
            if isinstance(one, BaseException):
                raise one
            found.append(one)
        return reduce(lambda a, b: joined(a, b, np.arange(len(a.total_PG) + len(b.total_PG))), found)

    def _work(self) -> None:
        while (groups := self._parts.get()) is not None:
            try:
                self._scored.put(_rewards(groups, self._judges))
            except BaseException as error:
                self._scored.put(error)
                return


def _shared_rewards(work: Callable[[], Rewards], world: World) -> Rewards:
    """Let rank 0 find rewards, and give them to every rank; what it raises, all raise."""
    return work() if world.size == 1 else decoded(world.run_on_rank0(lambda: encoded(work())))


def _rewards(groups: Sequence[Group], judges: Sequence[NamedJudge]) -> Rewards:
    return reward([group.items() for group in groups], judges)
