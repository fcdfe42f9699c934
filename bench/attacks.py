"""Attacks on alignkit: each kind with how many were tried and how many held.

    python -m bench.attacks --json bench/results/attacks.json
    python -m bench.attacks --quick --only rows,options

A try holds where the command ends by itself with exit code 0, 2 or 3 and without a traceback; where damage is noticed
or changes no bit of the result; where no key, no code of a folder and no question gets through. Every failure is
printed. There is no peer: no other tool was found that publishes such a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.attacks_damage import corruption, foreign_files
from bench.attacks_ground import Ground, Tried, scratch
from bench.attacks_meanings import silent
from bench.attacks_options import VALUES, options
from bench.attacks_outside import code, keys, services
from bench.attacks_texts import rows, settings
from bench.commit import commit

KINDS = ("rows", "silent", "settings", "code", "keys", "services", "files", "options", "corruption")


def main() -> int:
    """Try every kind; exit code 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tries")
    parser.add_argument("--only", help=f"kinds with commas: {','.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else list(KINDS)
    share = 10 if given.quick else 1
    started = time.monotonic()
    found: list[Tried] = []
    with scratch() as name:
        ground = Ground(Path(name))
        ground.make()
        kinds: dict[str, Callable[[], list[Tried]]] = {
            "rows": lambda: [rows(ground, 2000 // share, given.seed)],
            "settings": lambda: [settings(ground, 500 // share, given.seed)],
            "silent": lambda: [silent(ground, files=share == 1)],
            "code": lambda: [code(ground)],
            "keys": lambda: [keys(ground)],
            "services": lambda: [services(ground)],
            "files": lambda: [foreign_files(ground, 500 // share, given.seed)],
            "options": lambda: [options(ground, VALUES[2:4] if given.quick else VALUES)],
            "corruption": lambda: list(corruption(ground, 1600 // share, given.seed)),
        }
        for kind in wanted:
            for tried in kinds[kind]():
                found.append(tried)
                _print(tried)
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s on {len(os.sched_getaffinity(0))} CPU cores")
    if given.json is not None:
        given.json.write_text(json.dumps(_content(found, given, seconds), indent=1) + "\n", encoding="utf-8")
    return int(any(tried.failures for tried in found))


def _print(tried: Tried) -> None:
    print(f"{tried.kind:<14}{tried.tried:>7} tried {tried.held:>7} held", flush=True)
    for failure in tried.failures:
        print(f"    {failure}"[:600], flush=True)


def _content(found: list[Tried], given: argparse.Namespace, seconds: float) -> dict[str, object]:
    import torch
    import transformers

    return {
        "figures": {f"{t.kind}_{name}": n for t in found for name, n in (("tried", t.tried), ("held", t.held))}
        | {"cases_silent": sum(len(t.failures) for t in found if t.kind == "silent")},
        "settings": {"seed": given.seed, "quick": given.quick, "seconds": round(seconds, 1)},
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "machine": f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}",
    }


if __name__ == "__main__":
    sys.exit(main())
