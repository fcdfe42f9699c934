"""Sections of bench/gpu.py: optimizer steps of the 0.5B shape, the head alone, and where a step's time goes."""

from __future__ import annotations

import gzip
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

from bench.gpu_ground import VOCAB, Ground, attempt, case_rows, loop_of, measured, micro_batches_of

TOKENS = 16_384  # of a micro-batch: what the plan takes for this shape on 80 GB


def steps(ground: Ground) -> Iterator[tuple[str, Any]]:
    """A step of each method as it is trained; then sft with one thing changed at a time."""
    tokens = 256 if ground.rehearse else TOKENS
    policy = ground.policy(**_as_trained(ground))

    def step(case: str, *, tokens: int = tokens, rows: int | None = None, policy: Any = policy) -> Any:
        given = case_rows(case, rehearse=ground.rehearse, rows=rows)
        return attempt(lambda: measured(ground, policy, case, micro_batches_of(case, policy, given, tokens)))

    for case in ("sft", "dpo", "grpo"):
        yield case, step(case)
    for changed in (4_096, 24_576) if not ground.rehearse else ():
        yield f"sft, micro-batches of {changed:,}", step("sft", tokens=changed)
    yield "dpo_long_prompt", step("dpo_long_prompt")
    yield "sft, 4 rows a step", step("sft", rows=4)
    del policy
    yield "reward", attempt(lambda: step("reward", policy=ground.policy(scalar_head=True, **_as_trained(ground))))
    yield "sft, not compiled", attempt(lambda: step("sft", policy=ground.policy()))


def _as_trained(ground: Ground) -> dict[str, Any]:
    return {} if ground.rehearse else {"compiled": True}


def head(ground: Ground) -> Iterator[tuple[str, Any]]:
    """Head and loss alone, forward and backward, 3,072 scored tokens: alignkit's and what others do."""
    from alignkit.policy import in_place, logprobs

    count, hidden, vocab = (64, 32, 1000) if ground.rehearse else (3072, 896, VOCAB)
    generator = torch.Generator().manual_seed(0)
    states_TH = torch.randn(count, hidden, generator=generator).to(ground.device, torch.bfloat16).requires_grad_()
    weight_VH = (torch.randn(vocab, hidden, generator=generator) * hidden**-0.5).to(ground.device).requires_grad_()
    target_T = torch.randint(0, vocab, (count,), generator=generator).to(ground.device)
    ones_T = torch.ones(count, device=ground.device)
    yield "ideal_ms_at_80_percent", 1e3 * 6 * count * hidden * vocab / (0.8 * ground.peak_flops())

    def own() -> torch.Tensor:
        with in_place.accumulate_in_place():
            loss = -logprobs.token_logprobs(states_TH, weight_VH, target_T, ones_T)[0].mean()
            loss.backward()
        return loss.detach()

    def whole() -> torch.Tensor:
        loss = cross_entropy(linear(states_TH, weight_VH.bfloat16()).float(), target_T)
        loss.backward()
        return loss.detach()

    def liger() -> torch.Tensor:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        loss = LigerFusedLinearCrossEntropyLoss()(weight_VH.bfloat16(), states_TH, target_T)
        loss.backward()
        return loss.detach()

    ways: dict[str, Callable[[], torch.Tensor]] = {"alignkit": own, "torch, all logits at once": whole}
    if not ground.rehearse:
        ways |= {"torch, all logits, compiled": torch.compile(whole), "Liger": liger}
    for name, way in ways.items():

        def both(way: Callable[[], torch.Tensor] = way) -> dict[str, float]:
            weight_VH.grad = None
            ground.peak_gib()
            found = {"ms": 1e3 * ground.seconds_of(way, repeats=5), "loss": float(way())}
            return found | {"peak_gib": ground.peak_gib()}

        yield name, attempt(both)


def profile(ground: Ground) -> Iterator[tuple[str, Any]]:
    """One sft step of two micro-batches: its kernels, the card's idle time, and each place where the host waits."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    policy = ground.policy(**_as_trained(ground))
    given = case_rows("sft", rehearse=ground.rehearse)
    micro_batches = micro_batches_of("sft", policy, given, 256 if ground.rehearse else TOKENS)[:2]
    warm, number = 1 if ground.rehearse else 4, 0
    kinds = [ProfilerActivity.CPU] if ground.rehearse else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    recorder = profiler(activities=kinds)

    def at_end() -> None:
        nonlocal number
        number += 1
        ground.sync()
        if number == warm:
            recorder.start()
        elif number == warm + 1:
            recorder.stop()

    loop_of(policy, "sft", micro_batches, steps=warm + 1, at_end=at_end).train()
    yield "micro_batches", len(micro_batches)
    if ground.rehearse:
        slowest = sorted(recorder.key_averages(), key=lambda event: -event.self_cpu_time_total)[:10]
        yield "top", [[event.key[:60], event.self_cpu_time_total / 1e3, event.count] for event in slowest]
        return
    yield from _device_time(ground, recorder)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        loop_of(policy, "sft", micro_batches, steps=1, at_end=lambda: None).train()
        torch.cuda.set_sync_debug_mode("default")
    waits = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in told if "synchron" in str(w.message))
    yield "host_waits", waits.total()
    yield "host_wait_places", [list(place) for place in waits.most_common(20)]


def _device_time(ground: Ground, recorder: Any) -> Iterator[tuple[str, Any]]:
    """Kernels of the recorded step, how long the card was busy, and its longest pauses."""
    cuda = torch.autograd.DeviceType.CUDA
    kernels = [e for e in recorder.events() if e.device_type == cuda and not getattr(e, "is_user_annotation", False)]
    spans = sorted((e.time_range.start, e.time_range.end, e.name) for e in kernels)
    busy, end, pauses = 0.0, spans[0][0], []
    for start, stop, name in spans:
        if start > end:
            pauses.append((start - end, name))
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    yield "kernels", len(kernels)
    yield "span_ms", (end - spans[0][0]) / 1e3
    yield "busy_share", busy / (end - spans[0][0])
    yield "longest_pauses", [[us / 1e3, f"before {name[:60]}"] for us, name in sorted(pauses, reverse=True)[:10]]
    times: dict[str, float] = {}
    for start, stop, name in spans:
        times[name[:90]] = times.get(name[:90], 0.0) + stop - start
    calls = Counter(name[:90] for _, _, name in spans)
    yield "top", [[us / 1e3, calls[name], name] for name, us in sorted(times.items(), key=lambda x: -x[1])[:10]]
    trace = ground.work / "step-trace.json"
    recorder.export_chrome_trace(str(trace))
    with gzip.open(trace.with_suffix(".json.gz"), "wb") as packed:
        packed.write(trace.read_bytes())
    trace.unlink()
