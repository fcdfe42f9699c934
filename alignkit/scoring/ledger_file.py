"""The ledger's file: its tables, how it is opened, and how one of an earlier format is brought to this one.

    scores(key, judge, version, parameters, repeat, value, raw, created, checksum)     one row per score
    missing(key, judge, version, parameters, reason, created, attempts, checksum)      what has no score yet, and why
    looks(number, pair, look, created, checksum)                              one row per time that a pair was judged
    claims(key, owner, renewed)                                               who is asking for which score just now

The file is the user's own (0600), as are SQLite's -wal and -shm beside it. A row's checksum is over its other columns:
what was changed afterwards, by a disk or by hand, is no longer what a judge said.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError, InputError, RunStopped
from alignkit.storage import PRIVATE_FILE, PRIVATE_FOLDER

_logger = logging.getLogger(__name__)
VARIABLE = "ALIGNKIT_LEDGER"
FORMAT = 3  # PRAGMA user_version; format 1 had no looks, format 2 neither checksums nor claims
_WAIT_S = 60.0  # for another process's commit
_TABLES = """
CREATE TABLE IF NOT EXISTS scores (
  key TEXT PRIMARY KEY, judge TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL, repeat INTEGER NOT NULL,
  value REAL NOT NULL, raw TEXT, created TEXT NOT NULL, checksum TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS missing (
  key TEXT PRIMARY KEY, judge TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL,
  reason TEXT NOT NULL, created TEXT NOT NULL, attempts INTEGER NOT NULL, checksum TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS looks (
  number INTEGER PRIMARY KEY, pair TEXT NOT NULL, look TEXT NOT NULL, created TEXT NOT NULL, checksum TEXT,
  UNIQUE (pair, look));
CREATE TABLE IF NOT EXISTS claims (
  key TEXT PRIMARY KEY, owner TEXT NOT NULL, renewed REAL NOT NULL) WITHOUT ROWID;
"""
SCORE = ("key", "judge", "version", "parameters", "repeat", "value", "raw", "created")
MISSING = ("key", "judge", "version", "parameters", "reason", "created", "attempts")
LOOK = ("number", "pair", "look", "created")
_COLUMNS = {"scores": SCORE, "missing": MISSING, "looks": LOOK}
_TYPES = {"repeat": int, "number": int, "attempts": int, "value": float}  # the others are text
_NO_ROOM = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def checksum(row: Sequence[Any]) -> str:
    """A hash of a row's columns."""
    return hashlib.sha256(repr(tuple(row)).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def is_whole(row: Sequence[Any], columns: Sequence[str]) -> bool:
    """Whether a row, its checksum last, is one that was written here: right types, finite, unchanged."""
    *values, written = row
    for name, value in zip(columns, values, strict=True):
        kind = _TYPES.get(name, str)
        if type(value) is not kind and not (name == "raw" and value is None):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
    return isinstance(written, str) and written == checksum(values)


def now() -> str:
    """The time, as rows have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_file(path: Path) -> sqlite3.Connection:
    """Open the ledger, make it where there is none, and bring it to this format.

    Raises:
        InputError: it is no ledger, a damaged one, or a newer alignkit's.
        RunStopped: the disk is full or fails.
    """
    try:
        _make(path)
        db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            db.text_factory = lambda text: text.decode("utf-8", "replace")  # a damaged text is for its checksum to tell
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise problem(path, error) from error
    return db


def problem(path: Path, error: BaseException) -> AlignkitError:
    """What went wrong with a ledger, for its user."""
    code = getattr(error, "sqlite_errorcode", None)
    if (code is not None and code & 0xFF in _NO_ROOM) or getattr(error, "errno", None) in _DISK:
        return RunStopped(
            f"{path}: the ledger cannot be written or read ({error}); make room or repair it, then do the same again: "
            "what was committed is kept"
        )
    return InputError(
        f"{path}: this ledger cannot be used ({error}); repair or remove it, or name another file by {VARIABLE}"
    )


def _make(path: Path) -> None:
    """Make the file as the user's own, before SQLite does; what lies beside it later has the same rights."""
    path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE_FILE))


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    version = _version(db, path)
    give_up = time.monotonic() + _WAIT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:  # another process is just making it; SQLite itself does not wait here
            if time.monotonic() > give_up or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.05)
    db.execute("PRAGMA synchronous = FULL")
    if version < FORMAT:
        _bring_up(db, path)
    for table, columns in _COLUMNS.items():
        there = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        if not {*columns, "checksum"} <= there:
            raise InputError(
                f"{path}: no ledger of alignkit (its table {table} is another one); name another file by {VARIABLE}"
            )


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The file's format; 0 of an empty one."""
    version = _number_of_format(db)
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        version = _number_of_format(db)  # another process may have made it between the two looks
        if version == 0:
            raise InputError(
                f"{path}: another program's database, which is not touched; name another file by {VARIABLE}"
            )
    if not 0 <= version <= FORMAT:
        raise InputError(f"{path}: a ledger of another alignkit (format {version}); name another file by {VARIABLE}")
    return version


def _number_of_format(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _bring_up(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables, and give the rows of an earlier format their checksums."""
    db.execute("BEGIN IMMEDIATE")
    try:
        before = _version(db, path)  # another process may have done it meanwhile
        if before < FORMAT:
            for statement in _TABLES.split(";"):
                db.execute(statement)
            if before:
                for table, columns in _COLUMNS.items():
                    _add_checksums(db, table, columns)
                _logger.info("%s: brought from format %d to format %d", path, before, FORMAT)
                with suppress(OSError):  # another user's file
                    path.chmod(PRIVATE_FILE)
            db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _add_checksums(db: sqlite3.Connection, table: str, columns: Sequence[str]) -> None:
    if "checksum" not in {row[1] for row in db.execute(f"PRAGMA table_info({table})")}:
        db.execute(f"ALTER TABLE {table} ADD COLUMN checksum TEXT")
    rows = db.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
    good = [(total, row[0]) for row in rows if is_whole((*row, total := checksum(row)), columns)]
    db.executemany(f"UPDATE {table} SET checksum = ? WHERE {columns[0]} = ?", good)
