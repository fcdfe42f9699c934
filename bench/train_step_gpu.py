"""What a training step reaches on one CUDA GPU: model FLOPs utilisation, and what fits into 24 GB.

    python -m bench.train_step_gpu [--quick] [--json FILE] [--rehearse]

    sft_mfu, dpo_mfu       of the Qwen2.5-0.5B shape (24 layers), rows packed (at least 0.45 on an H100)
    grpo_mfu               the update on fixed rollouts (at least 0.40)
    fits_24gb              how many of these finish 20 steps with the allocator capped at 22 GiB (4): SFT, DPO and GRPO
                           of the 0.5B shape, all weights; DPO of a 3B shape with LoRA of rank 16

MFU = FLOP / seconds / the GPU's dense bf16 peak; alignkit/training/gradient/speed.py has the formula and the peaks.
Every measurement is a fresh process and takes the median of its steps after the first three. Without a CUDA device
nothing is measured and that is said; `--rehearse` runs all of it with a tiny model on whatever is here, and prints no
figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.train_step import side
from bench.train_step_cases import write_cases, write_model

CAP_GIB = 22.0
FIGURES = {"sft": "sft_mfu", "dpo": "dpo_mfu", "grpo_train": "grpo_mfu"}
FITS: tuple[tuple[str, str, int | None], ...] = (
    ("sft", "qwen-0.5b", None),
    ("dpo", "qwen-0.5b", None),
    ("grpo_train", "qwen-0.5b", None),
    ("dpo", "qwen-3b", 16),
)
WARM_UP = 3  # steps: kernels are compiled


def utilisation(found: dict[str, Any], peak: float) -> float:
    """MFU of a side's steps after the warm-up."""
    return float(found["flops"] / statistics.median(found["seconds"][WARM_UP - 1 :]) / peak)


def fits(found: dict[str, Any], steps: int) -> bool:
    """Whether a side took all its steps below the cap."""
    return len(found["losses"]) == steps and found["peak_mib"] <= CAP_GIB * 1024


def run(
    folder: Path, *, rows: int, steps: int, rehearse: bool
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Measure each case of MFU, then each of what must fit."""
    models: dict[str, tuple[Path, dict[str, Path]]] = {}

    def given(shape: str) -> tuple[Path, dict[str, Path]]:
        name = "rehearsal" if rehearse else shape
        if name not in models:
            place = folder / name
            place.mkdir()
            model = write_model(place / "model", name)
            models[name] = model, write_cases(place, model, num_rows=rows)
        return models[name]

    def take(case: str, shape: str, **more: Any) -> dict[str, Any]:
        model, cases = given(shape)
        return side("own", name=case, case=str(cases[case]), model=str(model), **more)

    speeds = {case: take(case, "qwen-0.5b", steps=steps) for case in FIGURES}
    capped = []
    for case, shape, rank in FITS:
        try:
            capped.append(take(case, shape, steps=steps, lora_rank=rank, cap_gib=CAP_GIB))
        except SystemExit as failed:  # out of memory, as its text says
            print(f"  {case} of {shape} does not finish: {str(failed)[-300:]}")
            capped.append({"losses": [], "peak_mib": 0.0})
    return speeds, capped


def main() -> None:
    import torch

    from alignkit.memory import device_name
    from alignkit.policy.load import pick_device
    from alignkit.training.gradient.speed import peak_flops

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 rows a step rather than 128")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on any device; no figures")
    given = parser.parse_args()
    name = device_name(pick_device())
    peak = peak_flops(name)
    if not given.rehearse and (not torch.cuda.is_available() or peak is None):
        print(
            f"no figure: sft_mfu, dpo_mfu, grpo_mfu and fits_24gb need a CUDA device with a known peak; here is {name}"
        )
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-gpu-"))
    rows, steps = (4, 4) if given.rehearse else (32 if given.quick else 128, 20)
    try:
        speeds, capped = run(folder, rows=rows, steps=steps, rehearse=given.rehearse)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.rehearse or peak is None:
        print(f"rehearsed on {name}: {len(speeds)} cases of MFU, {len(capped)} of memory; no figure")
        return
    figures = {FIGURES[case]: utilisation(found, peak) for case, found in speeds.items()}
    figures["fits_24gb"] = sum(fits(found, steps) for found in capped)
    for figure, value in figures.items():
        print(f"{figure:<12}{value:>8.3f}   on {name}, peak {peak / 1e12:,.0f} TFLOP/s in bf16")
    content = {
        "figures": figures,
        "settings": {"rows": rows, "steps": steps, "cap_gib": CAP_GIB, "speeds": speeds, "capped": capped},
        "versions": {p: version(p) for p in ("alignkit", "torch", "transformers")},
        "machine": {"machine": platform.machine(), "gpu": name, "peak_flops": peak},
    }
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
