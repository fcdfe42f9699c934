"""Guards: is a model that won here not worse elsewhere, by more than a margin?

A guard is a set of other prompts. Each prompt has a difference of ours less theirs, in points:

    NAME         100 x (score of ours - score of theirs) by a judge that anyone can check, such as a row's own rules
    judge        100 x (outcome - 1/2), the outcome 1, 1/2 or 0 as of the win rate
    perplexity   100 x (log p of the row's reference under ours - under theirs) / its tokens, a point about 1 % of
                 perplexity; tokens as the other model counts them, so that both tokenizers have one denominator

A guard passes when the one-sided 95 % lower bound of the mean difference lies above -margin. All guards have to pass,
so each is tested at 5 % (an intersection-union test, Berger 1982). The rows' kinds are strata, whose shares are as they
are; their templates are clusters, of which there are at least 20. A prompt without a score on either side is missing
and counted; where more than a tenth is missing nothing is said.

The default margin is what these prompts find in 80 of 100 cases: equal models pass as often,

    margin = (mean - bound) (1 + t(0.82) / t(0.98))

The bound is nominally one of 98 %, which holds in 95 of 100 cases where clusters are few, kinds small, losses rare
(bench/verdict_guards.py). Whatever the margin, a model that loses more passes in at most 5 % of cases: a bound lies
above the true difference no oftener.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import stdtrit

from alignkit.statistics.intervals import error_within, lower_bound, within_strata
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import outcomes

JUDGE = "judge"  # the verdict's own
PERPLEXITY = "perplexity"
Passing = Literal["passes", "does not pass", "not enough evidence"]
_UNITS = {JUDGE: "points from a win rate of 50 %", PERPLEXITY: "hundredths of a nat per token"}
ALPHA = 0.05
POWER = 0.82  # planned for, so that it is at least 0.8 with clusters that are few and unequal
CAUTION = 0.4  # of ALPHA: unequal clusters in small kinds, and rare losses, make bounds that hold less often than said
MIN_CLUSTERS = 20
MIN_EFFECTIVE = 10  # equal clusters that are as informative as the unequal ones
MAX_MISSING = 0.1
MIN_MARGIN = 0.1  # points; the default is never less, so that models without any difference pass


class GuardRow(BaseModel):
    """One prompt of a guard: both scores (None: missing), and what it is drawn with. Texts are sha256 hashes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    ours: float | None
    theirs: float | None
    ours_text: str | None = None
    theirs_text: str | None = None
    cluster: int
    stratum: int
    check: str = ""


class GuardScores(BaseModel):
    """What was found of one guard; `guard_of` says whether it passes. `margin` in points, None: the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    by: str = Field(description="judge (the verdict's), perplexity, or the name of a judge that anyone can check")
    judge: str | None = Field(None, description="what scored, with its version")
    margin: float | None = Field(None, gt=0, lt=100)
    units: str = Field(description="what is drawn together, in words")
    notes: tuple[str, ...] = ()
    rows: tuple[GuardRow, ...] = Field(min_length=1)


class Guard(BaseModel):
    """Whether a guard passes. `difference` (ours less theirs, negative is worse), `low` and `margin` in points."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    by: str = Field(description="as in GuardScores")
    answer: Passing
    difference: float | None = Field(description="mean over the prompts; None without any")
    low: float | None = Field(description="one-sided 95 % lower bound; None where nothing is said of it")
    margin: float | None = Field(description="loss that is tolerated; None where the default is not known")
    is_default_margin: bool
    num_prompts: int = Field(description="with both scores")
    num_missing: int
    num_clusters: int
    num_kinds: int
    units: str
    reason: str = Field("", description="why there is not enough evidence")
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"guard {self.name}, {self.by}: {shown(self)}"


def guard_of(scores: GuardScores) -> Guard:
    """Apply the rule to what was found."""
    ours_P, theirs_P = (array([getattr(row, side) for row in scores.rows]) for side in ("ours", "theirs"))
    with np.errstate(invalid="ignore"):
        share_P = outcomes(ours_P, theirs_P) - 0.5 if scores.by == JUDGE else ours_P - theirs_P
    known_P = np.isfinite(share_P)
    units = Clusters.of([row.cluster for row in scores.rows]).where(known_P)
    strata = Clusters.of([row.stratum for row in scores.rows]).where(known_P)
    share_P = share_P[known_P]
    reason = _why_not(units, len(scores.rows))
    low, margin = None, scores.margin
    if not reason:
        bound, default = bound_and_margin(share_P, strata, units, by=scores.by)
        low, margin = 100 * bound, max(MIN_MARGIN, 100 * default) if margin is None else margin
    return Guard(
        name=scores.name,
        by=scores.by,
        answer="not enough evidence"
        if low is None or margin is None
        else "passes"
        if low > -margin
        else "does not pass",
        difference=100 * float(share_P.mean()) if len(share_P) else None,
        low=low,
        margin=margin,
        is_default_margin=scores.margin is None,
        num_prompts=len(share_P),
        num_missing=len(scores.rows) - len(share_P),
        num_clusters=units.num,
        num_kinds=strata.num,
        units=scores.units,
        reason=reason,
        notes=scores.notes,
    )


def bound_and_margin(difference_P: np.ndarray, strata: Clusters, units: Clusters, *, by: str) -> tuple[float, float]:
    """The lower bound of the mean, and the margin that equal models pass in 80 of 100 cases.

    Args:
        difference_P: float64 [P], from -1/2 to 1/2 by the verdict's judge, of scores from 0 to 1 from -1 to 1; nats and
            other scores have no bounds.

    Returns:
        Both in the unit of the differences.
    """
    mean, tail = float(difference_P.mean()), CAUTION * ALPHA
    spread = error_within(difference_P, strata, units)
    freedom = spread[1] or units.num - 1
    low = lower_bound(mean, spread, tail)
    scale = 1.0 if by == JUDGE else 2.0
    if by != PERPLEXITY and np.abs(difference_P).max() <= scale / 2:  # bounded: with few losses Student knows too much
        score = within_strata(0.5 + difference_P / scale, strata, units, 1 - 2 * tail)[0]
        low = min(low, scale * (score - 0.5))
    return low, (mean - low) * (1 - float(stdtrit(freedom, POWER) / stdtrit(freedom, tail)))


def all_pass(guards: Sequence[Guard]) -> bool | None:
    """Whether every guard passes; None without any."""
    return all(guard.answer == "passes" for guard in guards) if guards else None


def headline(guards: Sequence[Guard]) -> str:
    """All guards in one sentence."""
    failed = [f"{guard.name} ({guard.by}): {guard.answer}" for guard in guards if guard.answer != "passes"]
    if not failed:
        return "the guard passes" if len(guards) == 1 else f"all {len(guards)} guards pass"
    return f"{len(failed)} of {len(guards)} guards not passed: {'; '.join(failed)}"


def shown(guard: Guard) -> str:
    """A guard's result in one line."""
    missing = f", {guard.num_missing} missing" if guard.num_missing else ""
    over = f"{guard.num_prompts:,} prompts{missing}" + (
        "" if guard.units == "prompts" else f"; {guard.units.removeprefix('prompts; ')}"
    )
    if guard.low is None:
        seen = "" if guard.difference is None else f"; seen {guard.difference:+.1f} {_unit(guard.by)}"
        text = f"{guard.answer}: {guard.reason}{seen}; {over}"
    else:
        default = " (default: what these prompts find in 80 of 100 cases)" if guard.is_default_margin else ""
        text = (
            f"{guard.answer}: {guard.difference:+.1f} {_unit(guard.by)}, at least {guard.low:+.1f} (one-sided "
            f"{100 * (1 - ALPHA):.0f} % bound), margin {guard.margin:.3g}{default}; {over}"
        )
    return "; ".join([text, *guard.notes])


def briefly(guard: Guard) -> str:
    """A guard's result in a few words, with what has to be said about it."""
    if guard.low is None or guard.margin is None:
        text = f"{guard.answer}: {guard.reason}"
    else:
        text = f"{guard.answer}: {guard.difference:+.1f} points, at least {guard.low:+.1f}, margin {guard.margin:.3g}"
    return "; ".join([text, *guard.notes])


def facts(guards: Sequence[Guard]) -> list[tuple[str, str]]:
    """What is shown of guards beside a verdict: (name, text)."""
    return [(f"guard {guard.name}, {guard.by}", shown(guard)) for guard in guards]


def _unit(by: str) -> str:
    return _UNITS.get(by, f"points of the score by {by}")


def array(values: Sequence[float | None]) -> np.ndarray:
    """float64 [P], nan where missing."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _why_not(units: Clusters, num_rows: int) -> str:
    """Why nothing is said of the difference; empty where something is."""
    num_missing = num_rows - len(units.number_P)
    if num_missing > MAX_MISSING * num_rows:
        return f"{num_missing} of {num_rows} prompts have no score, more than {100 * MAX_MISSING:.0f} %"
    if units.num < MIN_CLUSTERS:
        return f"only {units.num} clusters: at least {MIN_CLUSTERS} are needed"
    if units.effective < MIN_EFFECTIVE:
        return (
            f"{units.num} clusters so unequal that they are as informative as {units.effective:.1f} equal ones: at "
            f"least {MIN_EFFECTIVE} are needed"
        )
    return ""
