"""Whether a model's own code computes at all, before anything else is computed with it."""

from __future__ import annotations

from pathlib import Path

import torch

from alignkit.errors import RunStopped
from alignkit.memory import is_out_of_memory
from alignkit.policy.policy import Policy
from alignkit.pretrained.weights import first_line

COMPUTE_ERRORS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # what a model's code raises


def not_computed(policy: Policy, error: Exception) -> str:
    """Name the type of a model and what its code raised in a forward pass."""
    return f"a model of type {policy.config.model_type} cannot be computed: {type(error).__name__}: {first_line(error)}"


def refuse_uncomputed(policy: Policy, folder: Path) -> None:
    """Compute two tokens on the model's own path, before anything else is computed with it.

    Raises:
        RunStopped: its code fails; sizes that do not fit each other are seen nowhere else.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=policy.device)
    was_training = policy.training
    policy.eval()  # a pass that drops out would move the random numbers of training
    try:
        with policy.on_path("plain"), policy.computing(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            policy.body(input_ids=ids, use_cache=False)
    except COMPUTE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise RunStopped(f"{folder}: start-up check failed: {not_computed(policy, error)}") from error
    finally:
        policy.train(was_training)
