"""Sections of bench/gpu.py: what the card itself gives, and the tests that need one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch

from bench.gpu_ground import GIB, VOCAB, Ground
from bench.texts import ROOT


def card(ground: Ground) -> Iterator[tuple[str, Any]]:
    """The ceilings: a bf16 product, a copy, a launch; and the products of a 0.5B layer at 4,096 tokens."""
    size = 256 if ground.rehearse else 8192
    a, b = (torch.randn(size, size, device=ground.device, dtype=torch.bfloat16) for _ in "ab")
    yield "product_tflops", 2 * size**3 / ground.seconds_of(lambda: a @ b, repeats=10) / 1e12
    x = torch.empty((64 if ground.rehearse else 4096) * 2**18, device=ground.device)
    y = torch.empty_like(x)
    yield "copy_gb_per_s", 2 * x.nbytes / ground.seconds_of(lambda: y.copy_(x), repeats=10) / 1e9
    z = torch.zeros(8, device=ground.device)
    yield "launch_us", 1e6 * ground.seconds_of(lambda: [z.add_(1) for _ in range(1000)], repeats=5) / 1000
    if ground.rehearse:
        return
    free, total = torch.cuda.mem_get_info()
    yield "memory_gib", {"free": free / GIB, "total": total / GIB}
    products = {"query": (896, 896), "up": (896, 4864), "down": (4864, 896), "head": (896, VOCAB)}
    for name, (inner, outer) in products.items():
        a = torch.randn(4096, inner, device=ground.device, dtype=torch.bfloat16)
        b = torch.randn(inner, outer, device=ground.device, dtype=torch.bfloat16)
        flop = 2 * 4096 * inner * outer
        yield f"{name}_tflops", flop / ground.seconds_of(lambda a=a, b=b: a @ b, repeats=10) / 1e12


def tests(ground: Ground) -> Iterator[tuple[str, Any]]:
    """The tests marked `gpu`; only files that have one are collected."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [str(file.relative_to(ROOT)) for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]
    yield "files", len(marked)
    if not marked:
        return
    # this machine's packages are not the locked ones: their warnings are nobody's error
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "filterwarnings=", "-o", "minversion=6"]
    if ground.rehearse:
        options.append("--collect-only")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *marked],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=ground.seconds - 5,
    )
    yield "pytest", {"rc": done.returncode, "end": (done.stdout + done.stderr)[-1500:]}
    if done.returncode not in (0, 5):  # 5: none was left after -m
        raise SystemExit(done.stdout[-500:])
