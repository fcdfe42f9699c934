"""A run's folder: who may write it, and what lies in it.

runs/NAME/  run.json metrics.jsonl samples.jsonl checks.json log.txt report.html checkpoints/ model/ verdicts/
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import filelock

from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.tracking import append_lines

RUNS = Path("runs")
_LINES = ("metrics.jsonl", "samples.jsonl")  # files that grow with the run


class RunFolder:
    """One run's folder, locked while a process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = filelock.FileLock(path / ".lock")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def is_finished(self) -> bool:
        return (self.model / "config.json").exists()

    def lock(self) -> None:
        """Create the folder and take it for writing.

        Raises:
            UsageError: another process writes it.
            RunStopped: the disk refuses.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(
                f"run {self.path} is being written by another process; wait for it or give another --out"
            ) from None
        except (NotADirectoryError, FileExistsError) as error:
            raise UsageError(f"--out {self.path}: a file stands in its way; give another") from error
        except OSError as error:
            raise RunStopped(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def unlock(self) -> None:
        self._lock.release()
        (self.path / ".lock").unlink(missing_ok=True)

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file whole or not at all."""
        write_atomically(self.path / name, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            InputError: it is missing or not JSON.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / name}: cannot be read: {error}") from error

    def add_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to samples.jsonl."""
        append_lines(self.path / "samples.jsonl", samples)

    def sync_lines(self) -> dict[str, int]:
        """Bring what was appended to disk; returns each file's length in bytes, for `cut_lines`."""
        sizes = {}
        for name in _LINES:
            if (self.path / name).exists():
                with open(self.path / name, "rb") as file:
                    os.fsync(file.fileno())
                    sizes[name] = file.seek(0, os.SEEK_END)
        return sizes

    def cut_lines(self, sizes: Mapping[str, int]) -> None:
        """Forget lines appended after a checkpoint: the steps they tell of are done again."""
        for name in _LINES:
            file = self.path / name
            if file.exists() and file.stat().st_size > sizes.get(name, 0):
                os.truncate(file, sizes.get(name, 0))

    def remove_if_new(self) -> None:
        """Remove a folder without run.json, written once all inputs are good: a failed start leaves nothing."""
        if not (self.path / "run.json").exists():
            shutil.rmtree(self.path, ignore_errors=True)


class FollowedRun(RunFolder):
    """The folder of a run that rank 0 writes, as the other ranks see it: to read."""

    def lock(self) -> None:
        pass

    def unlock(self) -> None:
        pass

    def write_json(self, name: str, content: object) -> None:
        pass

    def add_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        pass

    def sync_lines(self) -> dict[str, int]:
        return {}

    def cut_lines(self, sizes: Mapping[str, int]) -> None:
        pass

    def remove_if_new(self) -> None:
        pass


def open_run(method: str, *, out: str | None, resume: bool) -> RunFolder:
    """Find or name the run's folder and lock it.

    Raises:
        UsageError: the folder exists and --resume was not given, is another method's, or is being written.
    """
    if out is None and not resume:
        folder = _next_folder(method)
    elif out is None:
        folder = _newest_unfinished(method)
    else:
        folder = Path(out)
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--out {folder}: a file of that name exists")
        if folder.is_dir() and any(folder.iterdir()):
            if not resume:
                raise UsageError(f"run folder {folder} exists; go on with it by --resume, or give another --out")
            if not (folder / "run.json").exists() and not {e.name for e in folder.iterdir()} <= {".lock", "log.txt"}:
                raise UsageError(f"{folder} is no run (it has no run.json); give another --out")
    run = RunFolder(folder)
    run.lock()
    return run


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        RunStopped: the disk refuses.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunStopped(f"{path}: cannot be written: {error.strerror or error}; make room and try again") from error


def _next_folder(method: str) -> Path:
    numbers = [int(p.name[len(method) + 1 :]) for p in RUNS.glob(f"{method}-*") if p.name[len(method) + 1 :].isdigit()]
    return RUNS / f"{method}-{max(numbers, default=0) + 1}"


def _newest_unfinished(method: str) -> Path:
    found = []
    for path in RUNS.glob("*/run.json"):
        content = RunFolder(path.parent).read_json("run.json")
        if content.get("method") == method and not RunFolder(path.parent).is_finished:
            found.append((path.stat().st_mtime, path.parent))
    if not found:
        raise UsageError(f"--resume: there is no unfinished {method} run under {RUNS}; name one with --out")
    return max(found)[1]
