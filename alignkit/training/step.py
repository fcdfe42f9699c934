"""One optimizer step's gradient, exact for any split into micro-batches.

Denominators (tokens, completions, pairs, groups) are counted over the whole step before the first forward pass, so
that each micro-batch's loss is its share of the step's and the gradients add up. A loss of named terms has each
further term back-propagated apart and its gradient scaled down to `max_NAME_ratio` times the first term's norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignkit.data.packs import Pack
from alignkit.methods import Batch, Method, MethodConfig
from alignkit.policy.policy import Policy
from alignkit.policy.reference import Reference


@dataclass(frozen=True)
class Micro:
    """One row of trees and what is known of its completions; a micro-batch.

    Args:
        pack: the row.
        temperature_N: float32 [N], default 1.
        behaviour_T, advantage_N: for samples, float32 [T] and [N].
        reference_T: float32 [T], the reference's log-probs where they are known before the step.
        samples: completions drawn for the prompts of this row, or None.
    """

    pack: Pack
    temperature_N: np.ndarray | None = None
    behaviour_T: np.ndarray | None = None
    advantage_N: np.ndarray | None = None
    reference_T: np.ndarray | None = None
    samples: Micro | None = None


@dataclass
class StepResult:
    """The loss (its first term; further ones are logged as `loss/NAME`) and logs of the step; norms before clipping."""

    loss: float
    logged: dict[str, float]
    grad_norms: dict[str, float] = field(default_factory=dict)


def count(micros: Sequence[Micro]) -> dict[str, int]:
    """Count what the whole step's means divide by; never 0."""
    groups = sum(len(micro.pack.trees) for micro in micros)
    counts = {
        "tokens": sum(int(micro.pack.num_tokens_N.sum()) for micro in micros),
        "completions": sum(micro.pack.num_completions for micro in micros),
        "pairs": groups,
        "groups": groups,
    }
    return {name: max(1, number) for name, number in counts.items()}


def make_batch(
    policy: Policy,
    micro: Micro,
    *,
    denominators: Mapping[str, int],
    sample_denominators: Mapping[str, int] | None = None,
    reference: Reference | None = None,
    logged: dict[str, list[Tensor]] | None = None,
) -> Batch:
    """Run the forward passes of one micro-batch."""
    pack, device = micro.pack, policy.device
    logged = {} if logged is None else logged
    output = policy(pack, micro.temperature_N, entropy=micro.behaviour_T is not None)
    if output.entropy_T is not None:
        logged.setdefault("entropy", []).append(output.entropy_T)
    samples = None
    if micro.samples is not None:
        assert sample_denominators is not None
        samples = make_batch(
            policy, micro.samples, denominators=sample_denominators, reference=reference, logged=logged
        )

    def tensor(x: np.ndarray | None, dtype: torch.dtype) -> Tensor | None:
        return None if x is None else torch.as_tensor(x, dtype=dtype, device=device)

    return Batch(
        logprob_T=output.logprob_T,
        completion_T=torch.as_tensor(pack.completion_T, device=device),
        group_N=torch.as_tensor(pack.group_N, device=device),
        num_tokens_N=torch.as_tensor(pack.num_tokens_N, device=device),
        target_num_tokens_N=torch.as_tensor(pack.target_num_tokens_N, device=device),
        denominators=denominators,
        reference_T=_reference(micro, reference, device),
        behaviour_T=tensor(micro.behaviour_T, torch.float32),
        value_N=output.value_N,
        advantage_N=tensor(micro.advantage_N, torch.float32),
        samples=samples,
        logged=logged,
    )


def _reference(micro: Micro, reference: Reference | None, device: torch.device) -> Tensor | None:
    if micro.reference_T is not None:
        return torch.as_tensor(micro.reference_T, dtype=torch.float32, device=device)
    return None if reference is None else reference.logprobs(micro.pack, micro.temperature_N)


def accumulate(
    policy: Policy, method: Method, config: MethodConfig, micros: Sequence[Micro], *, reference: Reference | None = None
) -> StepResult:
    """Add the step's gradient to the policy's `.grad`; returns the step's loss and logs."""
    denominators = count(micros)
    sampled = [micro.samples for micro in micros if micro.samples is not None]
    sample_denominators = count(sampled) if sampled else None
    parameters = [p for p in policy.parameters() if p.requires_grad]
    further: dict[str, list[Tensor]] = {}
    logged: dict[str, list[Tensor]] = {}
    totals: dict[str, float] = {}
    for micro in micros:
        batch = make_batch(
            policy,
            micro,
            denominators=denominators,
            sample_denominators=sample_denominators,
            reference=reference,
            logged=logged,
        )
        terms = _named(method.loss(batch, config))
        _count_in(totals, terms)
        for name, term in list(terms.items())[1:]:
            grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            _add(further.setdefault(name, [torch.zeros_like(p) for p in parameters]), grads)
        next(iter(terms.values())).backward()
    norms = _combine(parameters, further, config)
    loss, *parts = totals.items()
    return StepResult(loss[1], means(logged) | {f"loss/{name}": x for name, x in parts}, norms)


def evaluate(
    policy: Policy, method: Method, config: MethodConfig, micros: Sequence[Micro], *, reference: Reference | None = None
) -> StepResult:
    """The same loss and logs without gradient, over all the micro-batches as if they were one step."""
    denominators = count(micros)
    logged: dict[str, list[Tensor]] = {}
    totals: dict[str, float] = {}
    with torch.no_grad():
        for micro in micros:
            batch = make_batch(policy, micro, denominators=denominators, reference=reference, logged=logged)
            _count_in(totals, _named(method.loss(batch, config)))
    loss, *parts = totals.items()
    return StepResult(loss[1], means(logged) | {f"loss/{name}": x for name, x in parts})


def means(logged: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """Mean of everything logged under each name over the step."""
    return {
        name: float(torch.cat(parts).double().mean()) for name, parts in logged.items() if sum(len(p) for p in parts)
    }


def _count_in(totals: dict[str, float], terms: Mapping[str, Tensor]) -> None:
    for name, term in terms.items():
        totals[name] = totals.get(name, 0.0) + float(term.detach())


def _named(loss: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return loss if isinstance(loss, dict) else {"loss": loss}


def _add(totals: list[Tensor], grads: Sequence[Tensor | None]) -> None:
    for total, grad in zip(totals, grads, strict=True):
        if grad is not None:
            total.add_(grad)


def _combine(parameters: list[Any], further: Mapping[str, list[Tensor]], config: MethodConfig) -> dict[str, float]:
    """Scale each further term's gradient down to its ratio of the first term's norm and add it."""
    if not further:
        return {}
    first = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    norms = {"likelihood": first}
    for name, grads in further.items():
        norms[name] = float(torch.nn.utils.get_total_norm(grads))
        allowed = getattr(config, f"max_{name}_ratio") * first
        scale = min(1.0, allowed / norms[name]) if norms[name] > 0 else 0.0
        for parameter, grad in zip(parameters, grads, strict=True):
            grad.mul_(scale)
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
    return norms
