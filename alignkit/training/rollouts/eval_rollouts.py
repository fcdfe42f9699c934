"""The held-out evaluation of a method that trains on samples: reward, length, exact KL, and wins over the reference.

One sample for each of the first validation prompts, at temperature 1, always with the same random numbers. Before the
first step the policy is its reference: the scores it gets then are kept, and `validation/beats_reference` is the share
of the prompts on which the policy's sample scores higher than the reference's, ties half (Figure 5 of the paper calls
it evaluation accuracy). Of n prompts its standard error is at most 0.5 / sqrt(n): 9 points for the default 32.

Samples and scores are journalled as a step's are: a resumed run reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from alignkit.data.reading.rows import Row
from alignkit.data.trees.trees import Tree
from alignkit.methods import MethodConfig, sampled_options
from alignkit.training.checkpoints.run_folder import RunFolder
from alignkit.training.gradient.models import Models
from alignkit.training.inputs.setup import Inputs
from alignkit.training.loop.train_loop import EvalResult
from alignkit.training.rollouts.eval_loss import mean_kl
from alignkit.training.rollouts.journal import FOLDER, journal_key, make_journal
from alignkit.training.rollouts.sampling import Group, grouped, sample
from alignkit.training.rollouts.scoring import Scoring


class RolloutEval:
    """Evaluates a policy on held-out prompts."""

    def __init__(self, config: MethodConfig, inputs: Inputs, run: RunFolder, *, scoring: Scoring) -> None:
        self.config, self.inputs, self.scoring = config, inputs, scoring
        self.journal = make_journal(run.path / FOLDER / "validation", run.id, scoring.world)
        self.reference_scores: dict[str, float] = {}
        """Row id -> score of the reference's sample, once the first evaluation is done."""

    def measure(self, step: int, models: Models, *, oldest: int) -> EvalResult:
        """Evaluate the weights as they are after `step`.

        Args:
            oldest: the journal of evaluations before this step is not needed any more.

        Raises:
            RunStopped: a judge failed, or too many scores are missing; a checkpoint was saved.
        """
        self.journal.prune(min(oldest, step))
        pairs = self._pairs()
        key = journal_key(self.config.model_dump(mode="json"), [row.id for row, _ in pairs])
        rollouts = self.scoring.rollouts(
            self.journal,
            step,
            0,
            key,
            pairs=pairs,
            sample=lambda part, sync: self._sample(models, part, sync=sync),
            regroup=lambda known: grouped(self.inputs.chat, pairs, (1.0,), known),
            where=f"validation after step {step}",
        )
        groups, rewards = rollouts.groups, rollouts.rewards
        scores = {group.row.id: float(score) for group, score in zip(groups, rewards.total_PG[:, 0], strict=True)}
        if step == 0:
            self.reference_scores = scores
        metrics = {
            "validation/length": float(np.mean([len(group.completions[0].ids) for group in groups])),
            "validation/truncated_share": float(np.mean([group.completions[0].truncated for group in groups])),
            "validation/reward": _mean(list(scores.values())),
            "validation/beats_reference": beats(scores, self.reference_scores),
            "validation/kl": _kl(models, groups, self.config),
        }
        metrics = {name: x for name, x in metrics.items() if not math.isnan(x)}
        return EvalResult(metrics, -metrics.get("validation/reward", math.nan))

    def _pairs(self) -> list[tuple[Row, Tree]]:
        validation = self.inputs.validation
        pairs = list(zip(validation.rows, validation.trees, strict=True))
        return pairs[: sampled_options(self.config).validation_prompts]

    def _sample(self, models: Models, pairs: Sequence[tuple[Row, Tree]], *, sync: bool) -> list[Group]:
        with self.scoring.saving("validation"):
            return sample(
                models.sampler,
                self.inputs.chat,
                pairs,
                temperatures=(1.0,),
                seed=self.config.seed,
                step=0,
                max_new_tokens=self.config.max_new_tokens,
                purpose="validation",
                sync=sync,
                deadlines=self.scoring.deadlines,
            )


def _kl(models: Models, groups: Sequence[Group], config: MethodConfig) -> float:
    """Mean over the samples' tokens, exact over the vocabulary, nats; nan without a reference."""
    if models.reference is None or not config.validation_kl_tokens:
        return math.nan
    return mean_kl(models, [group.tree([0]) for group in groups], config)


def beats(scores: Mapping[str, float], reference_scores: Mapping[str, float]) -> float:
    """Share of the rows scored on both sides whose score is the higher one, ties half; nan without any."""
    both = [(x, reference_scores[row]) for row, x in scores.items() if row in reference_scores]
    return _mean([0.5 * (x >= y) + 0.5 * (x > y) for x, y in both if not (math.isnan(x) or math.isnan(y))])


def _mean(values: Sequence[float]) -> float:
    present = [x for x in values if not math.isnan(x)]
    return float(np.mean(present)) if present else math.nan
