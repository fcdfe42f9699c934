"""Which prompts a model is judged on: the data named, else the validation prompts of its own run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.config import DataSection
from alignkit.data.read import is_data, read_rows
from alignkit.data.rows import Row
from alignkit.errors import InputError
from alignkit.policy.names import ModelSource
from alignkit.training.selection import prompt_key

MAX_PROMPTS = 500


@dataclass(frozen=True)
class Prompts:
    """The rows judged, where they are from, and what has to be said about them."""

    rows: tuple[Row, ...]
    source: str
    stamps: tuple[str, ...]


def choose_prompts(
    source: ModelSource, section: DataSection, *, data_given: bool, num_prompts: int | None, seed: int
) -> Prompts:
    """Read the prompts and draw `num_prompts` of them by the seed; all, at most 500, where no number is named.

    Raises:
        InputError: there are none.
    """
    stamps: list[str] = []
    run = None if source.run is None else json.loads((source.run / "run.json").read_text(encoding="utf-8"))
    if run is None or data_given:
        rows = read_rows(section.data, columns=section.columns, limit=section.limit)
        where = section.data
        if run is not None:
            stamps += _overlap(rows, run)
    else:
        settings = run["config"]["data"]
        where = f"the validation prompts of {source.run}"
        held = set(run["rows"]["validation"]["ids"])
        apart = settings.get("split") and is_data(settings["split"])
        rows = [row for row in _rows_of(settings, settings["split"] if apart else None) if row.id in held]
        if run["config"]["train"][run["method"]].get("early_stopping_steps") is not None:
            stamps.append("these prompts also chose the run's checkpoint (early stopping); judge on others with --data")
    rows = [row for row in rows if row.prompt]
    if not rows:
        raise InputError(f"{where}: no prompts to judge on")
    wanted = min(num_prompts or MAX_PROMPTS, len(rows))
    chosen = np.random.Generator(np.random.Philox(key=seed)).permutation(len(rows))[:wanted]
    return Prompts(tuple(rows[number] for number in sorted(chosen)), where, tuple(stamps))


def _overlap(rows: list[Row], run: dict[str, Any]) -> list[str]:
    """Count judged prompts that the run was trained on, word for word."""
    trained = set(run["rows"]["training"]["ids"])
    keys = {prompt_key(row) for row in _rows_of(run["config"]["data"]) if row.id in trained}
    common = sum(prompt_key(row) in keys for row in rows)
    return [f"{common} of {len(rows)} judged prompts are in the training set"] if common else []


def _rows_of(settings: dict[str, Any], data: str | None = None) -> list[Row]:
    """Read a run's rows: of its data, or of the validation data that its split names."""
    if data is not None:
        return read_rows(data, columns=settings["columns"])
    path = Path(settings["data"])
    if path.suffix and not path.exists() and path.is_absolute():
        raise InputError(f"{path}: the data of the run is no longer there; give prompts with --data")
    return read_rows(settings["data"], columns=settings["columns"], limit=settings["limit"])
