"""`--track tensorboard`: event files in `RUN/tensorboard`; `tensorboard --logdir runs` shows every run.

Nothing leaves the machine. A resumed run's events hide those of the steps that it takes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from alignkit.plugin import Tracker, hookimpl, needs_extra

FOLDER = "tensorboard"  # in the run's folder


class TensorBoard(Tracker):
    """Writes TensorBoard's event files, one scalar a metric."""

    name: ClassVar[str] = "tensorboard"

    def __init__(self, run_folder: Path, settings: Mapping[str, object]) -> None:
        super().__init__(run_folder, settings)
        self._writer: Any = None

    @classmethod
    def require(cls) -> None:
        with needs_extra(cls.name, "tensorboard"):
            import tensorboard  # noqa: F401

    def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.run_folder / FOLDER), purge_step=step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.add_scalar("tokens", tokens_seen, global_step=step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@hookimpl
def register_trackers(register: Any) -> None:
    register(TensorBoard)
