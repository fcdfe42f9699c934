"""What is measured on the validation rows: the method's own loss, KL to the reference, and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alignkit.data.packs import lay_out, pack
from alignkit.data.rows import Row
from alignkit.data.trees import Tree
from alignkit.methods import Method, MethodConfig
from alignkit.policy.reference import exact_kl
from alignkit.scoring.rewards import reward
from alignkit.training.draw import Group, draw
from alignkit.training.pair_accuracy import PairAccuracy, pair_accuracy
from alignkit.training.setup import Inputs, Models, row_capacity
from alignkit.training.step import Micro, evaluate

MAX_DRAWN = 32  # prompts that a method trained on samples is evaluated on
MAX_SHOWN = 8  # prompts whose samples are written to samples.jsonl


@dataclass(frozen=True)
class Validation:
    """Numbers by metric name, and the one that decides which weights are best (lower is better; nan: none)."""

    metrics: dict[str, float]
    objective: float


def validate(method: Method, config: MethodConfig, inputs: Inputs, models: Models) -> Validation:
    """Measure the policy on the validation rows; nothing is trained."""
    models.policy.eval()
    try:
        if not inputs.validation.trees:
            return Validation({}, math.nan)
        if method.trains_on == "samples":
            return _validate_samples(config, inputs, models)
        return _validate_rows(method, config, inputs, models)
    finally:
        models.policy.train()
        if models.reference is not None:
            models.reference.release()


def held_out_pairs(inputs: Inputs, models: Models) -> PairAccuracy | None:
    """Measure a reward model on the validation pairs, against length and surface; None without any."""
    trees = inputs.validation.trees
    if not trees:
        return None
    margins: dict[int, float] = {}
    models.policy.eval()
    try:
        with torch.no_grad():
            for numbers in pack(trees, row_capacity(models.policy.device)):
                value_N = models.policy(lay_out([trees[n] for n in numbers])).value_N
                assert value_N is not None
                value_P2 = value_N.double().cpu().numpy().reshape(-1, 2)  # chosen, rejected
                margins |= dict(zip(numbers, (value_P2[:, 0] - value_P2[:, 1]).tolist(), strict=True))
    finally:
        models.policy.train()
    margin_P = np.array([margins[n] for n in range(len(trees))])
    return pair_accuracy(margin_P, list(inputs.validation.rows), inputs.training.rows)


def show_samples(config: MethodConfig, inputs: Inputs, models: Models, *, step: int) -> list[Group]:
    """Draw one likeliest-token completion for the first validation prompts."""
    pairs = [(row, tree) for row, tree in _rows(inputs) if len(tree.prompt)][:MAX_SHOWN]
    models.sampler.sync()
    return draw(
        models.sampler, inputs.chat, pairs, temperatures=(0.0,), max_new_tokens=config.max_new_tokens, seed=config.seed,
        step=step, purpose="show",
    )  # fmt: skip


def _validate_rows(method: Method, config: MethodConfig, inputs: Inputs, models: Models) -> Validation:
    trees = inputs.validation.trees
    packs = [lay_out([trees[n] for n in numbers]) for numbers in pack(trees, row_capacity(models.policy.device))]
    result = evaluate(models.policy, method, config, [Micro(p) for p in packs], reference=models.reference)
    metrics = {"validation/loss": result.loss} | {f"validation/{name}": x for name, x in result.logged.items()}
    if models.reference is not None:
        kl_T = torch.cat([exact_kl(models.policy, models.reference, p) for p in packs])
        metrics["validation/kl"] = float(kl_T.double().mean())
    return Validation(metrics, result.loss)


def _validate_samples(config: MethodConfig, inputs: Inputs, models: Models) -> Validation:
    """Mean reward of one sample a prompt at temperature 1, always with the same random streams; KL on those samples."""
    pairs = _rows(inputs)[:MAX_DRAWN]
    models.sampler.sync()
    groups = draw(
        models.sampler, inputs.chat, pairs, temperatures=(1.0,), max_new_tokens=config.max_new_tokens, seed=config.seed,
        step=0, purpose="validation",
    )  # fmt: skip
    rewards = reward([group.items() for group in groups], inputs.judges)
    lengths = [len(group.completions[0].ids) for group in groups]
    metrics = {
        "validation/length": float(np.mean(lengths)),
        "validation/cut_share": float(np.mean([group.completions[0].cut for group in groups])),
    }
    scored = rewards.total_PG[~np.isnan(rewards.total_PG)]
    if len(scored):
        metrics["validation/reward"] = float(scored.mean())
    if models.reference is not None:
        trees = [group.tree([0]) for group in groups]
        packs = [lay_out([trees[n] for n in numbers]) for numbers in pack(trees, row_capacity(models.policy.device))]
        kl_T = torch.cat([exact_kl(models.policy, models.reference, p) for p in packs])
        metrics["validation/kl"] = float(kl_T.double().mean())
    return Validation(metrics, -metrics.get("validation/reward", math.nan))


def _rows(inputs: Inputs) -> Sequence[tuple[Row, Tree]]:
    return list(zip(inputs.validation.rows, inputs.validation.trees, strict=True))
