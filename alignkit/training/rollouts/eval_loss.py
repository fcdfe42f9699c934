"""What is measured on the validation rows: the method's own loss and KL to the reference; samples of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch

from alignkit.data.reading.rows import Row
from alignkit.data.reading.split import derived_seed
from alignkit.data.trees.flat import FlatTrees
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import Tree
from alignkit.distributed.fsdp import shard_and_pack
from alignkit.methods import Method, MethodConfig
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.reference import exact_kl
from alignkit.training.gradient.step import MicroBatch, evaluate
from alignkit.training.inputs.pair_accuracy import MAX_FITTED, PairAccuracy, pair_accuracy
from alignkit.training.inputs.setup import Inputs
from alignkit.training.lifecycle.deadlines import Deadlines
from alignkit.training.loop import health_checks as guards
from alignkit.training.loop.train_loop import EvalResult
from alignkit.training.rollouts.sampling import Group, sample

MAX_SHOWN = 8  # prompts whose samples are written to samples.jsonl


def validate(
    method: Method, config: MethodConfig, inputs: Inputs, models: Models, sampled: Callable[[], EvalResult], step: int
) -> EvalResult:
    """Measure the policy on the validation rows, by `sampled` where the method trains on samples.

    Each rank computes its share.

    Raises:
        RunStopped: the loss after this step (from 1) is not finite.
    """
    models.policy.eval()
    try:
        if not inputs.validation.trees:
            return EvalResult({}, math.nan)
        if method.trains_on.is_sampled:
            return sampled()
        return _validate_rows(method, config, inputs, models, step)
    finally:
        models.policy.train()
        if models.reference is not None:
            models.reference.release()


def eval_pairs(inputs: Inputs, models: Models) -> PairAccuracy | None:
    """Measure a reward model on the validation pairs that are no ties, against length and surface; None without any."""
    rows = inputs.validation.rows
    kept = np.array([n for n, row in enumerate(rows) if not row.is_tie], np.int64)
    trees: FlatTrees = inputs.validation.trees
    if len(kept) < len(rows):
        trees = FlatTrees.of(trees.some(kept))
    if not len(trees):
        return None

    def compute() -> list[tuple[int, float]]:
        margins: list[tuple[int, float]] = []
        with torch.no_grad():
            for numbers in rank_rows(trees, models):
                value_N = models.policy(lay_out(trees, numbers)).value_N
                assert value_N is not None
                value_P2 = value_N.double().cpu().numpy().reshape(-1, 2)  # chosen, rejected
                margins += zip(numbers, (value_P2[:, 0] - value_P2[:, 1]).tolist(), strict=True)
        return margins

    models.policy.eval()
    try:
        margins = dict(pair for part in models.world.run_on_all(compute) for pair in part)
    finally:
        models.policy.train()
    margin_P = np.array([margins[n] for n in range(len(trees))])
    fitted = [row for row in islice(inputs.training.rows, MAX_FITTED) if not row.is_tie]
    return pair_accuracy(margin_P, [rows[n] for n in kept.tolist()], fitted)


def show_samples(
    config: MethodConfig, inputs: Inputs, models: Models, *, step: int, deadlines: Deadlines
) -> list[Group]:
    """Draw one likeliest-token completion for the first validation prompts."""
    pairs = [(row, tree) for row, tree in _rows(inputs) if len(tree.prompt)][:MAX_SHOWN]
    return sample(
        models.sampler,
        inputs.chat,
        pairs,
        temperatures=(0.0,),
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        step=step,
        purpose="show",
        deadlines=deadlines,
    )


def _validate_rows(method: Method, config: MethodConfig, inputs: Inputs, models: Models, step: int) -> EvalResult:
    trees = inputs.validation.trees
    micro_batches, *mismatched = (
        [MicroBatch(lay_out(part, numbers)) for numbers in rank_rows(part, models)] for _, part in inputs.tree_parts()
    )
    result = evaluate(
        models.policy,
        method,
        config,
        micro_batches,
        reference=models.reference,
        world=models.world,
        mismatched=mismatched[0] if mismatched else None,
    )
    if step:
        names = inputs.validation.names_of
        guards.refuse_non_finite_validation(
            result.loss, models.policy, micro_batches, step=step, names=names, world=models.world
        )
    metrics = {"validation/loss": result.loss} | {f"validation/{name}": x for name, x in result.logged.items()}
    if models.reference is not None and config.validation_kl_tokens:
        metrics["validation/kl"] = mean_kl(models, trees, config)
    return EvalResult(metrics, result.loss)


def mean_kl(models: Models, trees: Sequence[Tree], config: MethodConfig) -> float:
    """Mean KL to the reference over the scored tokens of some trees, drawn by the run's seed, of all ranks, nats.

    It costs two passes through the model and two products with the whole vocabulary for each token. Whole trees are
    drawn, so that the others cost nothing.
    """
    own = [trees[n] for n in draw_trees(trees, config.validation_kl_tokens, seed=config.seed)]

    def compute() -> list[float]:
        assert models.reference is not None
        packs = [lay_out(own, numbers) for numbers in rank_rows(own, models)]
        kl_T = [exact_kl(models.policy, models.reference, p).double() for p in packs]
        return [float(torch.cat(kl_T).sum()), sum(len(x) for x in kl_T)] if kl_T else [0.0, 0]

    sums, counts = zip(*models.world.run_on_all(compute), strict=True)
    return sum(sums) / sum(counts)


def draw_trees(trees: Sequence[Tree], num_tokens: int, *, seed: int) -> list[int]:
    """Draw trees that have at most so many scored tokens together, one at least; returns their numbers in order.

    The same seed draws the same trees at every validation; where all of them fit, it is all.
    """
    scored_P = np.array([sum(int(c.scored.sum()) for c in tree.completions) for tree in trees])
    order_P = np.random.default_rng(derived_seed(seed, "validation kl")).permutation(len(trees))
    num_fitting = int((np.cumsum(scored_P[order_P]) <= num_tokens).sum())
    return sorted(order_P[: max(1, num_fitting)].tolist())


def rank_rows(trees: Sequence[Tree], models: Models) -> list[list[int]]:
    """Pack this rank's share of the trees into rows; there may be none."""
    rows, is_padding = shard_and_pack(trees, models.micro_batch_tokens, models.world)
    return [] if is_padding else rows


def _rows(inputs: Inputs) -> Sequence[tuple[Row, Tree]]:
    return list(zip(inputs.validation.rows, inputs.validation.trees, strict=True))
