"""The sampled half of an optimizer step: draw completions, score them, turn rewards into advantages and rows of trees.

P prompts, G group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from alignkit.data.rows import Row
from alignkit.data.trees import Tree
from alignkit.errors import RunStopped
from alignkit.methods import Method, MethodConfig
from alignkit.scoring.rewards import Rewards, reward
from alignkit.training.draw import Group, draw, sample_micros
from alignkit.training.run_folder import RunFolder
from alignkit.training.sample_lines import lengths, mean, ranked_lines
from alignkit.training.setup import ROW_CAPACITY, Inputs, Models
from alignkit.training.step import Micro


class RolloutStep:
    """Draws and rewards the samples of a run's steps.

    Args:
        max_missing: the run stops when more than this share of a step's scores is missing.
        save: writes a checkpoint of the weights as they are.
    """

    def __init__(
        self,
        method: Method,
        config: MethodConfig,
        inputs: Inputs,
        models: Models,
        run: RunFolder,
        *,
        max_missing: float,
        save: Callable[[], None],
    ) -> None:
        self.method, self.config, self.inputs, self.models, self.run = method, config, inputs, models, run
        self.max_missing, self._save = max_missing, save

    def draw(self, pairs: Sequence[tuple[Row, Tree]], temperatures: Sequence[float], step: int) -> list[Group]:
        """Draw `len(temperatures)` completions for each row's prompt from the weights as they are now."""
        self.models.sampler.sync()
        return draw(
            self.models.sampler, self.inputs.chat, pairs, temperatures=temperatures, seed=self.config.seed, step=step,
            max_new_tokens=self.config.max_new_tokens, purpose="train",
        )  # fmt: skip

    def rewarded(self, groups: list[Group], step: int) -> tuple[list[Micro], dict[str, float]]:
        """Score samples and turn rewards into advantages.

        Raises:
            RunStopped: a judge failed, or too many scores are missing; a checkpoint was saved.
        """
        rewards = self._score(groups, step)
        advantages_PG = self.method.advantages(rewards.total_PG, self.config)
        micros = sample_micros(groups, advantages_PG, ROW_CAPACITY)
        if step % self.config.sample_interval == 0 or step == 1:
            self.run.add_samples(ranked_lines(groups, rewards.total_PG, step))
        return micros, _metrics(groups, rewards, advantages_PG)

    def _score(self, groups: Sequence[Group], step: int) -> Rewards:
        try:
            rewards = reward([group.items() for group in groups], self.inputs.judges)
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


def _metrics(groups: Sequence[Group], rewards: Rewards, advantages_PG: np.ndarray) -> dict[str, float]:
    metrics = lengths(groups) | {"reward": mean(rewards.total_PG), "missing_scores": float(rewards.num_missing)}
    equal_P = np.nansum(np.abs(advantages_PG), axis=1) == 0
    metrics["equal_groups"] = float(equal_P.mean())
    metrics["reward_spread"] = mean(np.nanstd(rewards.total_PG, axis=1)) if len(groups) else math.nan
    metrics |= {f"reward/{name}": mean(scores) for name, scores in rewards.by_name.items()}
    for temperature in sorted(set(groups[0].temperatures)):
        which = [k for k, t in enumerate(groups[0].temperatures) if t == temperature]
        metrics[f"reward/temperature-{temperature:g}"] = mean(rewards.total_PG[:, which])
    return metrics
