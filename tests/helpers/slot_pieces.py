"""What pieces of a slot do in tests.

As a script, python slot_pieces.py FILE: a tournament whose piece says who it is in FILE, and waits for its end.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path


def say(*names: str) -> int:
    """Print who the piece is, its standard input and what stands in its environment."""
    print(os.getpid(), os.getsid(0), repr(sys.stdin.read()), *map(os.environ.get, names), flush=True)
    return 3


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def count_kept() -> int:
    """Return 3 where garbage is looked for, and not among what the slot imported."""
    return 3 if gc.isenabled() and gc.get_freeze_count() else 4


def leave(folder: Path) -> int:
    """Let an exit function and a thread of its own write a file each, after the piece has returned."""

    def slowly() -> None:
        time.sleep(0.3)
        (folder / "thread").write_text("done")

    threading.Thread(target=slowly).start()
    atexit.register((folder / "exit").write_text, "done")
    print("not flushed", end="")
    return 3


def wait(file: Path) -> int:
    """Write the piece's id and its slot's, and wait; SIGTERM ends it with 130."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    file.with_suffix(".new").write_text(f"{os.getpid()} {os.getppid()}")
    file.with_suffix(".new").rename(file)
    time.sleep(60)
    return 0


if __name__ == "__main__":
    from slot_pieces import wait as begun

    from alignkit.tournaments.slots import Slot

    Slot({"PYTHONPATH": str(Path(__file__).parent)}, imports=()).start(partial(begun, Path(sys.argv[1])), None)
    time.sleep(60)
