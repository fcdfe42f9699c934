"""Runs on disk: where they lie, and run.json, read in one place with its types.

    runs/NAME/run.json      one `RunRecord`; what this version does not know is kept

A run may be somebody else's, of another version, or damaged: `read_run` raises an error of one line, and the search
for the newest run skips it with a warning.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from alignkit.errors import InputError, nearest
from alignkit.storage import file_hash, is_too_long, read_object

_logger = logging.getLogger(__name__)
RUNS = Path("runs")
FILE = "run.json"
VERDICTS = "verdicts"  # the folder of the verdicts on a run, in its own
LOCK = ".lock"  # held while a process writes the folder
_LOADED = (".safetensors", ".json", ".jinja", ".model", ".bin", ".py")  # what a model's loaders look for beside ours
_checked: dict[Path, tuple[tuple[str, int, int, int], ...]] = {}  # models that were hashed, and how their files looked


def _no_null(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character in a name")
    return text


Name = Annotated[str, AfterValidator(_no_null)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class ModelSettings(_Record):
    """What a run's model inherits of [model], and how the model that it began from was named."""

    model: Name | None = None
    system: str | None = None
    template_kwargs: dict[str, Any] | None = None


class DataSettings(_Record):
    """What is needed of [data] to read a run's rows again."""

    data: Name
    columns: dict[str, str] = Field(default_factory=dict)
    ignore_fields: list[str] = Field(default_factory=list)
    limit: int | None = None
    split: Name | None = None
    exclude: Name | None = None

    @property
    def read_as(self) -> dict[str, str]:
        """`columns`, in which a field that is ignored is no name of the file's."""
        return dict.fromkeys(self.ignore_fields, "") | self.columns


class RunConfig(_Record):
    """A run's resolved configuration, with the structure of alignkit.toml."""

    model: ModelSettings
    data: DataSettings
    train: dict[str, dict[str, Any]]


class Lengths(_Record):
    """How long the texts of a column are: see `alignkit.data.looking.lengths.ColumnLengths`."""

    column: str
    count: float
    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float
    edges: list[float]
    counts: list[float]
    over: dict[str, float]


class Part(_Record):
    """The rows of one side of the split."""

    ids: list[str]
    lengths: list[Lengths] = Field(default_factory=list)
    used: int = 0
    left_out: dict[str, str] = Field(default_factory=dict)
    skipped: dict[str, str] = Field(default_factory=dict)


class Parts(_Record):
    """The rows that trained, and those that validated."""

    training: Part
    validation: Part


class Reward(_Record):
    """A reward: its label, the judge that gave it, and the label that this has by itself (None in older runs)."""

    name: str
    judge: str
    plain_name: str | None = None


class Finished(_Record):
    """What is known at a run's end, as far as people read it.

    Args:
        kept_step: whose weights are the model.
        seconds: of training steps and what is measured between them.
        wall_seconds: of everything, in the process that ended the run; `earlier_seconds`: `seconds` of those before.
        peak_mib, planned_mib: memory.
        tokens: that training steps computed.
    """

    steps: int
    kept_step: int
    seconds: float
    tokens: int
    peak_mib: float
    wall_seconds: float | None = None
    earlier_seconds: float = 0.0
    planned_mib: float | None = None


class RunRecord(_Record):
    """run.json.

    Args:
        id: of this run and no other; what is written beside it names it.
        data_files: hashes of what the rows were read from.
        micro_batch_tokens: that a row of several trees had; None in older runs.
        model_files: SHA-256 of each file of model/, where the run is finished.
        finished: what is known at the end, None before.
    """

    id: str | None = None
    method: str
    config: RunConfig
    fingerprints: dict[str, str]
    versions: dict[str, str]
    rows: Parts
    rewards: list[Reward]
    parent: Name | None
    model: Name
    hardware: dict[str, Any] = Field(default_factory=dict)
    data_files: dict[str, str] = Field(default_factory=dict)
    micro_batch_tokens: int | None = Field(None, ge=8)
    model_files: dict[str, str] | None = None
    finished: dict[str, Any] | None = None

    @property
    def start(self) -> str:
        """What the run began from, as a person names it; its folder may be one of a cache."""
        return self.parent or self.config.model.model or self.model

    _content: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _has_its_options(self) -> RunRecord:
        if self.method not in self.config.train:
            raise ValueError(f"config.train has no table {self.method!r}")
        return self

    @property
    def content(self) -> dict[str, Any]:
        """The whole file."""
        return self._content

    @property
    def end(self) -> Finished | None:
        """`finished` with its types; None before the end.

        Raises:
            InputError: it is not what a run writes.
        """
        try:
            return None if self.finished is None else Finished.model_validate(self.finished)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, ("finished", *first["loc"])))
            raise InputError(
                f"{FILE} is not what a run writes; {where}: {first['msg'].lower()}; take another run"
            ) from error

    @property
    def options(self) -> dict[str, Any]:
        """The method's options."""
        return self.config.train[self.method]


def read_run(folder: Path) -> RunRecord:
    """Read a run's run.json.

    Raises:
        InputError: it cannot be read, or is not what a run writes.
    """
    try:
        content = read_object(folder / FILE)
    except InputError as error:
        raise InputError(f"{error}; bring it back, or take another run, or another --out") from error
    try:
        record = RunRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = first["msg"].partition(" or instance of")[0]
        reason = f"{where}: {what.lower()}" if where else what.removeprefix("Value error, ")
        raise InputError(
            f"{folder / FILE} is not what a run writes; {reason}; take another run, or another --out"
        ) from error
    record._content = content
    return record


def read_config(folder: Path) -> tuple[Path, object]:
    """Return a run's file and what it says under "config", also where the rest is not what this version writes.

    Raises:
        InputError: the file cannot be read.
    """
    path = folder / FILE
    return path, read_object(path).get("config")


def holds_run(folder: Path) -> bool:
    """Whether a run.json lies in a folder.

    Raises:
        InputError: that cannot be seen.
    """
    try:
        return not is_too_long(folder / FILE) and (folder / FILE).exists()
    except OSError as error:
        raise InputError(f"{folder}: cannot be looked at: {error.strerror or error}") from error


def find_run(name: str | Path) -> Path | None:
    """Return the folder of a run named by its folder or by its name under runs/, or None."""
    if not str(name):
        return None
    return next((folder for folder in places(name) if holds_run(folder)), None)


def nearest_run(name: str | Path) -> str:
    """Return "; did you mean 'x'?" for the run under runs/ whose name is closest, or "" where none is close."""
    return nearest(Path(name).name, [file.parent.name for file in RUNS.glob(f"*/{FILE}")])


def places(name: str | Path) -> tuple[Path, Path]:
    """Where a run of that name may lie."""
    return Path(os.path.expanduser(name)), RUNS / name


def newest_run(is_wanted: Callable[[Path, RunRecord], bool]) -> Path | None:
    """Return the newest run under runs/ that is wanted; what is no readable run is skipped with a warning."""
    found = []
    for file in RUNS.glob(f"*/{FILE}"):
        try:
            if is_wanted(file.parent, read_run(file.parent)):
                found.append((file.stat().st_mtime, file.parent))
        except (OSError, InputError) as error:
            _logger.warning("%s; skipped", error)
    return max(found)[1] if found else None


def newest_unfinished(method: str | None = None) -> Path | None:
    """Return the newest run under runs/ that is not done, of a method or of any."""
    return newest_run(lambda folder, record: method in (None, record.method) and not is_finished(folder, record))


def is_finished(folder: Path, record: RunRecord) -> bool:
    """Whether a run is finished and its model is there."""
    return record.finished is not None and (folder / "model" / "config.json").exists()


def is_being_written(folder: Path) -> bool:
    """Whether a process trains into a run's folder now (its lock: training/checkpoints/folder_lock.py)."""
    try:
        with open(folder / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def hash_model(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model folder, for `RunRecord.model_files`."""
    return {file.name: file_hash(file) for file in sorted(folder.iterdir()) if file.is_file()}


def check_model(run: Path, record: RunRecord) -> None:
    """Compare a finished run's model with what the run wrote, once per process while the files look the same.

    Raises:
        InputError: a file is missing, changed, or was added where loaders look for it; the first is named.
    """
    if record.model_files is None:
        return
    folder = run / "model"
    try:
        there = {file.name: file.stat() for file in folder.iterdir() if file.is_file()}
        looks = tuple(sorted((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in there.items()))
        if _checked.get(folder.resolve()) == looks:
            return
        for name, expected in record.model_files.items():
            if name not in there:
                raise _changed(folder / name, "is missing", run)
            if file_hash(folder / name) != expected:
                raise _changed(folder / name, "is not what the run wrote", run)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from error
    for name in sorted(there.keys() - record.model_files.keys()):
        if name.endswith(_LOADED):
            raise _changed(folder / name, "was added after the run wrote its model", run)
    _checked[folder.resolve()] = looks


def _changed(file: Path, what: str, run: Path) -> InputError:
    return InputError(
        f"{file} {what}: the model of run {run} is not the one that was trained; bring the file back, train again with "
        "another --out, or, where the change is meant, copy the folder and name the copy"
    )
