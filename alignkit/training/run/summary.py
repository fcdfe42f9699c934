"""What a run says when it is done: validation, training loss, time, memory, and where things are."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.display import duration
from alignkit.tracking import split_lines

_AVERAGED = 0.1  # of the steps at either end, whose mean loss is said
_FAR = 0.05  # nats a token in the mean; computing in bf16 moves log-probs of most models by 0.01 to 0.03
_OBJECTIVES = {"validation/reward": max, "validation/loss": min}  # the first that a run has; which one is best


def summary(folder: Path, finished: Mapping[str, Any], *, planned_mib: float, notes: Mapping[str, str]) -> list[str]:
    """Return the lines, from metrics.jsonl and what run.json says of a finished run.

    Args:
        notes: what is said behind a line, by the line's name: "memory".
    """
    values = _values(folder / "metrics.jsonl", {*_OBJECTIVES, "loss", "reward"})
    lines = _validation(values, finished["kept_step"])
    for name in ("loss", "reward"):
        steps = [value for _, value in values.get(name, ())]
        if steps:
            size = max(1, round(_AVERAGED * len(steps)))
            first, last = (sum(part) / size for part in (steps[:size], steps[-size:]))
            these = "step" if size == 1 else f"{size} steps"
            lines.append(f"training {name}: {first:.4g} in the first {these}, {last:.4g} in the last")
    lines += _saved(folder, finished)
    seconds = finished["seconds"]
    speed = f", {finished['tokens'] / seconds:,.0f} tokens/s" if seconds else ""
    time_s = finished["wall_seconds"] + finished["earlier_seconds"]
    lines.append(f"time: {duration(time_s)} for {finished['steps']} steps{speed}")
    lines.append(
        f"memory: planned {planned_mib:,.0f} MiB, peak {finished['peak_mib']:,.0f} MiB{notes.get('memory', '')}"
    )
    lines.append(f"report: {folder / 'report.html'}")
    lines.append(f"model: {folder / 'model'}")
    return lines


def _saved(folder: Path, finished: Mapping[str, Any]) -> list[str]:
    """How far what is saved is from what training computed, and what keeps more; none where both are fp32 and alike."""
    dtype, mean = finished["exported_dtype"], finished["exported_rounding_mean_nats"]
    far = mean > _FAR
    if dtype == "float32" and not far:
        return []
    came = "" if dtype == "float32" else ", as the model came"
    line = (
        f"saved in {dtype}{came}: its log-probs are {mean:.2g} nats a token from those that training computed, "
        f"{finished['exported_rounding_nats']:.2g} at most"
    )
    if not far:
        return [line]
    if dtype != "float32" and (folder / "adapter").exists():
        command = f"alignkit export {shlex.quote(str(folder))} --to DIR --dtype fp32"
        return [f"{line}; the adapter has what rounding took: {command}"]
    return [f"{line}; bf16 showed training no moves as small as most of these: --precision fp32 trains what is saved"]


@dataclass(frozen=True)
class Best:
    """The best validation of a run: the metric ("loss" or "reward"), its value, and the step after which it was."""

    name: str
    value: float
    step: int


def best_validation(folder: Path) -> Best | None:
    """The best validation of a run's metrics.jsonl; None without any, or where the file is damaged."""
    try:
        return _best(_values(folder / "metrics.jsonl", {*_OBJECTIVES}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _best(values: Mapping[str, Sequence[tuple[int, float]]]) -> Best | None:
    for name, of in _OBJECTIVES.items():
        if found := values.get(name):
            best = of(value for _, value in found)
            return Best(name.removeprefix("validation/"), best, next(step for step, value in found if value == best))
    return None


def _validation(values: Mapping[str, Sequence[tuple[int, float]]], kept_step: int) -> list[str]:
    """First, best and last validation, and the step whose weights are kept where that is not the last."""
    best = _best(values)
    if best is None:
        return ["validation: none (no rows were held back for it)"]
    found = values[f"validation/{best.name}"]
    (first_step, first), (last_step, last) = found[0], found[-1]
    where = "before the first step" if first_step == 0 else f"at step {first_step}"
    text = f"validation {best.name}: {first:.4g} {where}, best {best.value:.4g} at step {best.step}, last {last:.4g}"
    return [text + (f" (kept: step {kept_step})" if kept_step != last_step else "")]


def _values(file: Path, names: set[str]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of these metrics, in the order of the file."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in split_lines(file.read_text(encoding="utf-8")) if file.exists() else ():
        entry = json.loads(line)
        if entry["name"] in names:
            found.setdefault(entry["name"], []).append((entry["step"], entry["value"]))
    return found
