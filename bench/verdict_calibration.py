"""Is a verdict right as often as it says? Simulated judgements, judged by the product's own rule.

    python -m bench.verdict_calibration [--quick] [--json FILE] [--seed N] [--sets N] [--parts FILE] [--only PART]

What is simulated, and each figure: bench/verdict_cells.py (one look), verdict_looks.py (twenty), verdict_planning.py
(the number of prompts that is printed), verdict_early.py (judging in rounds), verdict_votes.py (people's votes),
verdict_guards.py (not worse elsewhere). Each cell is run with 2,000 simulated sets; a cell beyond its goal is run again
with 20,000 on fresh seeds, and the second share counts. `--quick` takes every fifth cell: no claim about the worst.

`--parts` keeps each finished cell in a file of JSON lines; the same command goes on with it. The constants of the
planner and of the interval's tails were chosen on other seeds than the default one.
There is no peer that gives such a verdict; other tools' rules stand beside ours in verdict_looks.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bench import verdict_cells, verdict_early, verdict_guards, verdict_looks, verdict_planning, verdict_votes
from bench.commit import commit

PARTS: dict[str, ModuleType] = {
    "cells": verdict_cells,
    "looks": verdict_looks,
    "planning": verdict_planning,
    "early": verdict_early,
    "votes": verdict_votes,
    "guards": verdict_guards,
}
NUM_PROCESSES = 2
NUM_SETS = 2000
AGAIN = 10  # times as many sets for a cell beyond its goal
SEED = 7
Key = tuple[str, int, int]  # part, number of the cell, sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fixed fifth of the cells")
    parser.add_argument("--sets", type=int, default=NUM_SETS, help="simulated sets a cell")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--parts", type=Path, metavar="FILE", help="keep finished cells here, and go on with them")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts alone; repeatable")
    given = parser.parse_args()
    names = given.only or list(PARTS)
    began = time.perf_counter()
    wanted = [(name, n) for name in names for n in _numbers(name, quick=given.quick)]
    done = run(wanted, given.sets, given.seed, given.parts)
    found: dict[str, float] = {}
    cells: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        settings = PARTS[name].settings()
        pairs = [(settings[n], shares) for (part, n), shares in sorted(done.items()) if part == name and shares]
        found |= PARTS[name].figures(pairs)
        cells[name] = [setting | _rounded(shares) for setting, shares in pairs]
    seconds = time.perf_counter() - began
    goals = {figure: goal for name in names for figure, goal in PARTS[name].GOALS.items()}
    for figure, value in found.items():
        goal = f"   ({goals[figure][0]} {goals[figure][1]})" if figure in goals else ""
        print(f"{figure:<26} {value:.4f}{goal}")
    print(f"{sum(map(len, cells.values()))} cells, {seconds:.0f} seconds in {NUM_PROCESSES} processes")
    if given.json is not None:
        content = {
            "figures": found,
            "settings": {
                "sets_a_cell": given.sets,
                "again": AGAIN,
                "seed": given.seed,
                "quick": given.quick,
                "seconds": None if given.parts else round(seconds),
            },
            "cells": cells,
            "commit": commit(),
            "versions": {
                "python": platform.python_version(),
                **{p: version(p) for p in ("alignkit", "numpy", "scipy")},
            },
            "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
        }
        given.json.write_text(_compact(content), encoding="utf-8")


def run(
    wanted: list[tuple[str, int]], sets: int, seed: int, parts: Path | None
) -> dict[tuple[str, int], dict[str, Any] | None]:
    """Simulate cells on two processes, each with its own random numbers; those beyond their goal once more, longer."""
    known = _read(parts, seed)
    first = _simulated([(name, n, sets) for name, n in wanted], known, seed, parts)
    doubted = [
        (name, n, sets * AGAIN)
        for (name, n, _), shares in first.items()
        if shares and PARTS[name].is_beyond(PARTS[name].settings()[n], shares)
    ]
    again = _simulated(doubted, known, seed, parts)
    kept = {(name, n): shares for (name, n, _), shares in first.items()}
    return kept | {
        (name, n): shares and shares | {"first": first[name, n, sets]} for (name, n, _), shares in again.items()
    }


def _simulated(
    wanted: list[Key], known: dict[Key, dict[str, Any] | None], seed: int, parts: Path | None
) -> dict[Key, dict[str, Any] | None]:
    with ProcessPoolExecutor(NUM_PROCESSES) as pool:
        jobs = {pool.submit(_cell, key, seed): key for key in wanted if key not in known}
        for number, job in enumerate(as_completed(jobs), start=1):
            known[jobs[job]] = job.result()
            if parts is not None:
                line = {"key": jobs[job], "seed": seed, "shares": job.result()}
                with open(parts, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            if number % 50 == 0:
                print(f"{number} of {len(jobs)} cells", flush=True)
    return {key: known[key] for key in wanted}


def _cell(key: Key, seed: int) -> dict[str, Any] | None:
    name, number, num = key
    rng = np.random.default_rng([seed, list(PARTS).index(name), number, num])
    shares: dict[str, Any] | None = PARTS[name].simulate(PARTS[name].settings()[number], num, rng)
    return shares


def _numbers(name: str, *, quick: bool) -> list[int]:
    every = list(range(len(PARTS[name].settings())))
    return every[2::5] if quick and len(every) >= 10 else every


def _read(parts: Path | None, seed: int) -> dict[Key, dict[str, Any] | None]:
    lines = parts.read_text(encoding="utf-8").splitlines() if parts is not None and parts.exists() else []
    kept = [line for line in map(json.loads, lines) if line["seed"] == seed]
    return {(line["key"][0], line["key"][1], line["key"][2]): line["shares"] for line in kept}


def _rounded(shares: dict[str, Any]) -> dict[str, Any]:
    return {k: _rounded(v) if isinstance(v, dict) else round(v, 5) for k, v in shares.items()}


def _compact(content: dict[str, Any]) -> str:
    """Indented, but a cell a line."""
    cells = content.pop("cells")
    lines = [
        f"  {json.dumps(name)}: [\n   " + ",\n   ".join(map(json.dumps, rows)) + "\n  ]" for name, rows in cells.items()
    ]
    return json.dumps(content, indent=1)[:-2] + ',\n "cells": {\n' + ",\n".join(lines) + "\n }\n}\n"


if __name__ == "__main__":
    main()
