"""What is kept of drawn samples: lines of samples.jsonl, and their numbers. P prompts, G group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.training.draw import Group


def lengths(groups: Sequence[Group]) -> dict[str, float]:
    """Mean length of samples in tokens, end token included, and the share that was cut."""
    drawn = [completion for group in groups for completion in group.completions]
    return {
        "samples_length": float(np.mean([len(completion.ids) for completion in drawn])),
        "samples_cut_share": float(np.mean([completion.cut for completion in drawn])),
    }


def ranked_lines(groups: Sequence[Group], rewards_PG: np.ndarray, step: int) -> list[dict[str, Any]]:
    """Samples of each group, best first, as samples.jsonl has them."""
    lines = []
    for group, rewards in zip(groups, rewards_PG, strict=True):
        for rank, k in enumerate(np.argsort(-np.nan_to_num(rewards, nan=-math.inf), kind="stable"), start=1):
            line = _line(group, int(k), step, "train")
            lines.append({**line, "reward": None if np.isnan(rewards[k]) else float(rewards[k]), "rank": rank})
    return lines


def shown_line(group: Group, step: int) -> dict[str, Any]:
    """A validation prompt's completion beside its reference."""
    return {**_line(group, 0, step, "validation"), "reference": group.row.reference}


def _line(group: Group, k: int, step: int, kind: str) -> dict[str, Any]:
    completion = group.completions[k]
    return {
        "step": step, "kind": kind, "id": group.row.id, "prompt": list(group.row.prompt), "completion": group.texts[k],
        "temperature": group.temperatures[k], "num_tokens": len(completion.ids), "cut": completion.cut,
    }  # fmt: skip


def mean(x: np.ndarray) -> float:
    """Mean of what is there; nan where nothing is."""
    present = x[~np.isnan(x)]
    return float(present.mean()) if len(present) else math.nan
