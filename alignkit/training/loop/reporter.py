"""What a loop says: numbers to trackers, steps and lines to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from alignkit.display import duration
from alignkit.progress import Progress, Silent, shown
from alignkit.tracking import Tracker


class Reporter:
    """Tells of a training's steps.

    Args:
        trackers: get every number.
        progress: default: nothing is shown.
    """

    def __init__(self, trackers: Sequence[Tracker] = (), progress: Progress | None = None) -> None:
        self.trackers, self.progress = trackers, progress or Silent()
        self._began_s: float | None = None  # of the step in progress, by the monotonic clock
        self._last_s: float | None = None  # that the last step took

    def start(self, name: str, num_steps: int, done: int) -> None:
        """Begin to show a method's steps, some of them done by the run that goes on."""
        self.progress.start(f"{name} step", num_steps, done)

    def stop(self) -> None:
        """Show no steps any more."""
        self.progress.stop()

    def note(self, lines: Iterable[str]) -> None:
        """Show lines beside the steps."""
        for line in lines:
            self.progress.note(line)

    def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
        """Send numbers to the trackers."""
        for tracker in self.trackers if metrics else ():
            tracker.log(step, metrics, tokens_seen=tokens_seen)

    def begin_step(self) -> float:
        """Note that a step begins; returns when, by the monotonic clock."""
        self._began_s = time.monotonic()
        return self._began_s

    def end_step(self, metrics: Mapping[str, float], names: Sequence[str]) -> float:
        """Show that a step is done, with those numbers of it; returns the seconds that it took."""
        self.progress.advance(1, **shown(metrics, names))
        began, self._began_s = self._began_s or time.monotonic(), None
        self._last_s = time.monotonic() - began
        return self._last_s

    def answer(self, breaks: bool, saved_step: int | None) -> None:
        """Say at once what a signal does, and what is kept.

        Args:
            breaks: what is being done is left, and done again when the run goes on.
            saved_step: of the newest checkpoint on the disk.
        """
        doing, began, last_s = "finishing this step", self._began_s, self._last_s
        if breaks:
            doing = "leaving what is being measured; it is measured again when the run goes on"
        elif began is not None and last_s is not None:
            doing += f", about {duration(max(1.0, began + last_s - time.monotonic()))}"
        kept = "nothing is saved yet" if saved_step is None else f"the last checkpoint is step {saved_step}"
        self.progress.note(f"{doing}, then saving; Ctrl-C again stops now: {kept}")
