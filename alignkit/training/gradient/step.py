"""One optimizer step's gradient, exact for any split into micro-batches.

Denominators (tokens, completions, pairs, groups) are counted over the whole step before the first forward pass, so
that each micro-batch's loss is its share of the step's and the gradients add up. A loss of named terms has each
further term back-propagated apart and its gradient scaled down to the ratio that `config.term_ratios` names times the
first term's norm, where there is one.

A loss may need the KL to the reference that the step's prompts with answers to others estimate: a pass without gradient
over all of them gives it before the first micro-batch's loss, so that it too is the whole step's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignkit.data.trees.packs import Pack
from alignkit.distributed.fsdp import summed, total_norm
from alignkit.distributed.ranks import ALONE, World
from alignkit.methods import Batch, Method, MethodConfig
from alignkit.policy.policy import Policy, own_shard
from alignkit.policy.transfer import to_device
from alignkit.progress import phase
from alignkit.training.gradient.reference import Reference


@dataclass(frozen=True)
class MicroBatch:
    """One row of trees and what is known of its completions; a micro-batch.

    Args:
        pack: the row.
        temperature_N: float32 [N], default 1.
        sampler_logprob_T, old_logprob_T, advantage_N: for samples, float32 [T], [T] and [N].
        reference_T: float32 [T], the reference's log-probs where they are known before the step.
        samples: completions drawn for the prompts of this row, or None.
        num_continued: trees of this row whose prompt has other completions in another row, where it is counted.
        is_padding: it has weight 0: a rank without rows computes it to keep step with the others.
    """

    pack: Pack
    temperature_N: np.ndarray | None = None
    sampler_logprob_T: np.ndarray | None = None
    old_logprob_T: np.ndarray | None = None
    advantage_N: np.ndarray | None = None
    reference_T: np.ndarray | None = None
    samples: MicroBatch | None = None
    num_continued: int = 0
    is_padding: bool = False


class MovedRow(NamedTuple):
    """A micro-batch, what it and its forward pass hold on the device by name, and the same of its samples."""

    row: MicroBatch
    tensors: Mapping[str, Tensor]
    samples: MovedRow | None


@dataclass
class StepResult:
    """The loss (its first term; further ones are logged as `loss/NAME`) and logs of the step; norms before clipping.

    `limited` says of each further term whether its gradient was scaled down.
    """

    loss: float
    logged: dict[str, float]
    grad_norms: dict[str, float] = field(default_factory=dict)
    limited: dict[str, bool] = field(default_factory=dict)


@dataclass
class StepTensors:
    """What a step found, on the device until `read`: the host waits for the device there, once, and nowhere before.

    Args:
        losses: by the loss's terms, its value in each micro-batch that counts.
        logged: as `Batch.logged`.
        grad_norms, limited: scalars, as in `StepResult`; the same on every rank.
    """

    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    logged: dict[str, list[Tensor]] = field(default_factory=dict)
    grad_norms: dict[str, Tensor] = field(default_factory=dict)
    limited: dict[str, Tensor] = field(default_factory=dict)

    def count_in(self, terms: Mapping[str, Tensor], *, counts: bool = True) -> None:
        """Add a micro-batch's loss; its terms are there, without a value, where it does not count."""
        for name, term in terms.items():
            self.losses.setdefault(name, []).extend([term.detach()] if counts else [])

    def read(self, world: World = ALONE, **beside: Tensor) -> tuple[StepResult, dict[str, float]]:
        """Return the whole step's result over all ranks, and this rank's values of further scalars."""
        own, (norms, limited, others) = self._own(beside)
        is_limited = {name: bool(x) for name, x in limited.items()}
        return replace(_result(world.gather(own)), grad_norms=norms, limited=is_limited), others

    def read_own(self) -> list[Any]:
        """Return this rank's losses, and sums and numbers of what was logged."""
        return self._own({})[0]

    def _own(self, beside: Mapping[str, Tensor]) -> tuple[list[Any], list[dict[str, float]]]:
        """Read everything in one copy."""
        losses = {name: torch.stack(parts) for name, parts in self.losses.items() if parts}
        joined = {name: torch.cat(parts, -1).double() for name, parts in self.logged.items() if parts}
        sums = {name: x.sum(-1).reshape(-1) for name, x in joined.items()}  # one number, or also how many count
        kinds: list[Mapping[str, Tensor]] = [losses, sums, self.grad_norms, self.limited, beside]
        flat = [x.double().reshape(-1) for kind in kinds for x in kind.values()]
        values = iter(torch.cat(flat).cpu().tolist() if flat else ())
        read = [{name: list(islice(values, x.numel())) for name, x in kind.items()} for kind in kinds]
        totals = {name: sum(read[0].get(name, ()), 0.0) for name in self.losses}
        counted = {name: (x, int(n[0]) if n else joined[name].shape[-1]) for name, (x, *n) in read[1].items()}
        logged = {name: (x, number) for name, (x, number) in counted.items() if number}
        return [totals, logged], [{name: x for name, (x,) in kind.items()} for kind in read[2:]]


def count(
    micro_batches: Sequence[MicroBatch], world: World = ALONE, *, left_out: Mapping[str, int] | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """Count what the whole step's means divide by, over all ranks, of its rows and of their samples; never 0.

    Args:
        left_out: what belongs to the step and is not computed, because its loss and gradient are 0; the same on every
            rank.
    """
    own = [micro_batch for micro_batch in micro_batches if not micro_batch.is_padding]
    counts = _counts(own, "")
    counts |= _counts([micro_batch.samples for micro_batch in own if micro_batch.samples is not None], "samples ")
    whole = {name: max(1, int(number)) for name, number in world.all_reduce_sums(counts).items()}
    names = ("tokens", "completions", "pairs", "groups")
    beside = left_out or {}
    return {name: whole[name] + beside.get(name, 0) for name in names}, {
        name: whole[f"samples {name}"] for name in names
    }


def _counts(rows: Sequence[MicroBatch], prefix: str) -> dict[str, int]:
    groups = sum(len(row.pack.trees) - row.num_continued for row in rows)
    return {
        f"{prefix}tokens": sum(int(row.pack.num_tokens_N.sum()) for row in rows),
        f"{prefix}completions": sum(row.pack.num_completions for row in rows),
        f"{prefix}pairs": groups,
        f"{prefix}groups": groups,
    }


def tokens_of(micro_batches: Sequence[MicroBatch]) -> dict[str, int]:
    """Count the tokens that are computed for these rows and their samples, and the scored ones among them."""
    packs = [m.pack for m in micro_batches] + [m.samples.pack for m in micro_batches if m.samples]
    return {"computed": sum(len(p.ids_S) for p in packs), "scored": sum(len(p.target_T) for p in packs)}


def move(policy: Policy, micro_batches: Sequence[MicroBatch], reference: Reference | None = None) -> list[MovedRow]:
    """Move what micro-batches and their samples hold to the device, by one copy that the host does not wait for."""
    rows = [row for micro_batch in micro_batches for row in (micro_batch, micro_batch.samples) if row is not None]
    moved = iter(to_device([_arrays(policy, row, reference) for row in rows], policy.device))
    return [
        MovedRow(one, next(moved), None if one.samples is None else MovedRow(one.samples, next(moved), None))
        for one in micro_batches
    ]


def _arrays(policy: Policy, row: MicroBatch, reference: Reference | None) -> dict[str, np.ndarray]:
    """What the forward pass reads, and what `Batch` holds beside its results."""
    pack, reference_T = row.pack, row.reference_T
    if reference_T is None and reference is not None:
        reference_T = reference.known(pack, row.temperature_N)
    found = {name: getattr(pack, name) for name in ("completion_T", "group_N", "num_tokens_N", "reference_length_N")}
    given = {
        "reference_T": reference_T,
        "sampler_logprob_T": row.sampler_logprob_T,
        "old_logprob_T": row.old_logprob_T,
        "advantage_N": row.advantage_N,
        "label_N": pack.label_N,
    }
    found |= {name: np.asarray(x, np.float32) for name, x in given.items() if x is not None}
    return found | policy.arrays(pack, row.temperature_N)


def make_batch(
    policy: Policy,
    moved: MovedRow,
    *,
    denominators: Mapping[str, int],
    sample_denominators: Mapping[str, int] | None = None,
    reference: Reference | None = None,
    logged: dict[str, list[Tensor]] | None = None,
    mismatched_kl: Tensor | None = None,
) -> Batch:
    """Run the forward passes of one micro-batch."""
    row, tensors = moved.row, moved.tensors
    logged = {} if logged is None else logged
    output = policy(row.pack, row.temperature_N, entropy=row.sampler_logprob_T is not None, tensors=tensors)
    if output.entropy_T is not None:
        logged.setdefault("entropy", []).append(output.entropy_T)
    samples = None
    if moved.samples is not None:
        assert sample_denominators is not None
        samples = make_batch(
            policy, moved.samples, denominators=sample_denominators, reference=reference, logged=logged
        )
    reference_T = tensors.get("reference_T")
    if reference_T is None and reference is not None:
        reference_T = reference.logprobs(row.pack, row.temperature_N, tensors=tensors)
    return Batch(
        logprob_T=output.logprob_T,
        completion_T=tensors["completion_T"],
        group_N=tensors["group_N"],
        num_tokens_N=tensors["num_tokens_N"],
        reference_length_N=tensors["reference_length_N"],
        denominators=denominators,
        reference_T=reference_T,
        sampler_logprob_T=tensors.get("sampler_logprob_T"),
        old_logprob_T=tensors.get("old_logprob_T"),
        value_N=output.value_N,
        advantage_N=tensors.get("advantage_N"),
        label_N=tensors.get("label_N"),
        mismatched_kl=mismatched_kl,
        samples=samples,
        lengths=tuple(row.pack.num_tokens_N.tolist()),
        logged=logged,
    )


def accumulate(
    policy: Policy,
    method: Method,
    config: MethodConfig,
    micro_batches: Sequence[MicroBatch],
    *,
    reference: Reference | None = None,
    world: World = ALONE,
    left_out: Mapping[str, int] | None = None,
    mismatched: Sequence[MicroBatch] | None = None,
) -> StepTensors:
    """Add the step's gradient to the policy's `.grad`; returns its loss and logs, to be read. The host does not wait.

    Args:
        micro_batches: this rank's rows, at least one.
        left_out: as `count` takes it.
        mismatched: this rank's rows of the step's prompts with answers to others, where the loss needs them.
    """
    log_ratio = None
    if mismatched is not None:
        log_ratio = summed(_log_ratio(policy, _in_step(mismatched, world), reference), world)
    batch_of = _batches(policy, micro_batches, reference, world, left_out, log_ratio)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    further: dict[str, list[Tensor]] = {}
    found = StepTensors()
    computed = move(policy, _in_step(micro_batches, world), reference)
    for moved in computed:
        counts = not moved.row.is_padding
        with policy.activation_memory():
            terms = _named(method.loss(batch_of(moved, found.logged if counts else {}), config))
            found.count_in(terms, counts=counts)
            if world.size == 1:
                for name, term in list(terms.items())[1:]:
                    grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
                    _add(further.setdefault(name, [torch.zeros_like(p) for p in parameters]), grads)
            main = next(iter(terms.values()))
            policy.backward(main if counts else main * 0.0)
            del terms, main  # with them goes the graph, and what it saved
    if world.size > 1:

        def term_of(moved: MovedRow, name: str) -> Tensor:
            return _named(method.loss(batch_of(moved, {}), config))[name]

        further = {name: _gradient_apart(parameters, computed, name, term_of) for name in list(found.losses)[1:]}
    found.grad_norms, found.limited = _combine(parameters, next(iter(found.losses)), further, config)
    return found


def _batches(
    policy: Policy,
    micro_batches: Sequence[MicroBatch],
    reference: Reference | None,
    world: World,
    left_out: Mapping[str, int] | None = None,
    log_ratio: Tensor | None = None,
) -> Callable[[MovedRow, dict[str, list[Tensor]]], Batch]:
    """Return what runs a micro-batch's forward passes, with the denominators of the whole step.

    Args:
        log_ratio: of the whole step's mismatched rows, one for each tree, their sum.
    """
    denominators, sample_denominators = count(micro_batches, world, left_out=left_out)
    mismatched_kl = None if log_ratio is None else (log_ratio / denominators["groups"]).float()

    def batch_of(moved: MovedRow, logged: dict[str, list[Tensor]]) -> Batch:
        return make_batch(
            policy,
            moved,
            denominators=denominators,
            sample_denominators=sample_denominators,
            reference=reference,
            logged=logged,
            mismatched_kl=mismatched_kl,
        )

    return batch_of


def _log_ratio(policy: Policy, rows: Sequence[MicroBatch], reference: Reference | None) -> Tensor:
    """Sum of log pi - log pi_ref over the scored tokens of rows that count, a float64 scalar without gradient."""
    total = torch.zeros((), dtype=torch.float64, device=policy.device)
    with torch.no_grad():
        for row in rows:
            (moved,) = move(policy, [row], reference)
            batch = make_batch(policy, moved, denominators={}, reference=reference)
            if not row.is_padding:
                total += (batch.logprob_N - batch.reference_N).double().sum()
    return total


def _in_step(micro_batches: Sequence[MicroBatch], world: World) -> list[MicroBatch]:
    """Add padding until this rank has as many micro-batches as the others: shards are gathered in each."""
    most = max(world.gather(len(micro_batches)))
    shortest = min(micro_batches, key=lambda micro_batch: len(micro_batch.pack.ids_S))
    return [*micro_batches, *[replace(shortest, is_padding=True)] * (most - len(micro_batches))]


def _gradient_apart(
    parameters: Sequence[Any], rows: Sequence[MovedRow], name: str, term_of: Callable[[MovedRow, str], Tensor]
) -> list[Tensor]:
    """Gradient of a further term by forward passes of its own: FSDP's hooks expect one backward pass for each."""
    first = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    for moved in rows:
        term = term_of(moved, name)
        (term * 0.0 if moved.row.is_padding else term).backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter, grad in zip(parameters, first, strict=True):
        parameter.grad = grad
    return found


def evaluate(
    policy: Policy,
    method: Method,
    config: MethodConfig,
    micro_batches: Sequence[MicroBatch],
    *,
    reference: Reference | None = None,
    world: World = ALONE,
    mismatched: Sequence[MicroBatch] | None = None,
) -> StepResult:
    """The same loss and logs without gradient, over all ranks' micro-batches as if they were one step."""
    log_ratio = None
    if mismatched is not None:
        sums = world.run_on_all(lambda: float(_log_ratio(policy, mismatched, reference)))
        log_ratio = torch.tensor(sum(sums), dtype=torch.float64, device=policy.device)
    batch_of = _batches(policy, micro_batches, reference, world, log_ratio=log_ratio)

    def compute() -> list[Any]:
        found = StepTensors()
        num_trees = sum(len(micro_batch.pack.trees) for micro_batch in micro_batches)
        with torch.no_grad(), phase("validating", num_trees) as count:
            for micro_batch in micro_batches:  # each moved when its turn comes: all of them may be a whole data set
                (moved,) = move(policy, [micro_batch], reference)
                found.count_in(_named(method.loss(batch_of(moved, found.logged), config)))
                count(len(micro_batch.pack.trees))
        return found.read_own()

    return _result(world.run_on_all(compute))


def _result(parts: Sequence[Any]) -> StepResult:
    """Put the ranks' losses and sums of what was logged together."""
    totals: dict[str, float] = {}
    sums: dict[str, tuple[float, int]] = {}
    for losses, logged in parts:
        for name, x in losses.items():
            totals[name] = totals.get(name, 0.0) + x
        for name, (x, number) in logged.items():
            before, count_before = sums.get(name, (0.0, 0))
            sums[name] = before + x, count_before + number
    loss, *further = totals.items()
    means = {name: x / number for name, (x, number) in sums.items()}
    return StepResult(loss[1], means | {f"loss/{name}": x for name, x in further})


def _named(loss: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return loss if isinstance(loss, dict) else {"loss": loss}


def _add(totals: list[Tensor], grads: Sequence[Tensor | None]) -> None:
    for total, grad in zip(totals, grads, strict=True):
        if grad is not None:
            total.add_(grad)


def _combine(
    parameters: list[Any], first_name: str, further: Mapping[str, list[Tensor]], config: MethodConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scale each further term's gradient down to its ratio of the first term's norm and add it.

    Returns:
        the norms before, and which terms were scaled down; scalars on the device.
    """
    if not further:
        return {}, {}
    first = total_norm([p.grad for p in parameters if p.grad is not None])
    norms, limited = {first_name: first}, {}
    for name, grads in further.items():
        norm, option = total_norm(grads).double(), config.term_ratios.get(name)
        ratio = None if option is None else getattr(config, option)
        allowed = first.new_full((), math.inf).double() if ratio is None else first.double() * ratio
        norms[name], limited[name] = norm, norm > allowed
        scale = (allowed / norm).clamp(max=1.0).where(norm > 0, 0.0)
        for parameter, grad in zip(parameters, grads, strict=True):
            own_shard(grad).mul_(scale)
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
    return norms, limited
