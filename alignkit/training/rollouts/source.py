"""The micro-batches of a step on rollouts: sample completions, score them, turn rewards into advantages.

A *batch* is what is sampled and scored together; `updates_per_batch` optimizer steps train on it, and everything about
it follows from (seed, batch number). P prompts, G group, N completions, T scored tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from alignkit.data.reading.rows import Row
from alignkit.data.reading.split import derived_seed
from alignkit.data.trees.trees import Tree
from alignkit.errors import RunStopped, UsageError
from alignkit.methods import Method, MethodConfig, sampled_options
from alignkit.rollouts.agreement import MAX_UNKNOWN
from alignkit.scoring.rewards import joined
from alignkit.training.checkpoints.checkpoint import own_steps
from alignkit.training.checkpoints.run_folder import RunFolder
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.step import MicroBatch
from alignkit.training.inputs.setup import Inputs
from alignkit.training.loop.source import RowSource, StepSource, step_rows, steps_per_epoch
from alignkit.training.loop.train_loop import EvalResult
from alignkit.training.rollouts.eval_rollouts import RolloutEval
from alignkit.training.rollouts.journal import FOLDER, journal_key, make_journal
from alignkit.training.rollouts.micro_batches import (
    drop_truncated,
    reference_kl,
    rewarded_micro_batches,
    unrewarded_micro_batch,
    with_old_logprobs,
    zero_variance_groups,
)
from alignkit.training.rollouts.reward_checks import RewardHackingMonitor, RewardSignal
from alignkit.training.rollouts.sample_log import (
    finding_lines,
    lengths,
    ranked_lines,
    reward_metrics,
    sample_text,
    scored_examples,
)
from alignkit.training.rollouts.sampling import Group, grouped, sample
from alignkit.training.rollouts.scoring import Rollouts, Scoring

_logger = logging.getLogger(__name__)
MAX_GAP = {"fp32": 1e-3, "bf16": 0.1}
"""How far the log-probs of fresh samples may lie from their sampler's at the first step: mean, nats per token.

In fp32 both compute the same numbers in another order. Under bf16 autocast rounding differs between one token per pass
and whole rows; samples scored at a wrong temperature lie further off.
"""


@dataclass(frozen=True)
class RewardedBatch:
    """A batch ready to train on: its micro-batches, what its means count beside them, and its metrics."""

    number: int
    micro_batches: list[MicroBatch]
    left_out: Mapping[str, int]
    metrics: dict[str, float]


class RolloutSource(StepSource):
    """Yields the micro-batches of a run's steps, from samples that were scored.

    Args:
        scoring: gives rewards, or saves the run and stops it.
        prompts_per_step: prompts of a batch.
        note: logs a line where the user sees it.
    """

    may_be_empty = True

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        inputs: Inputs,
        models: Models,
        run: RunFolder,
        *,
        scoring: Scoring,
        prompts_per_step: int,
        note: Callable[[str], None],
    ) -> None:
        self.method, self.config, self.inputs, self.models, self.run = method, config, inputs, models, run
        self.sampled = sampled_options(config)
        self.scoring, self.prompts_per_step, self._note = scoring, prompts_per_step, note
        self._batch: RewardedBatch | None = None  # is trained on by `updates_per_batch` steps
        self.journal = make_journal(run.path / FOLDER, run.id, models.world)
        self.evaluation = RolloutEval(config, inputs, run, scoring=scoring)
        self.monitor = RewardHackingMonitor()
        self.signal = RewardSignal()
        prompts = steps_per_epoch(len(inputs.training.trees), prompts_per_step)
        self.steps_per_epoch = prompts * self.sampled.updates_per_batch
        if self.sampled.reads_old_logprobs and models.world.size > 1:
            text = "importance_sampling_correction runs in one process: leave it out, or start one rank"
            raise models.world.reported_by_rank0(UsageError(text))

    def step(self, step: int) -> tuple[list[MicroBatch], dict[str, float]]:
        """Return the micro-batches of an optimizer step (from 1), and metrics where the step samples a new batch.

        Raises:
            RunStopped: a judge failed, too many scores are missing, or the reward is hacked; a checkpoint was saved.
        """
        number, updates_before = divmod(step - 1, self.sampled.updates_per_batch)
        if self._batch is None or self._batch.number != number + 1:
            self._batch = self._new_batch(number + 1, step)
        metrics = {} if updates_before else self._batch.metrics
        return self._batch.micro_batches, {**metrics, **self.models.sampler.metrics}

    @property
    def left_out(self) -> Mapping[str, int]:
        """What the last step's means divide by beside its micro-batches."""
        return {} if self._batch is None else self._batch.left_out

    def validate(self, step: int, models: Models) -> EvalResult:
        """Evaluate on the held-out prompts. Raises as `RolloutEval.measure`."""
        return self.evaluation.measure(step, models, oldest=self._oldest_step())

    def finish(self) -> None:
        """Refuse a run whose rewards taught nothing: it is not done. Raises RunStopped."""
        if not self.signal.is_missing:
            return
        rewards = [key.removeprefix("reward ") for key in self.inputs.fingerprints if key.startswith("reward ")]
        text = (
            f"{self.method.name}: no group of this run had differing rewards ({self.signal.kinds()}): nothing was "
            "learnt, no model is written; checkpoints and samples stay; correct the reward and go on with: "
            f"{self.scoring.go_on(rewards)}"
        )
        raise self.models.world.reported_by_rank0(RunStopped(text))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, of JSON types."""
        signal = asdict(self.signal)
        return {"monitor": self.monitor.state(), "signal": signal, "reference_scores": self.evaluation.reference_scores}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint's state."""
        self.monitor = RewardHackingMonitor(**state["monitor"])
        self.signal = RewardSignal(**state["signal"])
        self.evaluation.reference_scores = dict(state["reference_scores"])

    def sample(
        self,
        pairs: Sequence[tuple[Row, Tree]],
        temperatures: Sequence[float],
        number: int,
        *,
        round_: int = 0,
        sync: bool = True,
    ) -> list[Group]:
        """Sample `len(temperatures)` completions for each row's prompt from the weights as they are now."""
        with self.scoring.saving(f"batch {number}"):
            return sample(
                self.models.sampler,
                self.inputs.chat,
                pairs,
                temperatures=temperatures,
                seed=self.config.seed,
                step=number,
                max_new_tokens=self.config.max_new_tokens,
                sync=sync,
                deadlines=self.scoring.deadlines,
                purpose=f"train {round_}" if round_ else "train",
                top_p=self.sampled.top_p,
            )

    def check(self, logged: dict[str, float], step: int) -> None:
        """Stop where the first step's samples have other log-probs in training than they were sampled with.

        Raises:
            RunStopped: they lie further apart than MAX_GAP; or most tokens of a step have no finite log-prob of the
                sampler's, and so none that trains. This step changed nothing.
        """
        if (unknown := logged.get("unknown_logprobs", 0.0)) > MAX_UNKNOWN:
            raise RunStopped(
                f"step {step}: the sampler gave {unknown:.0%} of the tokens no finite log-prob, so they are left out "
                "of the loss; nothing was changed; try --sampler transformers, or --set ratio=none"
            )
        gap = logged.get("sampling_gap")
        if step != 1 or gap is None:
            return
        limit = MAX_GAP["fp32" if self.models.policy.autocast is None else "bf16"]
        if not gap <= limit:
            raise RunStopped(
                f"the first step's ratio is not 1: log-probs in training lie {gap:.2g} nats per token from those the "
                f"samples were generated with, {limit:g} at most is sound; {self._why_they_differ()}"
            )

    def _why_they_differ(self) -> str:
        if not self.models.sampler.copies_weights:
            return (
                "the same weights give other log-probs in rows than token by token; try --precision fp32, or "
                "--set attention=plain"
            )
        return (
            f"--sampler {self.models.sampler.name} and training differ in temperature, weights or precision; try "
            "--sampler transformers, or --precision fp32"
        )

    def _new_batch(self, number: int, step: int) -> RewardedBatch:
        self.journal.prune(self._oldest_step() // self.sampled.updates_per_batch + 1)
        numbers = step_rows(
            len(self.inputs.training.trees), self.prompts_per_step, seed=self.config.seed, step=number
        ).tolist()
        rollouts = self._round(numbers, number, step, 0)
        metrics: dict[str, float] = {}
        if self.sampled.zero_variance_groups == "resample":
            rollouts, metrics = self._resampled(rollouts, set(numbers), number, step)
        rewards_PG = rollouts.rewards.total_PG
        if self.sampled.kl_in_reward:
            kl_PG = reference_kl(self.models, rollouts.groups)
            rewards_PG = rewards_PG - self.sampled.kl_in_reward * kl_PG
            metrics["reward_kl"] = float(kl_PG.mean())
        capacity, equal_P = self.models.micro_batch_tokens, zero_variance_groups(rewards_PG)
        micro_batches, left_out = rewarded_micro_batches(
            self.method, self.config, rollouts.groups, rewards_PG, capacity=capacity, world=self.models.world
        )
        if self.sampled.reads_old_logprobs:
            key = journal_key(
                self.config.model_dump(mode="json"), [len(micro_batch.pack.target_T) for micro_batch in micro_batches]
            )
            micro_batches = with_old_logprobs(self.models.policy, micro_batches, self.journal, number, key)
        if number % self.config.sample_interval == 0 or number == 1:
            self.run.add_samples(ranked_lines(rollouts.groups, rollouts.rewards.total_PG, step))
        if step == 1:
            for line in scored_examples(rollouts.groups, rollouts.rewards):
                self._note(line)
        metrics |= reward_metrics(rollouts.groups, rollouts.rewards, equal_P)
        metrics |= self._check_hacking(rollouts, number, step)
        self._see_signal(rollouts, number)
        return RewardedBatch(number, micro_batches, left_out, metrics | _seconds(rollouts, equal_P))

    def _round(self, numbers: Sequence[int], number: int, step: int, round_: int) -> Rollouts:
        """Sample and score the groups of some rows, or read them from the journal."""
        pairs = [(self.inputs.training.rows[n], self.inputs.training.trees[n]) for n in numbers]
        temperatures = self.method.temperatures(number, self.config)
        key = journal_key(self.config.model_dump(mode="json"), [row.id for row, _ in pairs], temperatures)
        return self.scoring.rollouts(
            self.journal,
            number,
            round_,
            key,
            pairs=pairs,
            sample=lambda part, sync: self.sample(part, temperatures, number, round_=round_, sync=sync),
            regroup=lambda known: grouped(self.inputs.chat, pairs, temperatures, known),
            where=f"step {step}",
        )

    def _see_signal(self, rollouts: Rollouts, number: int) -> None:
        """Count the groups that teach something, and warn while none did."""
        rewards_PG = rollouts.rewards.total_PG
        advantages_PG = self.method.advantages(rewards_PG, self.config)
        if self.sampled.mask_truncated_completions:
            advantages_PG = drop_truncated(advantages_PG, rollouts.groups)
        self.signal.see(number, rewards_PG, advantages_PG, rollouts.rewards.reasons)
        if (warning := self.signal.warning()) is not None:
            self._note(f"warning: {warning}")
            _logger.warning("%s", warning)

    def _check_hacking(self, rollouts: Rollouts, number: int, step: int) -> dict[str, float]:
        """Look for reward hacking in a batch and those before it; log it once when it begins.

        Raises:
            RunStopped: it was found, and --set reward_hacking=stop was given; a checkpoint was saved.
        """
        metrics = self.monitor.see(number, rollouts.groups, rollouts.rewards.total_PG)
        finding = self.monitor.finding()
        if finding is None:
            return metrics
        if finding.alarms and not self.monitor.alerted:
            lines = finding_lines(finding, rollouts.groups, rollouts.rewards.total_PG, step)
            self.run.add_samples(lines)
            for text in (finding.line(), *map(sample_text, lines)):
                self._note(text)
                _logger.warning("step %d: %s", step, text)
            if self.sampled.reward_hacking == "stop":
                self.scoring.save()
                text = (
                    f"step {step}: {finding.line()}; stopped by reward_hacking=stop; the run is saved, go on with: "
                    + self.scoring.go_on(["reward_hacking"], instead={"reward_hacking": "warn"})
                )
                raise self.models.world.reported_by_rank0(RunStopped(text))
        self.monitor.alerted = finding.alarms
        return metrics | {"reward_explained_by_form": finding.share}

    def _resampled(
        self, rollouts: Rollouts, used: set[int], number: int, step: int
    ) -> tuple[Rollouts, dict[str, float]]:
        """Put other prompts' groups in the place of those with equal rewards, round by round."""
        seconds, replaced = 0.0, 0
        for round_ in range(1, self.sampled.max_resamples + 1):
            equal_P = zero_variance_groups(rollouts.rewards.total_PG)
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
            rollouts = _replaced(rollouts, np.flatnonzero(equal_P)[: len(others)], new)
        return rollouts, {"resampled_groups": float(replaced), "resampling_s": seconds}

    def _oldest_step(self) -> int:
        """The step of the older of the last two checkpoints: a resume goes back no further."""
        kept = own_steps(self.run.checkpoints, self.run.id)
        return kept[-2] if len(kept) > 1 else 0


class SampledRowSource(RowSource):
    """The rows of the data, with samples for the prompts of the steps in which the method samples.

    Args:
        rollouts: samples; nothing is scored.
    """

    def __init__(self, rollouts: RolloutSource) -> None:
        inputs, models = rollouts.inputs, rollouts.models
        super().__init__(
            inputs.training.trees,
            rollouts.config,
            micro_batch_tokens=models.micro_batch_tokens,
            world=models.world,
            mismatched=inputs.training_mismatched,
        )
        self.rollouts = rollouts

    def step(self, step: int) -> tuple[list[MicroBatch], dict[str, float]]:
        """Return the step's micro-batches and what its samples' lengths were."""
        micro_batches, metrics = super().step(step)
        temperatures = self.rollouts.method.temperatures(step, self.config)
        if not temperatures:
            return micro_batches, metrics
        rows = self.rollouts.inputs.training.rows
        pairs = [(rows[n], self.trees[n]) for n in self.numbers(step).tolist()]
        groups = self.rollouts.sample(pairs, temperatures, step)
        own, _ = self.own(step)
        micro_batches = [
            replace(micro_batch, samples=unrewarded_micro_batch([groups[n] for n in row]))
            for micro_batch, row in zip(micro_batches, own, strict=True)
        ]
        return micro_batches, {**metrics, **lengths(groups), **self.rollouts.models.sampler.metrics}


def _replaced(rollouts: Rollouts, places: np.ndarray, new: Rollouts) -> Rollouts:
    """Put new groups in some places; seconds add up."""
    # numbers from len(groups) on are the new groups: `joined` counts through both in this order
    which = np.arange(len(rollouts.groups))
    which[places] = len(rollouts.groups) + np.arange(len(places))
    groups = (*rollouts.groups, *new.groups)
    return replace(
        rollouts,
        groups=tuple(groups[n] for n in which),
        rewards=joined(rollouts.rewards, new.rewards, which),
        generate_s=rollouts.generate_s + new.generate_s,
        score_s=rollouts.score_s + new.score_s,
    )


def _seconds(rollouts: Rollouts, equal_P: np.ndarray) -> dict[str, float]:
    """Seconds of sampling and scoring, and the part of them, by tokens, that went into groups of equal rewards."""
    tokens_P = np.array([sum(len(c.ids) for c in group.completions) for group in rollouts.groups], float)
    wasted = float(tokens_P[equal_P].sum() / tokens_P.sum()) * (rollouts.generate_s + rollouts.score_s)
    return {"generate_s": rollouts.generate_s, "score_s": rollouts.score_s, "zero_variance_groups_s": wasted}
