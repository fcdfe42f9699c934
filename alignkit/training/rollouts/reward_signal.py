"""Whether the rewards of a run can teach anything: they must differ within a group of samples of one prompt.

A group teaches nothing where all its rewards are equal or differ by too little for float32, where fewer than two of its
samples have one, or where no sample is left that is compared with another (all were truncated, or have no sibling at
their temperature). A run of such groups alone trained nothing, whatever it did to the weights (with --kl above 0 they
were pulled towards the reference).
P prompts, G group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from alignkit.scoring.judge import counted
from alignkit.training.rollouts.sample_lines import zero_variance_groups

LEAST = 1e-12  # of an advantage: its gradient is far below Adam's epsilon
SAID_AFTER = 20  # batches without a group that teaches


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
        """Take in a batch (from 1, each once): the judges' rewards, and the advantages made of them alone."""
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
        """What to say after this batch, once, while there is time to stop."""
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
