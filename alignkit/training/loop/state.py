"""Where a run is: what its checkpoints keep beside weights and optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from alignkit.training.gradient.tally import Tally


@dataclass
class TrainState:
    """Where a run is, kept in its checkpoints.

    Args:
        measured: the last step after which validation and samples, if due, are done.
        losses: of the last steps, which a spike is compared with.
        tally: in how many steps what held them back, did.
    """

    step: int = 0
    measured: int = -1
    tokens_seen: int = 0
    best: float = math.inf
    best_step: int = 0
    seconds: float = 0.0
    first_metrics: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    tally: Tally = field(default_factory=dict)
