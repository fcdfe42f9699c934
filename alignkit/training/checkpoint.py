"""Checkpoints: safetensors and JSON only, whole or not there at all.

`checkpoints/step-NNNNNN/` is written into a temporary folder (by several ranks together: pieces.py), each file synced,
a manifest of SHA-256 last and synced; then the folder is renamed, its parent synced, and only then older ones are
pruned. A folder whose manifest does not hold is passed over for the one before it, and said so. Folders that are being
written or removed begin with a dot.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from alignkit.errors import RunStopped
from alignkit.policy.policy import Policy
from alignkit.policy.ranks import ALONE, World
from alignkit.training.pieces import global_bytes, read_pieces, write_pieces

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_KEPT = 2


def save(
    folder: Path,
    *,
    step: int,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    world: World = ALONE,
) -> None:
    """Write `step-NNNNNN` below `folder` and prune to the last two and the best (`state["best_step"]`).

    Of a sharded policy each rank writes its own piece; every rank must call it, and rank 0's state is kept.

    Raises:
        RunStopped: the disk is full or cannot be written; nothing half-written stays under a final name.
    """
    weights = {name: p.detach() for name, p in policy.named_parameters() if p.requires_grad}
    moments, scalars = _split(optimizer)
    final = folder / f"step-{step:06d}"
    working = folder / f".step-{step:06d}.part"

    needed = sum(global_bytes(x) for x in (*weights.values(), *moments.values()))
    text = json.dumps({**state, "step": step, "optimizer": scalars}, indent=1)

    def write() -> dict[str, str]:
        parts = {"weights": weights, "optimizer": moments}
        return dict(_synced(write_pieces(working, name, tensors, world)) for name, tensors in parts.items())

    try:
        world.on_first(_or_stop(lambda: _begin(working, needed), folder, step))
        hashes = [one for part in world.each(_or_stop(write, folder, step)) for one in part.items()]
        world.on_first(_or_stop(lambda: _finish(working, final, dict(hashes), text), folder, step))
    except RunStopped:
        shutil.rmtree(working, ignore_errors=True)
        raise
    world.on_first(lambda: _prune(folder, best=state.get("best_step")))


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
    """Put a checkpoint's weights and optimizer state in place, however many ranks wrote it; returns its state."""
    load_weights(checkpoint, policy)
    state = read_state(checkpoint)
    if optimizer is not None:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        packed = optimizer.state_dict()
        packed["state"] = {int(n): dict(values) for n, values in state.pop("optimizer").items()}
        with read_pieces(checkpoint, "optimizer") as pieces:
            for key in pieces.names():
                number, name = key.split(".", 1)
                packed["state"].setdefault(int(number), {})[name] = pieces.read(key, trained[int(number)])
        optimizer.load_state_dict(packed)
    return state


def load_weights(checkpoint: Path, policy: Policy) -> None:
    """Put a checkpoint's trained weights in place."""
    own = dict(policy.named_parameters())
    with torch.no_grad(), read_pieces(checkpoint, "weights") as pieces:
        for name in pieces.names():
            own[name].copy_(pieces.read(name, own[name]))


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise OSError(ENOSPC) where the disk cannot hold what is about to be written."""
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
                tensors[f"{number}.{name}"] = value
            else:
                scalars.setdefault(str(number), {})[name] = value
    return tensors, scalars


def _begin(working: Path, needed_bytes: int) -> None:
    """Make the folder that is written into, where there is room."""
    working.parent.mkdir(parents=True, exist_ok=True)
    check_space(working.parent, needed_bytes)
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()


def _finish(working: Path, final: Path, hashes: Mapping[str, str], state: str) -> None:
    """Add the state and the manifest, and give the folder its name."""
    file = working / "state.json"
    file.write_text(state, encoding="utf-8")
    _seal(working, {**hashes, **dict([_synced(file)])})
    if final.exists():
        final.rename(_removed(final))
    working.rename(final)
    _sync(final.parent)


def _or_stop(work: Callable[[], T], folder: Path, step: int) -> Callable[[], T]:
    """Let a disk that refuses stop the run."""

    def working() -> T:
        try:
            return work()
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunStopped(
                f"{folder}: the checkpoint of step {step} cannot be written: {reason}; make room and go on with "
                "--resume"
            ) from error

    return working


def _synced(file: Path) -> tuple[str, str]:
    """Bring a file to disk; returns its name and SHA-256."""
    with open(file, "rb+") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        os.fsync(opened.fileno())
    return file.name, digest


def _seal(folder: Path, manifest: Mapping[str, str]) -> None:
    """Write and sync the manifest."""
    with open(folder / "manifest.json", "w", encoding="utf-8") as opened:
        json.dump(manifest, opened, indent=1, sort_keys=True)
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
