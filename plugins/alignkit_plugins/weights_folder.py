"""The folder through which weights reach servers: one that alignkit made or found empty, used by one run at a time.

A file in it, `.alignkit-weights`, marks the folder as alignkit's and is locked while a run uses it. A folder with files
and without this mark is refused: it may hold the only copy of a model.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.plugin import UsageError, check_path, put_file_in_place

if TYPE_CHECKING:
    from torch import Tensor

MARK = ".alignkit-weights"
_PART = ".alignkit-part-"  # begins the name of a folder in which files are made
_TEXT = "alignkit hands weights to servers by this folder, and overwrites them\n"


class WeightsFolder:
    """One run's hold on the folder.

    Args:
        path: the folder; it is made where it does not exist.

    Raises:
        UsageError: it holds what alignkit did not write, cannot be written, or another run uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_path(str(path), "server_weights")
        self._mark = -1
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()) and not _is_marked(path):
                raise UsageError(
                    f"--set server_weights={path}: the folder holds files that alignkit did not write, and weights "
                    "would overwrite a model there; name a new or an empty folder"
                )
            self._mark = os.open(path / MARK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            os.pwrite(self._mark, _TEXT.encode(), 0)
            fcntl.flock(self._mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in path.glob(f"{_PART}*"):  # of a killed run: the lock is ours
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            self.close()
            if error.errno == errno.EWOULDBLOCK:
                raise UsageError(
                    f"--set server_weights={path}: another run hands its weights over by it; name another"
                ) from error
            raise UsageError(
                f"--set server_weights={path}: cannot be written ({error.strerror or error}); name another folder"
            ) from error

    def write(self, weights: dict[str, Tensor], config: Any) -> None:
        """Write weights and config, each file whole; a tied head stands beside its embedding."""
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory(prefix=_PART, dir=self.path) as folder:
            part = Path(folder)
            tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
            save_file(tensors, part / "model.safetensors", {"format": "pt"})
            config.save_pretrained(part)
            for file in sorted(part.iterdir()):
                file.chmod(0o644)  # servers may run as somebody else
                put_file_in_place(file, self.path / file.name)

    def close(self) -> None:
        """Let another run have the folder."""
        if self._mark >= 0:
            os.close(self._mark)
            self._mark = -1


def _is_marked(folder: Path) -> bool:
    mark = folder / MARK
    return mark.is_file() and not mark.is_symlink() and mark.read_bytes() in (_TEXT.encode(), b"")
