"""A verdict: is this model better than that one, by which rule, and what else is known of the two.

The rule, in this order, on the two-sided 95 % interval of the win rate (ties half, missing scores left out):

    the interval excludes 50            -> better, worse
    it lies within 50 +- margin         -> no difference that matters
    anything else                       -> not enough evidence

The first comes before the second: a small difference that is certain is called better or worse, its size stands beside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from alignkit.judging.bleu import Bleu
from alignkit.judging.statistics import WinRate

Answer = Literal["better", "worse", "no difference that matters", "not enough evidence"]
_NONE = "-"


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
    stamps: tuple[str, ...] = Field(description="what weakens this verdict, a sentence each")
    prompts: str = Field(description="where the prompts came from")
    seed: int
    created: datetime

    def __str__(self) -> str:
        return "\n".join(lines(self))


def reach(
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
    stamps: Sequence[str] = (),
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
        stamps=tuple(stamps),
        prompts=prompts,
        seed=seed,
        created=datetime.now(UTC).replace(microsecond=0),
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


def prompts_needed(win_rate: WinRate, *, margin: float) -> int | None:
    """How many prompts would settle it if the rate and the spread of outcomes stay as they are.

    An interval's half-width h shrinks with the square root of the number of prompts n: h = z sd / sqrt(n). It has to
    shrink below |rate - 50|, or to margin - |rate - 50| so that the interval fits into the margin; the wider of these
    targets w is reached first, at n (h / w)^2 prompts. With exactly so many the chance that it is settled is about a
    half, since the rate moves too. None with fewer than two scored prompts, or where no number would do.
    """
    n = win_rate.num_prompts
    if win_rate.rate is None or n < 2:
        return None
    difference = abs(win_rate.rate - 50)
    target = max(difference, margin - difference)
    if target <= 0:
        return None
    half_width = (win_rate.high - win_rate.low) / 2
    return max(n + 1, math.ceil(n * (half_width / target) ** 2))


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    win_rate = verdict.win_rate
    text = f"{verdict.answer}: {verdict.run} "
    if win_rate.rate is None:
        return text + f"against {verdict.vs} has no prompt that both have a score for ({win_rate.num_missing} missing)"
    text += f"wins {win_rate.rate:.1f} % against {verdict.vs}, {interval(win_rate)}, "
    text += _count(win_rate.num_prompts, "prompt")
    if verdict.num_prompts_needed is not None:
        text += f"; about {verdict.num_prompts_needed:,} prompts would settle it if the rate stays as it is"
    return text


def rule(verdict: Verdict) -> str:
    """The rule with this verdict's numbers, printed under it."""
    level, margin = f"{100 * verdict.win_rate.level:g} %", f"{verdict.margin:g}"
    return (
        f"rule: better or worse if the {level} interval of the win rate (ties half, missing scores left out and "
        f"counted) excludes 50; else no difference that matters if it lies within 50 +- {margin}; else not enough "
        "evidence"
    )


def facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What the verdict rests on: (name, text)."""
    win_rate, judge = verdict.win_rate, verdict.judge
    kind = (
        "verifiable: a rule that anyone can check" if judge.verifiable else "not verifiable: a learned or remote score"
    )
    tally = ", ".join(
        (
            _count(win_rate.num_wins, "win"),
            _count(win_rate.num_ties, "tie"),
            _count(win_rate.num_losses, "loss", "losses"),
        )
    )
    missing = f"; {_count(win_rate.num_missing, 'prompt')} left out for a missing score" if win_rate.num_missing else ""
    return [
        ("outcomes", tally + missing),
        ("interval", win_rate.method),
        ("judge", f"{judge.name} {judge.version} ({kind})"),
        ("prompts", f"{verdict.prompts}; seed {verdict.seed}"),
        *([("BLEU", verdict.ours.bleu.signature)] if verdict.ours.bleu else []),
        ("created", verdict.created.isoformat()),
    ]


def table(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Both models' numbers side by side: (name, ours, theirs), without a header."""
    return [
        (name, ours, theirs)
        for (name, ours), (_, theirs) in zip(_numbers(verdict.ours), _numbers(verdict.theirs), strict=True)
    ]


def lines(verdict: Verdict) -> list[str]:
    """The whole verdict as plain text, a line each: headline, stamps, rule, facts, table."""
    rows = [("", verdict.run, verdict.vs), *table(verdict)]
    widths = [max(len(row[n]) for row in rows) for n in range(3)]
    return [
        headline(verdict),
        *(f"note: {stamp}" for stamp in verdict.stamps),
        rule(verdict),
        *(f"{name}: {text}" for name, text in facts(verdict)),
        "",
        *(f"{name:<{widths[0]}}  {ours:>{widths[1]}}  {theirs:>{widths[2]}}" for name, ours, theirs in rows),
    ]


def interval(win_rate: WinRate) -> str:
    """ "95 % interval 53.3 to 59.2", or why there is none."""
    if win_rate.num_prompts < 2:
        return "no interval"
    return f"{100 * win_rate.level:g} % interval {win_rate.low:.1f} to {win_rate.high:.1f}"


def _numbers(side: Side) -> list[tuple[str, str]]:
    bleu = side.bleu
    return [
        ("BLEU-1", _number(bleu.bleu1 if bleu else None)),
        ("BLEU-2", _number(bleu.bleu2 if bleu else None)),
        ("BLEU-4", _number(bleu.bleu4 if bleu else None)),
        ("perplexity of the references", _number(side.perplexity)),
        ("mean length, tokens", _number(side.mean_length_tokens)),
        ("repeated 4-grams, %", _number(side.repetition, scale=100)),
        ("cut at the limit, %", _number(side.cut_share, scale=100)),
    ]


def _number(x: float | None, *, scale: float = 1.0) -> str:
    return _NONE if x is None else f"{scale * x:.1f}"


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
