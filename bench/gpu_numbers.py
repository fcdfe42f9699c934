"""Sections of bench/gpu.py: whether the card computes the same as the plain path and as a dense mask."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bench.gpu_ground import Ground, case_rows, relative, trees_of

LIMITS = {"fp32": (1e-4, 1e-3), "bf16": (0.05, 0.1)}  # mean nats, relative gradient


def paths(ground: Ground) -> Iterator[tuple[str, Any]]:
    """Tree path against plain path on four layers, in fp32 and in bf16: log-probs and the whole gradient.

    Raises:
        SystemExit: they differ by more than LIMITS.
    """
    from alignkit.data.trees.packs import lay_out
    from alignkit.training.run.self_checks import run_checks

    policy = ground.policy("qwen-short")
    trees = trees_of(case_rows("dpo", rehearse=ground.rehearse, rows=3 if ground.rehearse else 6))
    pack = lay_out(trees)

    def scores(path: str) -> tuple[torch.Tensor, torch.Tensor]:
        policy.zero_grad(set_to_none=True)
        with policy.on_path(path):
            logprob_T = policy(pack).logprob_T
            policy.backward((logprob_T * torch.linspace(-1, 1, len(logprob_T), device=logprob_T.device)).sum())
        return logprob_T.detach(), torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    bad = []
    for precision, compute in (("fp32", None), ("bf16", torch.bfloat16)):
        policy.autocast = compute
        began = time.perf_counter()
        (plain_T, plain), (tree_T, tree) = scores("plain"), scores("tree")
        nats, gradient = float((tree_T - plain_T).abs().mean()), relative(tree, plain)
        ok = nats <= LIMITS[precision][0] and gradient <= LIMITS[precision][1]
        bad += [] if ok else [precision]
        seconds = time.perf_counter() - began
        yield precision, {"ok": ok, "nats": nats, "gradient": gradient, "tokens": len(pack.ids_S), "s": seconds}
    policy.zero_grad(set_to_none=True)
    began = time.perf_counter()
    checks = run_checks(policy, trees)
    yield "start_up_checks", {check.name: [check.value, check.ok] for check in checks}
    yield "start_up_checks_s", time.perf_counter() - began
    if bad:
        raise SystemExit(f"tree and plain path differ in {', '.join(bad)}")


def attention(ground: Ground) -> Iterator[tuple[str, Any]]:
    """Tree attention against a dense mask in fp64: the values and three gradients; and its time."""
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    from alignkit.data.trees.packs import lay_out
    from alignkit.data.trees.trees import tree

    heads, shared, size = (4, 2, 32) if ground.rehearse else (14, 2, 64)
    cases: dict[str, list[list[int]]] = {
        "one tree of 90": [[40, 30, 20]],
        "two trees of 1,100": [[300, 200, 150], [250, 100, 100]],
        "a full row": [[300, *[120] * 8], [500, 300, 200], [400, *[250] * 4], [236, 200]],
    }
    if ground.rehearse:
        cases.pop("a full row")

    def scored(count: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(count, int), np.ones(count, bool)

    for name, groups in cases.items():
        spans = lay_out([tree("", np.zeros(p, int), [scored(c) for c in cs]) for p, *cs in groups]).spans
        layout = _layout(ground, spans)
        count = sum(map(sum, groups))
        sees_SS = _sees(groups).to(ground.device)
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v = (
                torch.randn(1, h, count, size, device=ground.device, dtype=dtype, requires_grad=True)
                for h in (heads, shared, shared)
            )
            wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
            theirs = sdpa(*wide, attn_mask=sees_SS, enable_gqa=True).transpose(1, 2)
            ours = layout.attend(q, k, v, None)
            weight = torch.randn_like(ours)
            (ours * weight).sum().backward()
            (theirs * weight.double()).sum().backward()
            found = {"value": relative(ours, theirs), "tokens": count}
            found |= {f"grad_{n}": relative(x.grad, w.grad) for n, x, w in zip("qkv", (q, k, v), wide, strict=True)}
            if name == "a full row" and dtype == torch.bfloat16:
                found |= _times(ground, layout, q, k, v)
                found["layout_ms"] = 1e3 * ground.seconds_of(lambda spans=spans: _layout(ground, spans), repeats=5)
            yield f"{name}, {str(dtype).removeprefix('torch.')}", found


def _layout(ground: Ground, spans: Any) -> Any:
    """How the policy would attend on this device."""
    if ground.rehearse:
        from alignkit.policy.cpu.split_attention import SegmentLayout

        return SegmentLayout.of(spans)
    from alignkit.policy.attention import FlexLayout

    return FlexLayout.of(spans, ground.device)


def _sees(groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """What each token sees, bool [S, S], from the sizes of prompts and completions alone."""
    total, at = sum(map(sum, groups)), 0
    sees_SS = torch.zeros(total, total, dtype=torch.bool)
    for prompt, *completions in groups:
        end = at + prompt
        sees_SS[at:end, at:end] = torch.ones(prompt, prompt).tril().bool()
        start = end
        for size in completions:
            sees_SS[start : start + size, at:end] = True
            sees_SS[start : start + size, start : start + size] = torch.ones(size, size).tril().bool()
            start += size
        at = start
    return sees_SS


def _times(ground: Ground, layout: Any, *qkv: torch.Tensor) -> dict[str, float]:
    """ms forward and backward, beside torch's causal kernel of the same length."""
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    q, k, v = qkv
    own = ground.seconds_of(lambda: layout.attend(q, k, v, None).sum().backward(), repeats=10)
    causal = ground.seconds_of(lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True).sum().backward(), repeats=10)
    return {"tree_ms": 1e3 * own, "causal_sdpa_ms": 1e3 * causal}
