"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alignkit.errors import UsageError
from alignkit.methods import MethodConfig


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: MethodConfig) -> torch.optim.Optimizer:
    """Adam with default betas (the paper's) or AdamW, fused; or either with moments in 8 bits (Dettmers et al., 2022).

    Weight decay applies to matrices alone, as in transformers' Trainer: norms and biases (one dimension) have none.

    Raises:
        UsageError: 8 bits without bitsandbytes.
    """
    trained = _groups(parameters, config.weight_decay)
    made: Any
    if config.optimizer.endswith("-8bit"):
        require_eight_bits(config)
        from bitsandbytes import optim

        narrow = {"adam-8bit": optim.Adam8bit, "adamw-8bit": optim.AdamW8bit}[config.optimizer]
        made = narrow(trained, lr=config.learning_rate)
        made.state_dict = functools.partial(_flat_state, made)
    else:
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        made = kinds[config.optimizer](trained, lr=config.learning_rate, fused=True)
    made.register_step_post_hook(_count_versions)
    return made


def _count_versions(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Count the weights' versions, which fused steps do not; copies of weights are made again by it."""
    torch.autograd.graph.increment_version([p for group in optimizer.param_groups for p in group["params"]])


def _groups(parameters: Iterable[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _flat_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State as torch lays it out: bitsandbytes nests its tensors, and shares one among all parameters."""
    packed = torch.optim.Optimizer.state_dict(optimizer)
    states = packed["state"].items()
    packed["state"] = {n: {k: x.clone() if isinstance(x, Tensor) else x for k, x in own.items()} for n, own in states}
    return packed


def require_eight_bits(config: MethodConfig) -> None:
    """Say what an 8-bit optimizer lacks here, before anything is loaded.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    if not config.optimizer.endswith("-8bit"):
        return
    whole = config.optimizer.removesuffix("-8bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"--set optimizer={config.optimizer} needs bitsandbytes, which is not installed: pip install "
            f"'alignkit[bitsandbytes]'; --set optimizer={whole} needs nothing more"
        )


def learning_rate(config: MethodConfig, *, step: int, num_steps: int) -> float:
    """Learning rate of an optimizer step (from 1): a linear rise over the warm-up, then the schedule down to 0.

    The first step has 1 / warmup_steps of the peak, step `warmup_steps` all of it, the step *after* the last one would
    have 0: no step is spent at 0. transformers' schedules over one step more give the same rates, after a first step
    at 0. Each part of `config.added_steps` begins anew: with its own warm-up, and its own way down to 0.

    Args:
        num_steps: of the run, those added to it included.
    """
    begins = num_steps - sum(config.added_steps)
    if step > begins:
        for part in config.added_steps:
            if step <= begins + part:
                return _rate(config, step - begins, part)
            begins += part
    return _rate(config, step, num_steps - sum(config.added_steps))


def _rate(config: MethodConfig, step: int, num_steps: int) -> float:
    if step <= config.warmup_steps:
        return config.learning_rate * step / max(1, config.warmup_steps)
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps + 1)
    shapes = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return config.learning_rate * shapes[config.schedule]


def short_warmup(config: MethodConfig, num_steps: int) -> str | None:
    """Say where a run ends before its warm-up does, or None."""
    if num_steps >= config.warmup_steps:
        return None
    reached = learning_rate(config, step=num_steps, num_steps=num_steps)
    return (
        f"warm-up: the run ends after {num_steps} of its {config.warmup_steps} warm-up steps: its learning rate never "
        f"passes {reached:.3g}, {num_steps / config.warmup_steps:.0%} of --learning-rate {config.learning_rate:g}; "
        "lower --warmup-steps"
    )


def late_terms(config: MethodConfig, num_steps: int) -> list[str]:
    """Say of each term of the loss that a run ends before it is first applied, a line each."""
    return [
        f"{term}: the run ends after {num_steps} steps, before the {term} is first applied, at step {first}: it is "
        f"applied in none; lower --{option.replace('_', '-')}"
        for term, (option, first) in config.late_terms.items()
        if num_steps < first
    ]
