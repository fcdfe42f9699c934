"""One side of bench/train_step.py in a process of its own: alignkit, or a 40-line PyTorch loop.

Each prints one JSON object: loss and gradient norm (before clipping) of every optimizer step, seconds of every step
after the first, peak memory.
AdamW (fused), a constant learning rate, gradients clipped to 1, fp32 weights, bf16 autocast where the CPU has it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from alignkit.memory import give_back, peak_mib, reset_peak
from tests.helpers.trl_trainers import BETA, CLIP

LEARNING_RATE = 1e-5
Rows = list[dict[str, Any]]


def call(side: str, arguments: str) -> None:
    """Run a side with JSON arguments and print its result as the last line."""
    if side.startswith("trl"):
        from bench.train_step_trl import trl

        print(json.dumps(trl(variant=side.removeprefix("trl-"), **json.loads(arguments))))
    else:
        print(json.dumps({"own": own, "plain": plain, "head": head}[side](**json.loads(arguments))))


def read(case: str) -> Rows:
    rows: Rows = json.loads(Path(case).read_text(encoding="utf-8"))
    return rows


def result(
    losses: list[float], grad_norms: list[float], ends: list[float], before_mib: float, **more: Any
) -> dict[str, Any]:
    """What a side prints; `ends` are when its first step began, unless that is left out, and when each step ended."""
    seconds = [b - a for a, b in pairwise(ends)]
    found = {"losses": losses, "grad_norms": grad_norms, "seconds": seconds, "peak_mib": peak_mib()}
    return found | {"before_mib": before_mib, **more}


def resident_mib() -> float:
    reset_peak()
    return peak_mib()


def own(
    name: str, case: str, model: str, steps: int, lora_rank: int | None = None, cap_gib: float | None = None
) -> dict[str, Any]:
    """alignkit's own loop on rows that are packed beforehand, prompts shared; metrics written.

    `cap_gib` limits what a GPU's allocator may take.
    """
    import numpy as np
    from alignkit_plugins.dpo import DPO, DPOConfig
    from alignkit_plugins.grpo import GRPO, GRPOConfig
    from alignkit_plugins.sft import SFT, SFTConfig
    from alignkit_plugins.transformers_sampler import TransformersSampler

    from alignkit.data.trees.packs import lay_out, pack_evenly
    from alignkit.data.trees.trees import tree
    from alignkit.policy.load import load_policy
    from alignkit.tracking import Tracker
    from alignkit.training.gradient.models import Models
    from alignkit.training.gradient.speed import Arithmetic, packs_of
    from alignkit.training.gradient.step import MicroBatch
    from alignkit.training.loop.reporter import Reporter
    from alignkit.training.loop.source import StepSource
    from alignkit.training.loop.train_loop import Loop

    if cap_gib is not None and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(cap_gib * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    rows = read(case)
    common: dict[str, Any] = {"learning_rate": LEARNING_RATE, "optimizer": "adamw", "epochs": steps}
    common |= {"schedule": "constant", "warmup_steps": 0, "max_steps": None}
    longest = max(len(ids) for row in rows for ids in row["completions"])  # what TRL's dr_grpo divides by
    methods: dict[str, Any] = {
        "sft": (SFT(), SFTConfig(**common)),
        "dpo": (DPO(), DPOConfig(**common, beta=BETA)),
        "grpo": (GRPO(), GRPOConfig(**common, kl=0.0, clip_ratio=CLIP, aggregation="constant", max_new_tokens=longest)),
    }
    method, config = methods[name.split("_")[0]]
    policy = load_policy(model, lora_rank=lora_rank)
    parts = [[(np.array(ids), np.ones(len(ids), bool)) for ids in row["completions"]] for row in rows]
    trees = [tree(row["id"], np.array(row["prompt"]), own) for row, own in zip(rows, parts, strict=True)]
    micro_batches, scores = [], []
    for numbers in pack_evenly(trees, 8192 if policy.device.type == "cuda" else 1024):
        packed = lay_out([trees[n] for n in numbers])
        with torch.no_grad():
            scores.append(policy(packed).logprob_T.cpu().numpy())
        if name == "grpo_train":
            noise = np.concatenate([x for n in numbers for x in rows[n]["noise"]])
            advantages = np.concatenate([rows[n]["advantages"] for n in numbers])
            micro_batches.append(
                MicroBatch(packed, sampler_logprob_T=scores[-1] + noise, advantage_N=advantages, reference_T=scores[-1])
            )
        else:
            micro_batches.append(MicroBatch(packed, reference_T=scores[-1] if name.startswith("dpo") else None))

    class SameRows(StepSource):
        """The same micro-batches in every step."""

        steps_per_epoch = 1

        def step(self, step: int) -> tuple[list[MicroBatch], dict[str, float]]:
            return micro_batches, {}

    losses, norms, ends = [], [], []
    with tempfile.TemporaryFile("w") as file:

        class Times(Tracker):
            """Writes each step's metrics, as a run does, and notes when it ended."""

            def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
                file.write(json.dumps(dict(metrics)) + "\n")
                losses.append(metrics["loss"])
                norms.append(metrics["grad_norm"])
                ends.append(time.perf_counter())

        models = Models(policy, None, TransformersSampler(policy, end_ids=frozenset()))
        loop = Loop(method, config, models, SameRows(), reporter=Reporter([Times(Path(), {})]))
        give_back()  # as the loop does
        before = resident_mib()
        ends.append(time.perf_counter())
        loop.train()
    computed = sum(len(micro_batch.pack.ids_S) for micro_batch in micro_batches)
    return result(
        losses,
        norms,
        ends[1:] if steps > 1 else ends,
        before,
        computed_tokens=computed,
        micro_batches=len(micro_batches),
        flops=Arithmetic.of(policy).flops(packs_of(micro_batches)),
    )


def plain(name: str, case: str, model: str, steps: int) -> dict[str, Any]:
    """The 40 lines anyone would write: padded rows, the model's own logits, torch's cross-entropy."""
    from torch.nn.functional import cross_entropy, logsigmoid
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM

    from alignkit.policy.load import autocast_type

    rows = read(case)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    compute = autocast_type("auto", torch.device("cpu"))
    pairs = [(row["prompt"], ids) for row in rows for ids in row["completions"]]
    noise_NS = pad_sequence([torch.tensor(x) for row in rows for x in row.get("noise", [[0.0]])], batch_first=True)
    advantage_N = torch.tensor([a for row in rows for a in row.get("advantages", [])])

    def logprobs(pairs: list[tuple[list[int], list[int]]]) -> torch.Tensor:
        ids = pad_sequence([torch.tensor(p + c) for p, c in pairs], batch_first=True)
        there = pad_sequence([torch.ones(len(p) + len(c), dtype=torch.long) for p, c in pairs], batch_first=True)
        scored = pad_sequence([torch.tensor([0] * len(p) + [1] * len(c)) for p, c in pairs], batch_first=True)
        labels = ids.masked_fill(scored == 0, -100)[:, 1:]
        with torch.autocast("cpu", dtype=compute, enabled=compute is not None):
            logits = policy(input_ids=ids, attention_mask=there, use_cache=False).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="none")
        return -losses.view(labels.shape)

    size = 2 if name.startswith("dpo") else 8 if name == "grpo_train" else 1  # sequences of a micro-batch
    chunks = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    with torch.no_grad():
        frozen = [logprobs(chunk) for chunk in chunks] if name != "sft" else []
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    num_tokens, longest = sum(len(ids) for _, ids in pairs), max(len(ids) for _, ids in pairs)
    before = resident_mib()
    losses, norms, ends = [], [], [time.perf_counter()]
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for number, chunk in enumerate(chunks):
            logprob_NS = logprobs(chunk)
            if name == "sft":
                loss = -logprob_NS.sum() / num_tokens
            elif name.startswith("dpo"):
                margin_N = (logprob_NS - frozen[number]).sum(1)
                loss = -logsigmoid(BETA * (margin_N[0] - margin_N[1])) / len(chunks)
            else:
                ratio_NS = (logprob_NS - frozen[number] - _behind(noise_NS, chunk, number, logprob_NS)).exp()
                gain_NS = torch.minimum(
                    ratio_NS * advantage_N[8 * number : 8 * number + 8, None],
                    ratio_NS.clamp(1 - CLIP, 1 + CLIP) * advantage_N[8 * number : 8 * number + 8, None],
                )
                loss = -(gain_NS * (logprob_NS != 0)).sum() / (len(pairs) * longest)
            loss.backward()
            total += loss.item()
        norms.append(float(torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)))
        optimizer.step()
        losses.append(total)
        ends.append(time.perf_counter())
    return result(losses, norms, ends[1:] if steps > 1 else ends, before)


def _behind(noise_NS: torch.Tensor, chunk: Any, number: int, like_NS: torch.Tensor) -> torch.Tensor:
    """Put each completion's noise where its log-probs stand."""
    placed = torch.zeros_like(like_NS)
    for n, (prompt, ids) in enumerate(chunk):
        placed[n, len(prompt) - 1 : len(prompt) - 1 + len(ids)] = noise_NS[number * len(chunk) + n, : len(ids)]
    return placed


def head(which: str, repeats: int, vocab: int, hidden: int, num_tokens: int = 1024) -> dict[str, Any]:
    """Head and loss, forward and backward, a quarter of the tokens scored; `which` is own, trl or plain."""
    from alignkit.policy.load import autocast_type
    from alignkit.policy.logprobs import token_logprobs

    compute = autocast_type("auto", torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    states_TH = torch.randn(num_tokens, hidden, generator=generator).to(compute or torch.float32).requires_grad_()
    weight_VH = (torch.randn(vocab, hidden, generator=generator) * hidden**-0.5).requires_grad_()
    target_T = torch.randint(0, vocab, (num_tokens,), generator=generator)
    scored_T = torch.arange(num_tokens) % 4 == 0
    ones = torch.ones(int(scored_T.sum()))

    def loss() -> torch.Tensor:
        if which == "own":
            return -token_logprobs(states_TH[scored_T], weight_VH, target_T[scored_T], ones)[0].mean()
        with torch.autocast("cpu", dtype=compute, enabled=compute is not None):
            if which == "plain":
                logits = torch.nn.functional.linear(states_TH, weight_VH)
                labels = target_T.masked_fill(~scored_T, -100)
                return torch.nn.functional.cross_entropy(logits.float(), labels)
            from bench.train_step_trl import trl_head

            return -trl_head(states_TH, weight_VH, target_T)[scored_T].mean()

    before = resident_mib()
    losses, ends = [], [time.perf_counter()]
    for _ in range(repeats):
        states_TH.grad = weight_VH.grad = None
        value = loss()
        value.backward()
        losses.append(value.item())
        ends.append(time.perf_counter())
    assert weight_VH.grad is not None
    norms = [float(weight_VH.grad.norm())]
    return result(losses, norms, ends[1:] if repeats > 1 else ends, before)


if __name__ == "__main__":
    call(sys.argv[1], sys.argv[2])
