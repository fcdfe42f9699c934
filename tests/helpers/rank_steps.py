"""A step's gradient on several ranks against the same on one: what every rank of rank_runs.py runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alignkit_plugins.sft_lenpen import SFTLengthPenalty, SFTLengthPenaltyConfig

from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import Tree, tree
from alignkit.distributed.fsdp import clip, full, shard, shard_and_pack
from alignkit.distributed.ranks import World, joined
from alignkit.methods import Batch, Method, MethodConfig
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.step import MicroBatch, StepResult, accumulate
from alignkit.units import Pairs

CAPACITY = 48  # tokens: several rows a rank, and unequally many


class TwoTerms(Method):
    """Two terms with different denominators in one scalar."""

    name, Config, trains_on = "two-terms", MethodConfig, Pairs()

    def loss(self, batch: Batch, config: Any) -> torch.Tensor:
        per_token = batch.mean(batch.logprob_T.exp() * batch.logprob_T, over="tokens")
        batch.log(mean_logprob=batch.logprob_T)
        return 0.3 * per_token - batch.mean(batch.logprob_N.square() / 100, over="completions")


METHODS: dict[str, tuple[Method, MethodConfig]] = {
    "two-terms": (TwoTerms(), MethodConfig()),
    "sft-lenpen": (SFTLengthPenalty(), SFTLengthPenaltyConfig(penalty=1.0)),
}


def write_differences(model: str, out: str) -> int:
    """Write {CASE: {NUMBER: relative difference}} as JSON, from rank 0."""
    found: dict[str, dict[str, float]] = {}
    with joined(lambda: out) as world:
        for precision in ("fp32", "fp64"):
            for lora in (None, 4):
                found |= compare(world, model, precision, lora)
        found |= compare(world, model, "fp64", None, path="plain")
        if world.is_first:
            Path(out).write_text(json.dumps(found), encoding="utf-8")
    return 0


def compare(
    world: World, model: str, precision: str, lora: int | None, *, path: str = "tree"
) -> dict[str, dict[str, float]]:
    """Differences of each method's step, with many trees and with fewer than ranks; before and after sampling."""
    policy = policy_of(model, precision, lora)
    policy.use_path(path)
    reference = Reference(policy, frozen=None if lora else policy_of(model, precision, None))
    disturb(policy)
    cases = [(name, number) for name in METHODS for number in (9, 1)]
    expected = {case: step(policy, reference, *case, World()) for case in cases}
    whole = shard(policy, world)
    reference = reference.under(whole.sharded)
    found = {}
    for case in cases:
        result, gradients, norm = step(whole.sharded, reference, *case, world)
        one, theirs, one_norm = expected[case]
        numbers = {"gradient": distance(gradients, theirs), "norm": abs(norm / one_norm - 1)}
        numbers["loss"] = abs(result.loss / one.loss - 1)
        for key, x in (one.logged | one.grad_norms).items():
            numbers[key] = abs((result.logged | result.grad_norms)[key] - x) / max(abs(x), 1e-3)
        found[f"{precision} lora {lora} {path} {case[0]} {case[1]} trees"] = numbers
        with whole.gathered() as plain, torch.no_grad():
            plain(lay_out(trees(2 + world.rank)))  # each rank for itself
    return found


def policy_of(model: str, precision: str, lora: int | None) -> Policy:
    policy = load_policy(model, precision="fp32", lora_rank=lora)
    return policy.double() if precision == "fp64" else policy


def disturb(policy: Policy) -> None:
    """Move the policy away from its reference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def step(
    policy: Policy, reference: Reference, name: str, num_trees: int, world: World
) -> tuple[StepResult, list[torch.Tensor], float]:
    """One step's result, its gradients whole, and their norm."""
    method, config = METHODS[name]
    policy.zero_grad(set_to_none=True)
    given = micro_batches(name, num_trees, world)
    result, _ = accumulate(policy, method, config, given, reference=reference, world=world).read(world)
    trained = [p for p in policy.parameters() if p.requires_grad]
    missing = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, missing
    gradients = [full(p.grad).clone() for p in trained]
    return result, gradients, float(clip(trained, 1e-3))


def micro_batches(name: str, num_trees: int, world: World) -> list[MicroBatch]:
    made = trees(num_trees)
    rows, spare = shard_and_pack(made, CAPACITY, world)
    packs = [lay_out([made[n] for n in row]) for row in rows]
    return [MicroBatch(p, samples=MicroBatch(p) if name == "sft-lenpen" else None, is_padding=spare) for p in packs]


def trees(count: int) -> list[Tree]:
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        parts = [(rng.integers(0, 256, size), np.ones(size, bool)) for size in rng.integers(2, 12, 2)]
        made.append(tree(f"row-{number}", rng.integers(0, 256, 5), parts, reference_length=2))
    return made


def distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Relative L2 of the parameter's gradient that is furthest off; tiny ones against a thousandth of the whole."""
    whole = torch.cat([x.flatten() for x in theirs]).norm()
    apart = [float((a - b).norm() / b.norm().clamp(min=1e-3 * float(whole))) for a, b in zip(ours, theirs, strict=True)]
    return max(apart)
