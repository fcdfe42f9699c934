"""`--track wandb`: Weights & Biases; project `alignkit` or WANDB_PROJECT, one run per run folder, files in `RUN/wandb`.

Sent are metrics and the run's configuration; code, git state, console, machine statistics and meta data are not. With
WANDB_MODE=offline nothing is sent, and `wandb sync` can do it later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from alignkit.plugin import Tracker, UsageError, hookimpl, needs_extra


class WandB(Tracker):
    """Logs to Weights & Biases; a resumed run goes on as the same one."""

    name: ClassVar[str] = "wandb"

    def __init__(self, run_folder: Path, settings: Mapping[str, object]) -> None:
        super().__init__(run_folder, settings)
        import wandb

        quiet = wandb.Settings(
            silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True, x_disable_meta=True
        )
        place = str(run_folder.resolve())
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "alignkit"),
            name=run_folder.resolve().name,
            dir=place,
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            resume="allow",
            config=dict(settings),
            settings=quiet,
        )

    @classmethod
    def require(cls) -> None:
        with needs_extra(cls.name, "wandb"):
            import wandb
        if os.environ.get("WANDB_MODE", "online") != "offline" and not wandb.login(prompt=False):
            raise UsageError("--track wandb: no key here: run wandb login, or set WANDB_API_KEY or WANDB_MODE=offline")

    def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
        self._run.log({**metrics, "tokens": tokens_seen}, step=step)

    def close(self) -> None:
        self._run.finish()


@hookimpl
def register_trackers(register: Any) -> None:
    register(WandB)
