"""A tiny tournament that is killed with SIGKILL and goes on, in processes forked after all imports.

As a script, python tests/helpers/tournament_kills.py FOLDER: runs it `whole` and, with kills in a run, while answers
are drawn and before the results are written, `killed`. The last line printed has the codes of the killed calls.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]


def main() -> int:
    folder = Path(sys.argv[1])
    import alignkit.api.tournaments
    import alignkit.judging.answers
    import alignkit.tournaments.judged
    import alignkit.training.run.train_run  # noqa: F401
    from alignkit.api import tournaments

    def run(name: str, change: Callable[[], None] = lambda: None) -> int:
        if child := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        change()
        tournaments.tournament(**small(folder) | {"seeds": 1}, out=folder / name)
        os._exit(0)

    assert run("whole") == 0
    codes = [run("killed", change) for change in (kill_in_a_run, kill_between_answers, kill_before_results)]
    assert run("killed") == 0
    print(json.dumps(codes))
    return 0


def small(folder: Path) -> dict[str, Any]:
    """A tournament of a tiny model that takes a second or two."""
    return {
        "entrants": {"sft": {"learning_rate": 0.02}, "dpo": {"start": "sft", "learning_rate": 0.01}},
        "model": str(folder / "model"),
        "data": str(folder / "rows.jsonl"),
        "judge": f"{Path(__file__).parent / 'tournament_judge.py'}:letters",
        "precision": "fp32",
        "split": "0.1",
        "seeds": 2,
        "steps": 3,
        "num_prompts": 6,
        "temperature": 1.0,
        "max_new_tokens": 6,
        "batch_size": 4,
        "checkpoint_interval": 1,
        "warmup_steps": 1,
    }


def kill_in_a_run() -> None:
    from alignkit.training.loop.train_loop import Loop

    original: Any = Loop.step

    def stepping(self: Any) -> None:
        if self.position.step == 2 and self.method.name == "dpo":
            os.kill(os.getpid(), signal.SIGKILL)
        original(self)

    setattr(Loop, "step", stepping)  # noqa: B010


def kill_between_answers() -> None:
    from alignkit.judging.answer_file import AnswerFile

    original = AnswerFile.add

    def adding(self: Any, answers: Any) -> None:
        original(self, answers)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(AnswerFile, "add", adding)  # noqa: B010


def kill_before_results() -> None:
    from alignkit.tournaments.results import Results

    setattr(Results, "write", lambda self, path: os.kill(os.getpid(), signal.SIGKILL))  # noqa: B010


if __name__ == "__main__":
    sys.exit(main())
