"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from alignkit.methods import MethodConfig


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: MethodConfig) -> torch.optim.Optimizer:
    """Adam with default betas (the paper's) or AdamW, fused."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    trained = [p for p in parameters if p.requires_grad]
    return kinds[config.optimizer](trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: MethodConfig, *, step: int, num_steps: int) -> float:
    """Learning rate of an optimizer step (from 1): a linear rise over the warm-up, then the schedule down to 0."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / max(1, config.warmup_steps)
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps + 1)
    shapes = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return config.learning_rate * shapes[config.schedule]
