"""Checkpoints: safetensors and JSON only, whole or not there at all.

`checkpoints/step-NNNNNN/` is written into a temporary folder, each file synced, a manifest of SHA-256 last and synced;
then the folder is renamed, its parent synced, and only then older ones are pruned. A folder whose manifest does not
hold is passed over for the one before it, and said so. Folders that are being written or removed begin with a dot.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignkit.errors import RunStopped
from alignkit.policy.policy import Policy

_logger = logging.getLogger(__name__)
_KEPT = 2


def save(
    folder: Path, *, step: int, policy: Policy, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Path:
    """Write `step-NNNNNN` below `folder` and prune to the last two and the best (`state["best_step"]`).

    Raises:
        RunStopped: the disk is full or cannot be written; nothing half-written stays under a final name.
    """
    weights = {name: p.detach().contiguous() for name, p in policy.named_parameters() if p.requires_grad}
    moments, scalars = _split(optimizer)
    needed = sum(x.nbytes for x in (*weights.values(), *moments.values()))
    final = folder / f"step-{step:06d}"
    working = folder / f".step-{step:06d}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, needed)
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir()
        save_file(weights, working / "weights.safetensors")
        save_file(moments, working / "optimizer.safetensors")
        (working / "state.json").write_text(json.dumps({**state, "step": step, "optimizer": scalars}, indent=1))
        _seal(working)
        if final.exists():
            final.rename(_removed(final))
        working.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(working, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunStopped(
            f"{folder}: the checkpoint of step {step} cannot be written: {reason}; make room and go on with --resume"
        ) from error
    _prune(folder, best=state.get("best_step"))
    return final


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint whose manifest holds, or None; says which ones it passed over."""
    return next(good(folder), None)


def good(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints whose manifest holds, newest first; says which ones it passes over."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        problem = _problem(candidate)
        if problem is None:
            yield candidate
        else:
            _logger.warning("%s: passed over: %s", candidate, problem)


def is_good(folder: Path, step: int) -> bool:
    """Whether the checkpoint of a step is there and its manifest holds."""
    return _problem(folder / f"step-{step:06d}") is None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's state without its tensors."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return state


def remove_after(folder: Path, checkpoint: Path | None) -> None:
    """Remove what is newer than a checkpoint (damaged, or None is good): it is written again, and counts as kept."""
    for candidate in folder.glob("step-*"):
        if checkpoint is None or candidate.name > checkpoint.name:
            _remove(candidate)


def load(checkpoint: Path, *, policy: Policy, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Put a checkpoint's weights and optimizer state in place; returns its state."""
    load_weights(checkpoint, policy)
    state = read_state(checkpoint)
    if optimizer is not None:
        moments = load_file(checkpoint / "optimizer.safetensors")
        packed = optimizer.state_dict()
        packed["state"] = {int(n): dict(values) for n, values in state.pop("optimizer").items()}
        for key, tensor in moments.items():
            number, name = key.split(".", 1)
            packed["state"].setdefault(int(number), {})[name] = tensor
        optimizer.load_state_dict(packed)
    return state


def load_weights(checkpoint: Path, policy: Policy) -> None:
    """Put a checkpoint's trained weights in place."""
    own = dict(policy.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(checkpoint / "weights.safetensors").items():
            own[name].copy_(tensor)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise OSError(ENOSPC) where the disk cannot hold what is about to be written."""
    import errno

    free = shutil.disk_usage(folder).free
    if free < needed_bytes * 1.05 + 2**20:
        text = f"no disk space: {needed_bytes / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free"
        raise OSError(errno.ENOSPC, text)


def _split(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Flatten an optimizer's state into tensors named "NUMBER.NAME" and plain numbers."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, float]] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value.contiguous()
            else:
                scalars.setdefault(str(number), {})[name] = value
    return tensors, scalars


def _seal(folder: Path) -> None:
    """Sync every file, then write and sync the manifest."""
    manifest = {}
    for file in sorted(folder.iterdir()):
        with open(file, "rb+") as opened:
            manifest[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
            os.fsync(opened.fileno())
    with open(folder / "manifest.json", "w", encoding="utf-8") as opened:
        json.dump(manifest, opened, indent=1)
        opened.flush()
        os.fsync(opened.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _problem(checkpoint: Path) -> str | None:
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for name, expected in manifest.items():
            with open(checkpoint / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    return f"{name} is not what was written"
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read: {error}"
    return None


def _prune(folder: Path, *, best: int | None) -> None:
    for old in sorted(folder.glob("step-*"))[:-_KEPT]:
        if best is None or old.name != f"step-{best:06d}":
            _remove(old)
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint: under another name first, so that half of one is never taken for one."""
    away = _removed(checkpoint)
    checkpoint.rename(away)
    shutil.rmtree(away)


def _removed(checkpoint: Path) -> Path:
    away = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(away, ignore_errors=True)
    return away
