"""The reference's log-probs of known rows, computed once and kept on disk.

A file holds those of one set of trees, in order, at one temperature, computed in the rows that training will lay them
into: a pass over the same row gives the same bits, so that a margin before the first step is 0. Its name is a hash of
the reference's weights, the compute type, the temperature, the rows, the machine, and every tree's ids and scored
tokens; all runs of a sweep that share these share the file. It is written beside its place and renamed; on load its
checksum is compared, and a few of its trees are computed again. What does not fit is computed anew, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alignkit.data.trees.packs import Pack, lay_out, pack
from alignkit.data.trees.trees import Tree
from alignkit.distributed.ranks import ALONE, World
from alignkit.policy.policy import Policy
from alignkit.progress import phase
from alignkit.storage import cache_folder, new_file, remove_orphans

_logger = logging.getLogger(__name__)
NUM_CHECKED = 4  # trees computed again on load
TOLERANCES = {"fp32": 1e-3, "bf16": 0.01}  # nats per token, a tree's mean; bf16 rounds by 0.01


@dataclass(frozen=True)
class CachedLogprobs:
    """Reference log-probs by (digest of the tree, temperature), float32 [T of the tree]."""

    values: Mapping[tuple[bytes, float], np.ndarray]

    def of(self, pack: Pack, temperature_N: np.ndarray | None) -> np.ndarray | None:
        """Return float32 [T] of a row, or None where one of its trees is not known at its temperature."""
        parts = []
        first = 0
        for tree in pack.trees:
            count = len(tree.completions)
            temperatures = {1.0} if temperature_N is None else {float(t) for t in temperature_N[first : first + count]}
            first += count
            part = self.values.get((digest(tree), temperatures.pop())) if len(temperatures) == 1 else None
            if part is None:
                return None
            parts.append(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def digest(tree: Tree) -> bytes:
    """Hash a tree's token ids, segments and scored tokens."""
    found = hashlib.blake2b(digest_size=16)
    for segment in tree.segments:
        found.update(len(segment).to_bytes(8, "little"))
        found.update(np.ascontiguousarray(segment.ids, np.int32).tobytes())
        found.update(np.packbits(segment.scored).tobytes())
    return found.digest()


def known_logprobs(
    policy: Policy,
    trees: Sequence[Tree],
    *,
    weights: str,
    capacity: int,
    rows: Sequence[Sequence[int]] | None = None,
    temperature: float = 1.0,
    folder: Path | None = None,
    world: World = ALONE,
) -> CachedLogprobs:
    """Read the trees' log-probs under `policy` from disk, or compute and keep them.

    Of several ranks, each with the whole policy, the first reads and writes, and each computes its share.

    Args:
        policy: the reference itself, or the policy while it still has the reference's weights.
        weights: hash of those weights.
        capacity: tokens of a computed row.
        rows: numbers of the trees in each row that this rank computes, all ranks' together each tree once; a forward
            pass over the same row gives the same bits, over another one rounds otherwise. Default: this rank's share.
        folder: default: `reference` in the cache folder.
    """
    digests = [digest(tree) for tree in trees]
    precision = "fp32" if policy.autocast is None else "bf16"
    rows = _share(trees, capacity, world) if rows is None else rows
    layout = hashlib.sha256(json.dumps(world.gather([[int(n) for n in row] for row in rows])).encode()).hexdigest()
    named = [weights, precision, temperature, policy.path, layout, *_machine(policy.device)]
    key = hashlib.sha256(json.dumps(named).encode() + b"".join(digests))
    path = (folder or cache_folder() / "reference") / f"{key.hexdigest()}.npz"
    sizes = [sum(int(c.scored.sum()) for c in tree.completions) for tree in trees]
    flat = world.gather_arrays(_kept(path, policy, trees, sizes, temperature, is_first=world.is_first))[0]
    if len(flat) != sum(sizes):
        shares = world.gather_arrays(_computed(policy, trees, rows, temperature))
        flat = _merged(shares, world.gather(_numbers(rows)), sizes)
        if world.is_first:
            _write(path, flat, np.concatenate(_apart(policy, trees, temperature)))
        _logger.info("reference: log-probs of %d rows computed once, and kept", len(trees))
        _logger.debug("reference: kept in %s", path)
    else:
        _logger.info("reference: log-probs of %d rows as kept before, %d checked", len(trees), NUM_CHECKED)
        _logger.debug("reference: read from %s", path)
    parts = np.split(flat, np.cumsum(sizes)[:-1]) if sizes else []
    return CachedLogprobs({(name, temperature): part for name, part in zip(digests, parts, strict=True)})


def _kept(
    path: Path, policy: Policy, trees: Sequence[Tree], sizes: Sequence[int], temperature: float, *, is_first: bool
) -> np.ndarray:
    """What the file holds and a few trees computed again bear out; else, and on other ranks than the first, nothing."""
    read = _read(path, sum(sizes)) if is_first else None
    if read is None:
        return np.zeros(0, np.float32)
    flat, checked = read
    again = _apart(policy, trees, temperature)
    tolerance = TOLERANCES["fp32" if policy.autocast is None else "bf16"]
    if len(checked) == sum(map(len, again)):
        before = np.split(checked, np.cumsum([len(part) for part in again])[:-1])
        gaps = [float(np.abs(a - b).mean()) for a, b in zip(again, before, strict=True) if len(a)]
        if all(gap <= tolerance for gap in gaps):  # false for a nan
            return flat
    _logger.warning("%s: a few rows computed again differ; all reference log-probs are computed anew", path)
    return np.zeros(0, np.float32)


def _share(trees: Sequence[Tree], capacity: int, world: World) -> list[list[int]]:
    """Pack every n-th tree from this rank's on."""
    own = range(world.rank, len(trees), world.size)
    return [[own[n] for n in row] for row in pack([trees[n] for n in own], capacity)]


def _machine(device: torch.device) -> tuple[str, str, int]:
    """What decides beside the row how a forward pass rounds."""
    if device.type == "cuda":
        return torch.__version__, torch.cuda.get_device_name(device), 0
    return torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()


def _numbers(rows: Sequence[Sequence[int]]) -> list[int]:
    return sorted(int(n) for row in rows for n in row)


def _merged(shares: Sequence[np.ndarray], numbers: Sequence[Sequence[int]], sizes: Sequence[int]) -> np.ndarray:
    """Put the ranks' shares, each in the order of its trees' numbers, into the order of all."""
    parts: dict[int, np.ndarray] = {}
    for own, which in zip(shares, numbers, strict=True):
        parts |= zip(which, np.split(own, np.cumsum([sizes[n] for n in which])[:-1]), strict=True) if which else ()
    return np.concatenate([parts[n] for n in range(len(sizes))]) if sizes else np.zeros(0, np.float32)


def _computed(policy: Policy, trees: Sequence[Tree], rows: Sequence[Sequence[int]], temperature: float) -> np.ndarray:
    """Log-probs of the trees of some rows in the order of their numbers, float32 [T]."""
    found: dict[int, np.ndarray] = {}
    with torch.no_grad(), phase("reference log-probs", sum(map(len, rows))) as count:
        for numbers in rows:
            row = lay_out(trees, numbers)
            logprob_T = policy(row, np.full(row.num_completions, temperature, np.float32)).logprob_T.cpu().numpy()
            tokens_P = np.bincount(row.group_N, weights=row.num_tokens_N, minlength=len(numbers))
            ends = np.cumsum(tokens_P.astype(np.int64))
            found |= zip((int(n) for n in numbers), np.split(logprob_T, ends[:-1]), strict=True)
            count(len(numbers))
    parts = [found[n] for n in sorted(found)]
    return np.concatenate(parts).astype(np.float32, copy=False) if parts else np.zeros(0, np.float32)


def _apart(policy: Policy, trees: Sequence[Tree], temperature: float) -> list[np.ndarray]:
    """Log-probs of a few trees, spread evenly, each in a row of its own: kept beside all, and compared on load."""
    chosen = sorted({int(n) for n in np.linspace(0, len(trees) - 1, NUM_CHECKED)}) if trees else []
    return [np.zeros(0, np.float32), *(_computed(policy, trees, [[number]], temperature) for number in chosen)]


def _read(path: Path, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a file's log-probs of all trees and of the checked ones; None where it is missing or damaged (logged)."""
    if not path.exists():
        return None
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            flat, checked, checksum = file["logprob"], file["checked"], file["sha256"].tobytes()
    except Exception as error:  # damaged bytes end zipfile and numpy in a dozen ways
        _logger.warning("%s: not readable (%s); computed anew", path, error)
        return None
    right = flat.dtype == checked.dtype == np.float32 and flat.shape == (count,)
    if not right or _checksum(path, flat, checked) != checksum:
        _logger.warning("%s: damaged; computed anew", path)
        return None
    return flat, checked


def _checksum(path: Path, flat: np.ndarray, checked: np.ndarray) -> bytes:
    """Hash a file's name and content: what has another file's name is not taken for it."""
    return hashlib.sha256(path.name.encode() + flat.tobytes() + checked.tobytes()).digest()


def _write(path: Path, flat: np.ndarray, checked: np.ndarray) -> None:
    """Write whole or not at all; a full disk costs only the cache."""
    checksum = np.frombuffer(_checksum(path, flat, checked), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_orphans(path.parent)
        with new_file(path, private=True) as file:
            np.savez(file, logprob=flat, checked=checked, sha256=checksum)
    except OSError as error:
        _logger.warning("%s: cannot be kept (%s); the next run computes it again", path, error)
