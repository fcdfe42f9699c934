"""How fast and in how much memory a training step runs, against TRL 1.16 and a plain PyTorch loop.

    python -m bench.train_step [--quick] [--json FILE] [--only CASE ...] [--models MODEL ...] [--merge] [--rows N]
                               [--steps N]
    python -m bench.train_step --before COMMIT [--only CASE ...] [--models MODEL ...]

    sft_vs_trl                 non-pad tokens a second over TRL's, rows packed (at least 2.2)
    dpo_vs_trl                 the same on real pairs, reference log-probs computed before on both sides (at least 2.5)
    dpo_long_prompt_vs_trl     prompts of 512 tokens, answers of 128 (at least 3)
    grpo_train_vs_trl          fixed rollouts: groups of 8, prompts of 256, completions of 64 to 192 (at least 3.5)
    head_vs_trl                LM head and loss alone, a quarter of the tokens scored (at least 8)
    sft_memory, dpo_memory, grpo_memory     alignkit's peak over TRL's (at most 1.0, 0.6, 0.5)
    sharing_saved              share of the tokens that sharing prompts can save which is not computed (at least 0.95)
    NAME_vs_plain              the same over the 40-line loop in bench/train_step_sides.py
    NAME_vs_before             with --before, which runs no peer: steps a second over those of another commit's code, in
                               turn with it (a change that is not about speed: at least 0.95, or the interval holds 1)

Both sides take the same token ids, fp32 weights, bf16 autocast where the CPU has it fast, fused AdamW, a constant
learning rate and clipping; one optimizer step sees the same rows on every side and in every step. The first step's loss
must agree within 1 % and the norm of its gradient within 5 %, or there is no figure (tests/parity compares many steps,
in fp32: in bf16 a pair's loss after one step is noise, 0.62 to 0.70 where fp32 gives 0.04). TRL runs at its defaults
and at each setting documented to be faster, and the figure takes its fastest that agrees. Every measurement is a fresh
process, own and peer alternate; a figure is the median over blocks, with a 90 % interval in the full run. Peak memory
is the process's resident set while it trains, weights and optimizer included, of alignkit and of TRL at the setting the
time was taken at; the growth above what was there before the first step is printed beside it. SmolLM2-135M and a random
Qwen2.5-0.5B of 6 layers; a figure is the worse of the two.
`--merge` adds cases to FILE, so that a run can be made in parts. CPU figures: on 2 CPU cores. MFU and the fit into
24 GB need a CUDA device: bench/gpu.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.commit import commit
from bench.data_path import interval
from bench.texts import ROOT
from bench.train_step_cases import MODELS, num_tokens, write_cases, write_model

CASES = ("sft", "dpo", "dpo_long_prompt", "grpo_train")
VARIANTS = {  # of TRL; the first was the fastest wherever all were run
    "sft": ("packed", "rowwise", "padded"),
    "dpo": ("rowwise", "padded"),
    "dpo_long_prompt": ("rowwise",),
    "grpo_train": ("rowwise",),
}
TOLERANCES = {"losses": 0.01, "grad_norms": 0.05}  # relative, of the first step; bf16 on both sides
HEADS = {"smollm2": (49_152, 576), "qwen-shape": (151_936, 896)}
MEMORY = {"sft": "sft_memory", "dpo": "dpo_memory", "grpo_train": "grpo_memory"}
Runs = dict[str, list[dict[str, Any]]]


def side(which: str, /, *, root: Path = ROOT, **arguments: Any) -> dict[str, Any]:
    """Run one side in a fresh process, with the code of a checkout."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (root, root / "plugins")))
    command = [sys.executable, "-m", "bench.train_step_sides", which, json.dumps(arguments)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{which} {arguments} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {which:<13} {_describe(found)}", flush=True)
    return found


def _describe(found: dict[str, Any]) -> str:
    seconds = statistics.median(found["seconds"])
    grown = found["peak_mib"] - found["before_mib"]
    losses = ", ".join(f"{loss:.4f}" for loss in found["losses"])
    agreeing = f"losses {losses}, gradient {found['grad_norms'][0]:.4g}"
    return f"{seconds:8.2f} s a step, peak {found['peak_mib']:6.0f} MiB (+{grown:.0f}), {agreeing}"


def measure(name: str, case: Path, model: Path, *, blocks: int, steps: int, quick: bool) -> Runs:
    """Run alignkit, TRL's settings and the plain loop on one case, `blocks` times.

    `quick` takes TRL's first setting, and one step of its defaults for sft and dpo of the first model.
    """
    runs: Runs = {}
    for block in range(blocks):
        given = {"name": name, "case": str(case), "model": str(model)}
        for variant in VARIANTS[name][: 1 if quick else None]:
            runs.setdefault("own", []).append(side("own", **given, steps=steps))
            runs.setdefault(f"trl-{variant}", []).append(side(f"trl-{variant}", **given, steps=steps))
        if not quick or (model.name != "qwen-shape" and name in ("sft", "dpo")):
            runs.setdefault("trl-default", []).append(side("trl-default", **given, steps=1 if quick else steps))
        if block == 0 or not quick:
            runs.setdefault("plain", []).append(side("plain", **given, steps=steps))
    return runs


def agrees(own: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sides had the same loss and gradient norm in the first step, from the same weights."""
    return all(abs(own[of][0] - other[of][0]) <= most * abs(own[of][0]) for of, most in TOLERANCES.items())


def figures(name: str, runs: Runs, tokens: dict[str, int]) -> tuple[dict[str, list[float]], str]:
    """Return each figure's values over the blocks, and TRL's setting that they were taken at.

    Raises:
        SystemExit: no setting of TRL gives the loss and gradient that alignkit gives.
    """
    found: dict[str, list[float]] = {}
    own = _seconds(runs["own"])
    peers = {side: of for side, of in runs.items() if side.startswith("trl") and agrees(runs["own"][0], of[0])}
    left_out = [side for side in runs if side.startswith("trl") and side not in peers]
    if left_out:
        print(f"  another loss or gradient than alignkit's, left out: {', '.join(left_out)}")
    if not peers:
        raise SystemExit(f"no figure: {name}: no setting of TRL gives alignkit's loss and gradient")
    best = min(peers, key=lambda side: statistics.median(_seconds(peers[side])))
    middle = statistics.median(own)
    found[f"{name}_vs_trl"] = [seconds / middle for seconds in _seconds(peers[best])]
    if agrees(runs["own"][0], runs["plain"][0]):
        found[f"{name}_vs_plain"] = [seconds / middle for seconds in _seconds(runs["plain"])]
    else:
        print("  the plain loop has another loss or gradient: no _vs_plain")
    if name in MEMORY:
        peak = statistics.median(run["peak_mib"] for run in runs["own"])
        found[MEMORY[name]] = [peak / run["peak_mib"] for run in peers[best]]
    if tokens["sequences"] > tokens["shared"]:
        saved = tokens["sequences"] - runs["own"][0]["computed_tokens"]
        found["sharing_saved"] = [saved / (tokens["sequences"] - tokens["shared"])]
    return found, best


def _seconds(runs: list[dict[str, Any]]) -> list[float]:
    return [seconds for run in runs for seconds in run["seconds"]]


def measure_head(model: str, *, blocks: int, repeats: int) -> dict[str, list[float]]:
    """Head and loss alone: own, TRL and plain alternating."""
    vocab, hidden = HEADS[model]
    runs: Runs = {}
    for _ in range(blocks):
        for which in ("own", "trl", "plain"):
            runs.setdefault(which, []).append(side("head", which=which, repeats=repeats, vocab=vocab, hidden=hidden))
    if not all(agrees(runs["own"][0], runs[which][0]) for which in ("trl", "plain")):
        raise SystemExit("no figure: head: loss or gradient differ")
    middle = statistics.median(_seconds(runs["own"]))
    return {f"head_vs_{which}": [s / middle for s in _seconds(runs[which])] for which in ("trl", "plain")}


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure every case with every model; returns by "model/case" its figures' values and what they were taken at."""
    found: dict[str, Any] = {}
    blocks, steps = (1, given.steps or 2) if given.quick else (5, given.steps or 3)
    for name in given.models:
        cases = tuple(case for case in CASES if case in given.only)
        if cases:
            model = write_model(folder / name, name)
            paths = write_cases(folder, model, num_rows=given.rows)
        for case in cases:
            started = time.monotonic()
            tokens = num_tokens(json.loads(paths[case].read_text(encoding="utf-8")))
            print(f"{name} {case}: {tokens}", flush=True)
            runs = measure(case, paths[case], model, blocks=blocks, steps=steps, quick=given.quick)
            values, best = figures(case, runs, tokens)
            took = time.monotonic() - started
            found[f"{name}/{case}"] = {"values": values, "tokens": tokens, "trl": best, "runs": runs, "took_s": took}
        if "head" in given.only:
            print(f"{name} head: 1024 tokens, 256 scored", flush=True)
            found[f"{name}/head"] = {"values": measure_head(name, blocks=blocks, repeats=3)}
    return found


def against(before: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Steps of this code and of another commit's in turn; returns by "model/case" the ratio of their speeds.

    Raises:
        SystemExit: the two have another loss.
    """
    root, found = folder / "before", {}
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(root), before], check=True)
    try:
        for extension in (ROOT / "alignkit").glob("_native*.so"):  # the Rust core of today serves both
            shutil.copy(extension, root / "alignkit")
        for name in given.models:
            model = write_model(folder / name, name)
            paths = write_cases(folder, model, num_rows=given.rows)
            for case in (case for case in CASES if case in given.only):
                print(f"{name} {case}", flush=True)
                arguments = {"name": case, "case": str(paths[case]), "model": str(model), "steps": given.steps or 3}
                blocks = [(side("own", root=root, **arguments), side("own", **arguments)) for _ in range(5)]
                if not all(agrees(now, then) for then, now in blocks):
                    raise SystemExit(f"no figure: {name} {case}: another loss or gradient than at {before}")
                pairs = [[statistics.median(run["seconds"]) for run in block] for block in blocks]
                ratios = [then / now for then, now in pairs]
                found[f"{name}/{case}"] = {"values": {f"{case}_vs_before": ratios}, "runs": blocks}
    finally:
        subprocess.run([*git, "remove", "--force", str(root)], check=True)
    return found


def worst(cases: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return of each figure its median by model and, of the worse model and case, the figure and its 90 % interval."""
    found: dict[str, dict[str, Any]] = {}
    for at, case in cases.items():
        for name, values in case["values"].items():
            middle = statistics.median(values)
            sign = -1 if name.endswith("_memory") else 1
            entry = found.setdefault(name, {"by_model": {}, "figure": sign * math.inf, "interval": None})
            model = at.split("/")[0]
            before = entry["by_model"].get(model, sign * math.inf)
            entry["by_model"][model] = min(before, middle, key=lambda x: sign * x)
            if sign * middle < sign * entry["figure"]:
                entry |= {"figure": middle, "interval": interval(values)}
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    print(f"{'':<26}" + "".join(f"{model:>12}" for model in MODELS) + f"{'figure':>12}   90 % interval; on 2 CPU cores")
    for name, entry in found.items():
        shown = [f"{entry['by_model'][m]:>12.2f}" if m in entry["by_model"] else f"{'-':>12}" for m in MODELS]
        bounds = "" if entry["interval"] is None else f"   {entry['interval'][0]:.2f} to {entry['interval'][1]:.2f}"
        print(f"{name:<26}{''.join(shown)}{entry['figure']:>12.2f}{bounds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one block of two steps, TRL at one setting and for one step at its defaults",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--merge", action="store_true", help="keep what FILE has of cases that this call leaves out")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "head"], default=[*CASES, "head"], metavar="CASE")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    parser.add_argument("--rows", type=int, default=8, help="real rows a step; a quarter of it where rows are shaped")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="steps of a side, of which the first is not timed (3; quick: 2)"
    )
    parser.add_argument("--before", metavar="COMMIT", help="compare with this commit's code, in place of the peers")
    given = parser.parse_args()
    if given.steps is not None and given.steps < 2:
        parser.error("--steps must be at least 2: the first is not timed")
    folder = Path(tempfile.mkdtemp(prefix="bench-train-"))
    cases: dict[str, Any] = {}
    if given.merge and given.json is not None and given.json.exists():
        cases = json.loads(given.json.read_text(encoding="utf-8"))["settings"]["cases"]
    try:
        cases |= run(given, folder) if given.before is None else against(given.before, given, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = worst(cases)
    show(found)
    print("MFU and fits_24gb: python -m bench.gpu, on a CUDA device")
    content = {
        "figures": {name: entry["figure"] for name, entry in found.items()},
        "settings": {
            "quick": given.quick,
            "before": given.before,
            "commit": commit(),
            "rows": given.rows,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "by_model": {name: entry["by_model"] for name, entry in found.items()},
            "cases": cases,
        },
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("alignkit", "torch", "transformers", "trl")},
        },
        "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
    }
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
