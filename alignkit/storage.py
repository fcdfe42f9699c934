"""Folders on disk, whole or not at all: written beside their place, brought to disk, then given their name.

A crash or a power loss between leaves the folder as it was or as it becomes, never half of one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

_SWAP = 2  # Linux's RENAME_EXCHANGE
_HERE = -100  # AT_FDCWD: names are relative to the working folder


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
