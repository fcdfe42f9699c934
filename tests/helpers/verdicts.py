"""Verdicts made by hand."""

from __future__ import annotations

import math
from typing import Any

from alignkit.judging.bleu import Bleu
from alignkit.judging.verdict import JudgeName, Verdict, make_verdict
from alignkit.statistics.win_rate import WinRate


def rated(
    rate: float | None,
    low: float,
    high: float,
    num_prompts: int = 100,
    num_missing: int = 0,
    *,
    level: float = 0.95,
    method: str = "by hand",
) -> WinRate:
    return WinRate(rate, low, high, level, method, num_prompts, num_prompts, 0, 0, num_missing)


def verdict_on(win_rate: WinRate, **changes: Any) -> Verdict:
    ours = {
        "bleu": Bleu(30.0, 20.0, 10.25, "tok:13a"),
        "perplexity": math.nan,
        "mean_length_tokens": 41.26,
        "repetition": 0.02,
        "truncated_share": 0.5,
    }
    theirs = {"bleu": None, "perplexity": 7.5, "mean_length_tokens": 60.0, "repetition": 0.1, "truncated_share": 0.0}
    given = {
        "run": "runs/dpo",
        "vs": "base",
        "judge": JudgeName(name="rules", version="2", verifiable=True),
        "margin": 3.0,
        "ours": ours,
        "theirs": theirs,
        "prompts": "demo-tasks:test",
        "seed": 5,
    }
    return make_verdict(win_rate, **(given | changes))
