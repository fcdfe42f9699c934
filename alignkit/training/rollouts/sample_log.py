"""What is logged of samples: lines of samples.jsonl, and metrics. P prompts, G group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignkit.scoring.rewards import Rewards
from alignkit.training.rollouts.reward_checks import Finding, clearest_example
from alignkit.training.rollouts.sampling import Group

_SHOWN = 120  # characters of a completion in a line


def lengths(groups: Sequence[Group]) -> dict[str, float]:
    """Mean length of samples in tokens, end token included, and the share that was truncated."""
    completions = [completion for group in groups for completion in group.completions]
    return {
        "samples_length": float(np.mean([len(completion.ids) for completion in completions])),
        "samples_truncated_share": float(np.mean([completion.truncated for completion in completions])),
    }


def reward_metrics(groups: Sequence[Group], rewards: Rewards, equal_P: np.ndarray) -> dict[str, float]:
    """Metrics of a batch's rewards: mean, spread within groups, by name and temperature; shares missing and equal."""
    total_PG = rewards.total_PG
    some_P = (~np.isnan(total_PG)).any(1)
    metrics = lengths(groups) | {"reward": mean(total_PG), "missing_scores": float(rewards.num_missing)}
    metrics["zero_variance_groups"] = float(equal_P.mean())
    metrics["reward_spread"] = mean(np.nanstd(total_PG[some_P], axis=1)) if some_P.any() else math.nan
    metrics |= {f"reward/{name}": mean(scores) for name, scores in rewards.by_name.items()}
    for temperature in sorted(set(groups[0].temperatures)):
        which = [k for k, t in enumerate(groups[0].temperatures) if t == temperature]
        metrics[f"reward/temperature-{temperature:g}"] = mean(total_PG[:, which])
    return metrics


def ranked_lines(groups: Sequence[Group], rewards_PG: np.ndarray, step: int) -> list[dict[str, Any]]:
    """Samples of each group, best first, as samples.jsonl has them."""
    lines = []
    for group, rewards in zip(groups, rewards_PG, strict=True):
        for rank, k in enumerate(np.argsort(-np.nan_to_num(rewards, nan=-math.inf), kind="stable"), start=1):
            line = _line(group, int(k), step, "train")
            lines.append({**line, "reward": None if np.isnan(rewards[k]) else float(rewards[k]), "rank": rank})
    return lines


def scored_examples(groups: Sequence[Group], rewards: Rewards, limit: int = 3) -> list[str]:
    """The first samples with what each reward gave them, one line per sample, to be read before anything is trained."""
    lines = []
    places = [(p, k) for k in range(len(groups[0].completions)) for p in range(len(groups))]
    for p, k in places[:limit]:
        by_name = ", ".join(f"{name} {_number(scores[p, k])}" for name, scores in rewards.by_name.items())
        shown = _short(groups[p].texts[k])
        lines.append(f"reward {_number(rewards.total_PG[p, k])} ({by_name}) for {groups[p].row.said}: {shown!r}")
    return lines


def finding_lines(finding: Finding, groups: Sequence[Group], rewards_PG: np.ndarray, step: int) -> list[dict[str, Any]]:
    """For each feature that explains the reward: the best and the worst sample of the group where it shows most."""
    lines = []
    for name in finding.grown:
        p, *pair = clearest_example(groups, rewards_PG, name)
        for k in dict.fromkeys(pair):
            line = _line(groups[p], k, step, "alarm")
            lines.append({**line, "reward": float(rewards_PG[p, k]), "shows": name})
    return lines


def sample_text(line: Mapping[str, Any]) -> str:
    """A sample of samples.jsonl with its reward as one short line."""
    text = _short(line["completion"])
    return f"reward {_number(line['reward'])}, {line['num_tokens']} tokens, {line['row']}: {text!r}"


def _short(text: str) -> str:
    whole = " ".join(text.split())
    return whole if len(whole) <= _SHOWN else whole[:_SHOWN] + "..."


def _number(x: float) -> str:
    return "missing" if math.isnan(x) else f"{x:g}"


def shown_line(group: Group, step: int) -> dict[str, Any]:
    """A validation prompt's completion beside its reference."""
    return {**_line(group, 0, step, "validation"), "reference": group.row.reference}


def _line(group: Group, k: int, step: int, kind: str) -> dict[str, Any]:
    completion = group.completions[k]
    return {
        "step": step,
        "kind": kind,
        "id": group.row.id,
        "row": group.row.said,
        "prompt": list(group.row.prompt),
        "completion": group.texts[k],
        "temperature": group.temperatures[k],
        "num_tokens": len(completion.ids),
        "truncated": completion.truncated,
    }


def mean(x: np.ndarray) -> float:
    """Mean of what is there; nan where nothing is."""
    present = x[~np.isnan(x)]
    return float(present.mean()) if len(present) else math.nan
