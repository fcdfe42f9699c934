"""Kills a tournament at random moments; the table that it ends with must be the one it has without, to the digit.

    python -m bench.tournament_kills [--kills 20] [--seed N] [--json FILE]

The smallest tournament that has all kinds of entrants (the base, sft, sft-lenpen, dpo, a reward model, and grpo that is
rewarded by it), a tiny random model, each piece in a process of its own, as the command line runs it. Each call of
`alignkit tournament` is killed (SIGKILL) after a random part of what the whole takes, and the next call goes on; a
tournament that ends in spite of it is compared, and another is begun. Compared are the table and results.json, but for
what is measured in minutes and MiB.

    tournament_kills        calls that were killed
    tournament_same_tables  share of the finished tournaments whose table and results are those of the undisturbed one
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.commit import commit

_HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
sys.path.insert(0, str(_HELPERS))
_MEASURED = ("minutes", "answer_minutes", "peak_mib")  # no two calls share these
_LONGEST = 0.4  # of the undisturbed tournament, until a call is killed
_TABLE = """
[model]
model = "model"
precision = "fp32"
[data]
data = "rows.jsonl"
split = "0.1"
[judge]
num_prompts = 6
temperature = 1.0
max_new_tokens = 6
[tournament]
steps = 3
[train]
batch_size = 2
checkpoint_interval = 1
warmup_steps = 1
max_new_tokens = 6
[entrants.sft]
[entrants.sft-lenpen]
penalty_interval = 1
penalty_samples = 2
[entrants.reward]
learning_rate = 1e-3
[entrants.dpo]
start = "sft"
[entrants.grpo]
start = "sft"
reward = ["reward"]
group_size = 2
temperatures = [1.0, 1.0]
"""


def main() -> int:
    """Run the campaign; exit code 1 where a killed tournament ended otherwise than its twin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = kill_over_and_over(Path(name), given.kills, random.Random(given.seed))
    for figure, value in found.items():
        print(f"{figure:<24} {value:g}")
    if given.json is not None:
        content = {"figures": found, "seed": given.seed, "commit": commit()}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if found["tournament_same_tables"] == 1 else 1


def kill_over_and_over(folder: Path, kills: int, rng: random.Random) -> dict[str, float]:
    """Run one tournament undisturbed and others with kills; returns the figures."""
    from small_runs import write_numbered_rows
    from tiny_models import tiny_model

    tiny_model(folder / "model")
    write_numbered_rows(folder / "rows.jsonl")
    (folder / "alignkit.toml").write_text(_TABLE, encoding="utf-8")
    started = time.monotonic()
    if _call(folder, "whole") != 0:
        raise SystemExit((folder / "whole.log").read_text(encoding="utf-8"))
    whole_s = time.monotonic() - started
    whole, done, number = _numbers(folder / "whole"), 0, 0
    same = []
    while done < kills or number not in [n for n, _ in same]:
        name = f"killed-{number}"
        after_s = rng.uniform(0, _LONGEST * whole_s) if done < kills else None
        code = _call(folder, name, kill_after_s=after_s)
        if code == -9:
            done += 1
            print(f"kill {done} of {kills}: {name}, after {after_s:.1f} s", flush=True)
        elif code != 0:
            raise SystemExit(f"{name} ended with {code}:\n" + (folder / f"{name}.log").read_text(encoding="utf-8"))
        else:
            is_same = _numbers(folder / name) == whole
            same.append((number, is_same))
            print(f"{name}: {'the same table' if is_same else 'another table'}", flush=True)
            number += done < kills
    return {
        "tournament_kills": done,
        "tournaments_finished": len(same),
        "tournament_same_tables": sum(is_same for _, is_same in same) / len(same),
    }


def _call(folder: Path, name: str, *, kill_after_s: float | None = None) -> int:
    """Call the command line once, killed after so many seconds unless it ended before; returns its exit status."""
    command = [sys.executable, "-m", "alignkit", "tournament", "--out", name]
    command += ["--judge", f"{_HELPERS}/tournament_judge.py:letters"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(folder / f"{name}.log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            return process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _numbers(out: Path) -> list[Any]:
    """The table and the results, without what no two calls share."""
    table = json.loads((out / "table.json").read_text(encoding="utf-8"))
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    table["measures"] = [measure for measure in table["measures"] if measure["key"] not in _MEASURED]
    return [table, {key: value for key, value in results.items() if key.removesuffix("_ES") not in _MEASURED}]


if __name__ == "__main__":
    sys.exit(main())
