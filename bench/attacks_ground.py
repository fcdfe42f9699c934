"""What the attacks stand on: models, rows, a finished run, a run killed half-way, and commands in forked processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.helpers.forked import die_before, import_same, in_child

REWARDS = "def letters(completion, row):\n    return sum(map(ord, completion)) % 7\n"
LIMIT_S = 60.0
_KILLED = -9
_WORDS = "river stone cloud lamp bread window garden music".split()


@dataclass
class Tried:
    """One kind of attack: how many were tried, and what did not hold, a line each."""

    kind: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def held(self) -> int:
        return self.tried - len(self.failures)

    def note(self, problem: str | None) -> None:
        """Count one try; `problem` says why it did not hold."""
        self.tried += 1
        if problem is not None:
            self.failures.append(problem)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (-9: killed at the limit), what it wrote, and its seconds."""

    code: int
    text: str
    seconds: float

    def problem(self, what: str, codes: Sequence[int] = (0, 2, 3), *, raises: bool = False) -> str | None:
        """Say why this end is none that a user may meet, or None.

        Args:
            raises: the user's own code raised, and keeps its traceback.
        """
        lines = [line for line in self.text.strip().splitlines() if line.strip()] or ["(nothing written)"]
        if self.code == _KILLED:
            return f"{what}: hangs, ended after {self.seconds:.0f} s"
        if ("Traceback" in self.text and not raises) or self.code not in codes:
            return f"{what}: exit {self.code}: {' | '.join(line[:160] for line in lines[-2:])}"
        return None


class Ground:
    """A scratch folder with everything that is attacked; what is attacked is always a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.other = folder / "model", folder / "other"
        self.rows, self.rewards = folder / "rows.jsonl", folder / "rewards.py"
        self._places = 0

    def make(self) -> None:
        """Write it all; afterwards this process has imported what commands import."""
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CONFIG_HOME": str(self.folder / "config")}
        os.environ |= {"ALIGNKIT_CACHE": str(self.folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        self._made(self.write_inputs)
        # one process imports what training and judging import, writes the names down, and this one does the same
        modules = self.folder / "modules.txt"
        self._made(partial(self._train_and_judge, self.folder / "done"), modules=modules)
        import_same(modules)
        stopped = self.folder / "stopped"
        code = in_child(partial(self._train_until_killed, stopped), log=self.folder / "log.txt")
        if code != _KILLED:
            raise SystemExit(f"the run that is to be killed ended with {code}")
        shutil.rmtree(self.folder / "cache" / "references", ignore_errors=True)

    def place(self, *copied: str) -> Path:
        """A new working folder with copies of what lies in this one."""
        self._places += 1
        place = self.folder / f"place-{self._places}"
        place.mkdir()
        for name in copied:
            source = self.folder / name
            if source.is_dir():
                shutil.copytree(source, place / name, symlinks=True)
            elif source.exists():
                shutil.copy2(source, place / name)
        return place

    def alignkit(
        self,
        arguments: Sequence[object],
        place: Path,
        *,
        limit_s: float = LIMIT_S,
        environment: Mapping[str, str] | None = None,
        typed: str = "",
    ) -> Ended:
        """Run one command in `place`, in a process forked from this one; its cache and ledger are the place's own.

        Args:
            typed: what comes from its standard input.
        """
        log = place / ".log.txt"
        began = time.monotonic()
        work = partial(_command, [str(argument) for argument in arguments], place, dict(environment or {}), typed)
        code = in_child(work, log=log, kill_after_s=limit_s)
        return Ended(code, log.read_text(encoding="utf-8", errors="replace"), time.monotonic() - began)

    def _made(self, work: Callable[[], int], modules: Path | None = None) -> None:
        log = self.folder / "log.txt"
        if code := in_child(work, log=log, modules=modules):
            raise SystemExit(f"the ground could not be made, {code}:\n{log.read_text(encoding='utf-8')}")

    def write_inputs(self) -> int:
        """Write models, rows and a reward file."""
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
        from tiny_models import tiny_model

        tiny_model(self.model)
        tiny_model(self.other, seed=1)
        rows = [
            {
                "id": f"r{n}",
                "prompt": f"Say {word} {n}.",
                "chosen": f"{word} {n}",
                "rejected": f"no {word}",
                "rules": [{"kind": "num_words", "max": 3}],
            }
            for n, word in enumerate(_WORDS * 4)
        ]
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.rewards.write_text(REWARDS, encoding="utf-8")
        return 0

    def _train_and_judge(self, out: Path) -> int:
        from alignkit.cli.main import main

        os.environ["ALIGNKIT_LEDGER"] = str(self.folder / "ledger.sqlite")
        os.chdir(self.folder)
        code = main(training("sft", self, out.name, steps=4))
        judged = ["judge", out.name, "--vs", "model", "--data", "rows.jsonl", "--judge", "rewards.py:letters"]
        code = code or main([*judged, "--max-new-tokens", "4", "--num-prompts", "12"])
        answers = ["generate", out.name, "--data", "rows.jsonl", "--max-new-tokens", "4", "--out", "answers.jsonl"]
        code = code or main([*answers, "--num-prompts", "8"])
        return code or main(training("dpo", self, "compared", steps=2))

    def _train_until_killed(self, out: Path) -> int:
        from alignkit.cli.main import main

        os.environ["ALIGNKIT_LEDGER"] = str(self.folder / "ledger.sqlite")
        os.chdir(self.folder)
        die_before(1, str(self.folder / "stopped" / "checkpoints" / ".step-000006"))
        return main(training("grpo", self, str(out)))


def training(method: str, ground: Ground, out: str, *, steps: int = 7) -> list[str]:
    """The command of a short run on the ground's model and rows."""
    command = ["train", method, "--model", str(ground.model), "--data", str(ground.rows), "--out", out, "--resume"]
    command += ["--precision", "fp32", "--split", "0.2", "--max-new-tokens", "4", "--max-steps", str(steps)]
    command += ["--batch-size", "2" if method == "grpo" else "4", "--learning-rate", "1e-3"]
    command += ["--checkpoint-interval", "2", "--validation-interval", "4"]
    return [*command, "--reward", f"{ground.rewards}:letters"] if method == "grpo" else command


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes away."""
    return tempfile.TemporaryDirectory(prefix="attacks-", ignore_cleanup_errors=True)


def damaged(content: bytes, chance: random.Random, way: str) -> bytes:
    """Damage bytes in one way: "bit", "cut", "zeros", "swap" (two stretches change places)."""
    size = len(content)
    if size == 0:
        return b"x"
    if way == "bit":
        at = chance.randrange(size)
        return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]
    if way == "cut":
        return content[: chance.randrange(size)]
    length = max(1, min(size // 4, chance.choice((1, 16, 512, 4096))))
    at = chance.randrange(size - length + 1)
    if way == "zeros":
        return content[:at] + bytes(length) + content[at + length :]
    to = chance.randrange(size - length + 1)
    first, second = sorted((at, to))
    if second < first + length:
        return content[::-1]
    parts = (content[:first], content[second : second + length], content[first + length : second])
    return b"".join((*parts, content[first : first + length], content[second + length :]))


def _command(arguments: list[str], place: Path, environment: dict[str, str], typed: str) -> int:
    from alignkit.cli.main import main

    reading, writing = os.pipe()
    os.write(writing, typed.encode())
    os.close(writing)
    os.dup2(reading, 0)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - the process's own
    os.chdir(place)
    os.environ |= {"ALIGNKIT_LEDGER": str(place / "ledger.sqlite"), "ALIGNKIT_CACHE": str(place / "cache")}
    os.environ |= environment
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 97
