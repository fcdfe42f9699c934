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
    "grpo, 8 x 512 tokens": {"group": (2, 512, 512, 8)},
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


def plan_of(ground: Ground, method: str, shape: str, rows: list[dict[str, Any]], given: dict[str, Any]) -> Any:
    """The plan of a run on these rows: how many tokens it computes at once, and what memory it expects."""
    from alignkit.config import file as config_file
    from alignkit.registry import registry
    from alignkit.training.run.plan import make_plan

    cls = registry().find("method", method)
    options: dict[str, Any] = {"model": str(ground.model(shape)), "precision": "bf16", "batch_size": len(rows), **given}
    answers = [len(answer) for row in rows for answer in row["completions"]]
    longest = max(len(row["prompt"]) + sum(map(len, row["completions"])) for row in rows)
    if method == "grpo":
        longest = max(len(row["prompt"]) for row in rows)
        options |= {"kl": 0.0, "group_size": len(rows[0]["completions"]), "max_new_tokens": max(answers)}
    resolved = config_file.resolve(cls, options=options, config=None)
    return make_plan(cls(), resolved, longest=longest)


def split_groups(rows: list[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    """Rows of samples in parts of at most so many tokens, as a step of grpo computes them."""
    from alignkit.data.trees.packs import pack_evenly

    found = []
    for row in rows:
        for part in pack_evenly(row["completions"], tokens - len(row["prompt"])):
            found.append({**row, "completions": [row["completions"][n] for n in part]})
    return found


def below_the_cap(ground: Ground, case: str) -> dict[str, Any]:
    """Take three steps of a case, in micro-batches as the plan wants them, with what the allocator may take limited."""
    given = dict(CASES[case])
    group, shape = given.pop("group", None), given.pop("shape", "qwen-0.5b")
    if not ground.rehearse:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_GIB * GIB / total))
    method = case.split(",")[0]
    rows = case_rows(method, rehearse=ground.rehearse)
    if group is not None:
        rows = grouped_rows(*(group if not ground.rehearse else (2, 32, 24, 4)))
    plan = plan_of(ground, method, shape, rows, given)
    tokens = 96 if ground.rehearse else plan.micro_batch_tokens
    policy = ground.policy(shape, **given, compiled=not ground.rehearse)
    rows = split_groups(rows, tokens) if method == "grpo" else rows
    micro_batches = micro_batches_of(method, policy, rows, tokens)
    loop_of(policy, method, micro_batches, steps=3, at_end=ground.sync).train()
    reserved = 0.0 if ground.rehearse else torch.cuda.max_memory_reserved() / GIB
    longest = max(len(m.pack.ids_S) for m in micro_batches)
    return {
        "fits": True,
        "peak_gib": ground.peak_gib(),
        "planned_gib": (plan.total - plan.memory["context"]) / GIB,  # the allocator does not see CUDA's context
        "reserved_gib": reserved,
        "micro_batch_tokens": tokens,
        "longest_micro_batch": longest,
    }


if __name__ == "__main__":
    place, rehearse, which = sys.argv[1:]
    own = Ground(Path(place), bool(int(rehearse)), 0.0)
    print(json.dumps(below_the_cap(own, which)))
