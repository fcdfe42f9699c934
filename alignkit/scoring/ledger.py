"""The ledger: every score ever obtained, in one SQLite file, so that no score is bought or computed twice.

A score is found by the SHA-256 of (judge, version, parameters, repeat, everything the judge was given) and is kept with
the judge's raw answer. It is committed to the disk before anyone uses it (write-ahead log, synchronous = FULL): a
process killed at any moment loses at most the answers that were still on their way. Processes may share a ledger; of
two scores under one key the first stays, and both processes use it. What failed is kept apart with its reason, and is
asked again. A row that is not what was written (ledger_file.py) is skipped with a warning, and scored again.

Texts that were judged are not in it, only their hash.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import InputError
from alignkit.scoring import claims
from alignkit.scoring.judge import Missing, Scored
from alignkit.scoring.ledger_file import MISSING, SCORE, VARIABLE, checksum, is_whole, now, open_file, problem

_logger = logging.getLogger(__name__)
DEFAULT = Path("runs") / "ledger.sqlite"
_AT_ONCE = 500  # rows read at a time


@dataclass(frozen=True)
class Source:
    """Who scored: a judge's name, its version and its parameters as canonical JSON."""

    judge: str
    version: str
    parameters: str

    @classmethod
    def of(cls, judge: str, version: str, parameters: Mapping[str, Any]) -> Source:
        return cls(judge, version, canonical(parameters))

    def key(self, given: Any, *, repeat: int = 0) -> str:
        """The key of one score; `repeat` tells several draws of the same score apart."""
        text = canonical([self.judge, self.version, self.parameters, repeat, given])
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def judge_sha256(judge: str, version: str, parameters: Mapping[str, Any]) -> str:
    """Hash everything that decides a judge's scores, as run.json keeps it of rewards."""
    return hashlib.sha256(canonical([judge, version, parameters]).encode()).hexdigest()


@dataclass(frozen=True)
class Claimed:
    """What a process may do about scores that it wants: use `scores`, ask for `mine`, wait for `others`."""

    scores: dict[str, Scored]
    mine: list[str]
    others: list[str]


class Ledger:
    """An open ledger. Safe to use from several threads and processes.

    Raises:
        InputError: the file cannot be opened, is damaged, or is no ledger of this version.
        RunStopped: the disk is full or fails; nothing that was committed is lost.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a file yet; the first score makes it."""
        return self._db is not None or self.path.exists()

    def find(self, keys: Sequence[str]) -> dict[str, Scored]:
        """Return the scores that are known, by key."""
        if not self.exists:
            return {}
        with self.connection() as db:
            scores, damaged = _scores(db, keys)
        if damaged:
            _logger.warning(
                "%s: %d scores are not what was written; they are taken for missing and asked for again",
                self.path,
                len(damaged),
            )
        return scores

    def keep(self, source: Source, answers: Mapping[str, Scored | Missing], *, repeat: int = 0) -> dict[str, Scored]:
        """Commit answers by key and return the scores as the ledger has them now: an earlier one stays.

        A missing one is noted with its reason, unless it does not apply; a later score takes the note away.
        """
        created = now()
        who = (source.judge, source.version, source.parameters)
        given = {k: a for k, a in answers.items() if isinstance(a, Scored)}
        failed = {k: a for k, a in answers.items() if isinstance(a, Missing) and a.applies}
        if any(not math.isfinite(answer.value) for answer in given.values()):
            raise ValueError("a score that is not finite cannot be kept")
        if not given and not failed:
            return {}
        with self.transaction() as db:
            known, damaged = _scores(db, list(given))
            db.executemany("DELETE FROM scores WHERE key = ?", [(key,) for key in damaged])
            new = [(k, *who, repeat, float(a.value), _text(a.raw), created) for k, a in given.items() if k not in known]
            db.executemany(
                "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [(*row, checksum(row)) for row in new]
            )
            attempts = _attempts(db, list(failed))
            notes = [(k, *who, _text(a.reason), created, attempts.get(k, 0) + 1) for k, a in failed.items()]
            db.executemany("DELETE FROM missing WHERE key = ?", [(key,) for key in (*given, *failed)])
            db.executemany(
                "INSERT INTO missing VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(*row, checksum(row)) for row in notes]
            )
            db.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in (*given, *failed)])
            kept = {row[0]: Scored(row[5], row[6]) for row in new}
            if _scores(db, list(kept))[0] != kept:
                raise InputError(
                    f"{self.path}: this ledger is damaged (what is written into it is not found again); repair it, or "
                    f"name another file by {VARIABLE}"
                )
            return known | kept

    def claim(self, keys: Sequence[str], owner: str) -> Claimed:
        """Take those of the keys that have no score and that nobody else is asking for (claims.py).

        Args:
            owner: as `claims.new_owner` names it.
        """
        with self.transaction() as db:
            scores, damaged = _scores(db, keys)
            db.executemany("DELETE FROM scores WHERE key = ?", [(key,) for key in damaged])
            held = {
                key: name
                for key, name, renewed in _chunks(db, "SELECT key, owner, renewed FROM claims", keys)
                if claims.is_held(name, renewed)
            }
            mine = [key for key in keys if key not in scores and held.get(key, owner) == owner]
            db.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", [(key, owner, time.time()) for key in mine]
            )
            return Claimed(scores, mine, [key for key in keys if key not in scores and held.get(key, owner) != owner])

    def renew(self, owner: str) -> None:
        """Say that the owner of these claims is at work still."""
        with self.transaction() as db:
            db.execute("UPDATE claims SET renewed = ? WHERE owner = ?", (time.time(), owner))

    def release(self, owner: str) -> None:
        """Give up the claims that are left, and those that nobody holds any more."""
        with self.transaction() as db:
            rows = db.execute("SELECT DISTINCT owner, renewed FROM claims").fetchall()
            gone = {name for name, renewed in rows if not claims.is_held(name, renewed)} | {owner}
            db.executemany("DELETE FROM claims WHERE owner = ?", [(name,) for name in gone])

    def stats(self) -> list[dict[str, Any]]:
        """One row for each judge, version and parameters: scores and their range, what is missing, first and last."""
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for entry in self._entries():
            who = (entry["judge"], entry["version"], entry["parameters"])
            row = found.setdefault(
                who,
                dict(zip(("judge", "version", "parameters"), who, strict=True))
                | {"num_scores": 0, "lowest": None, "highest": None, "num_missing": 0}
                | {"first": entry["created"], "last": entry["created"]},
            )
            row["first"], row["last"] = min(row["first"], entry["created"]), max(row["last"], entry["created"])
            if "value" in entry:
                row["num_scores"] += 1
                row["lowest"] = min(entry["value"], entry["value"] if row["lowest"] is None else row["lowest"])
                row["highest"] = max(entry["value"], entry["value"] if row["highest"] is None else row["highest"])
            else:
                row["num_missing"] += 1
        rows = sorted(found.values(), key=lambda row: (row["judge"], row["version"], row["first"]))
        return [row | {"parameters": _read_parameters(row["parameters"])} for row in rows]

    def export(self) -> Iterator[dict[str, Any]]:
        """Yield every score, then everything missing: {"key", "judge", "version", "parameters", "value" | "reason"}."""
        for entry in self._entries():
            yield entry | {"parameters": _read_parameters(entry["parameters"])}

    def _entries(self) -> Iterator[dict[str, Any]]:
        """Every row of scores, then of what is missing; says how many are not what was written, and leaves them out."""
        num_damaged = 0
        for table, names in (("scores", SCORE), ("missing", MISSING)) if self.exists else ():
            with self.connection() as db:
                rows = db.execute(f"SELECT {', '.join(names)}, checksum FROM {table} ORDER BY created, key").fetchall()
            for row in rows:
                if is_whole(row, names):
                    yield dict(zip(names, row[:-1], strict=True))
                else:
                    num_damaged += 1
        if num_damaged:
            _logger.warning("%s: %d rows are not what was written; they are left out", self.path, num_damaged)

    def close(self) -> None:
        """Close the file; scores stay."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._db is not None and self._file != _identity(self.path):  # SQLite would write on into nowhere
                _logger.warning("%s: the ledger was removed or replaced while it was open; opened anew", self.path)
                self._db.close()
                self._db = None
            if self._db is None:
                self._db = open_file(self.path)
                self._file = _identity(self.path)
            try:
                yield self._db
            except sqlite3.Error as error:
                raise problem(self.path, error) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing."""
        with self.connection() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file lies at a path."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _scores(db: sqlite3.Connection, keys: Sequence[str]) -> tuple[dict[str, Scored], list[str]]:
    """The scores of these keys, and the keys whose rows are not what was written."""
    scores, damaged = {}, []
    for row in _chunks(db, f"SELECT {', '.join(SCORE)}, checksum FROM scores", keys):
        if is_whole(row, SCORE):
            scores[row[0]] = Scored(row[5], row[6])
        else:
            damaged.append(row[0])
    return scores, damaged


def _attempts(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, int]:
    """How often these were asked for in vain."""
    rows = _chunks(db, f"SELECT {', '.join(MISSING)}, checksum FROM missing", keys)
    return {row[0]: row[6] for row in rows if is_whole(row, MISSING)}


def _chunks(db: sqlite3.Connection, select: str, keys: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    """The rows of these keys."""
    for at in range(0, len(keys), _AT_ONCE):
        part = keys[at : at + _AT_ONCE]
        yield from db.execute(f"{select} WHERE key IN ({', '.join('?' * len(part))})", part).fetchall()


def _text(text: str | None) -> str | None:
    """A text as SQLite can hold it: a lone surrogate is no Unicode."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _read_parameters(text: str) -> Any:
    """A judge's parameters as an object."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def canonical(value: Any) -> str:
    """One text for equal values: JSON in ASCII with sorted keys; what JSON has no type for stands as its repr.

    >>> canonical({"b": 1, "a": "é"})
    '{"a":"\\\\u00e9","b":1}'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def ledger_path() -> Path:
    """The file that `ALIGNKIT_LEDGER` names, else runs/ledger.sqlite."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else DEFAULT


def open_ledger() -> Ledger:
    """The ledger of this process and working folder; opened once."""
    return _open(ledger_path().absolute(), os.getpid())


@functools.cache
def _open(path: Path, pid: int) -> Ledger:  # a fork must not share a connection: its pid differs
    return Ledger(path)
