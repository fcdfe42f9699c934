"""Text health: every metric that has a number per answer, ours against the baseline's on the same prompts.

The difference is paired and has an interval over prompts (statistics/intervals.py). A measure is marked where its
interval says that ours is the worse one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from alignkit.errors import RunStopped
from alignkit.judging.answers import Answers
from alignkit.judging.metric import Metric
from alignkit.judging.metrics import all_metrics
from alignkit.statistics.intervals import mean_interval
from alignkit.statistics.resampling import Clusters

_NUM_RESAMPLES = 2000
_NUM_WORST = 3
_EXCERPT = 160  # characters


class Worst(BaseModel):
    """One of the worst answers by a measure: the row's id, its value and the end of its text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    value: float
    text: str


class Measure(BaseModel):
    """One measure: means of both sides, and the paired difference ours - theirs with its 95 % interval.

    Without a baseline `theirs` is None and the interval is that of `ours`. `more_is_better` None: neither end is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ours: float | None
    theirs: float | None
    difference: float | None
    low: float | None
    high: float | None
    more_is_better: bool | None = False
    found: tuple[str, ...] = Field((), description="the recurring texts behind it, ours")
    worst: tuple[Worst, ...] = ()

    @property
    def is_changed(self) -> bool:
        """The interval of the difference excludes no change."""
        if self.theirs is None or self.low is None or self.high is None:
            return False
        return not self.low <= 0 <= self.high

    @property
    def is_flagged(self) -> bool:
        """The interval says that ours is worse than the baseline."""
        if self.theirs is None or self.low is None or self.high is None or self.more_is_better is None:
            return False
        return self.high < 0 if self.more_is_better else self.low > 0


def measure(
    ours: Answers, theirs: Answers | None, *, seed: int, clusters: Clusters | None = None
) -> tuple[Measure, ...]:
    """Measure one model's answers, or two models' beside each other.

    Args:
        clusters: prompts that are no independent evidence of each other, as of the win rate.

    Raises:
        RunStopped: a plugin's metric did not return one number per answer.
    """
    found = [_measured(metric, ours, theirs, seed=seed, clusters=clusters) for metric in all_metrics()]
    return tuple(one for one in found if one is not None)


def lines(measures: Sequence[Measure]) -> list[str]:
    """Measures as text: both means, the difference with its interval, a mark where ours is worse."""
    shown = []
    for one in measures:
        text = f"{one.name}: {_number(one.ours)}"
        bounds = "" if one.low is None or one.high is None else f" ({one.low:.2f} to {one.high:.2f})"
        if one.theirs is None:
            text += bounds
        else:
            text += f" against {_number(one.theirs)}, difference {_number(one.difference)}{bounds}"
        text += "; WORSE" if one.is_flagged else ""
        shown.append(text)
        shown += [f"  recurs: {found}" for found in one.found]
        if one.is_flagged:
            shown += [f"  worst: {worst.id}, {worst.value:.2f}: {worst.text}" for worst in one.worst]
    return shown


def changed_lines(measures: Sequence[Measure]) -> list[str]:
    """As `lines`, without measures whose interval holds no change; how many these are is said."""
    changed = [one for one in measures if one.is_changed]
    rest = len(measures) - len(changed)
    return [*lines(changed), *([f"{rest} other measures: no change shown"] if rest else [])]


def _measured(
    metric: Metric, ours: Answers, theirs: Answers | None, *, seed: int, clusters: Clusters | None
) -> Measure | None:
    compared = metric.pair(ours, theirs, seed=seed)
    if compared is None:
        return None
    ours_P, theirs_P = compared
    if type(metric).pair is Metric.pair:
        _check(metric, ours_P, ours)
    if ours_P.ndim != 1 or (theirs_P is not None and theirs_P.shape != ours_P.shape):
        raise RunStopped(f"metric {metric.name!r}: it returned another number of values for each side; correct it")
    ours_P = metric.scale * ours_P
    theirs_P = None if theirs_P is None else metric.scale * theirs_P
    result = mean_interval(
        ours_P if theirs_P is None else ours_P - theirs_P,
        seed=seed,
        num_resamples=_NUM_RESAMPLES,
        clusters=clusters if len(ours_P) == len(ours.answers) else None,  # blocks of prompts mix the clusters
    )
    return Measure(
        name=metric.label,
        ours=_mean(ours_P),
        theirs=None if theirs_P is None else _mean(theirs_P),
        difference=None if theirs_P is None else result.mean,
        low=result.low,
        high=result.high,
        more_is_better=metric.more_is_better,
        found=tuple(metric.recurring(ours)),
        worst=_worst(metric, ours_P, ours),
    )


def _check(metric: Metric, values_P: np.ndarray, answers: Answers) -> None:
    if values_P.shape != (len(answers.answers),):
        raise RunStopped(
            f"metric {metric.name!r}: values() returned {values_P.size} numbers for {len(answers.answers)} answers; "
            "return one for each, nan where an answer has none"
        )


def _worst(metric: Metric, x_P: np.ndarray, answers: Answers) -> tuple[Worst, ...]:
    """The worst answers, first of their like; of a measure over blocks of prompts there are none."""
    if metric.more_is_better is None or len(x_P) != len(answers.answers):
        return ()
    bad_P = -x_P if metric.more_is_better else np.where(x_P > 0, x_P, np.nan)  # 0 of a bad thing is no bad answer
    order = sorted((n for n in range(len(x_P)) if not np.isnan(bad_P[n])), key=lambda n: (-bad_P[n], n))[:_NUM_WORST]
    worst = [(answers.answers[n], float(x_P[n])) for n in order]
    return tuple(Worst(id=a.row.name, value=x, text=" ".join(a.text.split())[-_EXCERPT:]) for a, x in worst)


def _mean(x_P: np.ndarray) -> float | None:
    known_P = x_P[~np.isnan(x_P)]
    return float(known_P.mean()) if len(known_P) else None


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"
