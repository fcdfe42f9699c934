"""The health of a model's answers, measure by measure, against the baseline's on the same prompts.

Every measure is one number a prompt, so that the difference is paired and has an interval over prompts (statistics.py).
Distinct-n falls with the amount of text: it is taken over blocks of prompts, at the same number of words for both
models, and its interval is over blocks. A measure is flagged where its interval says that ours is the worse one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from alignkit.judging.boilerplate import Boilerplate, boilerplate
from alignkit.statistics import texts as text_health
from alignkit.statistics.intervals import mean_interval
from alignkit.statistics.texts import repeated_share

_NUM_RESAMPLES = 2000
_NUM_WORST = 3
_EXCERPT = 160  # characters
_MAX_BLOCKS = 20
_MIN_BLOCK = 5  # prompts


class Worst(BaseModel):
    """One of the worst answers by a measure: the row's id, its value and the end of its text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    value: float
    text: str


class Measure(BaseModel):
    """One measure: means of both sides, and the paired difference ours - theirs with its 95 % interval.

    Without a baseline `theirs` is None and the interval is that of `ours`. More is worse unless `more_is_better`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ours: float | None
    theirs: float | None
    difference: float | None
    low: float | None
    high: float | None
    more_is_better: bool = False
    found: tuple[str, ...] = Field((), description="the recurring texts behind it, ours")
    worst: tuple[Worst, ...] = ()

    @property
    def is_flagged(self) -> bool:
        """The interval says that ours is worse than the baseline."""
        if self.theirs is None or self.low is None or self.high is None:
            return False
        return self.high < 0 if self.more_is_better else self.low > 0


_SINGLE: tuple[tuple[str, Callable[[str], float], float], ...] = (
    ("repeated 4-grams, %", repeated_share, 100),
    ("words in a loop at the end, %", text_health.loop_share, 100),
    ("compression ratio", text_health.compression_ratio, 1),
    ("with a stock phrase, %", text_health.has_phrase, 100),
    ("formatting marks per 100 words", text_health.marks_per_100_words, 1),
    ("empty, %", text_health.is_empty, 100),
)


class Texts(BaseModel):
    """One model's answers, and whether the length limit ended each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: tuple[str, ...]
    cuts: tuple[bool, ...]


def measure(
    ids: Sequence[str], prompts: Sequence[str], ours: Texts, theirs: Texts | None, *, seed: int
) -> tuple[Measure, ...]:
    """Measure one model's answers, or two models' beside each other.

    Args:
        ids, prompts: of each row; the prompts' texts.
    """
    columns = [_columns(prompts, side) for side in (ours, theirs) if side is not None]
    found = boilerplate(ours.texts, prompts)
    recurring = _recurring(found)
    measures = []
    for name, ours_P in columns[0].items():
        theirs_P = columns[1][name] if theirs is not None else None
        given = {"found": recurring.get(name, ()), "worst": _worst(ids, ours_P, ours.texts)}
        measures.append(_compare(name, ours_P, theirs_P, seed=seed, **given))
    for n in (1, 2):
        blocks = _distinct_blocks(ours.texts, theirs.texts if theirs else None, n=n, seed=seed)
        measures.append(_compare(f"distinct {n}-grams, %", *blocks, seed=seed, more_is_better=True))
    return tuple(measures)


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
            shown += [f"  worst: row {worst.id}, {worst.value:.2f}: {worst.text}" for worst in one.worst]
    return shown


def _columns(prompts: Sequence[str], side: Texts) -> dict[str, np.ndarray]:
    """Each measure's numbers, float64 [P]; nan where a text has none."""
    columns = {name: scale * np.array([f(text) for text in side.texts], float) for name, f, scale in _SINGLE}
    columns["cut at the limit, %"] = 100 * np.array(side.cuts, float)
    found = boilerplate(side.texts, prompts)
    columns["with the commonest opening, %"] = 100 * np.array(found.opens, float)
    columns["with the commonest closing, %"] = 100 * np.array(found.closes, float)
    columns["with 8 words shared across prompts, %"] = 100 * np.array(found.holds, float)
    return columns


def _recurring(found: Boilerplate) -> dict[str, tuple[str, ...]]:
    named = {"opening": found.opening, "closing": found.closing}
    texts = {
        f"with the commonest {name}, %": (f"{shared.text} ({100 * shared.share:.0f} % of prompts)",)
        for name, shared in named.items()
        if shared is not None
    }
    ngrams = tuple(f"{shared.text} ({100 * shared.share:.0f} % of prompts)" for shared in found.ngrams)
    return texts | {"with 8 words shared across prompts, %": ngrams}


def _compare(name: str, ours_P: np.ndarray, theirs_P: np.ndarray | None, *, seed: int, **given: Any) -> Measure:
    result = mean_interval(ours_P if theirs_P is None else ours_P - theirs_P, seed=seed, num_resamples=_NUM_RESAMPLES)
    return Measure(
        name=name,
        ours=_mean(ours_P),
        theirs=None if theirs_P is None else _mean(theirs_P),
        difference=None if theirs_P is None else result.mean,
        low=result.low,
        high=result.high,
        **given,
    )


def _worst(ids: Sequence[str], x_P: np.ndarray, texts: Sequence[str]) -> tuple[Worst, ...]:
    order = sorted((n for n in range(len(x_P)) if x_P[n] > 0), key=lambda n: (-x_P[n], n))[:_NUM_WORST]
    return tuple(Worst(id=ids[n], value=float(x_P[n]), text=" ".join(texts[n].split())[-_EXCERPT:]) for n in order)


def _distinct_blocks(
    ours: Sequence[str], theirs: Sequence[str] | None, *, n: int, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Distinct n-grams in percent, a number a block of prompts; both sides cut to the words of the shorter one."""
    num_blocks = min(_MAX_BLOCKS, len(ours) // _MIN_BLOCK)
    if num_blocks < 2:
        return np.array([math.nan]), None if theirs is None else np.array([math.nan])
    order = np.random.default_rng(seed).permutation(len(ours))
    sides = [ours] if theirs is None else [ours, theirs]
    blocks = []
    for numbers in np.array_split(order, num_blocks):
        words = [list(chain.from_iterable(side[number].split() for number in numbers)) for side in sides]
        blocks.append([_distinct(w[: min(map(len, words))], n) for w in words])
    columns = np.array(blocks)
    return columns[:, 0], columns[:, 1] if theirs is not None else None


def _distinct(words: Sequence[str], n: int) -> float:
    ngrams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else math.nan


def _mean(x_P: np.ndarray) -> float | None:
    known_P = x_P[~np.isnan(x_P)]
    return float(known_P.mean()) if len(known_P) else None


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"
