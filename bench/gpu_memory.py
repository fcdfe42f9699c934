"""Section of bench/gpu.py: what fits into 24 GB, with the allocator limited to 22 GiB; a process for each case."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.gpu_ground import GIB, Ground, case_rows, grouped_rows, loop_of, micro_batches_of

CAP_GIB = 22.0
CASES: dict[str, dict[str, Any]] = {  # how it is loaded, and the rows of a step
    "sft": {},
    "dpo": {},
    "grpo": {},
    "grpo, 8 x 1,024 tokens": {"group": (2, 512, 1024, 8)},
    "grpo, 8 x 1,024 tokens, checkpointing": {"group": (2, 512, 1024, 8), "gradient_checkpointing": True},
    "dpo, 3B with LoRA, checkpointing": {"shape": "qwen-3b", "lora_rank": 16, "gradient_checkpointing": True},
}


def memory(ground: Ground) -> Iterator[tuple[str, Any]]:
    """Three steps of each case below the cap: whether they fit, and their peak."""
    for case in CASES if not ground.rehearse else ("sft", "grpo, 8 x 1,024 tokens"):
        arguments = [str(ground.work), str(int(ground.rehearse)), case]
        done = subprocess.run(
            [sys.executable, "-m", "bench.gpu_memory", *arguments],
            capture_output=True,
            text=True,
            timeout=ground.seconds,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        yield case, json.loads(lines[-1]) if lines else {"fits": False, "error": done.stderr.strip()[-300:]}


def below_the_cap(ground: Ground, case: str, tokens: int) -> dict[str, Any]:
    """Take three steps of a case with what the allocator may take limited."""
    given = dict(CASES[case])
    group, shape = given.pop("group", None), given.pop("shape", "qwen-0.5b")
    if not ground.rehearse:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_GIB * GIB / total))
    policy = ground.policy(shape, **given)
    method = case.split(",")[0]
    rows = case_rows(method, rehearse=ground.rehearse)
    if group is not None:
        rows = grouped_rows(*(group if not ground.rehearse else (2, 32, 24, 4)))
    micro_batches = micro_batches_of(method, policy, rows, tokens)
    loop_of(policy, method, micro_batches, steps=3, at_end=ground.sync).train()
    reserved = 0.0 if ground.rehearse else torch.cuda.max_memory_reserved() / GIB
    longest = max(len(m.pack.ids_S) for m in micro_batches)
    return {"fits": True, "peak_gib": ground.peak_gib(), "reserved_gib": reserved, "longest_micro_batch": longest}


if __name__ == "__main__":
    place, rehearse, which = sys.argv[1:]
    own = Ground(Path(place), bool(int(rehearse)), 0.0)
    print(json.dumps(below_the_cap(own, which, 256 if own.rehearse else 4096)))
