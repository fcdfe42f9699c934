"""Supervised fine-tuning with a dynamic length penalty.

    L_length = lambda E_{(x, y) ~ D} [ max(0, l(pi(x)) - l(y))^2 ]                                  (Eq. 3)
    L        = L_SFT + L_length                                                                     (Eq. 4)

l counts tokens, the end token included; pi(x) is a sample from the current policy. A sample's length carries no
gradient, so adding the number to the loss trains nothing. Its expectation does have one, by the score function:

    grad L_length = lambda E [ (c_i - mean_{j != i} c_j) grad log pi(y_i | x) ],   c_i = max(0, l(y_i) - l(y))^2

with a leave-one-out baseline over the samples of one prompt. Samples are drawn at temperature 1 without top-p, every
`penalty_interval` steps, for the prompts of that step. One cut at `max_new_tokens` counts with that length.

c is in squared tokens, easily 10^4, and a single such step would ruin Adam's second moment for a long while. The
penalty's gradient is therefore scaled down to at most `max_penalty_ratio` times the likelihood gradient's norm of the
same step; both norms are logged (`grad_norm/likelihood`, `grad_norm/penalty`). lambda sets the strength while the
penalty is small, the ratio while it is large.

Source: the paper, section 3.2 and 4.2; the estimator is Williams 1992 with Kool et al. 2019's baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from alignkit import Batch, Method, MethodConfig, hookimpl
from alignkit_plugins.sft import SFTConfig, likelihood_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class SFTLengthPenaltyConfig(SFTConfig):
    """SFT's numbers, and the penalty's."""

    penalty: float = Field(1e-3, ge=0, description="lambda of Eq. 3, per squared token (the paper's)")
    penalty_interval: int = Field(100, ge=1, description="steps between applications of the penalty (the paper's)")
    penalty_samples: int = Field(2, ge=2, description="samples drawn for each prompt when it is applied")
    max_penalty_ratio: float = Field(
        1.0, gt=0, description="the penalty's gradient norm, at most this many times the likelihood's"
    )


class SFTLengthPenalty(Method):
    name: ClassVar[str] = "sft-lenpen"
    Config: ClassVar[type[MethodConfig]] = SFTLengthPenaltyConfig
    trains_on: ClassVar[str] = "chosen"

    def temperatures(self, step: int, config: SFTLengthPenaltyConfig) -> tuple[float, ...]:
        return (1.0,) * config.penalty_samples if step % config.penalty_interval == 0 else ()

    def loss(self, batch: Batch, config: SFTLengthPenaltyConfig) -> Tensor | dict[str, Tensor]:
        likelihood = likelihood_loss(batch, config.reduction)
        samples = batch.samples
        if samples is None:
            return likelihood
        excess_N = (samples.num_tokens_N - samples.target_num_tokens_N).clamp(min=0).float()
        cost_N = excess_N**2  # squared tokens
        advantage_N = cost_N - samples.leave_one_out(cost_N)
        batch.log(excess_tokens=excess_N, length_penalty=config.penalty * cost_N)
        penalty = config.penalty * samples.mean(advantage_N * samples.logprob_N, over="completions")
        return {"likelihood": likelihood, "penalty": penalty}


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(SFTLengthPenalty)
