"""A training run from its configuration to its model: what `alignkit train` does."""

from __future__ import annotations

import errno
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from alignkit.config.file import Resolved, dump
from alignkit.data.reading.read import is_data, refuse_among_data
from alignkit.distributed.fsdp import refuse_unshared
from alignkit.distributed.ranks import World, is_restarted, joined
from alignkit.errors import AlignkitError, InputError, Interrupted, RunStopped, UsageError
from alignkit.gpu import gpu_problem
from alignkit.memory import give_back, memory_bytes, peak_mib, reset_peak
from alignkit.methods import Method, MethodConfig, sampled_options
from alignkit.progress import Progress, Silent, phase, watched_by
from alignkit.registry import registry
from alignkit.runs import FILE as RUN_FILE
from alignkit.runs import RUNS, VERDICTS, hash_model
from alignkit.scoring.confirm_cost import confirm_cost
from alignkit.storage import set_aside
from alignkit.tracking import MetricsFile, Tracker
from alignkit.training.checkpoints.checkpoint import own_steps, read_state
from alignkit.training.checkpoints.run_folder import FollowedRun, RunFolder, open_run
from alignkit.training.inputs.judges import reward_fingerprints
from alignkit.training.inputs.model_options import on_adapter
from alignkit.training.inputs.setup import Inputs, read_inputs
from alignkit.training.inputs.weights import load_models, load_start
from alignkit.training.lifecycle.deadlines import Deadlines
from alignkit.training.lifecycle.lost_gpu import lost_gpu_explained
from alignkit.training.lifecycle.signals import held_signals, terminated_as_interrupted
from alignkit.training.loop.health_checks import tally_as_json
from alignkit.training.loop.reporter import Reporter
from alignkit.training.loop.saver import RunSaver
from alignkit.training.loop.source import RowSource, StepSource, steps_per_epoch
from alignkit.training.loop.train_loop import Loop
from alignkit.training.rollouts.evaluation import RunEvaluation, validation_steps
from alignkit.training.rollouts.journal import FOLDER, Journal
from alignkit.training.rollouts.scoring import Scoring
from alignkit.training.rollouts.source import RolloutSource, SampledRowSource
from alignkit.training.run.export import export, source_dtype
from alignkit.training.run.fitting import out_of_memory_explained, refuse_unfit
from alignkit.training.run.manifest import account, describe, steps_line
from alignkit.training.run.plan import Plan, disk_warning, make_plan
from alignkit.training.run.resume import (
    refuse_changes,
    refuse_unread_options,
    resume_command,
    resume_point,
    warn_of_other_hardware,
    with_more_steps,
)
from alignkit.training.run.run_log import logged
from alignkit.training.run.self_checks import small_trees
from alignkit.training.run.start_checks import check_start, share
from alignkit.training.run.summary import summary
from alignkit.trust import named_by, record

_logger = logging.getLogger(__name__)
Command = Callable[..., str]
"""What is typed to go on with a run, of keys that may have changed and options `instead`, as `resume_command` gives."""
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


def train_run(
    method: Method,
    resolved: Resolved,
    *,
    progress: Progress,
    foresee: Callable[[int, int], str | None] = lambda training, validation: None,
    saves_end: bool = False,
    command: Command | None = None,
) -> Path:
    """Train one method and return the run's folder, finished.

    Args:
        foresee: says of so many training and validation rows what they allow later; None: nothing is to be said.
        saves_end: keep a checkpoint of the last step too, so that further steps go on from there.
        command: gives what is typed to go on with the run; None: as `resume_command` does.

    Raises:
        AlignkitError: wrong input (nothing is left behind), a stopped run, or an interruption (both resumable).
    """
    places: list[Path] = []

    def go_on() -> str:
        typed = command or partial(resume_command, resolved, places[0] if places else None)
        return typed(resolved.run.allow_changed)

    with terminated_as_interrupted(), joined(go_on) as world:
        progress = progress if world.is_first else Silent()
        run = _open(method, resolved, world)
        places.append(run.path)
        try:
            is_done = world.run_on_rank0(run.finished)
            if resolved.run.more_steps is not None:
                resolved = with_more_steps(run.record() if run.holds_run else None, resolved)
            elif is_done and world.run_on_rank0(lambda: _has_its_options(run, resolved)):
                progress.note(f"run {run.path} is done: its model is {run.model}")
                return run.path
            with logged(run.path, world, progress) as said, watched_by(said):
                if is_done:
                    progress.note(_goes_further(run, resolved))
                _train(method, resolved, run, said, world, foresee, saves_end=saves_end, command=command)
        except KeyboardInterrupt as error:  # before the first step, while the model is written, or a second signal
            if world.size > 1:
                raise
            raise Interrupted(f"stopped at once; {_kept(run, go_on)}") from error
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            raise RunStopped(f"{run.path}: {error.strerror}; make room and go on with: {go_on()}") from error
        finally:
            run.remove_if_new()
            run.unlock()
    return run.path


def _kept(run: RunFolder, go_on: Callable[[], str]) -> str:
    """What there is of a run that stopped, and what is typed to go on."""
    steps = own_steps(run.checkpoints, run.id) if run.id else []
    return f"saved after step {steps[-1]}, go on with: {go_on()}" if steps else f"begin again with: {go_on()}"


def _has_its_options(run: RunFolder, resolved: Resolved) -> bool:
    """Whether a finished run was trained with the options given now. Raises UsageError where it was not."""
    refuse_unread_options(run.record(), resolved)
    return True


def _goes_further(run: RunFolder, resolved: Resolved) -> str:
    """Say where a finished run goes on, and what its learning rate does."""
    end, num_steps = run.record().end, resolved.run.more_steps
    assert end is not None and num_steps is not None
    saved = max(own_steps(run.checkpoints, run.record().id or ""), default=0)
    again = (
        f"; steps {saved + 1} to {end.steps} are computed again, as no checkpoint holds them"
        if saved < end.steps
        else ""
    )
    rises = min(resolved.method.warmup_steps, num_steps)
    then = "stays there" if resolved.method.schedule == "constant" else "falls to 0"
    return (
        f"{num_steps} steps more: from step {end.steps} on the learning rate rises over {rises} steps to "
        f"{resolved.method.learning_rate:g} and {then} by step {end.steps + num_steps}{again}"
    )


def _open(method: Method, resolved: Resolved, world: World) -> RunFolder:
    """Open the run's folder, for writing on rank 0 and for reading on the others."""
    options = resolved.run
    reads = (resolved.data.data, resolved.data.split if resolved.data.split and is_data(resolved.data.split) else None)
    refuse_among_data("--out", Path(options.out or RUNS), reads, is_folder=True)
    opened: list[RunFolder] = []

    def open_for_all() -> str:
        opened.append(open_run(method.name, out=options.out, resume=options.resume or is_restarted()))
        return str(opened[0].path)

    path = world.run_on_rank0(open_for_all)
    return opened[0] if opened else FollowedRun(Path(path))


def _read(method: Method, resolved: Resolved, world: World) -> Inputs:
    """Read the inputs on rank 0, then on the others, which find the data prepared.

    Raises:
        UsageError: ranks find other data or another model than rank 0, or cannot share the sampler.
    """
    refuse_unshared(resolved, world)
    read: list[Inputs] = []
    with phase("reading rows"):
        world.run_on_rank0(lambda: read.append(read_inputs(method, resolved)))
    if world.size == 1:
        return read[0]
    inputs = read[0] if read else read_inputs(method, resolved, asks_judges=False)
    found = world.gather(dict(inputs.fingerprints))
    other = [rank for rank, fingerprints in enumerate(found) if fingerprints != found[0]]
    if other:
        names = sorted(name for name in found[0] if found[other[0]].get(name) != found[0][name])
        text = f"rank {other[0]} reads another {' and '.join(names)} than rank 0: all nodes must see the same files"
        raise world.reported_by_rank0(UsageError(text))
    return inputs


def _train(
    method: Method,
    resolved: Resolved,
    run: RunFolder,
    progress: Progress,
    world: World,
    foresee: Callable[[int, int], str | None],
    *,
    saves_end: bool,
    command: Command | None,
) -> None:
    for cls in _tracker_classes(resolved):
        cls.require()
    resolved = on_adapter(method, resolved)
    world.run_on_rank0(lambda: _refuse_known_changes(method, resolved, run, command))
    inputs = _read(method, resolved, world)
    planned = _plan(method, resolved, run, inputs, world)
    description: dict[str, Any] = {}
    changed: list[str] = []

    def begin() -> tuple[bool, str]:
        description.update(describe(method, resolved, inputs, world))
        description["micro_batch_tokens"] = planned.micro_batch_tokens
        resumes = run.holds_run
        if not resumes and run.checkpoints.exists():
            raise InputError(f"{run.path} has checkpoints but no run.json; bring that back, or give another --out")
        before = run.record() if resumes else None
        run.id = (before and before.id) or secrets.token_hex(16)
        description["id"] = run.id
        if before is not None:
            found = refuse_changes(before, description, resolved.run.allow_changed, command)
            changed.extend(key for key in found if not key.endswith(".added_steps"))  # no step so far is another
            warn_of_other_hardware(before, description)
        return resumes, run.id

    resumes, run.id = world.run_on_rank0(begin)
    labels = inputs.training.trees.labels
    for line in [*account(inputs), *([] if labels is None else method.remarks(labels, resolved.method))]:
        progress.note(line)
    if not resumes:
        progress.note(steps_line(method, resolved, inputs))
        if (foreseen := foresee(len(inputs.training.trees), len(inputs.validation.trees))) is not None:
            progress.note(foreseen)
    progress.note(planned.line())
    if (problem := gpu_problem()) is not None:
        _logger.warning("%s; this run is on the CPU", problem)
    if (warning := disk_warning(planned, run.path)) is not None:
        progress.note(warning)
    world.run_on_rank0(lambda: _agree(method, resolved, inputs))
    reset_peak()
    go_on = command or partial(resume_command, resolved, run.path)

    explained = out_of_memory_explained(method, resolved, planned, available=memory_bytes(), go_on=go_on)
    with lost_gpu_explained(partial(_kept, run, go_on)), explained:
        finished = _compute(
            method,
            planned.settled(resolved),
            run,
            progress,
            inputs,
            description,
            world,
            resumes=resumes,
            changed=changed,
            saves_end=saves_end,
            go_on=command or partial(resume_command, planned.settled(resolved), run.path),
        )
    end = {"finished": finished | {"planned_mib": planned.total / 2**20}}
    world.run_on_rank0(lambda: run.write_json(RUN_FILE, description | {"model_files": hash_model(run.model)} | end))
    where = " on the fullest rank" if world.size > 1 else ""
    notes = {"memory": where + (" with Python and its libraries" if planned.device == "cpu" else "")}
    for line in summary(run.path, finished, planned_mib=planned.total / 2**20, notes=notes) if world.is_first else ():
        progress.note(line)


def _plan(method: Method, resolved: Resolved, run: RunFolder, inputs: Inputs, world: World) -> Plan:
    """Plan the run's memory, with the micro-batches that it began with where it goes on: its bits depend on them.

    Raises:
        UsageError, RunStopped: as `refuse_unfit`.
    """
    before = world.run_on_rank0(lambda: run.record().micro_batch_tokens if run.holds_run else None)
    made = make_plan(method, resolved, longest=inputs.longest, micro_batch_tokens=before)
    fewest = min(world.gather(made.micro_batch_tokens))  # every rank's card holds them
    if made.micro_batch_tokens != fewest:
        made = make_plan(method, resolved, longest=inputs.longest, micro_batch_tokens=fewest)
    refuse_unfit(method, resolved, made, goes_on=before is not None)
    return made


def _refuse_known_changes(method: Method, resolved: Resolved, run: RunFolder, command: Command | None) -> None:
    """Refuse what can be seen to have changed before any code of the configuration runs: keys, and reward files."""
    if not run.holds_run:
        return
    before = run.record()
    fingerprints = before.fingerprints | reward_fingerprints(resolved)
    now = {"method": method.name, "config": dump(resolved), "fingerprints": fingerprints, "versions": before.versions}
    refuse_changes(before, now, resolved.run.allow_changed, command)


def _compute(
    method: Method,
    resolved: Resolved,
    run: RunFolder,
    progress: Progress,
    inputs: Inputs,
    description: dict[str, Any],
    world: World,
    *,
    resumes: bool,
    changed: Sequence[str],
    saves_end: bool,
    go_on: Command,
) -> dict[str, Any]:
    """Load the models, train and export; returns what run.json says of a finished run."""
    needs_best = bool(resolved.method.early_stopping_steps)

    def find() -> str | None:
        if not resumes:
            return None
        other_rewards = any(key.startswith("fingerprint of reward ") for key in changed)
        point = resume_point(
            run, needs_best=needs_best, allowed=resolved.run.allow_changed, other_rewards=other_rewards
        )
        if changed:
            _forget_later_samples(run, 0 if point is None else read_state(point)["step"], resolved.method)
        return None if point is None else str(point)

    started = time.monotonic()  # loading computes the reference's log-probs, which may be a third of a run
    found = world.run_on_rank0(find)
    with phase("loading the model"):
        models = load_models(method, resolved, inputs, world)
    if (line := models.policy.dropout.line(method.name)) is not None:
        progress.note(line)
    if models.policy.is_compiled:
        progress.note("compiling the layers takes some time, once (23 s on an H100); --no-compile leaves it out")
    trackers = _trackers(resolved, run, description["config"]) if world.is_first else []
    if resolved.run.more_steps is not None:
        world.run_on_rank0(lambda: _set_verdicts_aside(run, progress))
    run.write_json(RUN_FILE, description)
    world.run_on_rank0(lambda: _agree_to_own(run))
    if found is None:
        check_start(run, models, inputs, progress, method, resolved.method, world)
    if world.size > 1:
        models = share(run, models, inputs, world, checks=found is None)
    saver = RunSaver(run, models, load_start=lambda: load_start(method, resolved, inputs, go_on), go_on=go_on)
    deadlines = Deadlines(resolved.rollouts.timeouts_s, log=run.log, left=partial(saver.what_is_saved, waits=False))
    scoring = Scoring(
        inputs.judges,
        max_missing=resolved.rollouts.max_missing,
        save=saver.save,
        deadlines=deadlines,
        world=world,
        go_on=go_on,
    )
    config = resolved.method
    rollouts = RolloutSource(
        method, config, inputs, models, run, scoring=scoring, prompts_per_step=config.batch_size, note=progress.note
    )
    loop = Loop(
        method,
        config,
        models,
        _source(method, rollouts),
        evaluation=RunEvaluation(method, config, inputs, models, rollouts, deadlines),
        saver=saver,
        deadlines=deadlines,
        reporter=Reporter(trackers, progress),
        saves_end=saves_end,
        names=inputs.training.names_of,
    )
    try:
        with deadlines:
            if found is not None:
                saver.resume(Path(found))
            earlier_seconds = loop.position.seconds
            give_back()  # what starting took
            loop.train()
        exported = _export(loop, saver, inputs)
        saver.finish()
    finally:
        saver.close()
        for tracker in trackers:
            tracker.close()
        for named in inputs.judges:
            named.judge.close()
        models.sampler.close()
    return {
        "steps": loop.position.step,
        "kept_step": loop.kept_step,
        "seconds": loop.position.seconds,
        "wall_seconds": time.monotonic() - started,
        "earlier_seconds": earlier_seconds,
        "peak_mib": max(world.gather(peak_mib())),
        "tokens": loop.position.tokens_seen,
        "tally": tally_as_json(loop.position.tally),
        "exported_difference_nats": exported["difference"],
        "exported_rounding_nats": exported["rounding"],
        "exported_rounding_mean_nats": exported["rounding_mean"],
        "exported_dtype": exported["dtype"],
    }


def _set_verdicts_aside(run: RunFolder, progress: Progress) -> None:
    """Verdicts on a finished run are on weights that it leaves: they are kept, and no longer the run's."""
    verdicts = run.path / VERDICTS
    if verdicts.exists() and (end := run.record().end) is not None:
        aside = set_aside(verdicts, f"of-step-{end.steps}")
        progress.note(f"the verdicts so far are on the model of step {end.steps}: {aside}")


def _forget_later_samples(run: RunFolder, step: int, config: MethodConfig) -> None:
    """Something changed: the samples that the next batch trains on are those it would draw, later ones are not."""
    batch = step // sampled_options(config).updates_per_batch + 1
    Journal(run.path / FOLDER).remove_after(batch)
    Journal(run.path / FOLDER / "validation").remove_after(step)


def _source(method: Method, rollouts: RolloutSource) -> StepSource:
    """Where the steps' micro-batches come from: samples, rows, or rows and samples beside them."""
    if method.trains_on.is_sampled:
        return rollouts
    inputs, models = rollouts.inputs, rollouts.models
    if method.draws():
        return SampledRowSource(rollouts)
    return RowSource(
        inputs.training.trees,
        rollouts.config,
        micro_batch_tokens=models.micro_batch_tokens,
        world=models.world,
        mismatched=inputs.training_mismatched,
    )


def _export(loop: Loop, saver: RunSaver, inputs: Inputs) -> dict[str, Any]:
    """Write the model; a signal meanwhile saves the last step first (an adapter is saved before it is merged).

    Rank 0 writes it; the others wait.
    """
    models, run = saver.models, saver.run
    give_back()  # what steps left: the model that is loaded again would come on top
    if models.policy.has_adapter:
        saver.save()
    world = models.world
    try:
        with models.unsharded_policy() as policy, terminated_as_interrupted() if world.is_first else held_signals():
            trees = small_trees(inputs.training.trees)
            source = inputs.source.folder
            export_it = partial(
                export,
                policy,
                inputs.chat,
                run.model,
                trees=trees,
                source=source,
                adapter=run.path / "adapter",
                dtype=source_dtype(inputs.source.base or source),
                go_on=saver.go_on,
            )
            with phase("writing the model"):
                return world.run_on_rank0(lambda: asdict(export_it()))
    except KeyboardInterrupt:
        saver.stop_interrupted(loop.num_steps)


def _agree_to_own(run: RunFolder) -> None:
    """Keep that the user agreed to what run.json names, by typing it: so that a resume need not ask."""
    try:
        record(named_by(run.path / RUN_FILE))
    except AlignkitError as error:
        _logger.info("%s: a resume asks about what the run names again", error)


def _agree(method: Method, resolved: Resolved, inputs: Inputs) -> None:
    """Show what paid rewards would take before anything is loaded; a terminal is asked."""
    config = resolved.method
    sampled = sampled_options(config)
    rows = config.batch_size
    num_validation = len(inputs.validation.trees)
    steps_an_epoch = steps_per_epoch(len(inputs.training.trees), rows) * sampled.updates_per_batch
    steps = config.num_steps(steps_an_epoch)
    batches = math.ceil(steps / sampled.updates_per_batch)
    cost = validation_steps(method, config, num_validation)
    interval = config.steps_between_validations(config.planned_steps(steps_an_epoch), cost_steps=cost)
    validated = (2 + steps // interval) * min(sampled.validation_prompts, num_validation)
    rounds = 1 + (sampled.max_resamples if sampled.zero_variance_groups == "resample" else 0)
    num_items = batches * rounds * rows * len(method.temperatures(1, config)) + validated
    was_typed = bool(resolved.rollouts.reward) and resolved.sources.get("rollouts.reward") in ("option", "--set")
    confirm_cost(inputs.judges, num_items, yes=resolved.run.yes, unattended=was_typed)
    for named in inputs.judges:
        if named.judge.paid:
            named.ready(inputs.training.rows)


def _tracker_classes(resolved: Resolved) -> list[type[Tracker]]:
    classes = [registry().find("tracker", name) for name in resolved.run.track]
    return [MetricsFile, *(cls for cls in classes if issubclass(cls, Tracker))]


def _trackers(resolved: Resolved, run: RunFolder, settings: Mapping[str, object]) -> list[Tracker]:
    return [cls(run.path, settings) for cls in _tracker_classes(resolved)]
