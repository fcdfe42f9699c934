"""Kill a GRPO run some times and let it end: the same weights and metrics to the bit, and no score bought twice.

As a script, python tests/helpers/grpo_kills.py FOLDER SAMPLER KILLS: each run is forked after all imports and before
any tensor work. It is killed before a file operation: what a killed run leaves changes only there, and the reward opens
a file for each score.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from ast import literal_eval
from collections.abc import Callable
from functools import partial
from pathlib import Path

from forked import die_before, import_same, in_child, last_line

MOST_IN_FLIGHT = 8  # scores that one call of the judge gives at most: a killed process loses those
REWARD = """
import os
def vowels(completion, row):
    with open(os.environ["ASKED"], "a") as file:
        file.write(f"{os.getpid()} {row['id']} {completion!r}\\n")
    return sum(letter in "aeiou" for letter in completion) if len(completion) > 1 else None
"""


def main() -> int:
    folder, sampler, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    train = partial(train_with, sampler)
    os.environ |= {"OMP_NUM_THREADS": "1", "ALIGNKIT_CACHE": str(folder / "cache")}
    log, chance = folder / "log.txt", random.Random(7)
    modules = folder / "modules.txt"
    in_child(partial(write_inputs, folder), log=log, modules=modules)
    import_same(modules)
    assert not in_child(partial(train, folder, "whole"), log=log, modules=modules), log.read_text()
    import_same(modules)
    kills = runs = 0
    while kills < most:
        runs += 1
        run = partial(train, folder, f"run-{runs}")
        for _ in range(min(5, most - kills)):
            kind = (runs + kills) % 2  # in turn: in the journal of rollouts; anywhere in the run, or while it scores
            below, last = (f"run-{runs}/rollouts", 40) if kind else (f"run-{runs}", 120)
            die = partial(die_before, chance.randint(1, last), str(folder / below))
            code = in_child(partial(run, before=die), log=log)
            assert code in (0, -signal.SIGKILL), last_line(log)
            kills += code == -signal.SIGKILL
        assert not in_child(run, log=log), last_line(log)
        compare(folder, f"run-{runs}")
    print(f"{kills} kills, {runs} runs")
    return 0


def train_with(sampler: str, folder: Path, name: str, before: Callable[[], None] = lambda: None) -> int:
    from alignkit.cli.main import main as alignkit

    os.environ |= {"ALIGNKIT_LEDGER": str(folder / f"{name}.sqlite"), "ASKED": str(folder / f"{name}.asked")}
    out = folder / name
    before()
    return alignkit(
        [
            "train",
            "grpo",
            "--model",
            str(folder / "model"),
            "--data",
            str(folder / "problems.jsonl"),
            "--out",
            str(out),
            "--resume",
            "--reward",
            f"{folder / 'rewards.py'}:vowels",
            "--precision",
            "fp32",
            "--split",
            "0.2",
            "--max-new-tokens",
            "5",
            "--group-size",
            "4",
            "--max-steps",
            "6",
            "--checkpoint-interval",
            "3",
            "--validation-interval",
            "3",
            "--learning-rate",
            "1e-2",
            "--warmup-steps",
            "1",
            "--set",
            "updates_per_batch=2",
            "--set",
            "zero_variance_groups=resample",
            "--sampler",
            sampler,
            "--set",
            "max_resamples=1",
            "--num-prompts",
            "12",
        ]
    )


def compare(folder: Path, name: str) -> None:
    whole, run = folder / "whole", folder / name
    assert (whole / "model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes(), name
    assert metrics(whole) == metrics(run), name
    asked = [line.split(" ", 1) for line in (folder / f"{name}.asked").read_text().splitlines()]
    for place, (process, item) in enumerate(asked):
        if len(literal_eval(item.split(" ", 1)[1])) <= 1:
            continue  # the reward does not apply: no score is kept, and a round without any is asked for again
        again = [other for other, same in asked[place + 1 :] if same == item and other != process]
        later = sum(other == process for other, _ in asked[place + 1 :])
        assert not again or later < MOST_IN_FLIGHT, f"{name}: {item} was scored, kept and asked for again"


def metrics(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        x
        for x in lines
        if not x["name"].endswith("_s") and x["name"] not in ("seconds", "mfu", "memory_mib", "sampler_mismatch")
    ]


def write_inputs(folder: Path) -> int:
    from tiny_models import tiny_model

    tiny_model(folder / "model", hidden_size=128)  # vLLM has no attention for heads of 12
    rows = [{"id": f"p{n}", "prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(15)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(REWARD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
