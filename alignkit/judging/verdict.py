"""A verdict: is this model better than that one, by which rule, and what else is known of the two.

The rule, in this order, on the two-sided 95 % interval of the raw win rate (ties half, missing scores left out):

    the interval excludes 50            -> better, worse
    it lies within 50 +- margin         -> no difference that matters
    anything else                       -> not enough evidence

The first comes before the second: a small difference that is certain is called better or worse, its size stands beside.
Nothing else decides. Where a model's rate at equal length does not agree, the verdict says so ("but not at equal
length, as a model reads it"). The k-th look at the same pair is judged at the level 1 - 0.05 / k. How it is shown is in
verdict_text.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from scipy.stats import norm

from alignkit.errors import RunStopped
from alignkit.judging.bleu import Bleu
from alignkit.judging.health import Measure
from alignkit.judging.length import LengthFacts, agrees
from alignkit.judging.planner import POWER
from alignkit.statistics.win_rate import WinRate

Answer = Literal["better", "worse", "no difference that matters", "not enough evidence"]
LEVEL = 0.95


def _none_if_nan(x: object) -> object:
    return None if isinstance(x, float) and math.isnan(x) else x


Number = Annotated[float | None, BeforeValidator(_none_if_nan)]


class JudgeName(BaseModel):
    """Which judge scored, and whether anyone can check its scores by a rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    verifiable: bool


class Side(BaseModel):
    """What is known of one model's answers beside their scores; None where unmeasured (nan becomes None)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bleu: Bleu | None = Field(description="against the prompts' references; None without any")
    perplexity: Number = Field(description="on the references' tokens, end tokens included")
    mean_length_tokens: Number = Field(description="of the answers, end token included")
    repetition: Number = Field(description="seq-rep-4, a share")
    cut_share: Number = Field(description="answers ended by the length limit, a share")
    thinking_tokens: Number = Field(
        None, description="mean tokens of thinking, hidden from the judge; None without any"
    )


class JudgeNoise(BaseModel):
    """What the judge alone changes: the same answers scored again. Rates in percent, shares from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_repeats: int = Field(description="scorings after the first")
    changed: float = Field(description="share of outcomes that differ from the first scoring's")
    lowest: float = Field(description="least win rate among all scorings, the first included")
    highest: float


class Verdict(BaseModel):
    """Whether `run` is better than `vs`, and everything needed to doubt it. Rates in percent, `margin` in points."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    vs: str
    judge: JudgeName
    answer: Answer
    win_rate: WinRate
    margin: float = Field(ge=0, le=50, description="difference from 50 % that matters, in points")
    num_prompts_needed: int | None = Field(description="prompts that would settle it; None where it is, or none would")
    ours: Side
    theirs: Side
    caveats: tuple[str, ...] = Field(description="what weakens this verdict, a sentence each")
    prompts: str = Field(description="where the prompts came from")
    seed: int
    created: datetime
    length: LengthFacts | None = Field(
        None, description="None where lengths are unknown, or with fewer than two prompts"
    )
    look: int | None = Field(None, description="how many sets of answers of this pair were judged; None: not counted")
    pair: str | None = Field(None, description="the two models' weights, whichever was judged against the other")
    look_id: str | None = Field(None, description="hash of prompts, answers and judge: what makes a look at the pair")
    units: str = Field("prompts", description="what is resampled")
    noise: JudgeNoise | None = Field(None, description="the judge's own, where --rejudge measured it")
    health: tuple[Measure, ...] = Field((), description="text health, ours against theirs; percentages and counts")
    fingerprint: str | None = Field(None, description="of the judged prompts, by which runs that share them are found")

    @property
    def at_equal_length(self) -> bool | None:
        """Whether the rate at equal length agrees with better or worse; None where nothing is known of it."""
        return agrees(self.length, self.answer)

    def __str__(self) -> str:
        from alignkit.judging.verdict_text import lines

        return "\n".join(lines(self))


class Unscored(RunStopped):
    """No prompt has a score on both sides: there is nothing to reach a verdict on. `verdict` says the rest."""

    def __init__(self, message: str, verdict: Verdict | None = None) -> None:
        super().__init__(message)
        self.verdict = verdict


def make_verdict(
    win_rate: WinRate,
    *,
    run: str,
    vs: str,
    judge: JudgeName,
    margin: float,
    ours: Side,
    theirs: Side,
    prompts: str,
    seed: int,
    caveats: Sequence[str] = (),
    length: LengthFacts | None = None,
    look: int | None = None,
    pair: str | None = None,
    look_id: str | None = None,
    units: str = "prompts",
    noise: JudgeNoise | None = None,
    health: Sequence[Measure] = (),
    fingerprint: str | None = None,
) -> Verdict:
    """Apply the rule to a win rate and put the verdict together, dated now."""
    answer = decide(win_rate, margin=margin)
    needed = prompts_needed(win_rate, margin=margin) if answer == "not enough evidence" else None
    return Verdict(
        run=run,
        vs=vs,
        judge=judge,
        answer=answer,
        win_rate=win_rate,
        margin=margin,
        num_prompts_needed=needed,
        ours=ours,
        theirs=theirs,
        caveats=tuple(caveats),
        prompts=prompts,
        seed=seed,
        created=datetime.now(UTC).replace(microsecond=0),
        length=length,
        look=look,
        pair=pair,
        look_id=look_id,
        units=units,
        noise=noise,
        health=tuple(health),
        fingerprint=fingerprint,
    )


def decide(win_rate: WinRate, *, margin: float) -> Answer:
    """Apply the rule; `margin` in points."""
    if win_rate.low > 50:
        return "better"
    if win_rate.high < 50:
        return "worse"
    if 50 - margin <= win_rate.low and win_rate.high <= 50 + margin:
        return "no difference that matters"
    return "not enough evidence"


def level_of(look: int | None) -> float:
    """The interval's level at the `look`-th look at a pair: the 5 % are split, 1 - 0.05 / look."""
    return 1 - (1 - LEVEL) / (look or 1)


def prompts_needed(win_rate: WinRate, *, margin: float) -> int | None:
    """How many prompts would settle it in 80 of 100 cases, if the rate and the spread of outcomes stay as they are.

    An interval's half-width h = z se shrinks with the square root of the number of prompts n. It has to shrink until
    (1 + z_power / z) h is below |rate - 50|, or below margin - |rate - 50| so that the interval fits into the margin;
    the wider of these targets w is reached first, at n ((1 + z_power / z) h / w)^2 prompts. None with fewer than two
    scored prompts, or where no number would do.
    """
    n = win_rate.num_prompts
    if win_rate.rate is None or n < 2:
        return None
    difference = abs(win_rate.rate - 50)
    target = max(difference, margin - difference)
    if target <= 0:
        return None
    half_width = (win_rate.high - win_rate.low) / 2
    widening = 1 + float(norm.ppf(POWER)) / float(norm.ppf((1 + win_rate.level) / 2))
    return max(n + 1, math.ceil(n * (widening * half_width / target) ** 2))
