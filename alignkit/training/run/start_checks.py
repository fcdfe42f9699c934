"""What follows from the start-up checks (self_checks.py): checks.json, another path, or the run's end.

Where the tree path fails, the plain one is checked and taken. Anything else that fails stops the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignkit.distributed.ranks import World
from alignkit.errors import AlignkitError, RunStopped
from alignkit.gpu import lost_gpu
from alignkit.memory import is_out_of_memory
from alignkit.methods import Method, MethodConfig
from alignkit.policy.load import COMPUTE_ERRORS, not_computed
from alignkit.progress import Progress, phase
from alignkit.training.checkpoints.run_folder import RunFolder
from alignkit.training.gradient.models import Models, shared
from alignkit.training.inputs.setup import Inputs
from alignkit.training.loop.source import RowSource
from alignkit.training.run.self_checks import IN_BF16, Check, first_margins, plain_factor, ranks_check, run_checks


def check_start(
    run: RunFolder,
    models: Models,
    inputs: Inputs,
    progress: Progress,
    method: Method,
    config: MethodConfig,
    world: World,
) -> None:
    """Check before the first step, on rank 0, and let all ranks take the path that is found right.

    Raises:
        RunStopped: a check fails, and there is no other path.
    """
    loaded = models.policy.path
    with phase("checking"):
        world.run_on_rank0(lambda: _check(run, models, inputs, progress, method, config))
    chosen = world.gather(models.policy.path)[0]
    models.policy.use_path(loaded)
    models.use_path(chosen)  # on all ranks; the reference's log-probs follow
    _check_reference(run, models, inputs, progress, method, config, world)


def share(run: RunFolder, models: Models, inputs: Inputs, world: World, *, checks: bool) -> Models:
    """Shard the policy among the ranks; `checks` compares their gradient with one process's, noted in checks.json."""
    models.policy.use_path(world.gather(models.policy.path)[0])  # the start-up checks ran on rank 0
    models = shared(models, world)
    if not checks:
        return models
    check = ranks_check(models, inputs.training.trees)
    world.run_on_rank0(lambda: _add_check(run, check))
    return models


def _check(
    run: RunFolder, models: Models, inputs: Inputs, progress: Progress, method: Method, config: MethodConfig
) -> None:
    """Run the start-up checks; the tree path falls back to the plain one, anything else stops the run."""
    checks, reason = _checked(models, inputs)
    if reason and models.policy.path == "tree":
        progress.note(f"this model takes the plain path: the tree path fails the start-up checks ({reason})")
        models.policy.use_path("plain")
        checks, reason = _checked(models, inputs)
    if models.policy.path == "plain":
        drawn = len(method.temperatures(1, config)) if method.trains_on.is_sampled else 0
        factor = plain_factor(inputs.training.trees, num_samples=drawn, sample_tokens=config.max_new_tokens)
        progress.note(f"plain path: computes {factor:.1f} times the tokens, a prompt for each of its completions")
    rows = {
        "name": "masks: every row has scored tokens, none in its prompt",
        "rows": len(inputs.training.trees),
        "ok": True,
    }
    run.write_json("checks.json", [*(check.as_json() for check in checks), rows])
    if reason:
        raise RunStopped(f"{run.path}: start-up check failed: {reason}")


def _checked(models: Models, inputs: Inputs) -> tuple[list[Check], str]:
    """Run the start-up checks; returns them and what is wrong, or "". Code of any model may raise anything.

    So may a compiler, and a card whose shared memory is too small for a kernel: on the tree path any exception but a
    full memory is an answer, because there is another path.
    """
    draws = not models.sampler.copies_weights
    reference = models.reference
    if reference is not None and reference.is_cached:  # `_check_reference` looks at the cached values
        reference = None
    is_plain = models.policy.path == "plain"
    known: tuple[type[Exception], ...] = COMPUTE_ERRORS if is_plain else (Exception,)
    try:
        checks = run_checks(models.policy, inputs.training.trees, reference=reference, samples=draws)
    except AlignkitError:
        raise
    except known as error:
        if is_out_of_memory(error) or lost_gpu(error):
            raise
        return [], not_computed(models.policy, error)
    wrong = [check for check in checks if not check.ok]
    reason = "; ".join(f"{c.name}: {c.value:.2g} {c.unit}, tolerance {c.tolerance:.2g}" for c in wrong)
    if wrong and is_plain and all(check.name.startswith(IN_BF16) for check in wrong):
        reason += "; fp32 is right: train with --precision fp32"
    return checks, reason


def _check_reference(
    run: RunFolder,
    models: Models,
    inputs: Inputs,
    progress: Progress,
    method: Method,
    config: MethodConfig,
    world: World,
) -> None:
    """Check on all ranks that a loss on rows that reads a reference starts at it, and say what rounding moves it by."""
    if models.reference is None or method.trains_on.is_sampled:
        return
    policy = models.policy
    layout = RowSource(inputs.training.trees, config, micro_batch_tokens=models.micro_batch_tokens, world=world)
    weight = float(getattr(config, "beta", 1.0))
    with phase("checking the reference"):
        margins = first_margins(policy, models.reference, layout, weight=weight, world=world)
    check = margins.check(in_fp32=policy.autocast is None, repeats=policy.device.type == "cpu")
    noise = {
        "name": "what rounding moves that margin by: beta x rms",
        "value": margins.noise,
        "ok": True,
        "mean": float(margins.rounding_N.mean()),
        "pairs": len(margins.rounding_N),
        "unit": "of the loss",
    }
    world.run_on_rank0(lambda: _add_check(run, check, noise))
    if policy.autocast is not None:
        progress.note(
            f"reference: the margin starts at {margins.first_N.mean():.2g} (mean); bf16 rounding moves it by "
            f"{margins.noise:.2g} (beta x rms of {len(margins.rounding_N)})"
        )


def _add_check(run: RunFolder, check: Check, *facts: Mapping[str, Any]) -> None:
    """Add a check, and facts beside it, to checks.json; one that failed stops the run."""
    run.write_json("checks.json", [*run.read_json("checks.json"), check.as_json(), *facts])
    if not check.ok:
        raise RunStopped(
            f"{run.path}: start-up check failed: {check.name}: {check.value:.2g} {check.unit}, tolerance "
            f"{check.tolerance:.2g}"
        )
