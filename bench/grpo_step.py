"""How long a whole GRPO step takes, against TRL 1.16's GRPOTrainer on transformers: generate, score, train.

    python -m bench.grpo_step [--quick] [--json FILE]

    grpo_step_vllm_vs_trl           TRL's seconds a step over ours with --sampler vllm (at least 3)
    grpo_step_transformers_vs_trl   the same with --sampler transformers (at least 1.5)
    grpo_step_memory                our peak with --sampler transformers over TRL's (at most 1)
    sync_s                          seconds that handing 135M weights to vLLM takes in a step (at most 1)

SmolLM2-135M, 4 real prompts of 140 to 160 tokens, groups of 8, at most 64 new tokens at temperature 1, ending where
the model ends; the mean lengths of both sides are printed. One own reward function, no KL term and no reference on
either side (TRL's default), AdamW. Ours is `alignkit train grpo` with everything it writes and checks in a step; its
weights are fp32, computed with in bf16 where the CPU has it fast. TRL runs at its defaults, and with a group a device
and no gradient checkpointing, with fp32 and with bf16 weights; a figure takes its fastest, and the memory of that one.
Each side is a fresh process, its first step is not counted; `--quick`: one block; else five, with a 90 % interval. On
2 CPU cores.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from bench.rollouts import report
from bench.sides import run_side

SIDES = "bench.grpo_step_sides"
OWN = ("vllm", "transformers")
VARIANTS = ("default", "grouped", "bf16")


def measure(blocks: int, steps: int, variants: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Run every side once a block; TRL takes one counted step."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(blocks):
        asked: list[tuple[str, dict[str, Any]]] = [("own", {"sampler": name, "steps": steps}) for name in OWN]
        asked += [("trl", {"variant": name, "steps": 1}) for name in variants]
        for which, more in asked:
            name = "-".join([which, str(next(iter(more.values())))])
            found = run_side(SIDES, which, **more)
            runs.setdefault(name, []).append(found)
            parts = ", ".join(
                f"{part} {statistics.median(found[part]):.2f}"
                for part in ("generate_s", "score_s", "sync_s", "samples_length")
                if found.get(part)
            )
            seconds, peak = statistics.median(found["seconds"]), found["peak_mib"]
            print(f"  {name:<17} {seconds:7.2f} s a step, peak {peak:6.0f} MiB; {parts}", flush=True)
    return runs


def figures(runs: dict[str, list[dict[str, Any]]]) -> tuple[dict[str, list[float]], str]:
    """Each figure's values over the blocks, and TRL's fastest variant."""
    seconds = {name: [statistics.median(run["seconds"]) for run in of] for name, of in runs.items()}
    best = min((name for name in seconds if name.startswith("trl")), key=lambda name: statistics.median(seconds[name]))
    found = {}
    for name in OWN:
        ratios = [peer / own for own, peer in zip(seconds[f"own-{name}"], seconds[best], strict=True)]
        found[f"grpo_step_{name}_vs_trl"] = ratios
    pairs = zip(runs["own-transformers"], runs[best], strict=True)
    found["grpo_step_memory"] = [own["peak_mib"] / peer["peak_mib"] for own, peer in pairs]
    found["sync_s"] = [statistics.median(run["sync_s"]) for run in runs["own-vllm"]]
    return found, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one block")
    parser.add_argument("--trl", nargs="+", choices=VARIANTS, default=VARIANTS, help="TRL's settings that run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    runs = measure(1 if given.quick else 5, 2 if given.quick else 3, tuple(given.trl))
    values, best = figures(runs)
    report(values, best, given.json, {"quick": given.quick, "trl": best, "runs": runs})


if __name__ == "__main__":
    main()
