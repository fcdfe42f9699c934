"""Several judges' scores -> one reward for each sample; a missing score stays missing.

Shape letters: P prompts, G group (samples of one prompt).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.errors import RunStopped
from alignkit.scoring.judge import Item, Missing, Scored
from alignkit.scoring.specs import NamedJudge

MAX_REWARD = 1e12  # float32 holds 1e38, and squares are summed


@dataclass(frozen=True)
class Rewards:
    """`total_PG` float64, the weighted sum, nan where missing; `by_name` each judge's; `num_missing` failed scores.

    `reasons` says why, one for each missing score.
    """

    total_PG: np.ndarray
    by_name: Mapping[str, np.ndarray]
    num_missing: int
    reasons: tuple[str, ...] = ()


def reward(items_PG: Sequence[Sequence[Item]], judges: Sequence[NamedJudge]) -> Rewards:
    """Score every sample by every judge, through the ledger, and add up with the judges' weights.

    A judge that does not apply to any sample of a group is left out for the whole group; one that failed on a sample
    makes that sample's reward missing. A group to which no judge applies is missing as a whole.

    Raises:
        RunStopped: a judge broke its contract (wrong number of answers, or a score that is not finite), or a weighted
            sum is beyond MAX_REWARD.
    """
    shape = (len(items_PG), len(items_PG[0]) if items_PG else 0)
    flat = [item for group in items_PG for item in group]
    total_PG, applied_P = np.zeros(shape), np.zeros(len(items_PG), bool)
    by_name, num_missing, reasons = {}, 0, []
    for named in judges:
        answers = named.score(flat)
        scores_PG = np.array([a.value if isinstance(a, Scored) else math.nan for a in answers]).reshape(shape)
        applies_PG = np.array([not isinstance(a, Missing) or a.applies for a in answers]).reshape(shape)
        applies_P = np.all(applies_PG, axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            sum_PG = np.where(applies_P[:, None], total_PG + named.weight * scores_PG, total_PG)
        _refuse_overflow(items_PG, named, total_PG, scores_PG, sum_PG)
        total_PG = sum_PG
        applied_P |= applies_P
        by_name[named.label] = np.where(applies_P[:, None], scores_PG, math.nan)
        failed = [a.reason for a in answers if isinstance(a, Missing) and a.applies]
        num_missing += len(failed)
        reasons.extend(failed)
    total_PG[~applied_P] = math.nan
    return Rewards(total_PG, by_name, num_missing, tuple(reasons))


def _refuse_overflow(
    items_PG: Sequence[Sequence[Item]],
    named: NamedJudge,
    before_PG: np.ndarray,
    scores_PG: np.ndarray,
    sum_PG: np.ndarray,
) -> None:
    """A sum of finite scores that training cannot compute with is no missing reward."""
    wrong_PG = np.isfinite(before_PG) & np.isfinite(scores_PG) & ~(np.abs(sum_PG) <= MAX_REWARD)
    for p, k in np.argwhere(wrong_PG):
        raise RunStopped(
            f"{items_PG[p][k].said}: the sum of the rewards is too large a number: {named.label} "
            f"gave {scores_PG[p, k]:g}, weight {named.weight:g}; return smaller numbers, at most {MAX_REWARD:g}"
        )


def joined(first: Rewards, second: Rewards, which: np.ndarray) -> Rewards:
    """The rewards of some groups of two: `which` int64 [P] counts through the first's groups, then the second's."""
    return Rewards(
        np.concatenate([first.total_PG, second.total_PG])[which],
        {name: np.concatenate([x, second.by_name[name]])[which] for name, x in first.by_name.items()},
        first.num_missing + second.num_missing,
        (*first.reasons, *second.reasons),
    )
