"""Does a reward model know more than the look of an answer? Measured on held-out pairs, against two who do not read.

    accuracy       share of pairs whose chosen answer gets the higher reward; equal rewards count half
    longer         the same for "the answer with more characters wins"
    surface        the same for a Bradley-Terry model of surface features, fitted on the training pairs
    over_longer, over_surface    the paired difference, pair by pair on the same pairs, with its 95 % interval
    calibration_error       |share right - mean confidence| over ten bins of equal count, confidence = sigma(|margin|)
    length_correlation      of the margin with the difference of log lengths, through the origin: a pair has no order

Intervals are over prompts: pairs of one prompt are one unit. A share's is Wilson's, of as many pairs as their spread is
worth; a difference's is Student's, cut at -1 and 1. Below MIN_PROMPTS prompts there is none. The surface model is
logistic regression on differences of features (log characters, lines, list items, log distinct words, share of the
prompt's words), ridge 1.
Source: Bradley and Terry 1952; Wilson 1927; Guo et al. 2017 (calibration). Shape letters: P pairs, K features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.data.reading.rows import Row, text_of
from alignkit.statistics.intervals import error_over, student, wilson
from alignkit.statistics.logistic import fit_ridge
from alignkit.statistics.resampling import Clusters

MIN_PROMPTS = 10  # fewer say too little for an interval
MAX_FITTED = 5_000  # training pairs that the surface model sees
_NUM_BINS = 10
_RIDGE = 1.0
_ITEM = re.compile(r"^[^\S\n]*(?:[-*+•]|\d+[.)])\s", re.M)  # no line end in the first part: linear
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Difference:
    """A mean with its 95 % interval over prompts; `low` and `high` nan below MIN_PROMPTS prompts."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairAccuracy:
    """What is known of a reward model on held-out pairs; shares from 0 to 1. `over_surface` None without a fit."""

    num_pairs: int
    accuracy: Difference
    longer: float
    over_longer: Difference
    surface: float | None
    over_surface: Difference | None
    calibration_error: float
    length_correlation: float

    def metrics(self) -> dict[str, float]:
        """By metric name; a number that there is none of is left out."""
        parts = {"accuracy": self.accuracy, "over_longer": self.over_longer, "over_surface": self.over_surface}
        found = {"longer": self.longer, "surface": self.surface, "calibration_error": self.calibration_error}
        numbers = {**found, "length_correlation": self.length_correlation}
        for name, part in parts.items():
            if part is not None:
                numbers |= {name: part.mean, f"{name}_low": part.low, f"{name}_high": part.high}
        return {f"held_out/{name}": x for name, x in numbers.items() if x is not None and math.isfinite(x)}

    def lines(self) -> list[str]:
        """In words."""
        over = [f"{_points(self.over_longer)} over the longer answer ({100 * self.longer:.1f} %)"]
        if self.over_surface is not None and self.surface is not None:
            over.append(f"{_points(self.over_surface)} over surface features ({100 * self.surface:.1f} %)")
        beaten = all(part is None or part.low > 0 for part in (self.over_longer, self.over_surface))
        said = "" if beaten else "; this does not show that it reads more than the look of an answer"
        if math.isnan(self.accuracy.low):
            said += f"; too few for intervals, which need {MIN_PROMPTS} prompts"
        accuracy = f"{100 * self.accuracy.mean:.1f} %{_between(self.accuracy, '.1f')}"
        other = f"calibration error {self.calibration_error:.3f}"
        other += f", correlation of reward and length within pairs {self.length_correlation:.2f}"
        order = f"held out: {accuracy} of {self.num_pairs} pairs in the right order, {', '.join(over)}{said}"
        return [order, f"held out: {other}"]


def pair_accuracy(margin_P: np.ndarray, held_out: Sequence[Row], training: Sequence[Row]) -> PairAccuracy:
    """Measure margins (reward of the chosen minus of the rejected answer) on held-out pairs.

    Args:
        margin_P: float64 [P], in the order of `held_out`.
        training: pairs that the surface model is fitted on; the first MAX_FITTED of them.
    """
    chars_P2 = np.array([[len(text) for text in _texts(row)] for row in held_out], float)
    units = [str(row.prompt) for row in held_out]
    right_P, longer_P = _right(margin_P), _right(chars_P2[:, 0] - chars_P2[:, 1])
    surface_P = None
    if len(training) >= 2 * surface_features(held_out[0]).shape[-1]:
        weight_K, scale_K = fit_surface([training[n] for n in range(min(len(training), MAX_FITTED))])
        surface_P = _right(np.stack([surface_features(row) for row in held_out]) / scale_K @ weight_K)
    return PairAccuracy(
        num_pairs=len(held_out),
        accuracy=share_over(right_P, units),
        longer=float(longer_P.mean()),
        over_longer=difference_over(right_P - longer_P, units),
        surface=None if surface_P is None else float(surface_P.mean()),
        over_surface=None if surface_P is None else difference_over(right_P - surface_P, units),
        calibration_error=calibration_error(margin_P),
        length_correlation=_correlation(margin_P, np.diff(-np.log1p(chars_P2), axis=1)[:, 0]),
    )


def difference_over(x_P: np.ndarray, units: Sequence[Hashable]) -> Difference:
    """Mean of differences from -1 to 1 with Student's 95 % interval over units, which ends there too."""
    mean, clusters = float(x_P.mean()), Clusters.of(units)
    if clusters.num < MIN_PROMPTS:
        return Difference(mean, math.nan, math.nan)
    low, high = student(mean, error_over(x_P, clusters), clusters.num)
    return Difference(mean, max(-1.0, low), min(1.0, high))


def share_over(x_P: np.ndarray, units: Sequence[Hashable]) -> Difference:
    """Mean of numbers from 0 to 1 with Wilson's 95 % interval.

    Of mean (1 - mean) / se^2 pairs, se without its G / (G - 1), at most as many as there are: fewer where pairs of one
    unit are alike. Where all are equal, and no spread tells, each unit counts as one.
    """
    mean, clusters = float(x_P.mean()), Clusters.of(units)
    if clusters.num < MIN_PROMPTS:
        return Difference(mean, math.nan, math.nan)
    error, num_units = error_over(x_P, clusters), clusters.num
    worth = mean * (1 - mean) / error**2 * num_units / (num_units - 1) if error else float(num_units)
    return Difference(mean, *wilson(mean, min(float(len(x_P)), worth)))


def calibration_error(margin_P: np.ndarray) -> float:
    """How far the share of right pairs is from the mean confidence, over ten bins of equal count."""
    confidence_P = 1 / (1 + np.exp(-np.abs(margin_P)))
    order = np.argsort(confidence_P, kind="stable")
    gaps = [
        len(bin_) * abs(float(_right(margin_P[bin_]).mean() - confidence_P[bin_].mean()))
        for bin_ in np.array_split(order, _NUM_BINS)
        if len(bin_)
    ]
    return math.fsum(gaps) / len(margin_P)


def fit_surface(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Fit the surface model; returns its weights [K] and the features' scales [K].

    minimise  sum_p log(1 + exp(-w . x_p)) + ridge / 2 |w|^2        x_p: chosen features minus rejected ones, scaled
    """
    x_PK = np.stack([surface_features(row) for row in rows])
    scale_K = np.sqrt((x_PK**2).mean(0))
    scale_K[scale_K == 0] = 1.0
    # a pair is a won comparison: the label is 1 in every row
    return fit_ridge(x_PK / scale_K, np.ones(len(x_PK)), ridge=_RIDGE), scale_K


def surface_features(row: Row) -> np.ndarray:
    """Surface features of the chosen answer minus those of the rejected one, float64 [K]."""
    asked = set(_WORD.findall(text_of(row.prompt).lower()))
    chosen_K, rejected_K = (_surface(text, asked) for text in _texts(row))
    return np.array(chosen_K) - np.array(rejected_K)


def _surface(text: str, asked: set[str]) -> list[float]:
    words = set(_WORD.findall(text.lower()))
    shared = len(words & asked) / max(1, len(asked))
    return [
        math.log1p(len(text)),
        float(text.count("\n")),
        float(len(_ITEM.findall(text))),
        math.log1p(len(words)),
        shared,
    ]


def _texts(row: Row) -> tuple[str, str]:
    assert row.chosen is not None and row.rejected is not None
    return text_of(row.chosen), text_of(row.rejected)


def _right(margin_P: np.ndarray) -> np.ndarray:
    """1 where the margin is positive, 0.5 where it is 0, else 0."""
    right: np.ndarray = (np.sign(margin_P) + 1) / 2
    return right


def _correlation(x_P: np.ndarray, y_P: np.ndarray) -> float:
    size = math.sqrt(float((x_P**2).sum() * (y_P**2).sum()))
    return float((x_P * y_P).sum()) / size if size else math.nan


def _points(part: Difference) -> str:
    return f"{100 * part.mean:+.1f} points{_between(part, '+.1f')}"


def _between(part: Difference, form: str) -> str:
    return "" if math.isnan(part.low) else f" [{100 * part.low:{form}}, {100 * part.high:{form}}]"
