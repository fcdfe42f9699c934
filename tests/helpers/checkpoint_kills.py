"""Kill a run with SIGKILL while a checkpoint is written in the background, then let it go on.

As a script, python tests/helpers/checkpoint_kills.py MODEL DATA FOLDER: runs `whole`, which writes nothing in the
background, and one for each place in `KILLED_AT`, in processes forked after all imports and before any tensor work. The
last line printed has, for each of these, the checkpoints that are whole after the kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

KILLED_AT = ("half of the weights", "after the rename")
CHECKPOINT = 4  # the step whose checkpoint is killed


def main() -> int:
    model, data, folder = map(Path, sys.argv[1:4])
    from small_runs import command

    import alignkit.cli.train
    import alignkit.training.run.train_run
    from alignkit.cli.main import main as alignkit
    from alignkit.training.checkpoints import checkpoint

    def run(name: str, change: Callable[[Path], None] = lambda out: None) -> int:
        if child := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        change(folder / name)
        os._exit(alignkit([*command(model, data, folder / name), "--resume"]))

    assert run("whole") == 0
    left = {}
    for place in KILLED_AT:
        assert run(place, lambda out, place=place: kill_at(place, out)) == -signal.SIGKILL
        left[place] = [file.name for file in checkpoint.good(folder / place / "checkpoints")]
        assert run(place, lambda out: in_background()) == 0
    print(json.dumps(left))
    return 0


def in_background() -> None:
    """Write checkpoints in the background also beside a CPU."""
    from alignkit.training.loop import saver

    saver.writes_in_background = lambda models: True


def kill_at(place: str, out: Path) -> None:
    """End this process at a place of writing the checkpoint, once the step after it is done."""
    from alignkit.distributed.shards import Piece
    from alignkit.training.checkpoints import checkpoint

    in_background()
    write, put_in_place = Piece.write, checkpoint.put_in_place

    def is_due(folder: Path) -> bool:
        return f"step-{CHECKPOINT:06d}" in folder.name

    def writing(piece: Piece, folder: Path) -> str:
        digest = write(piece, folder)
        if place == KILLED_AT[0] and is_due(folder):
            os.truncate(folder / piece.file, (folder / piece.file).stat().st_size // 2)
            die(out)
        return digest

    def putting(working: Path, final: Path) -> None:
        put_in_place(working, final)
        if is_due(final):
            die(out)

    replaced: Any = Piece
    replaced.write, checkpoint.put_in_place = writing, putting


def die(out: Path) -> None:
    while f'"step": {CHECKPOINT + 1}' not in (out / "metrics.jsonl").read_text():  # the step does not wait
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
