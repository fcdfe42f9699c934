"""What a training method is: a name, options, and a loss over log-probs of scored tokens.

Shape letters: T scored tokens, N completions, P prompts or pairs, G group. A pair's completions are chosen, rejected;
a group's are the samples of one prompt. Nothing heavy is imported here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from alignkit.options import IN_HELP, IN_HELP_ALL, NO_FLAG, Options
from alignkit.units import Pairs, Ties, Unit

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Over = Literal["tokens", "completions", "pairs", "groups"]


class MethodConfig(Options):
    """The options every method has; a method's own class adds its own and sets its defaults.

    One optimizer step sees `batch_size` prompts, each with all its completions, in as many micro-batches as memory asks
    for. Every interval counts optimizer steps.
    """

    learning_rate: float = Field(1e-5, gt=0, le=1, description="peak learning rate", json_schema_extra=IN_HELP)
    batch_size: int = Field(
        4, ge=1, description="prompts per optimizer step, each with all its completions", json_schema_extra=IN_HELP
    )
    epochs: int = Field(1, ge=1, description="passes over the training rows")
    max_steps: int | None = Field(
        None, ge=1, description="train this many optimizer steps, whatever the epochs", json_schema_extra=IN_HELP
    )
    added_steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="optimizer steps after these, each part with a warm-up and a schedule of its own; `--more-steps N` "
        "adds a part to a finished run",
        json_schema_extra=NO_FLAG,
    )
    num_prompts: int | None = Field(None, ge=1, description="train on this many rows, drawn by the seed; default: all")
    warmup_steps: int = Field(10, ge=0, description="optimizer steps over which the learning rate rises from 0")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="learning rate after the warm-up; linear is the paper's", json_schema_extra=NO_FLAG
    )
    optimizer: Literal["adam", "adamw", "adam-8bit", "adamw-8bit"] = Field(
        "adam",
        description="Adam is the paper's; AdamW decouples weight decay; 8bit: moments in 8 bits (extra bitsandbytes)",
        json_schema_extra=NO_FLAG,
    )
    weight_decay: float = Field(
        0.0, ge=0, description="weight decay of matrices; norms and biases have none", json_schema_extra=NO_FLAG
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="the gradient is scaled down to this norm", json_schema_extra=NO_FLAG
    )
    seed: int = Field(42, ge=0, description="seed of data order and sampling", json_schema_extra=IN_HELP)
    validation_interval: int | None = Field(
        None,
        ge=1,
        description="optimizer steps between validations; default: about twenty validations, fewer where they would "
        "take more than a fifth of the time",
    )
    validation_kl_tokens: int = Field(
        16_384,
        ge=0,
        description="scored tokens of the rows on which validation measures the KL; 0 measures none",
        json_schema_extra=NO_FLAG,
    )
    early_stopping_steps: int | None = Field(
        None,
        ge=0,
        description="stop after this many optimizer steps without a better validation (the best is kept); 0: never",
        json_schema_extra=NO_FLAG,
    )
    sample_interval: int = Field(
        500, ge=1, description="optimizer steps between samples written to samples.jsonl", json_schema_extra=NO_FLAG
    )
    checkpoint_interval: int = Field(250, ge=1, description="optimizer steps between checkpoints")
    max_new_tokens: int = Field(
        256, ge=1, le=131_072, description="longest completion drawn, in tokens", json_schema_extra=IN_HELP
    )

    @field_validator("learning_rate")
    @classmethod
    def _moves_weights_a_little(cls, learning_rate: float) -> float:
        if learning_rate > 1:
            raise ValueError("at most 1 is allowed: Adam moves every weight by about the learning rate in each step")
        return learning_rate

    def planned_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of a run, without those that were added to it."""
        return self.max_steps or self.epochs * steps_per_epoch

    def num_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of a run, those added to it included."""
        return self.planned_steps(steps_per_epoch) + sum(self.added_steps)

    def steps_between_validations(self, planned_steps: int, *, cost_steps: float = 0.0) -> int:
        """Return `validation_interval`, or what makes about twenty validations that cost little beside the training.

        Args:
            planned_steps: of the run.
            cost_steps: optimizer steps that take about as long as one validation.
        """
        if self.validation_interval is not None:
            return self.validation_interval
        return max(1, round(planned_steps / 20), math.ceil(4 * cost_steps))

    @property
    def reads_reference(self) -> bool:
        """Whether the loss of a method that needs a reference reads it with these options; else none is loaded."""
        return True

    @property
    def late_terms(self) -> Mapping[str, tuple[str, int]]:
        """Terms of the loss that are not there from the first step: by name, the option that decides and the step."""
        return {}

    @property
    def term_ratios(self) -> Mapping[str, str]:
        """By further term of the loss, the option that limits its gradient's norm to so many times the first term's."""
        return {}

    def unit(self, trains_on: Unit) -> Unit:
        """Return the method's unit, with what these options say of it."""
        return trains_on


class PairsConfig(MethodConfig):
    """What methods that train on pairs have beside: which of the rows' pairs are preferences."""

    ties: Ties = Field(
        "drop",
        description="pairs with equal scores: drop leaves them out, keep trains on the file's order, half is half a "
        "preference each way",
        json_schema_extra=IN_HELP,
    )
    min_margin: float = Field(
        0.0,
        ge=0,
        description="leave out pairs whose scores differ by less, in the data set's own scores; ties are --ties' "
        "matter, and pairs without scores are kept and counted",
        json_schema_extra=IN_HELP_ALL,
    )

    def unit(self, trains_on: Unit) -> Unit:
        """Return pairs as these options choose them; another unit as it is."""
        if not isinstance(trains_on, Pairs):
            return trains_on
        return replace(trains_on, ties=self.ties, min_margin=self.min_margin)


class SampledConfig(MethodConfig):
    """What methods that train on rewarded samples have beside: read where samples are drawn and laid into a step."""

    updates_per_batch: int = Field(
        1,
        ge=1,
        description="optimizer steps on one drawn batch; from the second on the ratio is clipped",
        json_schema_extra=NO_FLAG,
    )
    top_p: float = Field(1.0, gt=0, le=1, description="top-p of the samples")
    mask_truncated_completions: bool = Field(
        False,
        description="a completion that max-new-tokens truncated is compared with, but not trained on",
        json_schema_extra=NO_FLAG,
    )
    zero_variance_groups: Literal["skip", "keep", "resample"] = Field(
        "skip",
        description="a group whose rewards are all equal has no policy term: skip computes its KL alone (nothing where "
        "the loss has none), keep computes it as the others, resample puts other prompts' groups in its place",
        json_schema_extra=NO_FLAG,
    )
    max_resamples: int = Field(
        2,
        ge=1,
        description="rounds of other prompts that --set zero_variance_groups=resample may draw",
        json_schema_extra=NO_FLAG,
    )
    validation_prompts: int = Field(
        32,
        ge=1,
        description="validation prompts that an evaluation answers, one sample each at temperature 1",
        json_schema_extra=NO_FLAG,
    )
    reward_hacking: Literal["warn", "stop"] = Field(
        "warn",
        description="what is done when the reward rises only as completions get longer or repeat themselves",
        json_schema_extra=NO_FLAG,
    )

    @property
    def reads_old_logprobs(self) -> bool:
        """Whether the loss reads `Batch.old_logprob_T`: one more forward pass over each drawn batch."""
        return False

    @property
    def splits_groups(self) -> bool:
        """Whether samples of one prompt may be computed apart: the loss looks at none of a completion's siblings."""
        return False

    @property
    def kl_in_loss(self) -> float:
        """Weight of a KL in the loss, which groups of equal rewards have too; 0: nothing is computed for them."""
        return 0.0

    @property
    def kl_in_reward(self) -> float:
        """Weight of the KL to the reference (k1 of a completion, nats) that is taken off its reward; 0 takes none."""
        return 0.0


def sampled_options(config: MethodConfig) -> SampledConfig:
    """The options of sampled steps: the config's own, or their defaults for a method that has none of them."""
    return config if isinstance(config, SampledConfig) else SampledConfig()


@dataclass(frozen=True)
class Batch:
    """Log-probs of one micro-batch, and what a loss needs to know about them. Read-only.

    A completion's tokens adjoin, in the order of the completions. No method of it makes the host wait for the device.

    Args:
        logprob_T: float32 [T], log-prob of each scored token at its completion's temperature, with gradient.
        completion_T: int64 [T], the completion (0 <= n < N) that each scored token belongs to.
        group_N: int64 [N], the prompt (0 <= p < P) that each completion belongs to; completions of a prompt adjoin.
        num_tokens_N: int64 [N], scored tokens of each completion, the end token included.
        reference_length_N: int64 [N], length in tokens of the row's reference completion (0 where it has none).
        reference_T: float32 [T], the frozen reference's log-probs, where the method needs a reference.
        sampler_logprob_T: float32 [T], log-probs under the weights that drew the samples, for samples.
        old_logprob_T: float32 [T], the same weights' log-probs as training computes them, where the method's options
            ask for them (`SampledConfig.reads_old_logprobs`).
        value_N: float32 [N], the scalar head's value at each completion's last token, where the method needs it.
        advantage_N: float32 [N], from `Method.advantages`, for samples with rewards.
        label_N: float32 [N], each completion's label where the unit has labels: 1 good, 0 bad for `Labelled`; for
            `Pairs`, where an option asks for it, how much better the chosen one is and 0, both 0 for a tie.
        mismatched_kl: float32 scalar without gradient, nats: the mean of log pi(y'|x) / pi_ref(y'|x) over the whole
            step, y' being for each prompt the answer to another one, where the method needs it. May be below 0.
        samples: completions drawn for this batch's prompts by a method that trains on rows, or None.
        denominators: counts of the whole optimizer step over all micro-batches and ranks, by name of `Over`.
        lengths: `num_tokens_N` as the host knows it; read from the device where it is not given.
        logged: by name, what `log` was given, float32 [n] each; [2, n] where not all elements count: the elements, 0
            for what does not count, and 1 for what does.
    """

    logprob_T: Tensor
    completion_T: Tensor
    group_N: Tensor
    num_tokens_N: Tensor
    reference_length_N: Tensor
    denominators: Mapping[str, int]
    reference_T: Tensor | None = None
    sampler_logprob_T: Tensor | None = None
    old_logprob_T: Tensor | None = None
    value_N: Tensor | None = None
    advantage_N: Tensor | None = None
    label_N: Tensor | None = None
    mismatched_kl: Tensor | None = None
    samples: Batch | None = None
    lengths: tuple[int, ...] | None = None
    logged: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.lengths is None:
            object.__setattr__(self, "lengths", tuple(self.num_tokens_N.tolist()))

    @property
    def logprob_N(self) -> Tensor:
        """Sum of `logprob_T` over each completion, float32 [N]."""
        return self.collect(self.logprob_T)

    @property
    def is_tie_P(self) -> Tensor | None:
        """Whether the labels of a pair's two completions are equal, bool [P]; None where the unit has no labels."""
        return None if self.label_N is None else self.label_N[::2] == self.label_N[1::2]

    @property
    def reference_N(self) -> Tensor:
        """Sum of `reference_T` over each completion, float32 [N]."""
        return self.collect(_present(self.reference_T, "reference_T", 'needs = frozenset({"reference"})'))

    def collect(self, x_T: Tensor) -> Tensor:
        """Sum x over the scored tokens of each completion: [T] -> [N]."""
        import torch

        # index_add would add in another order each time on CUDA; a segment is always summed in the same one.
        return torch.segment_reduce(x_T, "sum", lengths=self.num_tokens_N, unsafe=True)

    def spread(self, x_N: Tensor) -> Tensor:
        """Give each scored token its completion's x: [N] -> [T]."""
        return x_N[self.completion_T]

    def pairs(self) -> tuple[Batch, Batch]:
        """Return the chosen and the rejected halves, each with N = P and in the same order."""
        return self.select(slice(0, None, 2)), self.select(slice(1, None, 2))

    def select(self, which: slice) -> Batch:
        """Return the batch of some of the completions; means still divide by the whole step's counts."""
        import torch

        assert self.lengths is not None
        lengths, num_tokens_N = self.lengths[which], self.num_tokens_N[which]
        number_N, place_T = (num_tokens_N.new_ones(size).cumsum(0) - 1 for size in (len(lengths), sum(lengths)))
        completion_T = torch.repeat_interleave(number_N, num_tokens_N, output_size=sum(lengths))
        # A kept completion's tokens stay side by side: each lies as far from where it lay as the first of them does.
        moved_N = (self.num_tokens_N.cumsum(0) - self.num_tokens_N)[which] - (num_tokens_N.cumsum(0) - num_tokens_N)
        kept_T = place_T + moved_N[completion_T]
        return replace(
            self,
            logprob_T=self.logprob_T.index_select(0, kept_T),
            completion_T=completion_T,
            group_N=self.group_N[which],
            num_tokens_N=num_tokens_N,
            reference_length_N=self.reference_length_N[which],
            reference_T=_part(self.reference_T, kept_T),
            sampler_logprob_T=_part(self.sampler_logprob_T, kept_T),
            old_logprob_T=_part(self.old_logprob_T, kept_T),
            value_N=_part(self.value_N, which),
            advantage_N=_part(self.advantage_N, which),
            label_N=_part(self.label_N, which),
            samples=None,
            lengths=lengths,
        )

    def mean(self, x: Tensor, over: Over) -> Tensor:
        """Sum of x divided by how many tokens, completions, pairs or groups the *whole optimizer step* has.

        The micro-batches' means therefore add up to the step's mean, however the step is split.
        """
        return x.sum() / self.denominators[over]

    def log(self, where: Tensor | None = None, /, **tensors: Tensor) -> None:
        """Log the mean of each tensor's elements over the optimizer step, under the method's metrics.

        Args:
            where: bool, of the tensors' shape: the elements that the mean is of; default: all.
        """
        import torch

        for name, x in tensors.items():
            numbers = x.detach().float().flatten()
            if where is not None:
                counts = where.flatten()
                numbers = torch.stack([numbers.where(counts, 0.0), counts.float()])
            self.logged.setdefault(name, []).append(numbers)


class Method(ABC):
    """A training method. Stateless: what survives a resume lives in the optimizer, the reference and the rollouts."""

    name: ClassVar[str]
    """What users type: `alignkit train NAME`."""
    Config: ClassVar[type[MethodConfig]]
    """Its options, their defaults and its --help."""
    trains_on: ClassVar[Unit]
    """Which completions it needs: `Chosen()`, `Pairs()`, `Samples()`, `Labelled()` or a unit of its own."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Of {"reference", "scalar_head", "mismatched_kl"}: a frozen copy of the starting weights; a head of one value, not
    the LM head; an estimate of the KL to the reference, from one more pass in each step (`Batch.mismatched_kl`)."""
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    """Sets of its options by name, for `--preset NAME`. Ours: "paper", the paper's numbers as printed, and "letter",
    its equations in their own units."""
    curves: ClassVar[tuple[str, ...]] = ()
    """Metrics that the run's report draws, in this order; () draws all."""
    shown: ClassVar[tuple[str, ...]] = ("loss", "reward", "accuracy", "samples_length")
    """Metrics that stand beside the progress bar, in this order, where a step logs them."""

    @abstractmethod
    def loss(self, batch: Batch, config: Any) -> Tensor | dict[str, Tensor]:
        """Return this micro-batch's share of the step's loss, a scalar; divide only by `batch.mean`.

        Named terms may be returned instead, the first being the main one. Each further term is back-propagated
        apart and its gradient scaled down to the ratio that `config.term_ratios` names times the first term's gradient
        norm (None, or not named: never); all norms are logged by the terms' names, and whether the ratio decided.
        """

    def advantages(self, rewards_PG: np.ndarray, config: Any) -> np.ndarray:
        """Turn rewards into advantages, float64 [P, G] -> [P, G]; nan marks a missing reward and stays nan.

        Called for methods that train on samples. A completion whose advantage is nan is left out of the step.
        """
        raise TypeError(f"method {self.name!r} trains on samples and must define advantages()")

    def remarks(self, label_N: np.ndarray, config: Any) -> list[str]:
        """Return lines to say before training about the labels of all training completions, float32 [N]; [] says none.

        Called for methods whose unit has labels.
        """
        return []

    def temperatures(self, step: int, config: Any) -> tuple[float, ...]:
        """Return the temperature of each sample to draw for every prompt of this step (from 1); () draws none."""
        return ()

    @classmethod
    def draws(cls) -> bool:
        """Whether it draws completions in any step: it trains on samples, or defines `temperatures`."""
        return cls.temperatures is not Method.temperatures


def paper_numbers(config: type[MethodConfig]) -> dict[str, object]:
    """Return every default whose description says that it is the paper's: the preset "paper" of a method."""
    fields = config.model_fields.items()
    return {name: f.default for name, f in fields if "the paper's" in (f.description or "") and f.default is not None}


def preference_loss(margin_P: Tensor, is_tie_P: Tensor | None = None) -> Tensor:
    """Return the logistic loss of each pair's margin, float32 [P] -> [P].

    -log sigma(m), the chosen answer's label being 1. A tie's is 0.5, half a preference each way:

        -1/2 log sigma(m) - 1/2 log sigma(-m)        its gradient is sigma(m) - 1/2: both answers are drawn together

    Args:
        is_tie_P: bool [P], as `Batch.is_tie_P`; None: no pair is one.
    """
    import torch
    from torch.nn.functional import logsigmoid

    loss_P = -logsigmoid(margin_P)
    # -log sigma(-m) = -log sigma(m) + m, so half of each is this much more.
    return loss_P if is_tie_P is None else torch.where(is_tie_P, loss_P + margin_P / 2, loss_P)


def leave_one_out_baseline(rewards_PG: np.ndarray) -> np.ndarray:
    """Mean reward of the other samples of the same prompt, [P, G] -> [P, G]; nan samples are no one's other.

    1/(k-1) sum_{j != i} R(y_j, x), as in Eq. 6 of the paper. nan where a sample has no other.
    """
    import numpy as np

    present_PG = ~np.isnan(rewards_PG)
    others_PG = present_PG.sum(1, keepdims=True) - present_PG
    sum_PG = np.nansum(rewards_PG, 1, keepdims=True) - np.where(present_PG, rewards_PG, 0.0)
    return np.where(others_PG > 0, sum_PG / np.maximum(others_PG, 1), np.nan)


def _part(x: Tensor | None, which: Tensor | slice) -> Tensor | None:
    return None if x is None else x[which] if isinstance(which, slice) else x.index_select(0, which)


def _present(x: Tensor | None, name: str, how: str) -> Tensor:
    if x is None:
        raise TypeError(f"batch.{name} is not there: the method class must say {how}")
    return x
