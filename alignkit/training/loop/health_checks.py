"""Is the run healthy: what stops it before it is spoilt, what is worth a line, and what is counted over its steps.

Non-finite numbers stop it, with the rows that cause them. Spikes of the loss, a falling log-prob of the chosen answers
and growing completions are logged. Counted is in how many steps something else than the options' weights decided:

    no_update           1 where a step had nothing to compute, so that no weight changed
    grad_clipped        1 where the gradient was longer than max_grad_norm and was scaled down to it
    grad_limited/NAME   1 where the further term NAME of a loss was scaled down to its ratio (`term_ratios`)

Each is a metric of the steps where it can happen; the tally of one is [steps where it was 1, steps that had it].
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch

from alignkit.distributed.ranks import ALONE, World
from alignkit.errors import RunStopped
from alignkit.methods import MethodConfig
from alignkit.policy.policy import Policy, non_finite
from alignkit.training.gradient.step import MicroBatch

MIN_LOSSES = 8  # before these many no step is called a spike
MAX_LOSSES = 50  # that a spike is compared with
SPIKE_DEVIATIONS = 8.0  # robust standard deviations above the median
_MIN_RISE = 0.2  # of the median: a loss that hardly moves has no spikes
_SHOWN = 8
MAX_LOGPROB_FALL = 0.5  # nats per token
MAX_LENGTH_GROWTH = 1.5  # times the start's
Tally = dict[str, list[int]]
LIMITED = "grad_limited/"
Names = Callable[[Sequence[str]], list[str]]
"""Ids of rows -> what a person finds them by."""


def refuse_non_finite(
    name: str,
    value: float,
    whole: Callable[[], AbstractContextManager[Policy]],
    micro_batches: Sequence[MicroBatch],
    *,
    step: int,
    names: Names = list,
    world: World = ALONE,
) -> None:
    """Stop before the optimizer's step where the loss or the gradient norm is nan or infinite, on all ranks.

    Args:
        value: the same on every rank.
        whole: gives the policy with all its weights.
        micro_batches: this rank's.

    Raises:
        RunStopped: names the rows whose own log-probs are not finite, or all of the step's where there are none.
    """
    if math.isfinite(value):
        return
    with whole() as policy:
        rows = _rows(policy, micro_batches, names, world)
    text = (
        f"the {name} of step {step} is {value}; {rows}; no weight was changed and nothing was saved or pruned: look at "
        "these rows, lower --learning-rate, or leave the rows out"
    )
    raise world.reported_by_rank0(RunStopped(text))


def refuse_non_finite_validation(
    value: float,
    policy: Policy,
    micro_batches: Sequence[MicroBatch],
    *,
    step: int,
    names: Names = list,
    world: World = ALONE,
) -> None:
    """Stop before anything is saved of weights whose validation loss is nan or infinite, on all ranks.

    Args:
        policy: with all its weights.
        micro_batches: this rank's.

    Raises:
        RunStopped: names the rows, as `refuse_non_finite`.
    """
    if math.isfinite(value):
        return
    rows = _rows(policy, micro_batches, names, world)
    text = (
        f"the validation loss after step {step} is {value}; {rows}; nothing was saved or pruned since the last "
        "checkpoint: lower --learning-rate, or leave the rows out"
    )
    raise world.reported_by_rank0(RunStopped(text))


def refuse_non_finite_weights(policy: Policy, *, step: int, saved: Callable[[], str], world: World = ALONE) -> None:
    """Stop after an optimizer's step that left a weight nan or infinite, before anything is saved, on all ranks.

    Args:
        saved: gives what is on disk and how the run goes on.

    Raises:
        RunStopped: names the first such tensor.
    """
    own = non_finite((name, p) for name, p in policy.named_parameters() if p.requires_grad)
    names = list(dict.fromkeys(name for part in world.gather(own) for name in part))
    if not names:
        return
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    text = (
        f"step {step} left weights that are not finite ({names[0]}{more}); nothing of them was saved: lower "
        f"--learning-rate; {saved()}"
    )
    raise world.reported_by_rank0(RunStopped(text))


def spike(losses: Sequence[float], loss: float) -> str | None:
    """Say by how much a loss stands out from those of the steps before it, or None where it does not.

    Compared with the median of the last `MAX_LOSSES`, in deviations of 1.4826 x the median absolute deviation.
    """
    recent = losses[-MAX_LOSSES:]
    if len(recent) < MIN_LOSSES:
        return None
    median = statistics.median(recent)
    deviation = 1.4826 * statistics.median(abs(x - median) for x in recent)
    if loss <= median + max(SPIKE_DEVIATIONS * deviation, _MIN_RISE * abs(median)):
        return None
    return f"loss {loss:.3g}, where the median of the {len(recent)} steps before is {median:.3g}"


def spike_line(
    losses: Sequence[float],
    loss: float,
    micro_batches: Sequence[MicroBatch],
    *,
    step: int,
    names: Names = list,
    world: World = ALONE,
) -> str | None:
    """Return the line that flags a loss spike with its rows, or None; the same on every rank."""
    found = spike(losses, loss)
    if found is None:
        return None
    return f"spike at step {step}: {found}; its rows: {_listed(row_ids(micro_batches, world), names)}"


def row_ids(micro_batches: Sequence[MicroBatch], world: World = ALONE) -> list[str]:
    """Ids of the rows that a step trained on, over all ranks."""
    own = [
        tree.row_id for micro_batch in micro_batches if not micro_batch.is_padding for tree in micro_batch.pack.trees
    ]
    return [row_id for part in world.gather(own) for row_id in part]


def alarms(metrics: Mapping[str, float], first: Mapping[str, float]) -> list[str]:
    """Return one line for each alarm.

    Args:
        metrics: this validation's numbers.
        first: those before the first step.
    """
    lines = []
    for name, what in (("chosen", "chosen"), ("desirable", "good")):
        logprob, start = (found.get(f"validation/{name}_logprob") for found in (metrics, first))
        if logprob is not None and start is not None and start - logprob > MAX_LOGPROB_FALL:
            lines.append(
                f"alarm: the {what} answers' log-prob fell by {start - logprob:.2f} nats per token since the start: "
                "the model forgets what it should prefer; lower the learning rate or raise beta"
            )
    for name in ("samples/length", "validation/length"):
        length, start = metrics.get(name), first.get(name)
        if length is not None and start and length > MAX_LENGTH_GROWTH * start:
            lines.append(f"alarm: completions grew from {start:.0f} to {length:.0f} tokens since the start")
    return lines


def count_in_tally(tally: Tally, metrics: Mapping[str, float]) -> None:
    """Add a step's metrics to the tally, in place."""
    for name, x in metrics.items():
        if name in ("no_update", "grad_clipped") or name.startswith(LIMITED):
            happened, steps = tally.get(name, [0, 0])
            tally[name] = [happened + int(x), steps + 1]


def tally_as_json(tally: Tally) -> dict[str, dict[str, int]]:
    """What run.json says of it."""
    return {name: {"steps": happened, "of": steps} for name, (happened, steps) in tally.items()}


def tally_lines(tally: Tally, config: MethodConfig) -> list[str]:
    """Say it, a line each; nothing of what never happened, but for the ratios, which are to be known either way."""
    said = []
    for name, (happened, steps) in tally.items():
        where = f"in {happened} of {steps} steps"
        if name.startswith(LIMITED):
            term = name.removeprefix(LIMITED)
            option, weight = config.term_ratios.get(term), f"--{term}" if hasattr(config, term) else "its weight"
            if option is not None and (ratio := getattr(config, option)) is not None:
                typed = f"--{option.replace('_', '-')} {ratio:g}"
                said.append(f"{term}: {where} with it {typed}, not {weight}, decided how strongly it pulled")
        elif name == "grad_clipped" and happened:
            alone = ": in every one its direction counted and its length did not" if happened == steps else ""
            said.append(f"the gradient was clipped to max_grad_norm {config.max_grad_norm:g} {where}{alone}")
        elif name == "no_update" and happened:
            said.append(f"no weight was changed {where}: none of their groups had different rewards")
    return said


def _rows(policy: Policy, micro_batches: Sequence[MicroBatch], names: Names, world: World) -> str:
    """Name the rows whose own log-probs or values are not finite, or all where there are none; every rank must ask."""
    found = world.run_on_all(lambda: _guilty(policy, micro_batches))
    guilty = list(dict.fromkeys(row_id for part in found for row_id in part))
    if guilty:
        return f"caused by {_listed(guilty, names)}"
    return f"its rows: {_listed(row_ids(micro_batches, world), names)}"


def _guilty(policy: Policy, micro_batches: Sequence[MicroBatch]) -> list[str]:
    """Ids of the rows with a scored token whose log-prob, or a completion whose value, is not finite."""
    found = []
    with torch.no_grad():
        for micro_batch in micro_batches:
            output = policy(micro_batch.pack, micro_batch.temperature_N)
            bad_N = torch.zeros(micro_batch.pack.num_completions, dtype=torch.bool)
            bad_T = ~output.logprob_T.isfinite().cpu()
            bad_N[torch.as_tensor(micro_batch.pack.completion_T)[bad_T]] = True
            if output.value_N is not None:
                bad_N |= ~output.value_N.isfinite().cpu()
            bad = set(micro_batch.pack.group_N[bad_N.numpy()].tolist())
            found += [tree.row_id for number, tree in enumerate(micro_batch.pack.trees) if number in bad]
    return found


def _listed(ids: Sequence[str], names: Names) -> str:
    return ", ".join(names(ids[:_SHOWN])) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
