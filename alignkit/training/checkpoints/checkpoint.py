"""Checkpoints: safetensors and JSON only, whole or not there at all.

`checkpoints/step-NNNNNN/` is written into a temporary folder (by several ranks together: distributed/shards.py; by a
thread while training goes on: background.py). Each file is synced, then a manifest; then the folder is renamed and its
parent synced. Only then older ones are pruned.
Folders that are being written or removed begin with a dot.

    manifest.json   {"run": the run's id, "step": N, "files": {name: SHA-256}}

A folder whose manifest does not hold, or names another run or step, is skipped with a warning; the one
before it is used.
Only folders whose manifest names this run and their step are ever removed: others may be somebody's.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from alignkit.distributed.ranks import ALONE, World
from alignkit.distributed.shards import Piece, global_bytes, make_piece, read_pieces
from alignkit.errors import InputError, RunStopped
from alignkit.policy.policy import Policy
from alignkit.storage import (
    PRIVATE_FOLDER,
    file_hash,
    new_file,
    part_of_folder,
    put_in_place,
    read_object,
    remove_folder,
    set_aside,
    sync_folder,
)
from alignkit.training.checkpoints.background import Background

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_KEPT = 2
_MANIFEST = "manifest.json"
_PARTS = ("weights", "optimizer")  # what a checkpoint holds beside its state


def save(
    folder: Path,
    *,
    step: int,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    run: str = "",
    world: World = ALONE,
    go_on: Callable[[], str] = lambda: "--resume",
    background: Background | None = None,
) -> bool:
    """Write `step-NNNNNN` below `folder` and prune to the last two and the best (`state["best_step"]`).

    `run` is the run's id, `go_on` gives the command that goes on with it. Of a sharded policy each rank writes its own
    piece; every rank must call it, and rank 0's state is kept.

    Args:
        background: writes a copy, of one rank alone, while the caller goes on; what fails then is raised by its `wait`.

    Returns: whether it is on the disk.

    Raises:
        RunStopped: the disk is full or cannot be written; nothing half-written stays under a final name.
    """
    weights = {name: p.detach() for name, p in policy.named_parameters() if p.requires_grad}
    moments, scalars = _split(policy, optimizer)
    final = place(folder, step)
    working = part_of_folder(final)

    needed = sum(global_bytes(x) for x in (*weights.values(), *moments.values()))
    text = json.dumps({**state, "step": step, "optimizer": scalars}, indent=1)
    pieces = [make_piece(name, part, world) for name, part in zip(_PARTS, (weights, moments), strict=True)]

    def write(pieces: Sequence[Piece]) -> None:
        def write_own() -> dict[str, str]:
            return {piece.file: piece.write(working) for piece in pieces}

        try:
            world.run_on_rank0(_or_stop(lambda: _begin(working, needed), folder, step, go_on))
            written = world.run_on_all(_or_stop(write_own, folder, step, go_on))
            hashes = {file: hash for part in written for file, hash in part.items()}
            world.run_on_rank0(
                _or_stop(lambda: _finish(working, final, hashes, text, (run, step)), folder, step, go_on)
            )
        except RunStopped:
            shutil.rmtree(working, ignore_errors=True)
            raise
        world.run_on_rank0(lambda: _prune(folder, run, best=state.get("best_step")))

    if background is not None and background.start(pieces, write):
        return False
    write(pieces)
    return True


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:06d}"


def steps(folder: Path) -> list[int]:
    """Return the steps that a folder's names tell of, in order, whatever lies in them."""
    found = [re.fullmatch("step-([0-9]{6,18})", path.name) for path in folder.glob("step-*") if path.is_dir()]
    numbers = sorted(int(match[1]) for match in found if match)
    return [number for number in numbers if place(folder, number).is_dir()]


def own_steps(folder: Path, run: str) -> list[int]:
    """Return the steps of a run's checkpoints, in order, whole or damaged since."""
    return [step for step in steps(folder) if _is_own(folder, step, run)]


def newest(folder: Path, run: str | None = None) -> Path | None:
    """Return a run's newest checkpoint whose manifest holds, or None; logs which ones it skips."""
    return next(good(folder, run), None)


def good(folder: Path, run: str | None = None) -> Iterator[Path]:
    """Yield a run's checkpoints (None: of any run) whose manifest holds, newest first; logs which it skips."""
    for step in reversed(steps(folder)):
        problem = _problem(folder, step, run)
        if problem is None:
            yield place(folder, step)
        else:
            _logger.warning("%s: skipped: %s", place(folder, step), problem)


def is_good(folder: Path, step: int, run: str) -> bool:
    """Whether a run's checkpoint of a step is there and its manifest holds."""
    return _problem(folder, step, run) is None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's state without its tensors."""
    return read_object(checkpoint / "state.json")


def remove_after(folder: Path, checkpoint: Path | None, run: str) -> None:
    """Remove what a run wrote after a checkpoint (None: all of it): it is written again, and counts as kept.

    What is half-written goes as well; what is not the run's stays.
    """
    for step in own_steps(folder, run):
        if checkpoint is None or step > _step_of(checkpoint):
            remove_folder(place(folder, step))
    _remove_left(folder)


def load(checkpoint: Path, *, policy: Policy, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Put a checkpoint's weights and optimizer state in place, however many ranks wrote it; returns its state."""
    load_weights(checkpoint, policy)
    state = read_state(checkpoint)
    if optimizer is not None:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        own = {kept: number for number, kept in _kept_numbers(policy, optimizer).items()}
        packed = optimizer.state_dict()
        packed["state"] = {own[int(n)]: dict(values) for n, values in state.pop("optimizer").items()}
        with read_pieces(checkpoint, "optimizer") as pieces:
            for key in pieces.names():
                kept, name = key.split(".", 1)
                number = own[int(kept)]
                packed["state"].setdefault(number, {})[name] = pieces.read(key, trained[number])
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
    if free < (needed := needed_bytes * 1.05 + 2**20):
        text = f"no disk space: {math.ceil(needed / 2**20):,} MiB needed, {free // 2**20:,} MiB free"
        raise OSError(errno.ENOSPC, text)


def _split(policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Flatten an optimizer's state into tensors named "NUMBER.NAME" and plain numbers."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, float]] = {}
    kept = _kept_numbers(policy, optimizer)
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{kept[number]}.{name}"] = value
            else:
                scalars.setdefault(str(kept[number]), {})[name] = value
    return tensors, scalars


def _kept_numbers(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[int, int]:
    """Number among the policy's trained parameters by number in the optimizer, whatever groups that has."""
    order = {id(p): number for number, p in enumerate(p for p in policy.parameters() if p.requires_grad)}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    return {number: order[id(p)] for number, p in enumerate(trained)}


def _begin(working: Path, needed_bytes: int) -> None:
    """Make the folder that is written into, where there is room."""
    working.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    check_space(working.parent, needed_bytes)
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(mode=PRIVATE_FOLDER)


def _finish(working: Path, final: Path, hashes: Mapping[str, str], state: str, whose: tuple[str, int]) -> None:
    """Add the state and the manifest, and give the folder its name; what is there and not the run's is set aside."""
    run, step = whose
    file = working / "state.json"
    with new_file(file, private=True) as opened:
        opened.write(state.encode())
    _seal(working, {"run": run, "step": step, "files": {**hashes, file.name: file_hash(file)}})
    if os.path.lexists(final) and not _is_own(final.parent, step, run):
        aside = set_aside(final, "not-ours")
        _logger.warning("%s is not this run's checkpoint: set aside as %s", final, aside.name)
    put_in_place(working, final)


def _or_stop(work: Callable[[], T], folder: Path, step: int, go_on: Callable[[], str]) -> Callable[[], T]:
    """Let a disk that refuses stop the run."""

    def working() -> T:
        try:
            return work()
        except OSError as error:
            reason = error.strerror or error
            raise RunStopped(
                f"{folder}: the checkpoint of step {step} cannot be written: {reason}; make room and go on "
                f"with: {go_on()}"
            ) from error

    return working


def _seal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write and sync the manifest."""
    with new_file(folder / _MANIFEST, private=True) as opened:
        opened.write(json.dumps(manifest, indent=1, sort_keys=True).encode())
    sync_folder(folder)


def _problem(folder: Path, step: int, run: str | None) -> str | None:
    """Why a checkpoint cannot be gone on from, or None."""
    checkpoint = place(folder, step)
    try:
        manifest = read_object(checkpoint / _MANIFEST)
        files = manifest.get("files")
        if not isinstance(files, dict) or not all(isinstance(known, str) for known in files.values()):
            return "its manifest is not what a run writes"
        if run is not None and manifest.get("run") != run:
            return "it is another run's"
        if manifest.get("step") != step:
            return f"it is the checkpoint of step {manifest.get('step')}, not of {step}"
        if "state.json" not in files or not all(any(n.startswith(part) for n in files) for part in _PARTS):
            return "its manifest does not name every file"
        for name in sorted(files):
            if name != Path(name).name:
                return f"its manifest names {name!r}, which lies elsewhere"
            if file_hash(checkpoint / name) != files[name]:
                return f"{name} is not what was written"
        more = sorted(file.name for file in checkpoint.glob("*.safetensors") if file.name not in files)
        if more:
            return f"{more[0]} was not written with it"
    except InputError as error:
        return f"its manifest cannot be read: {error}"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return None


def _is_own(folder: Path, step: int, run: str) -> bool:
    """Whether what lies at a step's place was written by the run, whole or damaged since."""
    try:
        manifest = read_object(place(folder, step) / _MANIFEST)
    except (InputError, OSError):
        return False
    return manifest.get("run") == run and manifest.get("step") == step


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _prune(folder: Path, run: str, *, best: int | None) -> None:
    for old in own_steps(folder, run)[:-_KEPT]:
        if old != best:
            remove_folder(place(folder, old))
    _remove_left(folder)


def _remove_left(folder: Path) -> None:
    """Remove what a killed process left half-written or half-removed; the run's lock is held."""
    for left in folder.glob(".step-*"):
        if re.fullmatch(r"\.step-[0-9]{6,18}\.(part|old|removed)", left.name):
            shutil.rmtree(left, ignore_errors=True)
