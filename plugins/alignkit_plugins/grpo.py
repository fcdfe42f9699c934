"""Group relative policy optimization with a leave-one-out baseline.

    L_GRPO = - E_{x, y_i ~ pi} [ sum_i ( R(y_i, x) - 1/(k-1) sum_{j != i} R(y_j, x) ) log pi(y_i | x) ]
             + lambda KL(pi || pi_ref)                                                               (Eq. 6)

Where we differ from the letter:
- The samples of a group have *varied temperatures*. Policy, behaviour and reference log-probs of a sample are all taken
  at the temperature it was drawn at, so the objective is the mean over the temperatures of the tempered policies'.
- Both terms are summed over a completion's tokens and averaged over completions: the same unit, so that lambda
  weighs them whatever the group size. (Eq. 6 sums the first over the group, which is k times as much.)
- The gradient's log pi is the ratio pi / pi_behaviour, clipped to 1 +- clip_ratio; on the samples of the current
  weights it is 1 and its gradient is Eq. 6's.
- The baseline is not divided by a deviation: a leave-one-out deviation comes arbitrarily near 0.
- KL is estimated from the samples, d = log pi - log pi_ref a token: k2 = d^2 / 2, whose gradient is that of the reverse
  KL a token, or k3 = exp(-d) - 1 + d (Schulman 2020).

Source: the paper, sections 3.4 and 4.4 (its numbers are the defaults); Shao et al. 2024.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from alignkit import Batch, Method, MethodConfig, hookimpl
from alignkit.methods import leave_one_out_baseline

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor


class GRPOConfig(MethodConfig):
    """The paper's numbers; it names neither temperatures nor a clip ratio."""

    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate (the paper's)")
    batch_size: int = Field(2, ge=1, description="prompts a batch, each with its group (the paper's)")
    accumulation: int = Field(1, ge=1, description="batches a step (the paper names none)")
    epochs: int = Field(1000, ge=1, description="passes over the prompts; max-steps ends the run first")
    max_steps: int | None = Field(1000, ge=1, description="optimizer steps (the paper's)")
    num_prompts: int | None = Field(50, ge=1, description="train on this many rows, drawn by the seed (the paper's)")
    warmup_steps: int = Field(10, ge=0, description="steps over which the learning rate rises from 0 (the paper's)")
    seed: int = Field(42, ge=0, description="seed of data order and sampling (the paper's)")
    validation_interval: int = Field(20, ge=1, description="steps between evaluations (the paper's)")
    checkpoint_interval: int = Field(50, ge=1, description="steps between checkpoints (the paper's)")
    max_new_tokens: int = Field(256, ge=1, description="longest completion drawn, in tokens (the paper's)")
    group_size: int = Field(4, ge=2, description="samples a prompt, k of Eq. 6 (the paper's)")
    temperatures: tuple[float, ...] = Field(
        (0.6, 0.8, 1.0, 1.2), min_length=1, description="sampling temperatures, cycled in the group"
    )
    kl: float = Field(0.1, ge=0, description="lambda of Eq. 6, per nat a completion (the paper's)")
    kl_estimator: Literal["k2", "k3"] = Field("k2", description="estimator of the KL to the reference, a token")
    clip_ratio: float = Field(0.2, gt=0, description="the ratio's clip range, 1 +- this")

    @field_validator("temperatures")
    @classmethod
    def _positive(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if any(t <= 0 for t in temperatures):
            raise ValueError("temperatures must be above 0: a likeliest-token sample has no gradient")
        return temperatures


class GRPO(Method):
    name: ClassVar[str] = "grpo"
    Config: ClassVar[type[MethodConfig]] = GRPOConfig
    trains_on: ClassVar[str] = "samples"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def temperatures(self, step: int, config: GRPOConfig) -> tuple[float, ...]:
        return tuple(islice(cycle(config.temperatures), config.group_size))

    def advantages(self, rewards_PG: np.ndarray, config: GRPOConfig) -> np.ndarray:
        return rewards_PG - leave_one_out_baseline(rewards_PG)

    def loss(self, batch: Batch, config: GRPOConfig) -> Tensor:
        assert batch.behaviour_T is not None and batch.reference_T is not None and batch.advantage_N is not None
        ratio_T = (batch.logprob_T - batch.behaviour_T).exp()
        clipped_T = ratio_T.clamp(1 - config.clip_ratio, 1 + config.clip_ratio)
        advantage_T = batch.spread(batch.advantage_N)
        gain_T = (ratio_T * advantage_T).minimum(clipped_T * advantage_T)
        log_ratio_T = batch.logprob_T - batch.reference_T
        kl_T = KL_ESTIMATORS[config.kl_estimator](log_ratio_T)
        batch.log(ratio=ratio_T, clipped=(ratio_T != clipped_T).float(), kl=batch.collect(log_ratio_T))
        return batch.mean(-gain_T + config.kl * kl_T, over="completions")


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k2": lambda log_ratio_T: log_ratio_T**2 / 2,
    "k3": lambda log_ratio_T: (-log_ratio_T).exp() - 1 + log_ratio_T,
}


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(GRPO)
