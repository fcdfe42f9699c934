"""Supervised fine-tuning on the chosen completions.

    L_SFT = - E_{(x, y) ~ D} [ sum_t log pi(y_t | x, y_<t) ]                                        (Eq. 2)

Source: the paper, section 3.2 and 4.2 (most of its numbers are the defaults). Eq. 2 to the letter averages over
examples the *sum* of an example's log-probs, so that long answers weigh more at a given learning rate: `reduction =
"example-sum"`. The default averages over tokens, as nearly every implementation does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from alignkit.plugin import Batch, Chosen, Method, MethodConfig, Unit, hookimpl, paper_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


class SFTConfig(MethodConfig):
    """The paper's numbers; it names no validation interval, so its preset has DPO's."""

    learning_rate: float = Field(
        1e-4, gt=0, le=1, description="peak learning rate: higher learns faster, drifts farther (the paper's)"
    )
    batch_size: int = Field(4, ge=1, description="prompts per optimizer step: more are steadier (2 x 2 in the paper)")
    epochs: int = Field(
        10, ge=1, description="passes over the training rows: more fit them closer, too many by heart (the paper's)"
    )
    warmup_steps: int = Field(
        10,
        ge=0,
        description="steps over which the learning rate rises from 0, as the first steps are unsure (the paper's)",
    )
    seed: int = Field(16, ge=0, description="seed of data order and sampling: another one is another run (the paper's)")
    early_stopping_steps: int | None = Field(
        2000, ge=0, description="stop after this many steps without a better validation loss (the paper's); 0: never"
    )
    max_new_tokens: int = Field(
        350, ge=1, le=131_072, description="longest completion drawn, in tokens; longer ones are cut (the paper's)"
    )
    reduction: Literal["token-mean", "example-sum"] = Field(
        "token-mean", description="average over scored tokens, or over examples of their sums (Eq. 2 to the letter)"
    )


class SFT(Method):
    name: ClassVar[str] = "sft"
    Config: ClassVar[type[MethodConfig]] = SFTConfig
    trains_on: ClassVar[Unit] = Chosen()
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": paper_numbers(SFTConfig) | {"validation_interval": 250},
        "letter": {"reduction": "example-sum"},
    }
    curves: ClassVar[tuple[str, ...]] = ("loss", "validation/loss")

    def loss(self, batch: Batch, config: SFTConfig) -> Tensor:
        return likelihood_loss(batch, config.reduction)


def likelihood_loss(batch: Batch, reduction: str) -> Tensor:
    """Eq. 2: minus the log-likelihood of the scored tokens, averaged over tokens, or summed and averaged by example."""
    return batch.mean(-batch.logprob_T, over="tokens" if reduction == "token-mean" else "completions")


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(SFT)
