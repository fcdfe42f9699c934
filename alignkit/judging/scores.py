"""Comparing two models' completions with any judge: scores of both, or a pairwise judge in both orders.

A pairwise judge is asked twice a prompt, each completion once in the first place; p is how much ours won,

    p = (s(ours first) + 1 - s(theirs first)) / 2        s = 1 the first is better, 0.5 a tie, 0 the second

Tie rules: `agree` (Zheng et al. 2023, MT-Bench): ours wins or loses only where both orders say so, anything else is a
tie. `lean`: the side that p leans to wins. Where the two orders name different winners the judge went by the place, not
by the text: the flip rate counts these prompts; with a small difference in quality it is high (Shi et al. 2024).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from alignkit.judging.answers import Answers
from alignkit.judging.verdict import JudgeNoise
from alignkit.scoring.judge import Item, Missing, Scored, counted
from alignkit.scoring.specs import NamedJudge

_NONE = "does not apply"  # what the judge of an own function says where that gives None
_MISSING = " scores are missing: "
_LARGEST = 1e100  # sums of squares of numbers up to it are finite
TieRule = Literal["agree", "lean"]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BothScores:
    """One answer per prompt for each side, in order; only their order counts where the judge is pairwise.

    `num_flipped` of `num_compared` prompts had another winner in the other order, `num_first` of those the completion
    shown first; all 0 for a judge of single completions.
    """

    ours: list[Scored | Missing]
    theirs: list[Scored | Missing]
    num_compared: int = 0
    num_flipped: int = 0
    num_first: int = 0

    @property
    def flip_note(self) -> str | None:
        """A sentence about the flips, or None where there was nothing to flip."""
        if not self.num_compared:
            return None
        share = 100 * self.num_flipped / self.num_compared
        return (
            f"the judge named another winner in the other order on {self.num_flipped} of {self.num_compared} prompts "
            f"({share:.0f} %), the answer shown first on {self.num_first} of them; these count as ties"
        )


def score_both(
    named: NamedJudge, ours: Sequence[Item], theirs: Sequence[Item], *, tie_rule: TieRule = "agree", repeat: int = 0
) -> BothScores:
    """Score two models' completions of the same prompts, through the ledger.

    Args:
        ours, theirs: one item a prompt, in the same order.
        tie_rule: of a pairwise judge; the judge's own, `config.tie_rule`, comes first.
        repeat: as `NamedJudge.score`.

    Returns:
        For a pairwise judge 1 and 0, 0 and 1 or 0.5 and 0.5; a prompt is missing on both sides where one order is.
    """
    if not named.judge.pairwise:
        scores = named.score([*ours, *theirs], repeat=repeat)  # at once: a model may compute a prompt once for both
        return BothScores(scores[: len(ours)], scores[len(ours) :])
    forward = [replace(our, rival=their.completion) for our, their in zip(ours, theirs, strict=True)]
    backward = [replace(their, rival=our.completion) for our, their in zip(ours, theirs, strict=True)]
    answers = named.score([*forward, *backward], repeat=repeat)
    rule: TieRule = getattr(named.judge.config, "tie_rule", tie_rule)
    both = _combine(answers[: len(ours)], answers[len(ours) :], rule)
    if not named.judge.sees_order:
        return replace(both, num_compared=0, num_flipped=0, num_first=0)
    if both.flip_note:
        _logger.info("%s: %s", named.label, both.flip_note)
    return both


def items(answers: Answers) -> list[Item]:
    """What a judge sees of one model's answers."""
    return [Item(a.row.prompt, a.text, {**a.row.fields, "id": a.row.id}, name=a.row.said) for a in answers.answers]


def values(scores: Sequence[Scored | Missing]) -> np.ndarray:
    """Return scores as float64 [P], nan where missing."""
    return np.array([s.value if isinstance(s, Scored) else math.nan for s in scores], dtype=np.float64)


def why_missing(scores: BothScores) -> str | None:
    """Say how many scores are missing, and why; None where none is."""
    both = [*scores.ours, *scores.theirs]
    reasons = [score.reason for score in both if isinstance(score, Missing)]
    if not reasons:
        return None
    why = counted(["where the function gave None" if reason == _NONE else reason for reason in reasons])
    if set(reasons) == {_NONE}:
        why = "the function gave None for each of them"
    return f"{len(reasons)} of {len(both)}{_MISSING}{why}"


def says_missing(caveat: str) -> bool:
    """Whether a caveat is what `why_missing` says."""
    return _MISSING in caveat


def differences(ours_P: np.ndarray, theirs_P: np.ndarray) -> np.ndarray:
    """Scores of ours less theirs, within what correlations can be computed of."""
    with np.errstate(over="ignore"):
        return np.clip(ours_P - theirs_P, -_LARGEST, _LARGEST)


def judge_noise(results: Sequence[np.ndarray]) -> JudgeNoise | None:
    """Compare the outcomes of several scorings of the same answers, each [P]; None of one scoring."""
    if len(results) < 2:
        return None
    rates = [100 * float(np.nanmean(x_P)) for x_P in results if not np.isnan(x_P).all()]
    both = [(x_P, ~np.isnan(x_P) & ~np.isnan(results[0])) for x_P in results[1:]]
    changed = [float((x_P[known_P] != results[0][known_P]).mean()) for x_P, known_P in both if known_P.any()]
    if not rates or not changed:
        return None
    return JudgeNoise(
        num_repeats=len(results) - 1, changed=float(np.mean(changed)), lowest=min(rates), highest=max(rates)
    )


def outcome(forward: float, backward: float, *, tie_rule: TieRule) -> float:
    """Ours' result from both orders' scores of the first completion: 1, 0.5 or 0.

    >>> outcome(1.0, 0.0, tie_rule="agree"), outcome(1.0, 1.0, tie_rule="agree"), outcome(1.0, 0.5, tie_rule="lean")
    (1.0, 0.5, 1.0)
    """
    mean = (forward + 1 - backward) / 2
    if tie_rule == "agree":
        return mean if mean in (0.0, 1.0) else 0.5
    return 0.5 if mean == 0.5 else float(mean > 0.5)


def _combine(forward: Sequence[Scored | Missing], backward: Sequence[Scored | Missing], rule: TieRule) -> BothScores:
    ours: list[Scored | Missing] = []
    theirs: list[Scored | Missing] = []
    num_compared = num_flipped = num_first = 0
    for one, other in zip(forward, backward, strict=True):
        if isinstance(one, Missing) or isinstance(other, Missing):
            missing = one if isinstance(one, Missing) else other
            ours.append(missing)
            theirs.append(missing)
            continue
        result = outcome(one.value, other.value, tie_rule=rule)
        ours.append(Scored(result))
        theirs.append(Scored(1 - result))
        num_compared += 1
        num_flipped += one.value == other.value != 0.5
        num_first += one.value == other.value == 1.0
    return BothScores(ours, theirs, num_compared, num_flipped, num_first)
