"""What lies on disk: files and folders written whole or not at all, and files read without trust.

A file is written under a temporary name beside its place, synced, then renamed. After a crash or a power loss it is
the old one or the new one, never half of one. A file that is read may be cut, empty, of another type, or
somebody else's; `read_object` raises an error of one line.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from alignkit.errors import InputError, RunStopped, UsageError

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
_ORPHAN_S = 3600.0  # an unfinished file that old has no writer: whole files are written at once
_PART = r"\.{name}\.[0-9a-f]{{12}}\.part"
_MAX_NAME, _MAX_PATH = 255, 4096  # bytes, of a file system's usual limits
_SHOWN = 60  # characters of a path that is too long
_SWAP = 2  # Linux's RENAME_EXCHANGE
_HERE = -100  # AT_FDCWD: names are relative to the working folder


@contextmanager
def new_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Yield a file beside `path` to write into; after the block it is on disk and has the name, or nothing changed.

    What killed writers of the same file left is removed.

    Args:
        private: the file is its owner's alone to read.

    Raises:
        OSError: the disk refuses.
    """
    part = _part_of(path)
    try:
        with _synced(part, PRIVATE_FILE if private else 0o666) as file:
            yield file
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    remove_orphans(path.parent, path.name)


def what_helps(error: OSError) -> str:
    """What is done where a disk refuses: room helps where it is full, and not where nothing may be written.

    >>> what_helps(OSError(errno.ENOSPC, "No space left on device"))
    'make room and try again'
    >>> what_helps(OSError(errno.EROFS, "Read-only file system"))
    'give a place that can be written'
    """
    is_closed = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return "give a place that can be written" if is_closed else "make room and try again"


def write_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file whole or not at all; see `new_file`.

    Raises:
        RunStopped: the disk refuses.
    """
    try:
        with new_file(path, private=private) as file:
            file.write(text.encode())
    except OSError as error:
        raise RunStopped(f"{path}: cannot be written: {error.strerror or error}; {what_helps(error)}") from error


def write_numbered(folder: Path, text: str) -> Path:
    """Write a text file whole under the next free number, 001.json, 002.json, ...; nobody else's is overwritten.

    The number is one more than the highest there, also where lower ones were removed. Folder and file are their
    owner's alone.

    Raises:
        RunStopped: the disk refuses.
    """
    part = _part_of(folder / "numbered")
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        with _synced(part, PRIVATE_FILE) as file:
            file.write(text.encode())
        number = 0
        while True:
            there = [int(file.stem) for file in folder.iterdir() if re.fullmatch(r"[0-9]+\.json", file.name)]
            number = max(number, *there, 0) + 1
            final = folder / f"{number:03d}.json"
            with suppress(FileExistsError):
                _put_new(part, final)
                sync_folder(folder)
                break
    except OSError as error:
        raise RunStopped(
            f"{folder}: nothing can be written into it: {error.strerror or error}; {what_helps(error)}"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    remove_orphans(folder, "numbered")
    return final


def _put_new(part: Path, final: Path) -> None:
    """Give a written file its name, unless there is a file of that name (FileExistsError)."""
    try:
        os.link(part, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the name is taken first
        with open(final, "xb", opener=open_private):
            pass
        part.replace(final)


def _part_of(path: Path) -> Path:
    """A name beside a file, for one writer of it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def is_part_of(name: str, of: str) -> bool:
    """Whether this is the name of an unfinished file that is to become `of`, as `new_file` names it."""
    return re.fullmatch(_PART.format(name=re.escape(of)), name) is not None


@contextmanager
def _synced(part: Path, mode: int) -> Iterator[BinaryIO]:
    """Yield a file that is new; after the block its content is on disk."""
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def remove_orphans(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers left in a folder: of one file, or (None, in a folder of our own) of every file."""
    pattern = re.compile(_PART.format(name=".+" if name is None else re.escape(name)))
    for file in folder.iterdir():
        if pattern.fullmatch(file.name):
            with suppress(OSError):
                if file.stat().st_mtime < time.time() - _ORPHAN_S:
                    file.unlink()


def open_private(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=)`: a new one is its owner's alone."""
    return os.open(path, flags, PRIVATE_FILE)


def file_hash(path: Path) -> str:
    """Return a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object, trusting nothing of it.

    Raises:
        InputError: it is missing, no regular file, not UTF-8, not JSON, nested too deep, or no object.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a file")
        content = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_distinct)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read: it is nested too deep") from error
    except ValueError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands in it twice")
    return content


def check_path(text: str, option: str) -> None:
    """Refuse a path that no file can have, or that a terminal would not show as it is.

    Raises:
        UsageError: it is empty, has control characters, or is too long.
    """
    if not text.strip():
        raise UsageError(f"{option} {text!r}: an empty name; give a folder, or leave the option out")
    if not text.isprintable():
        raise UsageError(f"{option} {text[:_SHOWN]!r}: a control character in the name; give another")
    if is_too_long(text):
        raise UsageError(f"{option} {text[:_SHOWN]}...: File name too long; give another")


def is_too_long(path: str | Path) -> bool:
    """Whether no file can have that path."""
    name = os.fsencode(str(path))
    return len(name) >= _MAX_PATH or any(len(part) > _MAX_NAME for part in name.split(b"/"))


def cache_folder() -> Path:
    """Folder of what alignkit converts and keeps: ALIGNKIT_CACHE, else ~/.cache/alignkit."""
    return Path(os.environ.get("ALIGNKIT_CACHE") or Path.home() / ".cache" / "alignkit")


def sync_file(path: Path) -> None:
    """Bring a file's content to disk."""
    with open(path, "rb+") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring a folder with everything below it to disk, names last."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def put_file_in_place(written: Path, final: Path) -> None:
    """Bring a file that was written beside its place to disk, and give it its name."""
    sync_file(written)
    written.replace(final)


@contextmanager
def new_folder(final: Path, *, is_synced: bool = True) -> Iterator[Path]:
    """Yield an empty folder beside `final` that takes its place after the block; where the block fails, it is removed.

    The caller holds a lock on `final`: what lies beside it under that name was left by a killed writer.

    Args:
        is_synced: bring all of it to disk first; False where whoever reads it checks every byte.
    """
    working = part_of_folder(final)
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(mode=PRIVATE_FOLDER)
    try:
        yield working
        if is_synced:
            sync_tree(working)
        put_in_place(working, final)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def part_of_folder(final: Path) -> Path:
    """Where a folder is written before it takes its place; whoever writes there holds a lock on the place."""
    return final.with_name(f".{final.name}.part")


def put_in_place(written: Path, final: Path) -> None:
    """Give a synced folder its final name; what stood there is kept until then, and removed after.

    On Linux the two folders swap names in one operation. Elsewhere there is a moment in which the old one stands as
    `.NAME.old` alone: `restore` puts it back after a crash.
    """
    if not final.exists():
        written.rename(final)
        sync_folder(final.parent)
        return
    old = _aside(final)
    shutil.rmtree(old, ignore_errors=True)
    if _swap(written, final):
        written.rename(old)
    else:
        final.rename(old)
        written.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old)


def restore(final: Path) -> None:
    """Put a folder back that a crash left under its other name, where no new one took its place."""
    old = _aside(final)
    if old.exists() and not final.exists():
        old.rename(final)
        sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder: under another name first, `.NAME.removed`, so that half of one is never taken for one."""
    away = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(away, ignore_errors=True)
    folder.rename(away)
    shutil.rmtree(away)


def set_aside(path: Path, why: str) -> Path:
    """Give what lies at a path the next free name, `NAME.WHY-N`, and return that."""
    free = next(p for n in count(1) if not os.path.lexists(p := path.with_name(f"{path.name}.{why}-{n}")))
    path.rename(free)
    return free


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _swap(one: Path, other: Path) -> bool:
    """Let two names swap what they stand for, at once; False where the system cannot."""
    rename = _renameat2()
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _SWAP) == 0


@cache
def _renameat2() -> Any:
    if sys.platform != "linux":
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        found.restype = ctypes.c_int
    return found
