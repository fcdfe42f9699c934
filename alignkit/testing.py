"""Test a plugin: batches made by hand, and what every method, judge, data set and tracker must hold.

Each `check_...` returns its findings, a sentence each that says what to change; [] where there are none. They compute
on a few numbers and need no model. `alignkit plugins test` runs them on what is installed.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.contract import findings
from alignkit.errors import AlignkitError
from alignkit.methods import Batch
from alignkit.scoring.judge import Item, Missing, Scored

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.registry import Plugin

ITEMS = (
    Item([{"role": "user", "content": "Name a river."}], "The Rhine.", {"id": "1"}, "A river."),
    Item([{"role": "user", "content": "What is 2 + 3?"}], "", {"id": "2"}, "5"),
)


def batch(logprobs: Sequence[Sequence[float]], *, groups: Sequence[int] | None = None, **given: Any) -> Batch:
    """Make a batch from each completion's log-probs; it is the whole optimizer step.

    Args:
        logprobs: of each scored token, N lists.
        groups: the prompt of each completion; default: two completions per prompt, as in pairs.
        given: further fields of `Batch`, tensors; `targets` is short for `reference_length_N`.
    """
    import torch

    lengths = [len(completion) for completion in logprobs]
    groups = list(groups) if groups is not None else [n // 2 for n in range(len(logprobs))]
    num_groups = len(set(groups))
    targets = given.pop("targets", None)
    counts = {"tokens": sum(lengths), "completions": len(lengths), "pairs": num_groups, "groups": num_groups}
    return Batch(
        logprob_T=torch.tensor([x for completion in logprobs for x in completion], requires_grad=True),
        completion_T=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        group_N=torch.tensor(groups),
        num_tokens_N=torch.tensor(lengths),
        reference_length_N=torch.zeros(len(lengths), dtype=torch.int64) if targets is None else targets,
        denominators=counts,
        **given,
    )


def check_method(cls: Any) -> list[str]:
    """Check the class, and that its loss is a finite scalar, has a gradient and splits into micro-batches."""
    found = findings("method", cls)
    if found:
        return found
    method, config = cls(), cls.Config()
    if cls.trains_on.is_sampled:
        found += _check_advantages(method, config)
    per_prompt = len(cls.trains_on.completions) or 2
    made = _any_batch(per_prompt)
    learned = made.value_N if "scalar_head" in cls.needs else made.logprob_T
    terms = _terms(method.loss(made, config))
    if any(term.shape != () for term in terms.values()):
        return [*found, f"{cls.__name__}.loss must return a scalar: divide by batch.mean(x, over=...)"]
    whole = sum(terms.values())
    value = whole.item()
    if not math.isfinite(value):
        return [*found, f"{cls.__name__}.loss is {value} on a batch of ordinary log-probs"]
    parts = [made.select(slice(first, first + per_prompt)) for first in (0, per_prompt)]
    split = sum(term.item() for part in parts for term in _terms(method.loss(part, config)).values())
    if not math.isclose(split, value, rel_tol=1e-4, abs_tol=1e-6):
        found.append(
            f"{cls.__name__}.loss is {value:.6g} on a step and {split:.6g} on its two micro-batches together: "
            "divide by nothing but batch.mean"
        )
    if whole.requires_grad:
        whole.backward()
    if learned is None or learned.grad is None or not bool(learned.grad.isfinite().all() and learned.grad.any()):
        name = "value_N" if "scalar_head" in cls.needs else "logprob_T"
        found.append(f"{cls.__name__}.loss has no finite gradient at batch.{name}: nothing would be learned")
    return found


def check_judge(cls: Any, items: Sequence[Item] = ITEMS) -> list[str]:
    """Check the class and, where scoring asks no other machine, that each item gets one answer.

    Args:
        items: what it scores. A judge that raises an `AlignkitError` (no model, no rules in the rows) has said why.
    """
    found = findings("judge", cls)
    if found:
        return found
    try:
        judge = cls()
        for what, value in (("parameters()", judge.parameters()), ("given(item)", judge.given(items[0]))):
            if (fault := _not_json(value)) is not None:
                found.append(f"{cls.__name__}.{what} must hold JSON types, it is a part of the ledger's key: {fault}")
        if judge.paid or judge.remote:
            return found
        judge.ready([item.row for item in items])
        answers = judge.score(items)
        judge.close()
    except AlignkitError:
        return found
    if len(answers) != len(items):
        return [*found, f"{cls.__name__}.score gave {len(answers)} answers to {len(items)} items: give one to each"]
    for answer in answers:
        if not isinstance(answer, Scored | Missing):
            found.append(f"{cls.__name__}.score gave {answer!r}: give Scored(value) or Missing(reason)")
        elif isinstance(answer, Scored) and not math.isfinite(answer.value):
            found.append(f"{cls.__name__}.score gave {answer.value}: what has no score is Missing(reason)")
    return found


def check_dataset(cls: Any) -> list[str]:
    """Check the class and the first row of each part."""
    found = findings("dataset", cls)
    if found:
        return found
    for part in cls.parts:
        first = next(islice(cls().rows(part), 1), None)
        if first is None:
            found.append(f"{cls.__name__}.rows({part!r}) yields no row: leave the part out of parts")
        elif not isinstance(first, Mapping):
            found.append(f"{cls.__name__}.rows({part!r}) yields {type(first).__name__}: yield a dict of columns")
    return found


def check_tracker(cls: Any) -> list[str]:
    """Check the class and, where what it needs is installed, that it takes a step's metrics and closes."""
    found = findings("tracker", cls)
    if found:
        return found
    with tempfile.TemporaryDirectory() as folder, _is_said():
        cls.require()
        tracker = cls(Path(folder), {"method": "none"})
        tracker.log(1, {"loss": 0.5, "validation/loss": float("nan")}, tokens_seen=10)
        tracker.close()
    return found


_CHECKS = {"method": check_method, "judge": check_judge, "dataset": check_dataset, "tracker": check_tracker}


def check(plugin: Plugin) -> list[str]:
    """Check one thing that a plugin registered. An error of its code is a finding; commands have no check."""
    if plugin.kind == "command":
        return []
    try:
        run = _CHECKS.get(plugin.kind)
        return findings(plugin.kind, plugin.cls) if run is None else run(plugin.cls)
    except Exception as error:  # a third party's code may raise anything
        return [f"{plugin.cls.__name__} raised {type(error).__name__}: {error}"]


def _any_batch(per_prompt: int) -> Batch:
    """Two prompts with everything that any method may ask for."""
    import torch

    logprobs = [[-0.5 - 0.3 * n, -1.0 + 0.1 * n, -0.25][: 2 + n % 2] for n in range(2 * per_prompt)]
    num_tokens, size = sum(map(len, logprobs)), len(logprobs)
    return batch(
        logprobs,
        groups=[n // per_prompt for n in range(size)],
        targets=torch.full((size,), 2),
        reference_T=torch.linspace(-1.2, -0.4, num_tokens),
        sampler_logprob_T=torch.linspace(-1.1, -0.5, num_tokens),
        old_logprob_T=torch.linspace(-1.1, -0.5, num_tokens),
        value_N=torch.linspace(0.5, -0.5, size).requires_grad_(),
        advantage_N=torch.linspace(1.0, -1.0, size),
        label_N=torch.arange(size) % 2.0,
        mismatched_kl=torch.tensor(0.1),
    )


def _check_advantages(method: Any, config: Any) -> list[str]:
    import numpy as np

    num_samples = len(method.temperatures(1, config))
    if num_samples == 0:
        return [f"{type(method).__name__}.temperatures gives none: a method on samples draws at least one per prompt"]
    rewards_PG = np.arange(2.0 * num_samples).reshape(2, num_samples) ** 2
    rewards_PG[0, 0] = np.nan
    found = method.advantages(rewards_PG, config)
    if np.shape(found) != rewards_PG.shape:
        return [f"{type(method).__name__}.advantages gave shape {np.shape(found)} for rewards {rewards_PG.shape}"]
    if not np.isnan(found[0, 0]):
        return [f"{type(method).__name__}.advantages gave a number for a missing reward: nan must stay nan"]
    return []


def _terms(loss: Tensor | dict[str, Tensor]) -> dict[str, Any]:
    return loss if isinstance(loss, dict) else {"loss": loss}


def _not_json(value: Any) -> str | None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


@contextmanager
def _is_said() -> Iterator[None]:
    """What is not here and says so is no fault of the class."""
    try:
        yield
    except AlignkitError:
        return
