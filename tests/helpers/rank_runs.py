"""Runs on several ranks, each forked after all imports and before any tensor work.

As a script, python tests/helpers/rank_runs.py FOLDER.
A rank gets what torchrun would set for it. What came of each run lies in FOLDER: NAME/ the run, NAME.R.txt what rank R
wrote, and codes.json the exit codes by rank. test_many_ranks.py looks at it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fork_ranks import fork_ranks
from forked import import_same

METHODS = {
    "sft": [],
    "sft-lenpen": ["--penalty", "0.05", "--penalty-interval", "2", "--max-new-tokens", "40"],
    "dpo": ["--gradient-checkpointing"],
    "dpo-lora": ["--lora-rank", "4", "--set", "reference=online"],
    "kto": ["--desirable-weight", "1.3"],
    "reward": ["--learning-rate", "0.03", "--validation-interval", "2", "--set", "early_stopping_steps=4"],
    "grpo": ["--reward", "rewards.py:short", "--group-size", "3", "--kl-estimator", "k1"],
}
WORSE = ["--learning-rate", "1", "--validation-interval", "1", "--set", "early_stopping_steps=2"]
REWARDS = """
def short(completion, row):
    return len(set(completion)) - 0.5 * len(completion)
def raising(completion, row):
    raise ValueError("this reward never works")
"""


def main() -> int:
    os.chdir(sys.argv[1])
    os.environ |= {"OMP_NUM_THREADS": "1", "ALIGNKIT_CACHE": str(Path("cache").absolute())}
    assert ranks(1, "inputs", write_inputs) == [0], Path("inputs.0.txt").read_text()
    assert ranks(1, "warm", warm) == [0], Path("warm.0.txt").read_text()
    import_same(Path("modules.txt"))
    codes = {f"steps-{size}": ranks(size, f"steps-{size}", partial(compare_steps, size)) for size in (2, 4)}
    for name, options in METHODS.items():
        for size in (1, 2):
            run = f"{name}-{size}"
            codes[run] = ranks(size, run, partial(train, name.removesuffix("-lora"), run, options))
    codes |= interrupted() | stopped()
    Path("codes.json").write_text(json.dumps(codes), encoding="utf-8")
    return 0


def interrupted() -> dict[str, list[int]]:
    """Runs that a signal to one rank ended, and that went on."""
    codes = {}
    killed = partial(train, "sft", "killed", [])
    codes["killed"] = ranks(2, "killed", killed, rank_1=partial(in_step, 6, signal.SIGKILL))
    killed = partial(train, "sft", "torn", [])
    codes["torn"] = ranks(2, "torn", killed, rank_0=terminated_when_lost, rank_1=partial(in_step, 6, signal.SIGKILL))
    codes["alone"] = ranks(1, "alone", partial(train, "sft", "alone", []), rank_0=partial(in_step, 6, signal.SIGKILL))
    for begun, size in (("killed", 1), ("killed", 2), ("killed", 3), ("killed", 4), ("alone", 2)):
        run = f"{begun}-{size}"
        shutil.copytree(begun, run)
        codes[run] = ranks(size, run, partial(train, "sft", run, [], resume=True))
    terminated = partial(train, "sft", "terminated", [])
    codes["terminated"] = ranks(2, "terminated", terminated, rank_0=partial(in_step, 5, signal.SIGTERM))
    codes["restarted"] = ranks(2, "restarted", terminated, restarts=1)
    validated = partial(train, "dpo", "validated", [])
    codes["validated"] = ranks(2, "validated", validated, rank_1=in_validation)
    codes["validated-resumed"] = ranks(2, "validated-resumed", partial(validated, resume=True))
    return codes


def stopped() -> dict[str, list[int]]:
    """Runs that stop and say why."""
    raising = ["--reward", "rewards.py:raising"]
    return {
        "nan": ranks(2, "nan", partial(train, "sft", "nan", [], data="bad.jsonl"), rank_0=spoilt, rank_1=spoilt),
        "worse": ranks(2, "worse", partial(train, "sft", "worse", WORSE)),
        "raising": ranks(2, "raising", partial(train, "grpo", "raising", raising)),
        "full": ranks(2, "full", partial(train, "sft", "full", []), rank_1=without_room),
        "copying": ranks(2, "copying", partial(train, "sft", "copying", ["--sampler", "vllm-server"])),
        "narrow": ranks(2, "narrow", partial(train, "sft", "narrow", ["--set", "optimizer=adamw-8bit"])),
        "quantized": ranks(
            2, "quantized", partial(train, "sft", "quantized", ["--quantize", "4bit", "--lora-rank", "2"])
        ),
        "other": ranks(2, "other", partial(train, "sft", "other", []), rank_1=with_other_data),
    }


def ranks(
    size: int, name: str, work: Callable[[], int], *, restarts: int = 0, **apart: Callable[[], None]
) -> list[int]:
    """Run `work` on so many ranks at once; `rank_R` is what rank R does before. Returns their exit codes."""
    before = {int(key.removeprefix("rank_")): first for key, first in apart.items()}
    return fork_ranks(size, work, log=lambda rank: Path(f"{name}.{rank}.txt"), before=before, restarts=restarts)


def train(
    method: str, name: str, options: Sequence[str], *, resume: bool = False, steps: int = 8, data: str = "rows.jsonl"
) -> int:
    from alignkit.cli.main import main as alignkit

    given: dict[str, Any] = {
        "model": "model",
        "data": data,
        "out": name,
        "precision": "fp32",
        "split": "first-6",
        "max_new_tokens": 5,
        "batch_size": 5,
        "max_steps": steps,
        "checkpoint_interval": 2,
        "validation_interval": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
    }
    shared = [text for key, x in given.items() for text in (f"--{key.replace('_', '-')}", str(x))]
    return alignkit(["train", method, *shared, *options, *(["--resume"] if resume else [])])


def compare_steps(size: int) -> int:
    from rank_steps import write_differences

    return write_differences("model", f"steps-{size}.json")


def warm() -> int:
    """Import what the runs import, and say what that was."""
    import rank_steps  # noqa: F401

    code = train("grpo", "warm", METHODS["grpo"], steps=1)
    Path("modules.txt").write_text("\n".join(sys.modules), encoding="utf-8")
    return code


def write_inputs() -> int:
    from tiny_models import tiny_model

    tiny_model(Path("model"))
    words = ["river", "stone", "cloud", "lamp", "bread", "window", "garden", "music"]
    rows = [
        {"id": f"r{n}", "prompt": f"Say {word} {n}.", "chosen": f"{word} {n} " * (1 + n % 3), "rejected": f"no {word}"}
        for n, word in enumerate(words * 5)
    ]
    write_rows("rows.jsonl", rows)
    write_rows("bad.jsonl", [row | ({"chosen": "a ~ here"} if row["id"] == "r17" else {}) for row in rows])
    write_rows("others.jsonl", rows[:-1])
    Path("rewards.py").write_text(REWARDS, encoding="utf-8")
    return 0


def write_rows(name: str, rows: Sequence[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def spoilt() -> None:
    """Let this rank compute nan for the row with a tilde."""
    from small_runs import spoil_letter

    spoil_letter("~")


def in_step(step: int, number: int) -> None:
    """Let this rank get a signal while the given step runs."""
    from alignkit.training.loop.train_loop import Loop

    original = Loop.step

    def stepping(self: Loop) -> None:
        if self.position.step + 1 == step:
            os.kill(os.getpid(), number)
        original(self)

    Loop.step = stepping  # type: ignore[method-assign]


def terminated_when_lost() -> None:
    """Let this rank get SIGTERM, as torchrun sends it when a rank died, while it tidies up and again at its end."""
    import torch.distributed as dist

    from alignkit.training.checkpoints.run_folder import RunFolder

    def then_terminate(original: Callable[..., None]) -> Callable[..., None]:
        def ending(*arguments: Any) -> None:
            original(*arguments)
            os.kill(os.getpid(), signal.SIGTERM)

        return ending

    RunFolder.unlock = then_terminate(RunFolder.unlock)  # type: ignore[method-assign]
    dist.destroy_process_group = then_terminate(dist.destroy_process_group)


def in_validation() -> None:
    """Let this rank get SIGTERM while it computes its share of the validation after step 4."""
    from alignkit.training.gradient import step
    from alignkit.training.loop import train_loop as loop

    original, steps = step.make_batch, loop.Loop.measure

    def measure(self: loop.Loop) -> None:
        is_due = self.position.step == 4
        step.make_batch = batch if is_due else original  # type: ignore[assignment]
        steps(self)

    def batch(*arguments: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        print("went on")
        return original(*arguments, **more)

    loop.Loop.measure = measure  # type: ignore[method-assign]


def without_room() -> None:
    """Let this rank's piece of a checkpoint find no room."""
    from alignkit.distributed.shards import Piece

    def write(*_: object) -> str:
        raise OSError(28, "No space left on device")

    Piece.write = write  # type: ignore[method-assign]


def with_other_data() -> None:
    """Let this rank see other rows under the same name, as a node might whose copy is an older one."""
    os.mkdir("elsewhere")
    os.symlink(Path("model").absolute(), "elsewhere/model")
    shutil.copy("others.jsonl", "elsewhere/rows.jsonl")
    os.chdir("elsewhere")


if __name__ == "__main__":
    sys.exit(main())
