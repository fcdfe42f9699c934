"""Kills training runs at random moments and compares what they end with: the same run, to the bit, or it is a failure.

    python -m bench.resilience --kills 100 --json bench/results/resilience.json

Each run trains a small random model on the CPU (6 to 8 steps, a checkpoint after every second one) in a process forked
after all imports and before any tensor work. A run is killed (SIGKILL) over and over, each time either after a random
while or at a random file operation in its folder (so also inside saving, renaming and pruning), and goes on with
--resume; then it is left alone until it ends. Its weights and its metrics (but for times) must equal those of a run
that was never killed. `judge` is killed while it answers, scores and writes, and begun again with its ledger; its
verdict must be that of a judge who was never killed, and no verdict may be left in part. There is no peer: no other
tool was found that publishes such a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.commit import commit
from tests.helpers.forked import die_before, import_same, in_child, last_line

METHODS = ("sft", "sft-lenpen", "dpo", "reward", "grpo", "judge")
_TIMES = ("seconds", "tokens_per_s", "scored_tokens_per_s", "mfu", "memory_mib")  # no two runs share these, nor NAME_s
_MAX_EVENTS = {"judge": 4, "grpo": 90}  # file operations in the folder of one run, about; 60 for the others
_REWARD = "def sum_of_letters(completion, row):\n    return sum(map(ord, completion)) % 7\n"


@dataclass
class Outcome:
    """What became of one method's kills."""

    kills: int = 0
    in_folder: int = 0
    runs: int = 0
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Run the campaign; exit code 1 where a killed run ended otherwise than its twin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over all methods together")
    parser.add_argument("--quick", action="store_true", help="18 kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    started = time.monotonic()
    kills = 18 if given.quick else given.kills
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["ALIGNKIT_CACHE"] = str(folder / "cache")
        if in_child(partial(write_inputs, folder), log=folder / "inputs.log", modules=folder / "modules.txt"):
            raise SystemExit((folder / "inputs.log").read_text(encoding="utf-8"))
        import_same(folder / "modules.txt")
        shares = [kills // len(METHODS) + (n < kills % len(METHODS)) for n in range(len(METHODS))]
        outcomes = {
            method: _campaign(method, share, folder, random.Random(f"{given.seed} {method}"))
            for method, share in zip(METHODS, shares, strict=True)
        }
    return report(outcomes, time.monotonic() - started, given)


def _campaign(method: str, kills: int, folder: Path, chance: random.Random) -> Outcome:
    """Kill runs of one method `kills` times in all; each run at most six times before it may end."""
    outcome = Outcome()
    whole, log = folder / f"{method}-whole", folder / "log.txt"
    began = time.monotonic()
    if in_child(partial(work, method, folder, whole), log=log, modules=folder / "modules.txt"):
        raise SystemExit(f"{method}: the run that is not killed failed:\n{log.read_text(encoding='utf-8')}")
    length_s = time.monotonic() - began
    import_same(folder / "modules.txt")
    while outcome.kills < kills:
        outcome.runs += 1
        out = folder / f"{method}-{outcome.runs}"
        run = partial(work, method, folder, out)
        for _ in range(min(chance.randint(1, 6), kills - outcome.kills)):
            if chance.random() < 0.5:
                killed = in_child(run, log=log, kill_after_s=chance.uniform(0, 1.1 * length_s))
            else:
                killed = in_child(partial(run, die_at=chance.randint(1, _MAX_EVENTS.get(method, 60))), log=log)
                outcome.in_folder += killed == -signal.SIGKILL
            outcome.kills += killed == -signal.SIGKILL
            if killed not in (0, -signal.SIGKILL):
                outcome.failures.append(f"run {outcome.runs} ended with {killed}: {last_line(log)}")
        code = in_child(run, log=log)
        same = _other_verdict if method == "judge" else difference
        problem = f"ended with {code}: {last_line(log)}" if code else same(whole, out)
        if problem:
            outcome.failures.append(f"run {outcome.runs} {problem}")
    return outcome


def work(method: str, folder: Path, out: Path, *, die_at: int | None = None) -> int:
    """Train, or judge, through the command line's own entry; returns its exit code."""
    from alignkit.cli.main import main as alignkit

    if method == "judge" and not (out / "run").exists():
        part = out / f"part-{os.getpid()}"
        shutil.copytree(folder / "judged", part)
        part.rename(out / "run")  # a kill while copying leaves no half of a run
    if die_at is not None:
        die_before(die_at, str(out))
    os.environ["ALIGNKIT_LEDGER"] = f"{out}.ledger.sqlite"
    if method != "judge":
        return alignkit(_training(method, folder, out))
    os.chdir(out)  # a verdict names what was judged: the same names in every folder
    command = [
        "judge",
        "run",
        "--vs",
        "../model",
        "--data",
        "../rows.jsonl",
        "--num-prompts",
        "24",
        "--temperature",
        "1",
    ]
    return alignkit([*command, "--judge", "../rewards.py:sum_of_letters", "--max-new-tokens", "6"])


def _training(method: str, folder: Path, out: Path) -> list[str]:
    command = ["train", method, "--model", str(folder / "model"), "--data", str(folder / "rows.jsonl")]
    command += ["--out", str(out), "--resume", "--precision", "fp32", "--split", "0.2", "--max-new-tokens", "6"]
    command += ["--batch-size", "2" if method == "grpo" else "4", "--max-steps", "7"]
    command += ["--checkpoint-interval", "2", "--validation-interval", "3"]
    command += ["--learning-rate", "1e-3", "--warmup-steps", "2"]
    if method == "grpo":
        return [*command, "--reward", f"{folder / 'rewards.py'}:sum_of_letters", "--set", "updates_per_batch=2"]
    return [*command, "--set", "early_stopping_steps=6"]


def difference(whole: Path, out: Path) -> str | None:
    """Compare two finished runs to the bit; None where they are one."""
    for name in ("model/model.safetensors", "model/config.json"):
        if (whole / name).read_bytes() != (out / name).read_bytes():
            return f"{name} differs"
    ours, theirs = _metrics(out), _metrics(whole)
    if ours != theirs:
        return f"metrics differ: {[a for a, b in zip(ours, theirs, strict=False) if a != b][:3]}"
    return None


def _other_verdict(whole: Path, out: Path) -> str | None:
    """Compare the last verdict with the one of a judge who was not killed; every verdict must be whole."""
    ours, theirs = _verdicts(out), _verdicts(whole)
    return None if ours[-1] == theirs[-1] else f"verdict differs: {ours[-1]} {theirs[-1]}"[:2000]


def _verdicts(run: Path) -> list[dict[str, Any]]:
    found = [
        json.loads(file.read_text(encoding="utf-8")) for file in sorted((run / "run" / "verdicts").glob("[0-9]*.json"))
    ]
    return [{key: value for key, value in verdict.items() if key != "created"} for verdict in found]


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n") if line]
    return [line for line in lines if line["name"] not in _TIMES and not line["name"].endswith("_s")]


def write_inputs(folder: Path) -> int:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
    from tiny_models import tiny_model

    tiny_model(folder / "model")
    words = ["river", "stone", "cloud", "lamp", "bread", "window", "garden", "music"]
    rows = [
        {"id": f"r{n}", "prompt": f"Say {word} {n}.", "chosen": f"{word} {n}", "rejected": f"no, {n} times no {word}"}
        for n, word in enumerate(words * 5)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "rewards.py").write_text(_REWARD, encoding="utf-8")
    return work("sft", folder, folder / "judged")


def report(outcomes: dict[str, Outcome], seconds: float, given: argparse.Namespace) -> int:
    import torch
    import transformers

    print(f"{'method':<12}{'kills':>7}{'in its folder':>16}{'runs':>6}{'failures':>10}")
    for method, outcome in outcomes.items():
        row = (outcome.kills, outcome.in_folder, outcome.runs, len(outcome.failures))
        print(f"{method:<12}{row[0]:>7}{row[1]:>16}{row[2]:>6}{row[3]:>10}")
        for failure in outcome.failures:
            print(f"    {failure}")
    failures = sum(len(outcome.failures) for outcome in outcomes.values())
    kills = sum(outcome.kills for outcome in outcomes.values())
    print(f"{kills} kills, {failures} failures, {seconds:.0f} s on {len(os.sched_getaffinity(0))} CPU cores")
    if given.json:
        result = {
            "figures": {
                "kills": kills,
                "kills_in_folder": sum(outcome.in_folder for outcome in outcomes.values()),
                "runs_compared": sum(outcome.runs for outcome in outcomes.values()),
                "failures": failures,
            }
            | {f"kills_{method.replace('-', '_')}": outcome.kills for method, outcome in outcomes.items()},
            "settings": {"seed": given.seed, "kills": kills, "seconds": round(seconds, 1)},
            "commit": commit(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "machine": f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}",
        }
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
