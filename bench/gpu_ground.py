"""What the sections of bench/gpu.py share: the device and its clock, models, rows, and optimizer steps.

A section is `section(ground) -> Iterator[(part, value)]`, in a process of its own: each part is kept as it comes.
Shapes are Qwen2.5's with random weights. Lengths are those of UltraFeedback's rows, drawn log-normally from one seed.
"""

from __future__ import annotations

import gc
import json
import shutil
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.texts import ROOT
from bench.train_step_cases import write_model

PACKED = ROOT / ".gpu"  # made by bench/gpu_pack.py
GIB = 2**30
VOCAB = 151_936
CASES = ("sft", "dpo", "dpo_long_prompt", "grpo", "reward")


@dataclass(frozen=True)
class Ground:
    """Where a section works.

    Args:
        work: folder of models, rows and runs; shared by the sections.
        rehearse: tiny shapes on the CPU.
        seconds: what the section may take.
    """

    work: Path
    rehearse: bool
    seconds: float

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.rehearse else torch.device("cuda", 0)

    def sync(self) -> None:
        """Wait for the device."""
        if not self.rehearse:
            torch.cuda.synchronize()

    def seconds_of(self, work: Callable[[], object], *, repeats: int, warm: int = 2) -> float:
        """Median seconds of one call, device work included."""
        found = []
        for number in range(warm + repeats):
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            if number >= warm:
                found.append(time.perf_counter() - began)
        return statistics.median(found)

    def peak_gib(self) -> float:
        """Most memory that tensors took since this was last asked; 0 on the CPU."""
        if self.rehearse:
            return 0.0
        peak = torch.cuda.max_memory_allocated() / GIB
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        return peak

    def peak_flops(self) -> float:
        """The card's dense bf16 peak, FLOP/s; nan where it is not known."""
        from alignkit.training.gradient.speed import peak_flops

        return (None if self.rehearse else peak_flops(torch.cuda.get_device_name(0))) or float("nan")

    def model(self, shape: str = "qwen-0.5b") -> Path:
        """Folder of a random model of a shape of train_step_cases.SHAPES; written once."""
        folder = self.work / f"model-{'rehearsal' if self.rehearse else shape}"
        if not folder.exists():
            part = folder.with_name(f".{folder.name}-{time.monotonic_ns()}")
            part.mkdir(parents=True)
            write_model(part, "rehearsal" if self.rehearse else shape, tokenizer=PACKED / "tokenizer")
            try:
                part.rename(folder)
            except OSError:  # another section was faster
                shutil.rmtree(part)
        return folder

    def policy(self, shape: str = "qwen-0.5b", **options: Any) -> Any:
        """A policy in bf16 as `alignkit train` loads it."""
        from alignkit.policy.load import load_policy

        precision = "auto" if self.rehearse else "bf16"
        return load_policy(self.model(shape), precision=precision, device=self.device, **options)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| / |b|."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def attempt(work: Callable[[], Any]) -> Any:
    """What `work` returns, or what it raised: a part that fails alone."""
    try:
        return work()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " | ".join(line for line in str(error).splitlines() if line.strip())
        return {"error": f"{type(error).__name__}: {text[:400]}", "at": f"{Path(where.filename).name}:{where.lineno}"}


# --- rows -------------------------------------------------------------------------------------------------------------


def case_rows(case: str, *, rehearse: bool, rows: int | None = None) -> list[dict[str, Any]]:
    """One optimizer step's rows of token ids: {"id", "prompt", "completions"}; large enough for many micro-batches."""
    rng = np.random.default_rng(0)
    few = 3 if rehearse else 64
    if case == "sft":
        return _rows(rng, [(p, (c,)) for p, c, _ in _lengths(rng, rows or 2 * few, rehearse)])
    if case in ("dpo", "reward"):
        return _rows(rng, [(p, (c, r)) for p, c, r in _lengths(rng, rows or few, rehearse)])
    if case == "dpo_long_prompt":
        return _rows(rng, [(512, (128, 128)) if not rehearse else (48, (16, 12))] * (rows or few // 2))
    if case == "grpo":
        each = (64, 82, 100, 119, 137, 155, 173, 192) if not rehearse else (8, 10, 12, 14)
        return _rows(rng, [(256 if not rehearse else 32, each)] * (rows or few // 2))
    raise ValueError(case)


def grouped_rows(count: int, prompt: int, completion: int, group: int) -> list[dict[str, Any]]:
    """Rows of equal groups, such as 8 x 1,024 tokens."""
    return _rows(np.random.default_rng(0), [(prompt, (completion,) * group)] * count)


def _lengths(rng: np.random.Generator, count: int, rehearse: bool) -> list[tuple[int, int, int]]:
    """Lengths of a prompt and two answers, in tokens: medians of 90 and 240, as UltraFeedback's; at most 1,024."""
    scale = 0.1 if rehearse else 1.0
    prompt = rng.lognormal(np.log(90 * scale), 0.9, count)
    answers = rng.lognormal(np.log(240 * scale), 0.7, (count, 2))
    clipped = [np.clip(x, 4, most * scale).astype(int) for x, most in ((prompt, 512), (answers, 512))]
    return [(int(p), int(c), int(r)) for p, (c, r) in zip(*clipped, strict=True)]


def _rows(rng: np.random.Generator, sizes: Iterable[tuple[int, Sequence[int]]]) -> list[dict[str, Any]]:
    def ids(count: int) -> list[int]:
        return rng.integers(1000, 100_000, count).tolist()

    return [
        {"id": f"row-{n}", "prompt": ids(prompt), "completions": [ids(size) for size in answers]}
        for n, (prompt, answers) in enumerate(sizes)
    ]


def text_rows(ground: Ground, count: int) -> Path:
    """Preference rows as JSON lines: words of the docs in new orders, since real rows may not be here."""
    path = ground.work / f"rows-{count}.jsonl"
    if path.exists():
        return path
    words = " ".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").rglob("*.md"))).split()
    rng = np.random.default_rng(0)

    def text(size: int) -> str:
        return " ".join(words[n] for n in rng.integers(len(words), size=max(3, size // 2)))  # 2 tokens a word or so

    lines = []
    for number, (prompt, *answers) in enumerate(_lengths(rng, count, ground.rehearse)):
        row: dict[str, Any] = {"id": f"row-{number}", "prompt": [{"role": "user", "content": text(prompt)}]}
        for side, size in zip(("chosen", "rejected"), answers, strict=True):
            row[side] = [{"role": "assistant", "content": text(size)}]
        lines.append(json.dumps(row) + "\n")
    part = path.with_suffix(f".{time.monotonic_ns()}")
    part.write_text("".join(lines), encoding="utf-8")
    part.replace(path)
    return path


# --- optimizer steps --------------------------------------------------------------------------------------------------


def trees_of(rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    from alignkit.data.trees.trees import tree

    def scored(ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(ids), np.ones(len(ids), bool)

    return [tree(row["id"], np.array(row["prompt"]), [scored(c) for c in row["completions"]]) for row in rows]


def method_of(case: str, **options: Any) -> tuple[Any, Any]:
    """A case's method and config: AdamW, a constant learning rate."""
    from alignkit_plugins.dpo import DPO, DPOConfig
    from alignkit_plugins.grpo import GRPO, GRPOConfig
    from alignkit_plugins.reward import Reward, RewardConfig
    from alignkit_plugins.sft import SFT, SFTConfig

    options = {"learning_rate": 1e-5, "optimizer": "adamw", "schedule": "constant", "warmup_steps": 0} | options
    options |= {"max_steps": None}
    methods: dict[str, Any] = {"sft": (SFT, SFTConfig), "dpo": (DPO, DPOConfig), "reward": (Reward, RewardConfig)}
    if case.startswith("grpo"):
        return GRPO(), GRPOConfig(**options, kl=0.0)
    method, config = methods[case.split("_")[0]]
    return method(), config(**options)


def micro_batches_of(case: str, policy: Any, rows: Sequence[Mapping[str, Any]], tokens: int) -> list[Any]:
    """A case's rows packed into micro-batches of so many tokens, with reference and sampler's log-probs."""
    from alignkit.data.trees.packs import lay_out, pack_evenly
    from alignkit.training.gradient.step import MicroBatch

    trees, rng, found = trees_of(rows), np.random.default_rng(0), []
    for numbers in pack_evenly(trees, tokens):
        pack = lay_out([trees[n] for n in numbers])
        if case in ("sft", "reward"):
            found.append(MicroBatch(pack))
            continue
        with torch.no_grad():
            before_T = policy(pack).logprob_T.float().cpu().numpy()
        if case.startswith("dpo"):
            found.append(MicroBatch(pack, reference_T=before_T))
        else:
            noise_T, advantage_N = 0.1 * rng.normal(size=len(before_T)), rng.normal(size=pack.num_completions)
            found.append(MicroBatch(pack, sampler_logprob_T=before_T + noise_T, advantage_N=advantage_N))
    return found


def loop_of(policy: Any, case: str, micro_batches: list[Any], *, steps: int, at_end: Callable[[], None]) -> Any:
    """alignkit's own loop over the same micro-batches in every step; `at_end` is called after each."""
    from alignkit.tracking import Tracker
    from alignkit.training.gradient.models import Models
    from alignkit.training.loop.reporter import Reporter
    from alignkit.training.loop.source import StepSource
    from alignkit.training.loop.train_loop import Loop

    class SameRows(StepSource):
        steps_per_epoch = 1

        def step(self, step: int) -> tuple[list[Any], dict[str, float]]:
            return micro_batches, {}

    class Ends(Tracker):
        def log(self, step: int, metrics: Mapping[str, float], *, tokens_seen: int) -> None:
            losses.append(metrics["loss"])
            at_end()

    losses: list[float] = []
    method, config = method_of(case, epochs=steps)
    loop = Loop(method, config, Models(policy, None, None), SameRows(), reporter=Reporter([Ends(Path(), {})]))
    loop.losses = losses  # type: ignore[attr-defined]
    return loop


def measured(
    ground: Ground, policy: Any, case: str, micro_batches: list[Any], *, steps: int = 4, warm: int = 3
) -> dict[str, Any]:
    """Time of an optimizer step as the loop takes it: tokens a second, MFU and peak memory.

    The clock runs over `steps` steps from a synchronize to a synchronize; the steps before it are warm-up.
    """
    from alignkit.training.gradient.speed import Arithmetic, packs_of

    if ground.rehearse:
        steps, warm = 1, 1
    count, ends, peak = 0, [time.perf_counter()], 0.0

    def at_end() -> None:
        nonlocal count, peak
        count += 1
        if count in (warm, warm + steps):
            ground.sync()
            ends.append(time.perf_counter())
            peak = ground.peak_gib()

    loop = loop_of(policy, case, micro_batches, steps=warm + steps, at_end=at_end)
    loop.train()
    policy.zero_grad(set_to_none=True)
    seconds = (ends[2] - ends[1]) / steps
    packs = [m.pack for m in micro_batches]
    computed, scored = (sum(map(len, x)) for x in ([p.ids_S for p in packs], [p.target_T for p in packs]))
    sequences = sum(len(t.prompt) + len(c) for p in packs for t in p.trees for c in t.completions)
    return {
        "ms": 1e3 * seconds,
        "tokens_per_s": computed / seconds,
        "sequence_tokens_per_s": sequences / seconds,
        "mfu": Arithmetic.of(policy).flops(packs_of(micro_batches)) / seconds / ground.peak_flops(),
        "peak_gib": peak,
        "micro_batches": len(micro_batches),
        "computed": computed,
        "scored": scored,
        "warm_up_s": ends[1] - ends[0],
        "losses": [loop.losses[0], loop.losses[-1]],
    }
