"""Scores a step's groups by the run's judges, within the deadline; saves the run where they cannot be scored.

A remote judge is slow to answer: it scores a part of the prompts in a thread of its own (`Ahead`) while the next part
is sampled. The scores are the same, because each item's score depends on nothing beside it. P prompts, G group.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np

from alignkit.data.reading.rows import Row
from alignkit.data.trees.trees import Tree
from alignkit.distributed.ranks import ALONE, World
from alignkit.errors import InputError, RunStopped
from alignkit.progress import phase
from alignkit.rollouts.sampler import Completion
from alignkit.scoring.judge import counted
from alignkit.scoring.rewards import Rewards, joined, reward
from alignkit.scoring.specs import NamedJudge
from alignkit.training.lifecycle.deadlines import Deadlines
from alignkit.training.rollouts.journal import Journal, decoded, encoded, journal_key
from alignkit.training.rollouts.sampling import Group

_logger = logging.getLogger(__name__)
_PART = 8  # prompts that are sampled while a remote judge scores those before


@dataclass(frozen=True)
class Rollouts:
    """Scored groups, and the seconds that sampling and scoring them took."""

    groups: tuple[Group, ...]
    rewards: Rewards
    generate_s: float
    score_s: float


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

    def rollouts(
        self,
        journal: Journal,
        number: int,
        round_: int,
        key: str,
        *,
        pairs: Sequence[tuple[Row, Tree]],
        sample: Callable[[Sequence[tuple[Row, Tree]], bool], list[Group]],
        regroup: Callable[[Sequence[Completion]], list[Group]],
        where: str,
    ) -> Rollouts:
        """Sample and score groups, or read from the journal what was sampled and scored there before.

        Args:
            number, round_, key: the place in the journal, and a hash of all that decides the samples.
            sample: gives the groups of some pairs; its second argument says that the weights may have changed.
            regroup: gives the journal's completions to their rows.

        Raises:
            RunStopped, InputError: as `score`.
        """
        began = time.monotonic()
        known = journal.completions(number, round_, key)
        if known is None:
            size = _PART if self.is_remote else len(pairs)
            parts = (sample(pairs[at : at + size], at == 0) for at in range(0, len(pairs), size))
            groups, rewards_of = self.score_parts(parts, where)
            journal.keep_completions(number, round_, key, [c for group in groups for c in group.completions])
        else:
            groups = regroup(known)
            rewards_of = partial(self.score, groups, where)
        sampled = time.monotonic()
        # other judges score the same samples anew
        scored_key = journal_key(key, self.key)
        rewards = journal.scored(number, round_, scored_key)
        if rewards is None:
            rewards = rewards_of()
            journal.keep_scored(number, round_, scored_key, rewards)
        return Rollouts(tuple(groups), rewards, sampled - began, time.monotonic() - sampled)

    def score(self, groups: Sequence[Group], where: str) -> Rewards:
        """Score groups; `where` names what they are for, in messages.

        Raises:
            RunStopped: a judge failed, or too many scores are missing; a checkpoint was saved.
            InputError: the user's own reward failed on a row; a checkpoint was saved.
        """
        return self._checked(lambda: _shared_rewards(lambda: _rewards(groups, self.judges), self.world), where)

    def score_parts(self, parts: Iterable[Sequence[Group]], where: str) -> tuple[list[Group], Callable[[], Rewards]]:
        """Sample parts one after another; a remote judge scores each while the next is sampled.

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
            with self.deadlines.phase("score"), phase("scoring"):
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
            stopped = type(error)(f"{where}: {error.line.removesuffix('; correct it')}; {how}")
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
