"""What can be wrong with a run's rewards: they reward the form of an answer, or they cannot teach anything.

**Reward hacking.** The reward rises only as completions get longer, or repeat themselves.

Within the groups of a batch, where the prompt is the same, the reward r is regressed on a completion's length l in
tokens and on its repetition q (the share of its word 4-grams that stand in it before):

    r - mean_group r = b_l (l - mean_group l) + b_q (q - mean_group q) + rest

That is what length and repetition buy among siblings. Between the run's first batches and its last ones the mean reward
rose by D, the mean length by D_l, the mean repetition by D_q; `share` = (b_l D_l + b_q D_q) / D of the rise is what the
slopes would pay for that alone. The run is alerted when the rise is more than 3 standard errors, the growth more
than 2, and the share at least SHARE. A growth that is not, and a slope below 0, count as nothing.

Ours; the within-prompt slope follows what is known of length bias: rewards of different prompts are not comparable.

**No signal.** Rewards must differ within a group of samples of one prompt. A group teaches nothing where all its
rewards are equal or differ by too little for float32, where fewer than two of its samples have one, or where no sample
is left that is compared with another (all were truncated, or have no sibling at their temperature). A run of such
groups alone trained nothing, whatever it did to the weights (with --kl above 0 they were pulled towards the reference).

P prompts, G group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.scoring.judge import counted
from alignkit.statistics.texts import repeated_share
from alignkit.training.rollouts.micro_batches import zero_variance_groups
from alignkit.training.rollouts.sampling import Group

WINDOW = 10  # batches at the start, and as many at the end, that are compared
SHARE = 0.8
Z_THRESHOLD = {"reward": 3.0, "length": 2.0, "repetition": 2.0}  # standard errors
FEATURES = ("length", "repetition")
Sums = Mapping[str, float]
LEAST = 1e-12  # of an advantage: its gradient is far below Adam's epsilon
SAID_AFTER = 20  # batches without a group that teaches
_UNITS = {"length": "tokens", "repetition": "of the 4-grams"}


@dataclass(frozen=True)
class Finding:
    """How far form explains a rise of the reward: `share` of `rise`; `grown` has what grew, from and to, by feature."""

    share: float
    rise: float
    grown: Mapping[str, tuple[float, float]]

    @property
    def alarms(self) -> bool:
        return bool(self.grown) and self.share >= SHARE

    def line(self) -> str:
        """Return it as one line for the user."""
        grown = " and ".join(f"{name} ({a:.3g} to {b:.3g} {_UNITS[name]})" for name, (a, b) in self.grown.items())
        return (
            f"alarm: the reward rose by {self.rise:.3g} since the start, and {min(self.share, 1.0):.0%} of it is what "
            f"more {grown} buys among samples of one prompt: it may reward the form and not the answer; read the "
            "samples, correct the reward or raise --kl"
        )


@dataclass
class RewardHackingMonitor:
    """Sums over the first and the last WINDOW batches of a run. Kept in checkpoints."""

    first: list[dict[str, float]] = field(default_factory=list)
    last: list[dict[str, float]] = field(default_factory=list)
    alerted: bool = False

    def see(self, number: int, groups: Sequence[Group], rewards_PG: np.ndarray) -> dict[str, float]:
        """Add a batch and return its correlations within groups, where they are defined.

        Args:
            number: of the batch, from 1; one that was seen before is not added again.
        """
        batch = batch_sums(groups, rewards_PG) | {"batch": float(number)}
        seen = max((b["batch"] for b in (*self.first, *self.last)), default=0.0)
        if number > seen and math.isfinite(batch["reward"]):
            if len(self.first) < WINDOW:
                self.first.append(batch)
            else:
                self.last = [*self.last, batch][-WINDOW:]
        return {f"reward_{name}_correlation": correlation(batch, name) for name in FEATURES}

    def finding(self) -> Finding | None:
        """Compare the last batches with the first; None before there are enough, or where the reward did not rise."""
        if len(self.last) < WINDOW:
            return None
        rise, error = _growth(self.first, self.last, "reward")
        if rise <= Z_THRESHOLD["reward"] * error or rise <= 0:
            return None
        grown = {}
        for name in FEATURES:
            growth, growth_error = _growth(self.first, self.last, name)
            if growth > Z_THRESHOLD[name] * growth_error and growth > 0:
                grown[name] = (_mean(self.first, name), _mean(self.last, name))
        slopes = within_slopes([*self.first, *self.last], list(grown))
        paid = sum(max(0.0, slopes[name]) * (b - a) for name, (a, b) in grown.items())
        return Finding(paid / rise, rise, grown)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, of JSON types."""
        return {"first": self.first, "last": self.last, "alerted": self.alerted}


def batch_sums(groups: Sequence[Group], rewards_PG: np.ndarray) -> dict[str, float]:
    """Means over a batch's scored samples, and sums of products of deviations from their groups' means.

    Names are "reward", "length", "repetition" for the means and "A*B" for the sums of products.
    """
    columns_PG = {
        "reward": rewards_PG,
        "length": np.array([[len(c.ids) for c in group.completions] for group in groups], float),
        "repetition": np.array([[repeated_share(text) for text in group.texts] for group in groups]),
    }
    present_PG = ~np.isnan(rewards_PG)
    some_P = present_PG.any(1)
    sums, centred = {}, {}
    for name, x_PG in columns_PG.items():
        sums[name] = float(x_PG[present_PG].mean()) if some_P.any() else math.nan
        there, x = present_PG[some_P], x_PG[some_P]
        centred[name] = np.where(there, x - np.mean(x, 1, where=there, keepdims=True), 0.0)
    names = list(columns_PG)
    for at, a in enumerate(names):
        for b in names[at:]:
            sums[f"{a}*{b}"] = float((centred[a] * centred[b]).sum())
    return sums


def correlation(sums: Sums, name: str) -> float:
    """Pearson's correlation of reward and a feature within groups; nan where either is the same in every group."""
    spread = sums["reward*reward"] * sums[f"{name}*{name}"]
    # below 1e-24 the spread is rounding
    return sums[f"reward*{name}"] / math.sqrt(spread) if spread > 1e-24 else math.nan


def within_slopes(batches: Sequence[Sums], names: Sequence[str]) -> dict[str, float]:
    """Least-squares slopes of the reward on some features within groups, reward a unit of each."""
    if not names:
        return {}
    product = np.array([[sum(b[_pair(x, y)] for b in batches) for y in names] for x in names])
    with_reward = np.array([sum(b[f"reward*{x}"] for b in batches) for x in names])
    return dict(zip(names, np.linalg.lstsq(product, with_reward, rcond=None)[0].tolist(), strict=True))


def clearest_example(groups: Sequence[Group], rewards_PG: np.ndarray, name: str) -> tuple[int, int, int]:
    """The group whose best sample has most of a feature beyond its worst one's: (p, best k, worst k)."""
    found = []
    for p, (group, rewards_G) in enumerate(zip(groups, rewards_PG, strict=True)):
        if np.isnan(rewards_G).all():
            continue
        best, worst = int(np.nanargmax(rewards_G)), int(np.nanargmin(rewards_G))
        values = [len(c.ids) for c in group.completions] if name == "length" else list(map(repeated_share, group.texts))
        found.append((values[best] - values[worst], -p, best, worst))
    _, place, best, worst = max(found)
    return -place, best, worst


def _pair(x: str, y: str) -> str:
    order = ("reward", *FEATURES)
    return "*".join(sorted((x, y), key=order.index))


def _growth(first: Sequence[Sums], last: Sequence[Sums], name: str) -> tuple[float, float]:
    """Growth of the batches' mean, and its standard error."""
    a, b = (np.array([batch[name] for batch in part]) for part in (first, last))
    return float(b.mean() - a.mean()), math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))


def _mean(batches: Sequence[Sums], name: str) -> float:
    return float(np.mean([batch[name] for batch in batches]))


@dataclass
class RewardSignal:
    """What the groups of a run were so far. Kept in checkpoints."""

    batches: int = 0
    teaching: int = 0
    equal: int = 0
    unrewarded: int = 0
    uncompared: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why scores are missing, and how many."""

    def see(self, number: int, rewards_PG: np.ndarray, advantages_PG: np.ndarray, reasons: Sequence[str]) -> None:
        """Add a batch.

        Args:
            number: of the batch, from 1; one that was seen before is not added again.
            rewards_PG: the judges' rewards.
            advantages_PG: the advantages made of these rewards alone.
            reasons: why scores are missing.
        """
        if number <= self.batches:
            return
        self.batches = number
        few_P, equal_P = (~np.isnan(rewards_PG)).sum(1) < 2, zero_variance_groups(rewards_PG)
        none_P = ~(np.abs(np.nan_to_num(advantages_PG)) >= LEAST).any(1) & ~few_P & ~equal_P
        self.unrewarded += int(few_P.sum())
        self.equal += int(equal_P.sum())
        self.uncompared += int(none_P.sum())
        self.teaching += int((~(few_P | equal_P | none_P)).sum())
        self.reasons = dict(Counter(self.reasons) + Counter(reasons))

    @property
    def is_missing(self) -> bool:
        """Whether there were groups, and none of them taught anything."""
        return self.batches > 0 and not self.teaching

    @property
    def is_unanswered(self) -> bool:
        """Whether there were groups, and too few rewards in each of them: asked again, they may be there."""
        return self.is_missing and not (self.equal or self.uncompared)

    def warning(self) -> str | None:
        """A warning after batch SAID_AFTER where no group taught anything; else None."""
        if self.batches != SAID_AFTER or not self.is_missing:
            return None
        return f"no group had differing rewards in the first {SAID_AFTER} batches ({self.kinds()}): nothing is learnt"

    def kinds(self) -> str:
        """How many groups there were, by why they teach nothing."""
        reasons = counted(list(Counter(self.reasons).elements()))
        few = "have fewer than two rewards" + (f", missing: {reasons}" if reasons else "; it does not apply")
        kinds = [
            (self.equal, "have equal rewards"),
            (self.unrewarded, few),
            (self.uncompared, "differ by too little, or have no sample left to compare"),
        ]
        total = self.equal + self.unrewarded + self.uncompared
        return f"{total} groups: {'; '.join(f'{number} {what}' for number, what in kinds if number)}"
