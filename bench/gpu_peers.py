"""Sections of bench/gpu.py: what others need for the same rows: 40 lines of PyTorch, and TRL with Liger's kernels."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from torch.nn.utils.rnn import pad_sequence

from bench.gpu_ground import Ground, attempt, case_rows
from bench.gpu_steps import TOKENS

Pairs = Sequence[tuple[list[int], list[int]]]  # prompt, completion


def plain(ground: Ground) -> Iterator[tuple[str, Any]]:
    """The loop anyone would write, fp32 weights and bf16 autocast: padded rows with sdpa, packed rows with varlen.

    Its loss is the method's without the reference: what it costs is the same.
    """
    loop = _PlainLoop(ground)
    for case in ("sft", "dpo", "dpo_long_prompt", "grpo"):
        for way in loop.ways:
            yield f"{case}, {way}", attempt(partial(loop.measured, case, way))


class _PlainLoop:
    def __init__(self, ground: Ground) -> None:
        from transformers import AttentionInterface, AutoModelForCausalLM

        self.ground, self.device = ground, ground.device
        self.ways = ["padded"]
        if not ground.rehearse and importlib.util.find_spec("torch.nn.attention.varlen"):
            self.ways += ["varlen", "varlen compiled"]
            AttentionInterface.register("bench-varlen", _varlen)
        self.model = AutoModelForCausalLM.from_pretrained(ground.model(), dtype=torch.float32).to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

    def measured(self, case: str, way: str) -> dict[str, Any]:
        rows = case_rows(case, rehearse=self.ground.rehearse)
        packed = way != "padded"
        self.model.set_attn_implementation("bench-varlen" if packed else "sdpa")
        for layer in self.model.model.layers:
            layer._compiled_call_impl = None
            if way == "varlen compiled":
                layer.compile(dynamic=True)
        micro_batches = _batches(rows, TOKENS if packed else None)
        self.ground.peak_gib()
        repeats, warm = (1, 0) if self.ground.rehearse else (3, 2)
        seconds = self.ground.seconds_of(lambda: self.step(micro_batches, case, packed), repeats=repeats, warm=warm)
        tokens = sum(len(p) + len(c) for batch in micro_batches for p, c in batch)
        found = {"ms": 1e3 * seconds, "sequence_tokens_per_s": tokens / seconds, "peak_gib": self.ground.peak_gib()}
        return found | {"micro_batches": len(micro_batches)}

    def step(self, micro_batches: Sequence[Pairs], case: str, packed: bool) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for batch in micro_batches:
            logprob_N = self.packed(batch) if packed else self.padded(batch)
            if case == "sft":
                loss = -logprob_N.sum()
            elif case.startswith("dpo"):
                loss = -logsigmoid(0.1 * (logprob_N[0::2] - logprob_N[1::2])).sum()
            else:
                loss = -(logprob_N * torch.linspace(-1, 1, len(logprob_N), device=self.device)).sum()
            (loss / 1e4).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def padded(self, batch: Pairs) -> Tensor:
        """Sum of the log-probs of each sequence's completion."""
        sequences = [torch.tensor(p + c) for p, c in batch]
        ids = pad_sequence(sequences, batch_first=True).to(self.device)
        there = pad_sequence([torch.ones(len(s), dtype=torch.long) for s in sequences], batch_first=True)
        scored = pad_sequence([torch.tensor([0] * len(p) + [1] * len(c)) for p, c in batch], batch_first=True)
        labels = ids.masked_fill(scored.to(self.device) == 0, -100)[:, 1:]
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            out = self.model(input_ids=ids, attention_mask=there.to(self.device), use_cache=False)
        logits = out.logits[:, :-1].flatten(0, 1).float()
        losses = cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="none")
        return -losses.view(labels.shape).sum(1)

    def packed(self, batch: Pairs) -> Tensor:
        sequences = [torch.tensor(p + c) for p, c in batch]
        ids = torch.cat(sequences).to(self.device)[None]
        position = torch.cat([torch.arange(len(s)) for s in sequences]).to(self.device)[None]
        ends = torch.tensor([0, *[len(s) for s in sequences]]).cumsum(0).to(self.device, torch.int32)
        at, owner, start = [], [], 0
        for number, (p, c) in enumerate(batch):
            at += range(start + len(p) - 1, start + len(p) + len(c) - 1)
            owner += [number] * len(c)
            start += len(p) + len(c)
        at_T, owner_T = torch.tensor(at, device=self.device), torch.tensor(owner, device=self.device)
        longest = max(map(len, sequences))
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            out = self.model.model(input_ids=ids, position_ids=position, use_cache=False, ends=ends, longest=longest)
            logits = self.model.lm_head(out.last_hidden_state[0][at_T])
        losses = cross_entropy(logits.float(), ids[0, at_T + 1], reduction="none")
        return losses.new_zeros(len(batch)).index_add(0, owner_T, -losses)


def _varlen(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, *, ends: Tensor, longest: int, **_: Any
) -> tuple[Tensor, None]:
    """torch's own varlen attention, as transformers calls an attention function."""
    from torch.nn.attention.varlen import varlen_attn

    groups = q.shape[1] // k.shape[1]
    q, k, v = (x[0].transpose(0, 1).to(torch.bfloat16) for x in (q, k, v))
    names = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"is_causal": True} if "is_causal" in names else {"window_size": (-1, 0)}
    if "enable_gqa" in names:
        options["enable_gqa"] = True
    else:
        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    out = varlen_attn(q.contiguous(), k.contiguous(), v.contiguous(), ends, ends, longest, longest, **options)
    return out[None], None


def _batches(rows: Sequence[dict[str, Any]], tokens: int | None) -> list[Pairs]:
    """Sequences in order, cut where a micro-batch is full: 8 sequences, or so many tokens."""
    found: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        own = [(row["prompt"], c) for c in row["completions"]]
        there = sum(len(p) + len(c) for p, c in found[-1])
        full = len(found[-1]) >= 8 if tokens is None else there + sum(len(p) + len(c) for p, c in own) > tokens
        if found[-1] and full:
            found.append([])
        found[-1] += own
    return list(found)


def trl(ground: Ground) -> Iterator[tuple[str, Any]]:
    """TRL's trainers at their fastest settings here, with Liger's kernels where they are installed.

    Packed rows want FlashAttention's package to keep examples apart; without it the row is one causal sequence, so
    that its time alone says something.
    """
    missing = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        yield "not installed", missing
        return
    liger = importlib.util.find_spec("liger_kernel") is not None and not ground.rehearse
    yield "liger", liger
    cases = [("sft", "packed"), ("sft", "padded"), ("dpo", "padded"), ("dpo_long_prompt", "padded")]
    for case, variant in cases if not ground.rehearse else cases[1:2]:
        yield f"{case}, {variant}", attempt(lambda case=case, variant=variant: _trl(ground, case, variant, liger))
        gc.collect()
        if not ground.rehearse:
            torch.cuda.empty_cache()


def _trl(ground: Ground, case: str, variant: str, liger: bool) -> dict[str, Any]:
    """Seconds a step after two steps of warm-up."""
    from bench.train_step_trl import StepEnds
    from tests.helpers.trl_trainers import make_trainer

    rows = case_rows(case, rehearse=ground.rehearse)
    options: dict[str, Any] = {"learning_rate": 1e-5, "use_liger_kernel": liger}
    if not ground.rehearse:
        options |= {"use_cpu": False, "bf16": True}
    tokens = sum(len(row["prompt"]) + len(c) for row in rows for c in row["completions"])
    each = 8  # rows a device
    if variant == "packed":
        options |= {"max_length": TOKENS, "gradient_accumulation_steps": math.ceil(tokens / TOKENS)}
    else:
        options |= {"per_device_train_batch_size": each, "gradient_accumulation_steps": max(1, len(rows) // each)}
    steps, warm = (2, 1) if ground.rehearse else (5, 2)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(case, rows, str(ground.model()), folder, steps=steps, variant=variant, options=options)
        clock = StepEnds(ground.sync)
        trainer.add_callback(clock.callback())
        ground.peak_gib()
        clock.ends.append(time.perf_counter())
        trainer.train()
    seconds = (clock.ends[steps] - clock.ends[warm]) / (steps - warm)
    found = {"ms": 1e3 * seconds, "sequence_tokens_per_s": tokens / seconds, "peak_gib": ground.peak_gib()}
    return found | {"losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}
