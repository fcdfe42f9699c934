"""Direct preference optimization.

    L_DPO = - E_{(x, y_w, y_l) ~ D} [ log sigma( beta log pi(y_w|x) / pi_ref(y_w|x)
                                               - beta log pi(y_l|x) / pi_ref(y_l|x) ) ]               (Eq. 5)

pi_ref is the model the run starts from (the paper's: its SFT model), frozen. Source: Rafailov et al. 2023; the paper,
sections 3.3 and 4.3 (most of its numbers are the defaults). The KL to the reference is measured on the validation
pairs, exact over the vocabulary, as `validation/kl`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from alignkit.plugin import (
    Batch,
    Method,
    MethodConfig,
    Pairs,
    PairsConfig,
    Unit,
    hookimpl,
    paper_numbers,
    preference_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


class DPOConfig(PairsConfig):
    """The paper's numbers."""

    learning_rate: float = Field(
        5e-6, gt=0, le=1, description="peak learning rate: higher learns faster, drifts farther (the paper's)"
    )
    batch_size: int = Field(4, ge=1, description="pairs per optimizer step: more are steadier (2 x 2 in the paper)")
    epochs: int = Field(
        3, ge=1, description="passes over the training pairs: more fit them closer, too many by heart (the paper's)"
    )
    warmup_steps: int = Field(
        10,
        ge=0,
        description="steps over which the learning rate rises from 0, as the first steps are unsure (the paper's)",
    )
    seed: int = Field(42, ge=0, description="seed of data order and sampling: another one is another run (the paper's)")
    early_stopping_steps: int | None = Field(
        2500, ge=0, description="stop after this many steps without a better validation loss (the paper's); 0: never"
    )
    sample_interval: int = Field(500, ge=1, description="steps between samples to read (the paper's)")
    max_new_tokens: int = Field(
        256, ge=1, le=131_072, description="longest completion drawn, in tokens; longer ones are cut (the paper's)"
    )
    beta: float = Field(
        0.1, gt=0, description="strength of the pull to the reference: lower lets the model move farther (the paper's)"
    )


class DPO(Method):
    name: ClassVar[str] = "dpo"
    Config: ClassVar[type[MethodConfig]] = DPOConfig
    trains_on: ClassVar[Unit] = Pairs()
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": paper_numbers(DPOConfig) | {"validation_interval": 250},
        "letter": {"beta": 0.1},  # the loss is Eq. 5 as it is
    }
    curves: ClassVar[tuple[str, ...]] = ("loss", "validation/loss", "validation/kl", "margin", "accuracy")

    def loss(self, batch: Batch, config: DPOConfig) -> Tensor:
        chosen, rejected = batch.pairs()
        chosen_reward_P = config.beta * (chosen.logprob_N - chosen.reference_N)
        rejected_reward_P = config.beta * (rejected.logprob_N - rejected.reference_N)
        margin_P = chosen_reward_P - rejected_reward_P
        is_tie_P = batch.is_tie_P if config.ties == "half" else None
        is_ordered_P = None if is_tie_P is None else ~is_tie_P
        batch.log(is_ordered_P, margin=margin_P, accuracy=(margin_P.sign() + 1) / 2)  # a margin of 0 counts half
        batch.log(
            chosen_reward=chosen_reward_P,
            rejected_reward=rejected_reward_P,
            chosen_logprob=chosen.logprob_N / chosen.num_tokens_N,
            rejected_logprob=rejected.logprob_N / rejected.num_tokens_N,
        )
        return batch.mean(preference_loss(margin_P, is_tie_P), over="pairs")


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(DPO)
