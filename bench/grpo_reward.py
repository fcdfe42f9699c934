"""The reward of bench/grpo_step.py, as a user's own function is: how many of a completion's letters are an e."""

from __future__ import annotations


def letters(completion: str, row: dict[str, object]) -> float:
    return completion.count("e") / max(1, len(completion))
