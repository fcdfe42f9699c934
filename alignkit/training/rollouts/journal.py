"""The journal of rollouts: what was sampled and scored for a batch is on the disk before the weights change.

    RUN/rollouts/NNNNNN-R.completions.safetensors   round R of batch NNNNNN: token ids, log-probs, which are truncated
    RUN/rollouts/NNNNNN-0.old-logprobs.safetensors  the batch's log-probs as training computes them, where it reads them
    RUN/rollouts/NNNNNN-R.scored.safetensors        its rewards, float64, nan where missing, with the reasons
    RUN/rollouts/validation/NNNNNN-0...             the same of the held-out evaluation after step NNNNNN

Each file is whole or not there, and its hash covers its place and its run. A run that goes on reads them instead of
sampling and scoring again: the samples are the same even where a sampler cannot repeat them, and what was missing
stays missing. A round in which every reward was missing is the exception: it is scored again. A file is used only for
the same rows, options and rewards (its key); a damaged one, or one of another batch or run, is skipped with a
warning and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from alignkit.distributed.fsdp import packed, unpacked
from alignkit.distributed.ranks import World
from alignkit.rollouts.sampler import Completion
from alignkit.scoring.ledger import canonical
from alignkit.scoring.rewards import Rewards
from alignkit.storage import PRIVATE_FOLDER, new_file

_logger = logging.getLogger(__name__)
FOLDER = "rollouts"
_NAME = re.compile(
    r"(?P<part>\.)?(?P<batch>[0-9]{6,18})-[0-9]{1,18}\.(completions|old-logprobs|scored)\.safetensors"
    r"(?(part)\.[0-9a-f]{12}\.part)"
)


class Journal:
    """A run's journal, under `folder`; `run` is the run's id."""

    def __init__(self, folder: Path, run: str = "") -> None:
        self.folder, self.run = folder, run

    def completions(self, batch: int, round_: int, key: str) -> list[Completion] | None:
        """Return the completions of a round in order, or None where they are not there."""
        found = self._read(self._file(batch, round_, "completions"), key)
        if found is None:
            return None
        arrays, _ = found
        ends = np.cumsum(arrays["length_N"])[:-1]
        parts = zip(
            np.split(arrays["ids_T"], ends), np.split(arrays["logprob_T"], ends), arrays["truncated_N"], strict=True
        )
        return [Completion(ids, logprobs, bool(truncated)) for ids, logprobs, truncated in parts]

    def keep_completions(self, batch: int, round_: int, key: str, completions: Sequence[Completion]) -> None:
        """Write a round's completions, synced. Raises OSError where the disk refuses."""
        arrays = {
            "ids_T": np.concatenate([c.ids for c in completions]).astype(np.int32),
            "logprob_T": np.concatenate([c.logprobs for c in completions]).astype(np.float32),
            "length_N": np.array([len(c.ids) for c in completions], np.int64),
            "truncated_N": np.array([c.truncated for c in completions], np.uint8),
        }
        self._write(self._file(batch, round_, "completions"), key, arrays, {})

    def old_logprobs(self, batch: int, key: str) -> np.ndarray | None:
        """Return a batch's log-probs as training computed them, float32 [T], or None where they are not there."""
        found = self._read(self._file(batch, 0, "old-logprobs"), key)
        return None if found is None else found[0]["logprob_T"]

    def keep_old_logprobs(self, batch: int, key: str, logprob_T: np.ndarray) -> None:
        """Write them, synced. Raises OSError where the disk refuses."""
        self._write(self._file(batch, 0, "old-logprobs"), key, {"logprob_T": logprob_T.astype(np.float32)}, {})

    def scored(self, batch: int, round_: int, key: str) -> Rewards | None:
        """Return a round's rewards, or None where they are not there, or all are missing: they are asked for again."""
        found = self._read(self._file(batch, round_, "scored"), key)
        if found is None or np.isnan(found[0]["total_PG"]).all():
            return None
        arrays, more = found
        by_name = {name: arrays[f"by_name/{name}"] for name in more["names"]}
        return Rewards(arrays["total_PG"], by_name, more["num_missing"], tuple(more["reasons"]))

    def keep_scored(self, batch: int, round_: int, key: str, rewards: Rewards) -> None:
        """Write a round's rewards, synced. Raises OSError where the disk refuses."""
        arrays = {"total_PG": rewards.total_PG} | {f"by_name/{name}": x for name, x in rewards.by_name.items()}
        more = {"names": list(rewards.by_name), "num_missing": rewards.num_missing, "reasons": list(rewards.reasons)}
        self._write(self._file(batch, round_, "scored"), key, arrays, more)

    def prune(self, before: int) -> None:
        """Remove the batches with a smaller number, and what a killed process left half-written."""
        for file in self.folder.glob("*"):
            own = _NAME.fullmatch(file.name)
            if own and (own["part"] or int(own["batch"]) < before):
                file.unlink(missing_ok=True)

    def remove_after(self, last: int) -> None:
        """Remove the batches with a larger number: they were sampled from weights that will not come again."""
        for file in self.folder.glob("*.safetensors"):
            if int(file.name.partition("-")[0]) > last:
                file.unlink()

    def forget_scores(self) -> None:
        """Remove all rewards: the samples are scored again."""
        for file in self.folder.glob("*.scored.safetensors"):
            file.unlink()

    def _file(self, batch: int, round_: int, kind: str) -> Path:
        return self.folder / f"{batch:06d}-{round_}.{kind}.safetensors"

    def _write(self, file: Path, key: str, arrays: dict[str, np.ndarray], more: dict[str, Any]) -> None:
        self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
        about = {"key": key, "more": json.dumps(more)}
        digest = self._digest(file, about, tensors)
        with new_file(file, private=True) as opened:
            opened.write(save(tensors, about | {"sha256": digest}))

    def _read(self, file: Path, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        if not file.exists():
            return None
        try:
            with safe_open(file, "numpy") as opened:
                about = opened.metadata() or {}
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            if about["sha256"] != self._digest(file, about, arrays):
                raise ValueError("it is not what was written here")
            more: dict[str, Any] = json.loads(about["more"])
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            _logger.warning("%s: skipped, its prompts are sampled or scored again: %s", file, error)
            return None
        if about["key"] != key:
            _logger.warning("%s: of another configuration, its prompts are sampled or scored again", file)
            return None
        return arrays, more

    def _digest(self, file: Path, about: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
        """Hash everything that a file says, its place and its run."""
        place = [self.run, self.folder.name, file.name, about["key"], about["more"]]
        digest = hashlib.sha256(json.dumps(place).encode())
        for name in sorted(arrays):
            digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
            digest.update(arrays[name].tobytes())
        return digest.hexdigest()


def make_journal(folder: Path, run: str, world: World) -> Journal:
    """Return the journal of a run, named by its id, for this rank."""
    return Journal(folder, run) if world.size == 1 else SharedJournal(folder, run, world)


class SharedJournal(Journal):
    """A journal that rank 0 reads and writes; every rank must ask."""

    def __init__(self, folder: Path, run: str, world: World) -> None:
        super().__init__(folder, run)
        self._world = world

    def completions(self, batch: int, round_: int, key: str) -> list[Completion] | None:
        def read() -> list[list[Any]] | None:
            found = super(SharedJournal, self).completions(batch, round_, key)
            return None if found is None else packed(found)

        found = self._world.run_on_rank0(read)
        return None if found is None else unpacked(found)

    def keep_completions(self, batch: int, round_: int, key: str, completions: Sequence[Completion]) -> None:
        self._world.run_on_rank0(lambda: super(SharedJournal, self).keep_completions(batch, round_, key, completions))

    def scored(self, batch: int, round_: int, key: str) -> Rewards | None:
        def read() -> dict[str, Any] | None:
            found = super(SharedJournal, self).scored(batch, round_, key)
            return None if found is None else encoded(found)

        found = self._world.run_on_rank0(read)
        return None if found is None else decoded(found)

    def keep_scored(self, batch: int, round_: int, key: str, rewards: Rewards) -> None:
        self._world.run_on_rank0(lambda: super(SharedJournal, self).keep_scored(batch, round_, key, rewards))

    def prune(self, before: int) -> None:
        self._world.run_on_rank0(lambda: super(SharedJournal, self).prune(before))


def journal_key(*parts: Any) -> str:
    """A hash of everything that decides what is sampled, or scored."""
    return hashlib.sha256(canonical(list(parts)).encode("ascii")).hexdigest()


def encoded(rewards: Rewards) -> dict[str, Any]:
    return {
        "total": rewards.total_PG.tolist(),
        "by_name": {name: x.tolist() for name, x in rewards.by_name.items()},
        "num_missing": rewards.num_missing,
        "reasons": list(rewards.reasons),
    }


def decoded(found: dict[str, Any]) -> Rewards:
    by_name = {name: np.array(x, float) for name, x in found["by_name"].items()}
    return Rewards(np.array(found["total"], float), by_name, found["num_missing"], tuple(found["reasons"]))
