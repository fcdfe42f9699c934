"""Group relative policy optimization with a leave-one-out baseline.

    L_GRPO = - E_{x, y_i ~ pi} [ sum_i ( R(y_i, x) - 1/(k-1) sum_{j != i} R(y_j, x) ) log pi(y_i | x) ]
             + lambda KL(pi || pi_ref)                                                               (Eq. 6)

Where we differ from the letter:
- The samples of a group have *varied temperatures*. Policy, sampler and reference log-probs of a sample are all taken
  at the temperature it was drawn at, so the objective is the mean over the temperatures of the tempered policies'.
- Both terms are summed over a completion's tokens and averaged over completions: the same unit, so that lambda
  weighs them whatever the group size. (Eq. 6 sums the first over the group, which is k times as much.)
- The gradient's log pi is the ratio pi / pi_sampler, clipped to 1 +- clip_ratio; on the samples of the current
  weights it is 1 and its gradient is Eq. 6's.
- Where a sampler computes otherwise than training (bf16 kernels), a token may be weighed by
  w = min(pi_training / pi_sampler, C), both of the weights that drew it; the ratio then is pi / pi_training (truncated
  importance sampling: Ionides 2008; Yao et al. 2025).
- The baseline is not divided by a deviation: a leave-one-out deviation comes arbitrarily near 0.
- KL is estimated from the samples. The default term, k2, has the gradient of each next token's KL with the visited
  prefix held fixed, as in most trainers; k1-to-go has that of Eq. 6's KL of whole completions (kl_in_loss.py), and so
  has k1 in the reward.
- A token whose sampler gave no finite log-prob has no ratio. It is left out of the loss and counted; it keeps its place
  in what the step's means divide by.

The field's variants are one option away each: group_advantages.py has baseline and scale,
kl_in_loss.py the KL's terms, the table below the aggregation over tokens.

Source: the paper, sections 3.4 and 4.4 (most of its numbers are the defaults); Shao et al. 2024.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import cycle, islice
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from alignkit.plugin import (
    IN_HELP,
    IN_HELP_ALL,
    NO_FLAG,
    Batch,
    Method,
    MethodConfig,
    SampledConfig,
    Samples,
    Unit,
    hookimpl,
    paper_numbers,
)
from alignkit_plugins.group_advantages import group_advantages
from alignkit_plugins.kl_in_loss import KL_IN_LOSS, ratio_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from torch import Tensor


class GRPOConfig(SampledConfig):
    """The paper's numbers; it names neither temperatures nor a clip ratio."""

    learning_rate: float = Field(
        5e-6, gt=0, le=1, description="peak learning rate: higher learns faster, drifts farther (the paper's)"
    )
    batch_size: int = Field(
        2, ge=1, description="prompts per optimizer step, each with its group: more are steadier (the paper's)"
    )
    epochs: int = Field(3, ge=1, description="passes over the prompts")
    warmup_steps: int = Field(
        10,
        ge=0,
        description="steps over which the learning rate rises from 0, as the first steps are unsure (the paper's)",
    )
    seed: int = Field(42, ge=0, description="seed of data order and sampling: another one is another run (the paper's)")
    checkpoint_interval: int = Field(
        50, ge=1, description="steps between checkpoints: what a crash loses at most (the paper's)"
    )
    max_new_tokens: int = Field(
        256, ge=1, le=131_072, description="longest completion drawn, in tokens; longer ones are cut (the paper's)"
    )
    group_size: int = Field(
        4,
        ge=1,
        le=1024,
        description="samples per prompt, k of Eq. 6: more judge a sample surer (the paper's); 2 or more",
        json_schema_extra=IN_HELP,
    )
    temperatures: tuple[float, ...] = Field(
        (0.6, 0.8, 1.0, 1.2),
        min_length=1,
        description="sampling temperatures, cycled in the group",
        json_schema_extra=IN_HELP,
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="top-p of the samples; below 1 only with ratio none, or the ratio is wrong",
        json_schema_extra=NO_FLAG,
    )
    baseline: Literal["leave-one-out", "group-mean", "within-temperature"] = Field(
        "leave-one-out",
        description="what a sample's reward is compared with (Eq. 6: leave-one-out)",
        json_schema_extra=NO_FLAG,
    )
    scale: Literal["none", "group-deviation"] = Field(
        "none", description="what advantages are divided by", json_schema_extra=NO_FLAG
    )
    min_deviation: float = Field(
        0.1, gt=0, description="floor of scale group-deviation, in units of the reward", json_schema_extra=NO_FLAG
    )
    aggregation: Literal["completion-sum", "token", "sequence", "constant"] = Field(
        "completion-sum",
        description="how a step's tokens become one loss (Eq. 6: completion-sum)",
        json_schema_extra=NO_FLAG,
    )
    kl: float = Field(
        0.1,
        ge=0,
        description="lambda, the KL's weight per nat of a completion (0.1 is the paper's number; Eq. 6's lambda to the "
        "letter is a k-th of it, 0.025 at k = 4, --preset letter: so the default pulls four times as much); 0 loads no "
        "reference",
        json_schema_extra=IN_HELP,
    )
    kl_estimator: Literal["k1", "k1-to-go", "k2", "k3"] = Field(
        "k2",
        description="where the KL stands. In the loss: k2 and k3 have the gradient of each next token's KL, the prefix "
        "held fixed; k1-to-go that of Eq. 6's KL of whole completions. In the reward: k1, Eq. 6's gradient",
        json_schema_extra=IN_HELP_ALL,
    )
    ratio: Literal["clipped", "none"] = Field(
        "clipped",
        description="weigh a token by pi / pi_sampler, clipped, or trust that the samples are fresh",
        json_schema_extra=NO_FLAG,
    )
    clip_ratio: float = Field(0.2, gt=0, description="the ratio's clip range, 1 +- this", json_schema_extra=NO_FLAG)
    clip_ratio_high: float | None = Field(
        None,
        gt=0,
        description="upper end of the ratio's clip range, 1 + this (DAPO: 0.28); default: clip_ratio",
        json_schema_extra=NO_FLAG,
    )
    importance_sampling_correction: float | None = Field(
        None,
        gt=0,
        description="weigh a token by p(training) / p(sampler) of the weights that drew it, at most this (2 is usual); "
        "one more forward pass per batch; default: the mismatch is only logged",
        json_schema_extra=NO_FLAG,
    )

    @field_validator("group_size")
    @classmethod
    def _has_siblings(cls, group_size: int) -> int:
        if group_size < 2:
            raise ValueError("a lone sample has no sibling to be compared with, so it teaches nothing: take 2 or more")
        return group_size

    @field_validator("temperatures")
    @classmethod
    def _positive(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < t < math.inf for t in temperatures):
            raise ValueError("temperatures must be above 0: a likeliest-token sample has no gradient")
        return temperatures

    @model_validator(mode="after")
    def _combinations(self) -> GRPOConfig:
        if reason := _wrong_combination(self):
            raise ValueError(reason)
        return self

    @property
    def reads_reference(self) -> bool:
        return self.kl > 0

    @property
    def reads_old_logprobs(self) -> bool:
        return self.importance_sampling_correction is not None

    @property
    def splits_groups(self) -> bool:
        return self.kl_estimator != "k1-to-go"  # its baseline is of the siblings that came as far

    @property
    def kl_in_loss(self) -> float:
        return 0.0 if self.kl_estimator == "k1" else self.kl

    @property
    def kl_in_reward(self) -> float:
        return self.kl if self.kl_estimator == "k1" else 0.0

    @property
    def group_temperatures(self) -> tuple[float, ...]:
        """The temperature of each sample of a group."""
        return tuple(islice(cycle(self.temperatures), self.group_size))


def _wrong_combination(config: GRPOConfig) -> str | None:
    """Say why options that are each allowed do not go together."""
    if config.top_p < 1 and config.ratio != "none":
        return (
            "top-p below 1 with a ratio: samples come from a cut distribution and the ratio takes the whole one; leave "
            "top-p at 1, or take ratio none"
        )
    if config.updates_per_batch > 1 and config.ratio == "none":
        return (
            "several updates on one batch need the ratio: from the second on its samples are other weights'; leave "
            "ratio at clipped"
        )
    if config.baseline == "within-temperature" and min(Counter(config.group_temperatures).values()) < 2:
        return (
            "baseline within-temperature needs every temperature twice in a group, or a sample has no sibling: raise "
            "--group-size or name fewer temperatures"
        )
    return None


class GRPO(Method):
    name: ClassVar[str] = "grpo"
    Config: ClassVar[type[MethodConfig]] = GRPOConfig
    trains_on: ClassVar[Unit] = Samples()
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": paper_numbers(GRPOConfig) | {"num_prompts": 50, "max_steps": 1000, "validation_interval": 20},
        "letter": {
            "kl": 0.025,
            "kl_estimator": "k1-to-go",
            "zero_variance_groups": "keep",
            "group_size": 4,
            "baseline": "leave-one-out",
            "scale": "none",
            "aggregation": "completion-sum",
            "updates_per_batch": 1,
            "mask_truncated_completions": False,
        },
    }
    curves: ClassVar[tuple[str, ...]] = (
        "loss",
        "reward",
        "validation/reward",
        "validation/beats_reference",
        "validation/kl",
        "samples_length",
        "reward_length_correlation",
        "reward_explained_by_form",
    )

    def temperatures(self, step: int, config: GRPOConfig) -> tuple[float, ...]:
        return config.group_temperatures

    def advantages(self, rewards_PG: np.ndarray, config: GRPOConfig) -> np.ndarray:
        return group_advantages(
            rewards_PG,
            temperatures=config.group_temperatures,
            baseline=config.baseline,
            scale=config.scale,
            min_deviation=config.min_deviation,
        )

    def loss(self, batch: Batch, config: GRPOConfig) -> Tensor:
        assert batch.sampler_logprob_T is not None and batch.advantage_N is not None
        sampler_logprob_T, old_logprob_T, known_T = _known(batch, config)
        before_T = sampler_logprob_T if old_logprob_T is None else old_logprob_T
        ratio_T = ratio_of(batch.logprob_T - (before_T if config.ratio == "clipped" else batch.logprob_T.detach()))
        high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
        advantage_T = batch.spread(batch.advantage_N)
        whole_T = ratio_T * advantage_T
        clipped_T = ratio_T.clamp(1 - config.clip_ratio, 1 + high) * advantage_T
        loss_T = -whole_T.minimum(clipped_T)
        weight_T = ratio_T
        if config.importance_sampling_correction is not None and old_logprob_T is not None:
            mismatch_T = ratio_of(old_logprob_T - sampler_logprob_T)
            cut_T = mismatch_T.clamp(max=config.importance_sampling_correction)
            loss_T, weight_T = loss_T * cut_T, ratio_T * cut_T
            batch.log(
                mismatch_weight=mismatch_T, mismatch_cut=(mismatch_T > config.importance_sampling_correction).float()
            )
        if batch.reference_T is not None:
            log_ratio_T = batch.logprob_T - batch.reference_T
            if config.kl_estimator in KL_IN_LOSS:
                loss_T = loss_T + config.kl * KL_IN_LOSS[config.kl_estimator](batch, log_ratio_T, weight_T)
            batch.log(kl=batch.collect(log_ratio_T))
        gap_T = (batch.logprob_T - batch.sampler_logprob_T).abs()
        batch.log(ratio=ratio_T, clipped=(clipped_T < whole_T).float(), unknown_logprobs=(~known_T).float())
        batch.log(gap_T.isfinite(), sampling_gap=gap_T)
        return AGGREGATIONS[config.aggregation](batch, loss_T.where(known_T, 0.0), config)


def _known(batch: Batch, config: GRPOConfig) -> tuple[Tensor, Tensor | None, Tensor]:
    """Log-probs under the weights that drew, of the sampler and of training, and which tokens have what the loss reads.

    A token without has its log-prob of now in their place, so that nothing that is computed of it is nan.
    """
    assert batch.sampler_logprob_T is not None
    now_T, old_logprob_T = batch.logprob_T.detach(), batch.old_logprob_T
    known_T = batch.sampler_logprob_T.isfinite() & (old_logprob_T.isfinite() if old_logprob_T is not None else True)
    sampler_logprob_T = batch.sampler_logprob_T.where(known_T, now_T)
    old_logprob_T = None if old_logprob_T is None else old_logprob_T.where(known_T, now_T)
    reads = config.ratio == "clipped" or config.importance_sampling_correction is not None
    return sampler_logprob_T, old_logprob_T, known_T if reads else known_T.new_ones(len(known_T))


AGGREGATIONS: dict[str, Callable[[Batch, Tensor, GRPOConfig], Tensor]] = {
    "completion-sum": lambda batch, x_T, config: batch.mean(x_T, over="completions"),
    "token": lambda batch, x_T, config: batch.mean(x_T, over="tokens"),
    "sequence": lambda batch, x_T, config: batch.mean(batch.collect(x_T) / batch.num_tokens_N, over="completions"),
    "constant": lambda batch, x_T, config: batch.mean(x_T / config.max_new_tokens, over="completions"),
}
"""What a step's loss is, over N completions i of T_i tokens:

completion-sum  1/N sum_i sum_t x_it                    Eq. 6, averaged instead of summed over the group
token           1/(sum_i T_i) sum_i sum_t x_it          DAPO (Yu et al. 2025): every token weighs the same
sequence        1/N sum_i 1/T_i sum_t x_it              Shao et al. 2024: favours short right and long wrong answers
constant        1/(N max_new_tokens) sum_i sum_t x_it   Dr. GRPO (Liu et al. 2025): no favour, and a smaller number
"""


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(GRPO)
