"""A reward model on pairs, by the Bradley-Terry model.

    L = - E_{(x, y_w, y_l) ~ D} [ log sigma( r(x, y_w) - r(x, y_l) ) ]

With --margin w each pair's difference of rewards is to be at least w times its margin m, how much better the chosen
answer is by the row's `margin`, else by its scores (0 where these prefer the rejected one):

    L = - E_{(x, y_w, y_l) ~ D} [ log sigma( r(x, y_w) - r(x, y_l) - w m(x, y_w, y_l) ) ]

r is a linear head at the last token of the conversation as the template renders it. What is saved is a
sequence-classification folder with one label, which transformers and vLLM read. Rewards of one prompt are comparable,
of different prompts not. Source: Bradley and Terry 1952; Ouyang et al. 2022, section 3.5 without its prompt weighting;
of the margin Touvron et al. 2023 (Llama 2), section 3.2.2, where m is a table of four degrees of preference and w is 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from alignkit.plugin import (
    IN_HELP_ALL,
    Batch,
    Method,
    MethodConfig,
    Pairs,
    PairsConfig,
    Unit,
    hookimpl,
    preference_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class RewardConfig(PairsConfig):
    """Not in the paper; common numbers for small models."""

    learning_rate: float = Field(1e-5, gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(16, ge=1, description="pairs per optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the training pairs")
    margin: float = Field(
        0.0,
        ge=0,
        description="margin in the loss: this times the row's own margin, else the difference of its scores; 0: none",
        json_schema_extra=IN_HELP_ALL,
    )

    def unit(self, trains_on: Unit) -> Unit:
        """Return pairs as these options choose them."""
        chosen = super().unit(trains_on)
        return replace(chosen, reads_margins=self.margin > 0) if isinstance(chosen, Pairs) else chosen


class Reward(Method):
    name: ClassVar[str] = "reward"
    Config: ClassVar[type[MethodConfig]] = RewardConfig
    trains_on: ClassVar[Unit] = Pairs()
    needs: ClassVar[frozenset[str]] = frozenset({"scalar_head"})
    curves: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "validation/accuracy")

    def loss(self, batch: Batch, config: RewardConfig) -> Tensor:
        chosen, rejected = batch.pairs()
        assert chosen.value_N is not None and rejected.value_N is not None
        margin_P = chosen.value_N - rejected.value_N
        is_tie_P = batch.is_tie_P if config.ties == "half" else None
        is_ordered_P = None if is_tie_P is None else ~is_tie_P
        batch.log(is_ordered_P, margin=margin_P, accuracy=(margin_P.sign() + 1) / 2)  # a margin of 0 counts half
        if config.margin:
            assert chosen.label_N is not None  # a rejected answer's is 0
            margin_P = margin_P - config.margin * chosen.label_N.clamp(min=0)
        return batch.mean(preference_loss(margin_P, is_tie_P), over="pairs")


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(Reward)
