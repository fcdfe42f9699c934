"""The sampled half of an optimizer step: draw completions, score them, turn rewards into advantages and rows of trees.

A *batch* is what is drawn and scored together; `updates_per_batch` optimizer steps train on it, and everything about it
follows from (seed, batch number). P prompts, G group, N completions, T scored tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.data.rows import Row
from alignkit.data.trees import Tree
from alignkit.errors import RunStopped
from alignkit.methods import Method, MethodConfig, SampledConfig
from alignkit.scoring.rewards import Rewards, joined, reward
from alignkit.training.distributed import own_rows
from alignkit.training.draw import Group, draw, grouped, sample_micros, unrewarded_micro, without_cut
from alignkit.training.journal import FOLDER, journal_key
from alignkit.training.order import derived_seed, step_rows
from alignkit.training.run_folder import RunFolder
from alignkit.training.sample_lines import equal_groups, ranked_lines, reward_metrics, scored_examples
from alignkit.training.setup import Inputs, Models, row_capacity
from alignkit.training.shared_rollouts import make_journal, shared_rewards
from alignkit.training.step import Micro

MAX_GAP = {"fp32": 1e-3, "bf16": 0.1}
"""How far the log-probs of fresh samples may lie from their sampler's at the first step: mean, nats a token.

In fp32 both compute the same numbers in another order. Under bf16 autocast rounding differs between one token a pass
and whole rows; samples scored at a wrong temperature lie further off.
"""


@dataclass(frozen=True)
class Drawn:
    """Scored groups, and the seconds that drawing and scoring them took."""

    groups: tuple[Group, ...]
    rewards: Rewards
    generate_s: float
    score_s: float


@dataclass(frozen=True)
class RewardedBatch:
    """A batch ready to train on: its rows of trees and its numbers."""

    number: int
    micros: list[Micro]
    metrics: dict[str, float]


class RolloutStep:
    """Draws and rewards the samples of a run's steps.

    Args:
        rows_per_step: prompts of a batch.
        max_missing: the run stops when more than this share of a round's scores is missing.
        save: writes a checkpoint of the weights as they are.
        note: tells whoever watches a line.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        inputs: Inputs,
        models: Models,
        run: RunFolder,
        *,
        rows_per_step: int,
        max_missing: float,
        save: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self.method, self.config, self.inputs, self.models, self.run = method, config, inputs, models, run
        self.sampled = sampled_options(config)
        self.rows_per_step, self.max_missing, self._save = rows_per_step, max_missing, save
        self._batch: RewardedBatch | None = None
        self._note = note
        self.journal = make_journal(run.path / FOLDER, models.world)

    def step(self, step: int) -> tuple[list[Micro], dict[str, float]]:
        """Return the rows of trees of an optimizer step (from 1), and numbers where the step draws a batch.

        Raises:
            RunStopped: a judge failed, or too many scores are missing; a checkpoint was saved.
        """
        number, updates_before = divmod(step - 1, self.sampled.updates_per_batch)
        if self._batch is None or self._batch.number != number + 1:
            self._batch = self._new_batch(number + 1, step)
        return self._batch.micros, {} if updates_before else self._batch.metrics

    def draw(
        self, pairs: Sequence[tuple[Row, Tree]], temperatures: Sequence[float], number: int, *, round_: int = 0
    ) -> list[Group]:
        """Draw `len(temperatures)` completions for each row's prompt from the weights as they are now."""
        self.models.sampler.sync()
        return draw(
            self.models.sampler, self.inputs.chat, pairs, temperatures=temperatures, seed=self.config.seed, step=number,
            max_new_tokens=self.config.max_new_tokens, purpose=f"train {round_}" if round_ else "train",
            top_p=getattr(self.config, "top_p", 1.0),
        )  # fmt: skip

    def check_ratio(self, logged: dict[str, float], step: int) -> None:
        """Stop where the first step's samples have other log-probs in training than they were drawn with.

        Raises:
            RunStopped: they lie further apart than MAX_GAP; nothing was changed.
        """
        gap = logged.get("sampling_gap")
        if step != 1 or gap is None:
            return
        limit = MAX_GAP["fp32" if self.models.policy.autocast is None else "bf16"]
        if gap > limit:
            raise RunStopped(
                f"the first step's ratio is not 1: log-probs in training lie {gap:.2g} nats a token from those the "
                f"samples were drawn with, {limit:g} at most is sound; sampler and training disagree about temperature "
                "or weights; try --sampler transformers, or --precision fp32"
            )

    def _new_batch(self, number: int, step: int) -> RewardedBatch:
        self.journal.prune(self._oldest_needed())
        numbers = step_rows(
            len(self.inputs.training.trees), self.rows_per_step, seed=self.config.seed, step=number
        ).tolist()
        drawn = self._round(numbers, number, step, 0)
        metrics: dict[str, float] = {}
        if self.sampled.equal_groups == "resample":
            drawn, metrics = self._resampled(drawn, set(numbers), number, step)
        rewards_PG = drawn.rewards.total_PG
        if self.sampled.kl_in_reward:
            kl_PG = self._reference_kl(drawn.groups)
            rewards_PG = rewards_PG - self.sampled.kl_in_reward * kl_PG
            metrics["reward_kl"] = float(kl_PG.mean())
        advantages_PG = self.method.advantages(rewards_PG, self.config)
        equal_P = equal_groups(rewards_PG)
        advantages_PG[equal_P] *= 0.0
        if self.sampled.cut_completions == "mask":
            advantages_PG = without_cut(advantages_PG, drawn.groups)
        kept_P = np.ones(len(equal_P), bool) if self.sampled.equal_groups == "keep" else ~equal_P
        micros = sample_micros(
            drawn.groups, advantages_PG, row_capacity(self.models.policy.device), kept_P=kept_P, world=self.models.world
        )
        if number % self.config.sample_interval == 0 or number == 1:
            self.run.add_samples(ranked_lines(drawn.groups, drawn.rewards.total_PG, step))
        if step == 1:
            for line in scored_examples(drawn.groups, drawn.rewards):
                self._note(line)
        metrics |= reward_metrics(drawn.groups, drawn.rewards, equal_P)
        return RewardedBatch(number, micros, metrics | _seconds(drawn, equal_P))

    def _round(self, numbers: Sequence[int], number: int, step: int, round_: int) -> Drawn:
        """Draw and score the groups of some rows, or read them from the journal where they were before."""
        pairs = [(self.inputs.training.rows[n], self.inputs.training.trees[n]) for n in numbers]
        temperatures = self.method.temperatures(number, self.config)
        key = journal_key(self.config.model_dump(mode="json"), [row.id for row, _ in pairs], temperatures)
        began = time.monotonic()
        known = self.journal.drawn(number, round_, key)
        if known is None:
            groups = self.draw(pairs, temperatures, number, round_=round_)
            self.journal.keep_drawn(number, round_, key, [c for group in groups for c in group.completions])
        else:
            groups = grouped(self.inputs.chat, pairs, temperatures, known)
        drawn = time.monotonic()
        rewards = self._rewards(groups, number, step, round_, key)
        return Drawn(tuple(groups), rewards, drawn - began, time.monotonic() - drawn)

    def _rewards(self, groups: Sequence[Group], number: int, step: int, round_: int, key: str) -> Rewards:
        """Score groups and keep what they got, also what is missing."""
        key = journal_key(
            key, [[n.label, n.weight, n.judge.name, n.judge.version, n.judge.parameters()] for n in self.inputs.judges]
        )
        known = self.journal.scored(number, round_, key)
        if known is not None:
            return known
        rewards = self._score(groups, step)
        self.journal.keep_scored(number, round_, key, rewards)
        return rewards

    def _resampled(self, drawn: Drawn, used: set[int], number: int, step: int) -> tuple[Drawn, dict[str, float]]:
        """Put other prompts' groups in the place of those with equal rewards, round by round."""
        seconds, replaced = 0.0, 0
        for round_ in range(1, self.sampled.max_resamples + 1):
            equal_P = equal_groups(drawn.rewards.total_PG)
            order = np.random.Generator(
                np.random.Philox(key=derived_seed(self.config.seed, "resample", number, round_))
            ).permutation(len(self.inputs.training.trees))
            others = [int(n) for n in order if int(n) not in used][: int(equal_P.sum())]
            if not others:
                break
            used |= set(others)
            new = self._round(others, number, step, round_)
            seconds += new.generate_s + new.score_s
            replaced += len(others)
            drawn = _replaced(drawn, np.flatnonzero(equal_P)[: len(others)], new)
        return drawn, {"resampled_groups": float(replaced), "resampling_s": seconds}

    def _oldest_needed(self) -> int:
        """The first batch that a resume may read: that after the older of the last two checkpoints."""
        steps = sorted(int(path.name.removeprefix("step-")) for path in self.run.checkpoints.glob("step-*"))
        return steps[-2] // self.sampled.updates_per_batch + 1 if len(steps) > 1 else 1

    def _score(self, groups: Sequence[Group], step: int) -> Rewards:
        try:
            rewards = shared_rewards(
                lambda: reward([group.items() for group in groups], self.inputs.judges), self.models.world
            )
        except RunStopped as error:
            self._save()
            raise RunStopped(
                f"step {step}: {error}; the run is saved, go on with --resume --out {self.run.path}"
            ) from error
        num_scores = rewards.total_PG.size * len(self.inputs.judges)
        if rewards.num_missing > self.max_missing * num_scores:
            self._save()
            raise RunStopped(
                f"step {step}: {rewards.num_missing} of {num_scores} scores are missing "
                f"({'; '.join(rewards.reasons[:3])}); the run is saved, go on with --resume --out {self.run.path}"
            )
        return rewards

    def _reference_kl(self, groups: Sequence[Group]) -> np.ndarray:
        """k1 of each completion at its temperature, the sum of log pi - log pi_ref, nats: float64 [P, G]."""
        size = len(groups[0].completions)
        trees = [group.tree(range(size)) for group in groups]
        with self.models.whole() as models:
            assert models.reference is not None
            rows, is_spare = own_rows(trees, row_capacity(models.policy.device), models.world)
            reference = models.reference

            def compute() -> list[tuple[int, list[float]]]:
                found: list[Any] = []
                for numbers in [] if is_spare else rows:
                    micro = unrewarded_micro([groups[n] for n in numbers])
                    assert micro.behaviour_T is not None
                    reference_T = reference.logprobs(micro.pack, micro.temperature_N).cpu().double().numpy()
                    kl_N = np.bincount(micro.pack.completion_T, micro.behaviour_T - reference_T, len(numbers) * size)
                    found += zip(numbers, kl_N.reshape(len(numbers), size).tolist(), strict=True)
                return found

            by_group = dict(pair for part in models.world.each(compute) for pair in part)
        return np.array([by_group[n] for n in range(len(groups))])


def sampled_options(config: MethodConfig) -> SampledConfig:
    """The options of sampled steps: the config's own, or their defaults for a method that has none of them."""
    return config if isinstance(config, SampledConfig) else SampledConfig()


def _replaced(drawn: Drawn, places: np.ndarray, new: Drawn) -> Drawn:
    """Put new groups in some places; seconds add up."""
    which = np.arange(len(drawn.groups))
    which[places] = len(drawn.groups) + np.arange(len(places))
    groups = (*drawn.groups, *new.groups)
    return replace(
        drawn,
        groups=tuple(groups[n] for n in which),
        rewards=joined(drawn.rewards, new.rewards, which),
        generate_s=drawn.generate_s + new.generate_s,
        score_s=drawn.score_s + new.score_s,
    )


def _seconds(drawn: Drawn, equal_P: np.ndarray) -> dict[str, float]:
    """What drawing and scoring took, and how much of it went into groups that teach nothing, by their tokens."""
    tokens_P = np.array([sum(len(c.ids) for c in group.completions) for group in drawn.groups], float)
    wasted = float(tokens_P[equal_P].sum() / tokens_P.sum()) * (drawn.generate_s + drawn.score_s)
    return {"generate_s": drawn.generate_s, "score_s": drawn.score_s, "equal_groups_s": wasted}
