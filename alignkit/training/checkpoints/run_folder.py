"""A run's folder: who may write it, and what lies in it.

runs/NAME/  run.json metrics.jsonl samples.jsonl checks.json log.txt report.html checkpoints/ model/ verdicts/
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit import runs
from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.runs import LOCK, RUNS, RunRecord, is_finished, newest_unfinished, read_run
from alignkit.storage import PRIVATE_FOLDER, check_path, is_part_of, what_helps, write_atomically
from alignkit.tracking import append_lines
from alignkit.training.checkpoints.folder_lock import FolderLock

_LINES = ("metrics.jsonl", "samples.jsonl")  # files that grow with the run
_LOG = "log.txt"  # with the lock all that there is before run.json
_MARK = "alignkit: a process writes this run\n"
_READ_BYTES = 1 << 20
_TRIES = 100  # to lock a folder that failed starts of other processes remove


@dataclass
class _Read:
    """The beginning of a file that grows, and its hash."""

    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class RunFolder:
    """One run's folder, locked while a process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = ""
        self._lock = FolderLock(path / LOCK, _MARK)
        self._is_made = False  # this process made the folder
        self._has_log = True  # a log.txt that is to be kept: of a run, or of nobody knows whom
        self._read: dict[str, _Read] = {}

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def log(self) -> Path:
        return self.path / _LOG

    @property
    def holds_run(self) -> bool:
        """Whether its run.json is there."""
        return runs.holds_run(self.path)

    def record(self) -> RunRecord:
        """What run.json says. Raises InputError where it cannot be read."""
        return read_run(self.path)

    def finished(self) -> bool:
        """Whether the run is done.

        Raises:
            InputError: run.json cannot be read, or the model is not the one that the run wrote.
        """
        if not self.holds_run:
            return False
        record = self.record()
        if not is_finished(self.path, record):
            return False
        runs.check_model(self.path, record)
        return True

    def lock(self, *, has_own_log: bool = False) -> None:
        """Create the folder and take it for writing.

        Args:
            has_own_log: its log.txt is of a killed start.

        Raises:
            UsageError: another process writes it, or no folder can have that name.
            RunStopped: the disk refuses.
        """
        try:
            for is_last in [False] * _TRIES + [True]:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    self.path.mkdir(mode=PRIVATE_FOLDER)
                    self._is_made = True
                try:
                    is_locked = self._lock.acquire()
                    break
                except FileNotFoundError:  # a failed start of another process has just removed its folder
                    self._is_made = False
                    if is_last:
                        raise
        except (NotADirectoryError, FileExistsError) as error:
            raise UsageError(f"--out {self.path}: a file stands in its way; give another") from error
        except OSError as error:
            if self._is_made:
                with suppress(OSError):
                    self.path.rmdir()
            if error.errno == errno.ENAMETOOLONG:
                raise UsageError(f"--out {str(self.path)[:60]}...: File name too long; give another") from error
            raise RunStopped(
                f"{self.path}: cannot be written: {error.strerror or error}; {what_helps(error)}"
            ) from error
        if not is_locked:
            raise UsageError(f"run {self.path} is being written by another process; wait for it or give another --out")
        self._has_log = self.log.exists() and not has_own_log

    def unlock(self) -> None:
        self._lock.release()

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file whole or not at all; from the first on, the folder stays."""
        text = json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"
        write_atomically(self.path / name, text, private=True)
        self._has_log, self._is_made = True, False

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            InputError: it is missing or not JSON.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.path / name}: cannot be read: {error}") from error

    def add_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to samples.jsonl."""
        append_lines(self.path / "samples.jsonl", samples)

    def sync_lines(self) -> dict[str, dict[str, Any]]:
        """Bring what was appended to disk; returns each file's length in bytes and SHA-256, for `missing_lines`."""
        found = {}
        for name in _LINES:
            if (self.path / name).exists():
                with open(self.path / name, "rb") as file:
                    os.fsync(file.fileno())
                    read = self._read.setdefault(name, _Read())
                    file.seek(read.size)
                    while part := file.read(_READ_BYTES):
                        read.digest.update(part)
                        read.size += len(part)
                found[name] = {"bytes": read.size, "sha256": read.digest.hexdigest()}
        return found

    def missing_lines(self, lines: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Say what the files that grow have lost, or hold otherwise, of what they held at a checkpoint."""
        problems = {}
        for name, known in lines.items():
            size, expected = int(known["bytes"]), known["sha256"]
            try:
                with open(self.path / name, "rb") as file:
                    digest, there = hashlib.sha256(), 0
                    while part := file.read(min(_READ_BYTES, size - there)):
                        digest.update(part)
                        there += len(part)
            except OSError as error:
                problems[name] = f"cannot be read: {error.strerror or error}"
                continue
            if there < size:
                problems[name] = f"{there:,} of {size:,} bytes are there"
            elif digest.hexdigest() != expected:
                problems[name] = "is not what was written"
        return problems

    def cut_lines(self, lines: Mapping[str, Mapping[str, Any]]) -> None:
        """Forget lines appended after a checkpoint: the steps they tell of are done again. No line is left half."""
        for name in _LINES:
            file = self.path / name
            size = int(lines[name]["bytes"]) if name in lines else 0
            if file.exists():
                os.truncate(file, min(_whole_lines(file), size))
        self._read.clear()

    def remove_if_new(self) -> None:
        """Take back what a failed start made, and nothing else: its log, and its folder where nothing else is in it."""
        if self._has_log:
            return
        with suppress(OSError):
            self.log.unlink(missing_ok=True)
            if self._is_made:
                self._lock.release()
                self.path.rmdir()


class FollowedRun(RunFolder):
    """The folder of a run that rank 0 writes, as the other ranks see it: to read."""

    def lock(self, *, has_own_log: bool = False) -> None:
        pass

    def unlock(self) -> None:
        pass

    def write_json(self, name: str, content: object) -> None:
        pass

    def add_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        pass

    def sync_lines(self) -> dict[str, dict[str, Any]]:
        return {}

    def cut_lines(self, lines: Mapping[str, Mapping[str, Any]]) -> None:
        pass

    def remove_if_new(self) -> None:
        pass


def open_run(method: str, *, out: str | None, resume: bool) -> RunFolder:
    """Find or name the run's folder and lock it.

    Raises:
        UsageError: the folder exists and --resume was not given, is no run, or is being written.
    """
    if out is not None:
        check_path(out, "--out")
        folder = Path(out)
        has_own_log = _refuse_taken(folder, resume=resume)
    else:
        folder = _newest_unfinished(method) if resume else _next_folder(method)
        has_own_log = False
    run = RunFolder(folder)
    run.lock(has_own_log=has_own_log)
    return run


def _refuse_taken(folder: Path, *, resume: bool) -> bool:
    """Refuse a folder that no run of this command may be written into; returns whether a killed start left it.

    Raises:
        UsageError: it is a file, cannot be looked at, is no run, or is one and --resume was not given.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--out {folder}: a file of that name exists")
        names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be looked at: {error.strerror or error}") from error
    if not names:
        return False
    if not resume:
        raise UsageError(f"run folder {folder} exists; go on with it by --resume, or give another --out")
    if runs.holds_run(folder):
        return False
    names = {name for name in names if not is_part_of(name, runs.FILE)}  # of a start killed while it wrote it
    if names <= {LOCK, _LOG} and _is_own_lock(folder / LOCK, alone=_LOG not in names):
        return True
    if "checkpoints" in names:
        raise UsageError(f"{folder} has checkpoints but no run.json; bring that back, or give another --out")
    raise UsageError(f"{folder} is no run (it has no run.json); give another --out")


def _is_own_lock(file: Path, *, alone: bool) -> bool:
    """Whether a killed start left this lock; one that it had no time to mark lies alone."""
    with suppress(OSError):
        if stat.S_ISREG(file.lstat().st_mode) and file.stat().st_size <= len(_MARK):
            text = file.read_text(encoding="utf-8", errors="replace")
            return text == _MARK or (alone and not text)
    return False


def _whole_lines(file: Path) -> int:
    """Bytes up to the end of a file's last whole line."""
    with open(file, "rb") as opened:
        end = opened.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _READ_BYTES)
            opened.seek(start)
            if (last := opened.read(end - start).rfind(b"\n")) >= 0:
                return start + last + 1
            end = start
    return 0


def _next_folder(method: str) -> Path:
    found = [re.fullmatch(rf"{re.escape(method)}-([0-9]{{1,18}})", path.name) for path in RUNS.glob("*")]
    return RUNS / f"{method}-{max((int(match[1]) for match in found if match), default=0) + 1}"


def _newest_unfinished(method: str) -> Path:
    found = newest_unfinished(method)
    if found is None:
        raise UsageError(f"--resume: there is no unfinished {method} run under {RUNS}; name one with --out")
    return found
