"""A resume is the same run: what must not have changed, what may change bits, and which checkpoint it goes on from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alignkit import runs
from alignkit.config import fields as config_fields
from alignkit.config import file as config_file
from alignkit.config import source as config_source
from alignkit.config.file import Resolved
from alignkit.config.settings import TIMEOUTS
from alignkit.display import as_typed
from alignkit.errors import InputError, UsageError
from alignkit.methods import SampledConfig
from alignkit.options import is_flag
from alignkit.runs import RunRecord
from alignkit.scoring.functions.given import PREFIX
from alignkit.training.checkpoints import checkpoint
from alignkit.training.checkpoints.run_folder import RunFolder
from alignkit.training.loop.source import steps_per_epoch
from alignkit.training.rollouts.journal import FOLDER, Journal
from alignkit.training.rollouts.reward_checks import RewardSignal

_logger = logging.getLogger(__name__)
_SHOWN = 6
_HASH = 64  # characters of a SHA-256
_REWARD = "fingerprint of reward "
_FINGERPRINTS = {"model", "data", "template", "code"}
_COMPUTING = ("torch", "transformers", "tokenizers", "peft", "numpy")  # whose version may change what is computed


def code_fingerprint(method_module: str) -> str:
    """Hash the source of alignkit, its native part and the method's module, with the package that it lies in."""
    digest = hashlib.sha256()
    own = Path(runs.__file__).parent
    files = sorted([*own.rglob("*.py"), *own.glob("_native*.so"), *own.glob("_native*.pyd")])
    found = importlib.util.find_spec(method_module)
    if found is not None and found.origin is not None:
        module = Path(found.origin)
        files += sorted(module.parent.rglob("*.py")) if "." in method_module else [module]
    for file in files:
        digest.update(f"{file.name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def hardware(num_ranks: int = 1) -> dict[str, Any]:
    """What decides, beside the code, which bits come out."""
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_features": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "ranks": num_ranks,
    }


def refuse_changes(
    before: RunRecord, now: Mapping[str, Any], allowed: Sequence[str], command: Callable[..., str] | None = None
) -> list[str]:
    """Refuse to go on with another configuration, other data or other code; returns what changed and may.

    Args:
        command: gives what is typed to begin anew where something changed; None: as `alignkit train` has it.

    Raises:
        UsageError: names each key that changed, before and after; `allowed` lets keys change.
    """
    _refuse_other_method(before, now["method"])
    old, new = _compared(before.content), _compared(now)
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    changed = [key for key in keys if not _names(key) & set(allowed)]
    if changed:
        options = " ".join(dict.fromkeys(f"--allow-changed {shlex.quote(_name(key))}" for key in changed))
        said = f"configuration, data or code changed since the run began: {_differences(changed, old, new)}"
        if command is not None:
            raise UsageError(f"{said}; change it back, or begin anew with: {command(changed)}")
        raise UsageError(
            f"--resume: {said}; change it back, go on all the same with {options}, or begin anew with another --out"
        )
    return keys


def refuse_unread_options(before: RunRecord, resolved: Resolved) -> None:
    """Refuse options of a finished run that say something else than it was trained with: nothing would read them.

    Only what was given counts, on the command line or in a file, and only what training reads.

    Raises:
        UsageError: names each key, before and after.
    """
    _refuse_other_method(before, resolved.method_name)
    old, new = _flat(before.content["config"]), _flat(config_file.dump(resolved))
    changed = [
        key
        for key in sorted(new)
        if old.get(key) != new[key]
        and not key.endswith(TIMEOUTS)
        and not (key.startswith("judge.") and key.count(".") == 1)
        and any(key == given or key.startswith(f"{given}.") for given in resolved.sources)
    ]
    if changed:
        raise UsageError(
            f"the run is done, and was trained with other options: {_differences(changed, old, new)}; leave them out, "
            f"{_more(before, resolved)}train anew with another --out, or train its model further with --model RUN and "
            "another --out"
        )


def _more(before: RunRecord, resolved: Resolved) -> str:
    """What is typed for the steps that were asked for by epochs or max_steps, where those are more than a run has."""
    further = (
        0 if before.end is None else resolved.method.num_steps(_steps_per_epoch(before, resolved)) - before.end.steps
    )
    return f"go on for so many steps with --more-steps {further}, " if further > 0 else ""


def _steps_per_epoch(before: RunRecord, resolved: Resolved) -> int:
    config = resolved.method
    updates = config.updates_per_batch if isinstance(config, SampledConfig) else 1
    return updates * steps_per_epoch(before.rows.training.used, config.batch_size)


def with_more_steps(before: RunRecord | None, resolved: Resolved) -> Resolved:
    """Return the options of a finished run that --more-steps trains further: its own, and a further part.

    Raises:
        UsageError: there is no run, it is not done, it stopped early, or it has other options.
    """
    num_steps = resolved.run.more_steps
    if num_steps is None:
        return resolved
    typed = f"--more-steps {num_steps}"
    if before is None:
        raise UsageError(f"{typed} trains a finished run further: name it by --resume RUN; a new run has --max-steps")
    out = resolved.run.out
    if (end := before.end) is None:
        raise UsageError(f"{typed}: the run is not done; go on with it first: alignkit train --resume {out}")
    refuse_unread_options(before, resolved)
    if end.steps < resolved.method.num_steps(_steps_per_epoch(before, resolved)):
        raise UsageError(
            f"{typed}: the run stopped early, at step {end.steps}, and would stop at once again; train its model "
            f"further with --model {out} and another --out"
        )
    method = resolved.method.model_copy(update={"added_steps": (*resolved.method.added_steps, num_steps)})
    run = resolved.run.model_copy(update={"allow_changed": [*resolved.run.allow_changed, "added_steps"]})
    return replace(resolved, method=method, run=run)


def resume_command(
    resolved: Resolved, out: Path | None, keys: Sequence[str] = (), *, instead: Mapping[str, Any] | None = None
) -> str:
    """The command that goes on with a run: its folder, which knows what was typed, and what changes.

    A folder without run.json knows nothing yet: then it is all that was given on the command line.

    Args:
        out: the run's folder; None: it has none yet, and the command is the one that was typed.
        keys: what --allow-changed is given.
        instead: options with other values than before, by their Python names.

    Returns: a line for a POSIX shell; words where a reward is a Python function, which no shell can name.
    """
    instead = instead or {}
    if any(spec.startswith(PREFIX) for spec in resolved.rollouts.reward):
        changes = {"out": str(out or ""), "resume": out is not None, "allow_changed": [*keys]} | dict(instead)
        given = ", ".join(f"{key}={value!r}" for key, value in changes.items() if value)
        return "the same call of alignkit.train" + (f" with {given}" if given else "")
    before, now = None if out is None else _begun_with(out), _flat(config_file.dump(resolved))
    goes_on = before is not None
    words = ["alignkit", "train", *(["--resume", str(out)] if goes_on else [resolved.method_name])]
    layers: dict[str, None] = {}
    for path, place in resolved.sources.items():
        table, _, key = path.rpartition(".")
        if key in instead or (before is not None and before.get(path) == now.get(path)):
            continue
        section = resolved.method if table == f"train.{resolved.method_name}" else getattr(resolved, table, None)
        if place == "option" and section is not None:
            if is_flag(type(section), key):
                words += typed_option(key, getattr(section, key))
            else:  # given in Python
                value = getattr(section, key)
                words += ["--set", f"{path}={value if isinstance(value, str) else json.dumps(value)}"]
        elif place == "--set":
            name = table.removeprefix("judge.")
            value = resolved.judges[name][key] if name in resolved.judges else getattr(section, key)
            words += ["--set", f"{path}={value if isinstance(value, str) else json.dumps(value)}"]
        elif place.endswith(runs.FILE):
            layers[f"--like\0{Path(place).parent}"] = None
        elif (file := place.rpartition(":")[0]) and Path(file) != Path(config_source.FILE_NAME):
            layers[f"--config\0{file}"] = None
    words += [word for layer in layers for word in layer.split("\0")]
    if not goes_on:
        words += ["--preset", resolved.run.preset] if resolved.run.preset else []
        words += [word for name in resolved.run.track for word in ("--track", name)]
    for key, value in instead.items():
        sections = (resolved.method, resolved.model, resolved.data, resolved.rollouts)
        has_flag = any(is_flag(type(section), key) for section in sections)
        words += typed_option(key, value) if has_flag else ["--set", f"{key}={value}"]
    words += ["--yes"] if resolved.run.yes else []
    if out is not None and goes_on and resolved.run.more_steps and runs.read_run(out).finished is not None:
        words += ["--more-steps", str(resolved.run.more_steps)]  # nothing of it is in run.json yet
    if not goes_on:
        words += ["--resume"] if out is not None or resolved.run.resume else []
        words += ["--out", str(out or resolved.run.out)] if out or resolved.run.out else []
    words += [word for key in keys for word in ("--allow-changed", key)]
    return as_typed(words)


def _begun_with(run: Path) -> dict[str, Any] | None:
    """The configuration that a run's folder knows, by dotted path; None where it knows none."""
    try:
        return _flat(runs.read_run(run).content["config"]) if runs.holds_run(run) else None
    except InputError:
        return None


def typed_option(key: str, value: Any) -> list[str]:
    """Return the words that give an option its value."""
    flag = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{key.replace('_', '-')}"]
    if isinstance(value, Mapping):
        return [word for name, one in value.items() for word in (flag, f"{name}={_value(one)}")]
    if isinstance(value, list | tuple):
        if value and all(isinstance(one, int | float) for one in value):
            return [flag, ",".join(map(str, value))]
        return [word for one in value for word in (flag, str(one))]
    return [] if value is None else [flag, str(value)]


def _value(value: Any) -> str:
    """A value of --option KEY=VALUE; a text that would be read as a number or a switch is quoted."""
    return value if isinstance(value, str) and config_fields.scalar(value.strip()) == value else json.dumps(value)


def _refuse_other_method(before: RunRecord, method: str) -> None:
    if before.method != method:
        raise UsageError(f"the run in this folder is a {before.method} run; give another --out")


def _differences(keys: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    shown = [f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}" for key in keys[:_SHOWN]]
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{'; '.join(shown)}{more}"


def _names(key: str) -> set[str]:
    """What --allow-changed may call a key."""
    if key.startswith(_REWARD):
        reward = key.removeprefix(_REWARD)
        return {key, f"reward {reward}", _name(key)}
    return {key, key.rpartition(".")[2], key.rpartition(" ")[2]}


def _name(key: str) -> str:
    """The shortest of these; a reward with the name of another fingerprint keeps its kind."""
    if key.startswith(_REWARD):
        reward = key.removeprefix(_REWARD)
        return f"reward {reward}" if reward in _FINGERPRINTS else reward
    found = [prefix for prefix in ("fingerprint of ", "version of ") if key.startswith(prefix)]
    return key.removeprefix(found[0]) if found else key.rpartition(".")[2]


def warn_of_other_hardware(before: RunRecord, now: Mapping[str, Any]) -> None:
    """Say where the machine is another one: the run goes on, but its last bits may differ."""
    old, new = before.hardware, now["hardware"]
    changed = [f"{key}: {old[key]} -> {new[key]}" for key in new if key in old and old[key] != new[key]]
    if changed:
        _logger.warning("another machine than the run began on (%s): the last bits may differ", "; ".join(changed))


def resume_point(
    run: RunFolder, *, needs_best: bool, allowed: Sequence[str] = (), other_rewards: bool = False
) -> Path | None:
    """Return the checkpoint to go on from (None: from the start), and forget what was written after it.

    Args:
        needs_best: the best weights so far are needed at the end, so a checkpoint whose best is damaged is none.
        allowed: names of files, metrics.jsonl or samples.jsonl, that may lack lines of steps before the checkpoint.
        other_rewards: they are no longer those that the run began with; where those taught nothing, it begins anew.
            It also does where all of them were missing: what kept them away may be gone, and they are asked for again.

    Raises:
        InputError: no checkpoint fits what metrics.jsonl and samples.jsonl still hold.
    """
    lost: dict[str, str] = {}  # by the newest checkpoint that is whole
    for found in checkpoint.good(run.checkpoints, run.id):
        state = checkpoint.read_state(found)
        if other_rewards and not state["rollouts"].get("signal", {}).get("teaching", 1):
            _logger.warning("%s: nothing was learnt yet from the rewards before they were changed", found)
            break
        if RewardSignal(**state["rollouts"].get("signal", {})).is_unanswered:
            _logger.warning("%s: every reward was missing; they are asked for again", found)
            for folder in (run.path / FOLDER, run.path / FOLDER / "validation"):
                Journal(folder).forget_scores()
            break
        best = state["best_step"]
        if needs_best and best and not checkpoint.is_good(run.checkpoints, best, run.id):
            _logger.warning("%s: skipped: the best weights, of step %d, are damaged", found, best)
            continue
        missing = run.missing_lines(state["lines"])
        for name, problem in missing.items():
            _logger.warning("%s: of what it held after step %d, %s", run.path / name, state["step"], problem)
        refused = {name: problem for name, problem in missing.items() if name not in allowed}
        if refused:
            lost = lost or refused
            _logger.warning("%s: skipped: lines of the steps before it are lost", found)
            continue
        checkpoint.remove_after(run.checkpoints, found, run.id)
        run.cut_lines(state["lines"])
        _logger.info("going on from step %d", state["step"])
        return found
    if lost:
        problems = "; ".join(f"{run.path / name}: {problem}" for name, problem in lost.items())
        raise InputError(
            f"--resume: no checkpoint fits what is left of the run's lines ({problems}): bring the file back, go on "
            f"without them by {' '.join(f'--allow-changed {name}' for name in lost)}, or begin anew with another --out"
        )
    checkpoint.remove_after(run.checkpoints, None, run.id)
    run.cut_lines({})
    _logger.warning("%s: no checkpoint to go on from; the run begins at its first step again", run.path)
    return None


def _compared(description: Mapping[str, Any]) -> dict[str, Any]:
    versions = {name: version for name, version in description["versions"].items() if name in _COMPUTING}
    config = {key: value for key, value in _flat(description["config"]).items() if not key.endswith(TIMEOUTS)}
    return config | _flat(description["fingerprints"], "fingerprint of ") | _flat(versions, "version of ")


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(value: Any) -> Any:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == _HASH else value


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
