"""`--track trackio`: a local database that `trackio show` draws; project `alignkit`, one run per run folder.

It stays on the machine: no Space is named, and Gradio's own analytics are switched off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from alignkit.plugin import Tracker, hookimpl, needs_extra

PROJECT = "alignkit"


class Trackio(Tracker):
    """Logs to trackio's local store; a resumed run goes on under its name."""

    name: ClassVar[str] = "trackio"

    def __init__(self, run_folder: Path, settings: Mapping[str, object]) -> None:
        super().__init__(run_folder, settings)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import trackio

        self._run = trackio.init(
            project=PROJECT,
            name=run_folder.resolve().name,
            config=dict(settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    @classmethod
    def require(cls) -> None:
        with needs_extra(cls.name, "trackio"):
            import trackio  # noqa: F401

    def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
        self._run.log({**metrics, "tokens": tokens_seen}, step=step)

    def close(self) -> None:
        self._run.finish()


@hookimpl
def register_trackers(register: Any) -> None:
    register(Trackio)
