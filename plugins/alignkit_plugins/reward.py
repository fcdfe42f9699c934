"""A reward model on pairs, by the Bradley-Terry model.

    L = - E_{(x, y_w, y_l) ~ D} [ log sigma( r(x, y_w) - r(x, y_l) ) ]

r is a linear head at the last token of the conversation as the template renders it. What is saved is a
sequence-classification folder with one label, which transformers and vLLM read. Rewards of one prompt are comparable,
of different prompts not. Source: Bradley and Terry 1952; Ouyang et al. 2022, section 3.5 without its prompt weighting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from alignkit.plugin import Batch, Method, MethodConfig, Pairs, Unit, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class RewardConfig(MethodConfig):
    """Not in the paper; common numbers for small models."""

    learning_rate: float = Field(1e-5, gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(16, ge=1, description="pairs per optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the training pairs")


class Reward(Method):
    name: ClassVar[str] = "reward"
    Config: ClassVar[type[MethodConfig]] = RewardConfig
    trains_on: ClassVar[Unit] = Pairs()
    needs: ClassVar[frozenset[str]] = frozenset({"scalar_head"})
    curves: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "validation/accuracy")

    def loss(self, batch: Batch, config: RewardConfig) -> Tensor:
        from torch.nn.functional import logsigmoid

        chosen, rejected = batch.pairs()
        assert chosen.value_N is not None and rejected.value_N is not None
        margin_P = chosen.value_N - rejected.value_N
        batch.log(margin=margin_P, accuracy=(margin_P.sign() + 1) / 2)  # a tie counts half
        return batch.mean(-logsigmoid(margin_P), over="pairs")


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(Reward)
