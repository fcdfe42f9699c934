"""The lock of a run's folder: one process at a time writes it."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from alignkit.storage import PRIVATE_FILE


class FolderLock:
    """A folder's lock: one process at a time, of one machine or of several that share its file system.

    The file is removed while the lock is still held, and whoever gets a lock compares the file with what lies under its
    name: nobody ever holds a lock on a file that is no longer there.

    Args:
        path: the lock's file.
        mark: what is written into it, to know it by.
    """

    def __init__(self, path: Path, mark: str) -> None:
        self.path, self._mark = path, mark
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False where another process holds it. Raises OSError where the file cannot be made."""
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return False
                raise
            if _is_at(descriptor, self.path):
                self._descriptor = descriptor
                try:
                    os.truncate(descriptor, 0)
                    os.pwrite(descriptor, self._mark.encode(), 0)
                except OSError:  # the disk is full: no lock without its mark is left
                    self.release()
                    raise
            else:
                os.close(descriptor)
        return True

    def release(self) -> None:
        """Let go of the lock, where it is held."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            if _is_at(self._descriptor, self.path):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
