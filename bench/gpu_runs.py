"""Sections of bench/gpu.py: `alignkit train` itself, runs that are resumed, and the samplers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu_ground import Ground, case_rows, text_rows, trees_of

SEEN = ("tokens_per_s", "mfu", "seconds", "memory_mib", "generate_s", "sampling_gap", "loss")


def train_sft(ground: Ground) -> Iterator[tuple[str, Any]]:
    yield from _trained(ground, "sft", *_few_steps(ground, 32))


def train_dpo(ground: Ground) -> Iterator[tuple[str, Any]]:
    yield from _trained(ground, "dpo", *_few_steps(ground, 16))


def train_reward(ground: Ground) -> Iterator[tuple[str, Any]]:
    yield from _trained(ground, "reward", *_few_steps(ground, 16, samples=False))


def train_grpo(ground: Ground) -> Iterator[tuple[str, Any]]:
    """Whole GRPO steps with each sampler that is installed."""
    reward = ground.work / "reward.py"
    reward.write_text("def spread(completion, row):\n    return len(set(completion)) / (1 + len(completion))\n")
    sizes = {"max-steps": 6, "max-new-tokens": 128, "group-size": 8, "batch-size": 16}
    if ground.rehearse:
        sizes = {"max-steps": 2, "max-new-tokens": 8, "group-size": 2, "batch-size": 2}
    options = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    options += ["--warmup-steps", "1", "--reward", f"{reward}:spread", "--set", "train.grpo.validation_prompts=4"]
    for name in (
        ("transformers", "vllm") if importlib.util.find_spec("vllm") and not ground.rehearse else ("transformers",)
    ):
        yield from _trained(ground, "grpo", "--sampler", name, *options, name=f"grpo-{name}")


def resume_sft(ground: Ground) -> Iterator[tuple[str, Any]]:
    yield from _resumed(ground, "sft")


def resume_dpo(ground: Ground) -> Iterator[tuple[str, Any]]:
    yield from _resumed(ground, "dpo")


def sampler(ground: Ground) -> Iterator[tuple[str, Any]]:
    """The transformers sampler: tokens a second by the number of completions, and its log-probs beside training's."""
    from alignkit.data.trees.packs import lay_out
    from alignkit.rollouts.batched import BatchedGeneration
    from alignkit.rollouts.sampler import Request

    policy = ground.policy()
    prompts = [row["prompt"] for row in case_rows("grpo", rehearse=ground.rehearse, rows=16)]
    new = 3 if ground.rehearse else 128
    generation = BatchedGeneration(policy, end_ids=frozenset({151_645}))

    def requests(each: int, tokens: int) -> list[Request]:
        return [
            Request(prompt_ids=prompt, temperature=1.0, seed=1000 * n + k, max_new_tokens=tokens)
            for n, prompt in enumerate(prompts)
            for k in range(each)
        ]

    generation.generate(requests(1, 2 if ground.rehearse else 8))  # warm-up
    drawn = []
    for each in (1, 4, 16) if not ground.rehearse else (1,):
        ground.peak_gib()
        ground.sync()
        began = time.perf_counter()
        drawn = generation.generate(requests(each, new))
        ground.sync()
        seconds = time.perf_counter() - began
        tokens, batches = sum(len(c.ids) for c in drawn), math.ceil(16 * each / 64)
        found = {"tokens_per_s": tokens / seconds, "ms_a_token_of_a_batch": 1e3 * seconds / new / batches}
        yield f"{16 * each} completions", found | {"peak_gib": ground.peak_gib()}
    few = generation.generate(requests(1, new))[:4]
    rows = [{"id": "", "prompt": p, "completions": [c.ids.tolist()]} for p, c in zip(prompts, few, strict=False)]
    with torch.no_grad():
        ours_T = policy(lay_out(trees_of(rows))).logprob_T.float().cpu().numpy()
    theirs_T = np.concatenate([c.logprobs for c in few])
    yield "sampling_gap_nats", float(np.abs(ours_T - theirs_T).mean())


# --- runs -------------------------------------------------------------------------------------------------------------


def _few_steps(ground: Ground, rows: int, *, samples: bool = True) -> list[str]:
    """Options of a short run whose steps see so many rows."""
    found = ["--max-steps", "2" if ground.rehearse else "12", "--warmup-steps", "1"]
    found += ["--batch-size", "2" if ground.rehearse else str(rows)]
    return [*found, "--max-new-tokens", "4" if ground.rehearse else "16"] if samples else found


def _trained(
    ground: Ground, method: str, *options: str, name: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """One `alignkit train`: its exit code and what its own metrics, checks and record say.

    Raises:
        SystemExit: it did not end well.
    """
    name = name or method
    out = ground.work / "runs" / name
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    command = [*_command(ground, method, rows=16 if ground.rehearse else 512), "--out", str(out), *options]
    done = subprocess.run(command, cwd=ground.work, capture_output=True, text=True, timeout=ground.seconds)
    said = (done.stdout + done.stderr)[-1200:]
    yield name, {"rc": done.returncode, "s": time.perf_counter() - began, **_record(out)}
    if done.returncode:
        raise SystemExit(said)


def _command(ground: Ground, method: str, *, rows: int, shape: str = "qwen-0.5b") -> list[str]:
    data = text_rows(ground, rows)
    split = "first-4" if ground.rehearse else "first-16"
    own = ["train", method, "--model", str(ground.model(shape)), "--data", str(data), "--split", split]
    return [sys.executable, "-m", "alignkit", *own, "--chat-template", "chatml"]


def _record(out: Path) -> dict[str, Any]:
    """Medians of a run's metrics after its second step, its checks, and what its record says at the end."""
    by_name: dict[str, list[float]] = {}
    if (out / "metrics.jsonl").exists():
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:  # the last may be half there
            one = json.loads(line)
            by_name.setdefault(one["name"], []).append(one["value"])
    found: dict[str, Any] = {"steps": len(by_name.get("loss", []))}
    found |= {name: statistics.median(by_name[name][2:] or by_name[name]) for name in SEEN if name in by_name}
    if "seconds" in by_name:
        found["first_step_s"] = by_name["seconds"][0]
    if (out / "checks.json").exists():
        checks = json.loads((out / "checks.json").read_text(encoding="utf-8"))
        found["checks"] = {check["name"]: [check.get("value"), check["ok"]] for check in checks}
    if (out / "run.json").exists():
        ended = json.loads((out / "run.json").read_text(encoding="utf-8")).get("finished") or {}
        found |= {name: ended[name] for name in ("wall_seconds", "peak_mib", "planned_mib") if name in ended}
    return found


def _resumed(ground: Ground, method: str) -> Iterator[tuple[str, Any]]:
    """Whether a run is the same twice, and the same after SIGTERM and --resume, by the SHA-256 of its weights.

    Raises:
        SystemExit: the resumed run ends with other weights.
    """
    steps = "8" if ground.rehearse else "40"
    own = ["--max-steps", steps, "--warmup-steps", "1", "--max-new-tokens", "4", "--batch-size", "4"]
    options = [*_command(ground, method, rows=64, shape="qwen-short"), *own]
    out = {name: ground.work / "runs" / f"{method}-{name}" for name in ("once", "again", "broken")}
    for folder in out.values():
        shutil.rmtree(folder, ignore_errors=True)

    def run(name: str, *more: str) -> None:
        command = [*options, "--out", str(out[name]), *more]
        done = subprocess.run(command, cwd=ground.work, capture_output=True, text=True, timeout=ground.seconds)
        if done.returncode:
            raise SystemExit((done.stdout + done.stderr)[-600:])

    run("once")
    yield "once", _record(out["once"])
    yield "interrupted", _interrupted(ground, [*options, "--out", str(out["broken"])], out["broken"], after=3)
    run("broken", "--resume")
    same = _hash(out["broken"]) == _hash(out["once"])
    yield "same_resumed", same
    run("again")
    yield "same_twice", _hash(out["again"]) == _hash(out["once"])
    yield "apart", {name: _apart(out["once"], out[name]) for name in ("again", "broken")}
    if not same:
        raise SystemExit("the resumed run ends with other weights")


def _interrupted(ground: Ground, command: Sequence[str], out: Path, *, after: int) -> dict[str, int]:
    """Send SIGTERM after some steps; returns the exit code and the steps it had taken."""
    with open(ground.work / f"{out.name}.log", "w") as log:
        process = subprocess.Popen(command, cwd=ground.work, stdout=log, stderr=log)
        until = time.monotonic() + ground.seconds
        while process.poll() is None and time.monotonic() < until and _record(out)["steps"] < after:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        return {"rc": process.wait(ground.seconds), "steps": _record(out)["steps"]}


def _hash(out: Path) -> str:
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


def _apart(one: Path, other: Path) -> float:
    """Largest difference of a weight."""
    from safetensors.torch import load_file

    a, b = (load_file(out / "model" / "model.safetensors") for out in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)
