"""Where a tournament's time goes: training, answering, judging, and the rest, which is nobody's work.

    OUT/.times.jsonl   what each piece added, a line each; the process that did it wrote it
    OUT/times.json     of the last call that did something: seconds of the whole and of each, and `overhead`, the share
                       of the rest (starts of processes, imports, rows read and prepared, table, page)

Each begins with the loading of its model. Training is a run's own `wall_seconds`: the reference's log-probs, start
checks, steps, validation and samples, and the model written and compared. Answering includes predicting the references
and the KL.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from alignkit.display import duration
from alignkit.storage import write_atomically
from alignkit.tracking import split_lines

FILE, _LINES = "times.json", ".times.jsonl"


def add_time(folder: Path, kind: str, seconds: float) -> None:
    """Keep that so many seconds were "training" or "answering"; several processes may write."""
    line = json.dumps({"kind": kind, "seconds": seconds}) + "\n"
    file = os.open(folder / _LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Clock:
    """Runs from where it is made; `stop` says what of the time was work."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._began = folder, time.monotonic()
        self._lines = len(_lines(folder))

    def stop(self, judging_s: float) -> str | None:
        """Write times.json and return its line; None where nothing was trained or answered."""
        whole_s = time.monotonic() - self._began
        found = {"training": 0.0, "answering": 0.0}
        for line in _lines(self.folder)[self._lines :]:
            one = json.loads(line)
            found[one["kind"]] += one["seconds"]
        if not sum(found.values()):
            return None
        found["judging"] = judging_s
        rest_s = max(0.0, whole_s - sum(found.values()))
        content = {"whole_s": whole_s, **{f"{kind}_s": s for kind, s in found.items()}, "overhead": rest_s / whole_s}
        write_atomically(self.folder / FILE, json.dumps(content) + "\n", private=True)
        parts = ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in found.items())
        return f"time: {duration(whole_s)}: {parts}, the rest {duration(rest_s)} ({rest_s / whole_s:.1%})"


def _lines(folder: Path) -> list[str]:
    file = folder / _LINES
    return split_lines(file.read_text(encoding="utf-8")) if file.exists() else []
