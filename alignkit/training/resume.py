"""A resume is the same run: what must not have changed, what may change bits, and which checkpoint it goes on from."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from alignkit.config import TIMEOUTS
from alignkit.errors import InputError, UsageError
from alignkit.runs import RunRecord
from alignkit.training import checkpoint
from alignkit.training.run_folder import RunFolder

_logger = logging.getLogger(__name__)
_SHOWN = 6
_HASH = 64  # characters of a SHA-256
_COMPUTING = ("torch", "transformers", "tokenizers", "peft", "numpy")  # whose version may change what is computed


def code_fingerprint(method_module: str) -> str:
    """Hash the source of alignkit, its native part and the method's module, with the package that it lies in."""
    digest = hashlib.sha256()
    own = Path(__file__).parents[1]
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


def refuse_changes(before: RunRecord, now: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Refuse to go on with another configuration, other data or other code.

    Raises:
        UsageError: names each key that changed, before and after; `allowed` lets keys change.
    """
    if before.method != now["method"]:
        raise UsageError(f"the run in this folder is a {before.method} run; give another --out")
    old, new = _compared(before.content), _compared(now)
    changed = [
        f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not {key, key.rpartition(".")[2], key.rpartition(" ")[2]} & set(allowed)
    ]
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise UsageError(
            f"--resume: configuration, data or code changed since the run began: {'; '.join(changed[:_SHOWN])}{more}; "
            "change it back, allow each by --allow-changed KEY (its last word), or begin anew with another --out"
        )


def warn_of_other_hardware(before: RunRecord, now: Mapping[str, Any]) -> None:
    """Say where the machine is another one: the run goes on, but its last bits may differ."""
    old, new = before.hardware, now["hardware"]
    changed = [f"{key}: {old[key]} -> {new[key]}" for key in new if key in old and old[key] != new[key]]
    if changed:
        _logger.warning("another machine than the run began on (%s): the last bits may differ", "; ".join(changed))


def resume_point(run: RunFolder, *, needs_best: bool, allowed: Sequence[str] = ()) -> Path | None:
    """Return the checkpoint to go on from (None: from the start), and forget what was written after it.

    Args:
        needs_best: the best weights so far are needed at the end, so a checkpoint whose best is damaged is none.
        allowed: names of files, metrics.jsonl or samples.jsonl, that may lack lines of steps before the checkpoint.

    Raises:
        InputError: no checkpoint fits what metrics.jsonl and samples.jsonl still hold.
    """
    lost: dict[str, str] = {}  # by the newest checkpoint that is whole
    for found in checkpoint.good(run.checkpoints, run.id):
        state = checkpoint.read_state(found)
        best = state["best_step"]
        if needs_best and best and not checkpoint.is_good(run.checkpoints, best, run.id):
            _logger.warning("%s: passed over: the best weights, of step %d, are damaged", found, best)
            continue
        missing = run.missing_lines(state["lines"])
        for name, problem in missing.items():
            _logger.warning("%s: of what it held after step %d, %s", run.path / name, state["step"], problem)
        refused = {name: problem for name, problem in missing.items() if name not in allowed}
        if refused:
            lost = lost or refused
            _logger.warning("%s: passed over: lines of the steps before it are lost", found)
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
