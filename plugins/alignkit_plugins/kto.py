"""Kahneman-Tversky optimization: a preference for answers that are each said to be good or bad, without pairs.

    r(x, y) = log pi(y|x) / pi_ref(y|x)
    z_0     = max( 0, mean over the step of log pi(y'|x) / pi_ref(y'|x) ),  y' an answer to another prompt
    v(x, y) = lambda_D sigma( beta (r(x, y) - z_0) )  where y is good (desirable)
              lambda_U sigma( beta (z_0 - r(x, y)) )  where y is bad (undesirable)

    L_KTO = E_{(x, y) ~ D} [ lambda_y - v(x, y) ]

z_0 stands for KL(pi || pi_ref), the point from which gains and losses are felt; no gradient goes through it. An answer
far above it, or far below, has nearly no gradient any more: what is learnt, and what looks mislabelled, is left alone.
A loss of lambda_y / 2 is that of the reference itself.

Where we differ from paper and TRL:
- z_0 is of the whole optimizer step, over all micro-batches and ranks, so the loss does not depend on how a step is
  split. TRL's is of one micro-batch on all ranks; the same where a step is one.
- As there, the answers change places within a batch, so that r and z_0 are of the same answers. Theirs move by one,
  also to a row with the same prompt; ours to a row with another prompt, and a step that has one prompt alone gets
  answers from the rest of the data.

Rewards are logged as beta r. Source: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from alignkit.plugin import Batch, Labelled, Method, MethodConfig, Unit, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

_LEAST, _MOST = 1.0, 4 / 3
"""Where lambda_D n_D / (lambda_U n_U) should lie, as KTO's authors recommend."""


class KTOConfig(MethodConfig):
    """Numbers in the range that KTO's authors recommend; the paper that this project follows has no KTO."""

    learning_rate: float = Field(5e-6, gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(32, ge=1, description="answers per optimizer step; their number makes z_0 less noisy")
    epochs: int = Field(1, ge=1, description="passes over the training answers")
    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference")
    desirable_weight: float = Field(1.0, gt=0, description="lambda_D, the weight of a good answer")
    undesirable_weight: float = Field(1.0, gt=0, description="lambda_U, the weight of a bad answer")


class KTO(Method):
    name: ClassVar[str] = "kto"
    Config: ClassVar[type[MethodConfig]] = KTOConfig
    trains_on: ClassVar[Unit] = Labelled()
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "mismatched_kl"})
    curves: ClassVar[tuple[str, ...]] = (
        "loss",
        "validation/loss",
        "validation/kl",
        "desirable_reward",
        "undesirable_reward",
        "z_0",
        "accuracy",
        "validation/accuracy",
    )

    def loss(self, batch: Batch, config: KTOConfig) -> Tensor:
        assert batch.label_N is not None and batch.mismatched_kl is not None
        is_good_N = batch.label_N > 0.5
        z_0 = batch.mismatched_kl.detach().clamp(min=0)
        log_ratio_N = batch.logprob_N - batch.reference_N
        sign_N = 2.0 * is_good_N - 1
        weight_N = sign_N.new_full((), config.undesirable_weight).where(~is_good_N, config.desirable_weight)
        above_N = sign_N * config.beta * (log_ratio_N - z_0)
        reward_N = config.beta * log_ratio_N
        batch.log(is_good_N, desirable_reward=reward_N, desirable_logprob=batch.logprob_N / batch.num_tokens_N)
        batch.log(~is_good_N, undesirable_reward=reward_N, undesirable_logprob=batch.logprob_N / batch.num_tokens_N)
        batch.log(z_0=z_0, accuracy=(above_N.sign() + 1) / 2)  # an answer at z_0 itself counts half
        return batch.mean(weight_N * (-above_N).sigmoid(), over="completions")  # 1 - sigma(x) = sigma(-x)

    def remarks(self, label_N: np.ndarray, config: KTOConfig) -> list[str]:
        num_good = int((label_N > 0.5).sum())
        num_bad = len(label_N) - num_good
        found = f"labels: {num_good:,} good and {num_bad:,} bad answers"
        if not num_good or not num_bad:
            kind, more = ("good", "bad ones, or train sft") if num_good else ("bad", "good ones")
            return [f"{found}: every answer is marked {kind}: nothing is compared; add {more}"]
        ratio = num_good * config.desirable_weight / (num_bad * config.undesirable_weight)
        if _LEAST - 1e-9 <= ratio <= _MOST + 1e-9:
            return [found]
        least = num_bad * config.undesirable_weight / num_good
        advice = f"--desirable-weight {_LEAST * least:.3g} to {_MOST * least:.3g} gives that"
        return [f"{found}: with their weights {ratio:.3g} to 1, KTO's authors recommend 1 to 1 up to 4 to 3: {advice}"]


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(KTO)
