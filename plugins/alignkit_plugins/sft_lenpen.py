"""Supervised fine-tuning with a dynamic length penalty.

    L_length = lambda E_{(x, y) ~ D} [ max(0, l(pi(x)) - l(y))^2 ]                                  (Eq. 3)
    L        = L_SFT + L_length                                                                     (Eq. 4)

l counts tokens, the end token included; pi(x) is a sample from the current policy. A sample's length carries no
gradient, so adding the number to the loss trains nothing. Its expectation does have one, by the score function:

    grad L_length = lambda E [ sum_t (c_i - b_it) grad log pi(y_it | x, y_i<t) ],   c_i = max(0, l(y_i) - l(y))^2

with a leave-one-out baseline b_it over the samples of one prompt: the mean cost of the *other* samples that had not
ended before token t. Where all others had, it is the cost of ending at t. Both depend on y_i only through its first t
tokens, so that the gradient stays right on average; a baseline over all the others is right too, but teaches a sample
that is the longest of its prompt not to end where it did. Samples are drawn at temperature 1 without top-p, every
`penalty_interval` steps, for the prompts of that step. One truncated at `max_new_tokens` counts with that length.

c is in squared tokens, easily 10^4, and a single such step would ruin Adam's second moment for a long while. The
penalty's gradient is therefore scaled down to at most `max_penalty_ratio` times the likelihood gradient's norm of the
same step; both norms are logged (`grad_norm/likelihood`, `grad_norm/penalty`). lambda sets the strength while the
penalty is small, the ratio while it is large; the run says in how many steps the ratio did. The preset "letter" has no
ratio and sums the likelihood over an example, as Eq. 2 to 4 stand.

Source: the paper, section 3.2 and 4.2; the estimator is Williams 1992 with Kool et al. 2019's baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from alignkit.plugin import Batch, Chosen, Method, MethodConfig, Unit, hookimpl, paper_numbers
from alignkit_plugins.sft import SFTConfig, likelihood_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


class SFTLengthPenaltyConfig(SFTConfig):
    """SFT's numbers, and the penalty's."""

    penalty: float = Field(
        1e-3,
        ge=0,
        description="lambda of Eq. 3, per squared token (the paper's); while the overrun is large max-penalty-ratio "
        "decides the strength instead",
    )
    penalty_interval: int = Field(
        100, ge=1, description="steps between applications of the penalty: fewer apply it oftener (the paper's)"
    )
    penalty_samples: int = Field(2, ge=2, description="samples drawn for each prompt when it is applied")
    max_penalty_ratio: float | None = Field(
        1.0,
        gt=0,
        description="the penalty's gradient norm, at most this many times the likelihood's; logged: in how many "
        "steps it decided; --preset letter: no limit",
    )

    @property
    def term_ratios(self) -> Mapping[str, str]:
        return {"penalty": "max_penalty_ratio"}

    @property
    def late_terms(self) -> Mapping[str, tuple[str, int]]:
        return {"penalty": ("penalty_interval", self.penalty_interval)} if self.penalty else {}


class SFTLengthPenalty(Method):
    name: ClassVar[str] = "sft-lenpen"
    Config: ClassVar[type[MethodConfig]] = SFTLengthPenaltyConfig
    trains_on: ClassVar[Unit] = Chosen()
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": paper_numbers(SFTLengthPenaltyConfig) | {"validation_interval": 250},
        "letter": {"reduction": "example-sum", "penalty": 1e-3, "penalty_interval": 100, "max_penalty_ratio": None},
    }
    curves: ClassVar[tuple[str, ...]] = ("loss", "validation/loss", "excess_tokens", "samples_length")

    def temperatures(self, step: int, config: SFTLengthPenaltyConfig) -> tuple[float, ...]:
        return (1.0,) * config.penalty_samples if step % config.penalty_interval == 0 else ()

    def loss(self, batch: Batch, config: SFTLengthPenaltyConfig) -> Tensor | dict[str, Tensor]:
        likelihood = likelihood_loss(batch, config.reduction)
        samples = batch.samples
        if samples is None:
            return likelihood
        excess_N = (samples.num_tokens_N - samples.reference_length_N).clamp(min=0).float()
        cost_N = excess_N**2  # squared tokens
        batch.log(excess_tokens=excess_N, length_penalty=config.penalty * cost_N)
        advantage_T = samples.spread(cost_N) - baseline(samples, cost_N)
        penalty = config.penalty * samples.mean(advantage_T * samples.logprob_T, over="completions")
        return {"likelihood": likelihood, "penalty": penalty}


def baseline(samples: Batch, cost_N: Tensor) -> Tensor:
    """Mean cost of the other samples of the prompt that are as long as this token is late: [N] -> [T].

    Where there is none, the cost of a sample that ends with this token. Squared tokens.
    """
    length_N = samples.num_tokens_N
    place_T = samples.spread(length_N.cumsum(0) - length_N)  # of the completion's first token
    length_T = place_T.new_ones(len(place_T)).cumsum(0) - place_T  # if the sample ended here
    completions = length_N.new_ones(len(length_N)).cumsum(0) - 1
    going_TN = (samples.spread(samples.group_N)[:, None] == samples.group_N) & (length_N >= length_T[:, None])
    going_TN &= samples.completion_T[:, None] != completions
    others_T = going_TN.sum(1)
    ending_T = (length_T - samples.spread(samples.reference_length_N)).clamp(min=0).float() ** 2
    return ((going_TN * cost_N).sum(1) / others_T.clamp(min=1)).where(others_T > 0, ending_T)


@hookimpl
def register_methods(register: Callable[[type[Method]], None]) -> None:
    register(SFTLengthPenalty)
