"""The ledger: every score ever obtained, in one SQLite file, so that no score is bought or computed twice.

A score is found by the SHA-256 of (judge, version, parameters, repeat, everything the judge was given) and is kept with
the judge's raw answer. It is committed to the disk before anyone uses it (write-ahead log, synchronous = FULL): a
process killed at any moment loses at most the answers that were still on their way. Processes may share a ledger; of
two scores under one key the first stays, and both processes use it. What failed is kept apart with its reason, and is
asked again.

    scores(key, judge, version, parameters, repeat, value, raw, created)     one row a score
    missing(key, judge, version, parameters, reason, created, attempts)      what has no score yet, and why
    looks(pair, look, created)                                               one row a time that a pair was judged

Texts that were judged are not in it, only their hash. A pair is two models' weights, whichever was judged against the
other; a look is one set of prompts, answers and judge.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.errors import InputError, RunStopped
from alignkit.scoring.judge import Missing, Scored

VARIABLE = "ALIGNKIT_LEDGER"
DEFAULT = Path("runs") / "ledger.sqlite"
_FORMAT = 2  # PRAGMA user_version; format 1 had no looks
_WAIT_S = 60.0  # for another process's commit
_TABLES = """
CREATE TABLE IF NOT EXISTS scores (
  key TEXT PRIMARY KEY, judge TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL, repeat INTEGER NOT NULL,
  value REAL NOT NULL, raw TEXT, created TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS missing (
  key TEXT PRIMARY KEY, judge TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL,
  reason TEXT NOT NULL, created TEXT NOT NULL, attempts INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS looks (
  number INTEGER PRIMARY KEY, pair TEXT NOT NULL, look TEXT NOT NULL, created TEXT NOT NULL, UNIQUE (pair, look));
"""


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


class Ledger:
    """An open ledger. Safe to use from several threads and processes.

    Raises:
        InputError: the file cannot be opened, or is no ledger of this version.
        RunStopped: the disk is full or fails; nothing that was committed is lost.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a file yet; the first score makes it."""
        return self._db is not None or self.path.exists()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                db = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
                try:
                    _prepare(db, self.path)
                except BaseException:
                    db.close()
                    raise
            except (OSError, sqlite3.Error) as error:
                if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                    raise RunStopped(f"{self.path}: the ledger cannot be written ({error}); make room") from error
                raise InputError(
                    f"{self.path}: this ledger cannot be used ({error}); repair or remove it, or name another file by "
                    f"{VARIABLE}"
                ) from error
            self._db = db
        return self._db

    def find(self, keys: Sequence[str]) -> dict[str, Scored]:
        """Return the scores that are known, by key."""
        if not self.exists:
            return {}
        query = "SELECT key, value, raw FROM scores WHERE key IN (SELECT value FROM json_each(?))"
        with self._open() as db:
            rows = db.execute(query, (json.dumps(list(keys)),)).fetchall()
        return {key: Scored(value, raw) for key, value, raw in rows}

    def keep(self, source: Source, answers: Mapping[str, Scored | Missing], *, repeat: int = 0) -> dict[str, Scored]:
        """Commit answers by key and return the scores as the ledger has them now: an earlier one stays.

        A missing one is noted with its reason, unless it does not apply; a later score takes the note away.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        who = (source.judge, source.version, source.parameters)
        scores = [(k, *who, repeat, a.value, a.raw, now) for k, a in answers.items() if isinstance(a, Scored)]
        failed = [(k, *who, a.reason, now) for k, a in answers.items() if isinstance(a, Missing) and a.applies]
        if any(not math.isfinite(row[5]) for row in scores):
            raise ValueError("a score that is not finite cannot be kept")
        if not scores and not failed:
            return {}
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?)", scores)
                db.executemany("DELETE FROM missing WHERE key = ?", [(row[0],) for row in scores])
                db.executemany(
                    "INSERT INTO missing VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT (key) DO UPDATE SET "
                    "reason = excluded.reason, created = excluded.created, attempts = attempts + 1",
                    failed,
                )
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        return self.find([row[0] for row in scores])

    def count_look(self, models: tuple[str, str], look: str) -> int:
        """Note a look at two models, unless it is known, and return its number among this pair's, from 1.

        Judging the same again gives the same numbers and is no further look; other prompts, another seed, other
        sampling or another judge is one, and each is a further chance of a false alarm.

        Args:
            models: fingerprints of their weights, in any order.
            look: fingerprint of prompts, generation and judge.
        """
        pair = " ".join(sorted(models))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        query = """SELECT count(*) FROM looks
        WHERE pair = ?1 AND number <= (SELECT number FROM looks WHERE pair = ?1 AND look = ?2)"""
        with self._open() as db:
            db.execute("INSERT OR IGNORE INTO looks (pair, look, created) VALUES (?, ?, ?)", (pair, look, now))
            return int(db.execute(query, (pair, look)).fetchone()[0])

    def stats(self) -> list[dict[str, Any]]:
        """One row for each judge, version and parameters: scores and their range, what is missing, first and last."""
        query = """
        SELECT judge, version, parameters, sum(scored), min(value), max(value), sum(1 - scored), min(created),
               max(created)
        FROM (SELECT judge, version, parameters, 1 AS scored, value, created FROM scores
              UNION ALL SELECT judge, version, parameters, 0, NULL, created FROM missing)
        GROUP BY judge, version, parameters ORDER BY judge, version, min(created)"""
        names = ("judge", "version", "parameters", "num_scores", "lowest", "highest", "num_missing", "first", "last")
        if not self.exists:
            return []
        with self._open() as db:
            rows = [dict(zip(names, row, strict=True)) for row in db.execute(query)]
        return [row | {"parameters": json.loads(row["parameters"])} for row in rows]

    def export(self) -> Iterator[dict[str, Any]]:
        """Yield every score, then everything missing: {"key", "judge", "version", "parameters", "value" | "reason"}."""
        scored = ("key", "judge", "version", "parameters", "repeat", "value", "raw", "created")
        missing = ("key", "judge", "version", "parameters", "reason", "created", "attempts")
        for table, names in (("scores", scored), ("missing", missing)) if self.exists else ():
            with self._open() as db:
                rows = db.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY created, key").fetchall()
            for row in rows:
                entry = dict(zip(names, row, strict=True))
                yield entry | {"parameters": json.loads(entry["parameters"])}

    def close(self) -> None:
        """Close the file; scores stay."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            db = self._connection()
            try:
                yield db
            except sqlite3.Error as error:
                raise RunStopped(
                    f"{self.path}: the ledger cannot be written or read ({error}); make room or repair it, then do the "
                    "same again: what was committed is not scored twice"
                ) from error


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > _FORMAT:
        raise InputError(f"{path}: a ledger of another alignkit (format {version}); name another file by {VARIABLE}")
    give_up = time.monotonic() + _WAIT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # another process is just making it; SQLite itself does not wait here
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
    db.execute("PRAGMA synchronous = FULL")
    if version < _FORMAT:
        db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {_FORMAT}; COMMIT;")


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
