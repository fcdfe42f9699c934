"""Which prompts a model is judged on: the data named, else the validation prompts of its own run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignkit.config.settings import DataSection
from alignkit.data.prepared.selection import prompt_key
from alignkit.data.reading.read import is_data, read_rows
from alignkit.data.reading.rows import Row
from alignkit.data.reading.same_data import difference
from alignkit.errors import InputError
from alignkit.judging.caveats import rows_of, seen_in_training
from alignkit.judging.planner import DIFFERENCE, prompts_for
from alignkit.pretrained.names import ModelSource
from alignkit.runs import read_run

MAX_PROMPTS = prompts_for(DIFFERENCE)  # more find smaller differences than are worth their time


@dataclass(frozen=True)
class Prompts:
    """The rows judged, where they are from, and what has to be said about them."""

    rows: tuple[Row, ...]
    source: str
    caveats: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """Of each row's prompt; equal for equal prompts."""
        return [prompt_key(row) for row in self.rows]

    @property
    def content(self) -> str:
        """Hash of everything in the rows, whatever their order: what a judge may read, and what draws an answer."""
        rows = [json.dumps([row.id, row.fields], sort_keys=True, default=str) for row in self.rows]
        return hashlib.sha256("\0".join(sorted(rows)).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """Of the set of prompts, whatever their order."""
        return hashlib.sha256("".join(sorted(self.keys)).encode()).hexdigest()[:16]


def choose_prompts(
    source: ModelSource,
    section: DataSection,
    *,
    data_given: bool,
    num_prompts: int | None,
    seed: int,
    vs: ModelSource | None = None,
) -> Prompts:
    """Read the prompts and draw `num_prompts` of them by the seed; where no number is named, what finds 5 points.

    Args:
        vs: a run that the verdict compares with is looked at for training prompts too.

    Raises:
        InputError: there are none.
    """
    caveats: list[str] = []
    if source.run is None or data_given:
        rows = read_rows(section.data, columns=section.read_as, limit=section.limit)
        where = section.data
    else:
        rows, where, caveats = _held_out(source.run)
    rows = [row for row in rows if row.prompt]
    if not rows:
        raise InputError(f"{where}: no prompts to judge on")
    wanted = min(num_prompts or MAX_PROMPTS, len(rows))
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(rows))[:wanted]
    chosen = tuple(rows[number] for number in sorted(order))
    for model in (source, vs):
        if model is not None and model.run is not None and (data_given or model is not source):
            caveats += seen_in_training(chosen, model.run, name=model.name)
    return Prompts(chosen, where, tuple(caveats))


def _held_out(run: Path) -> tuple[list[Row], str, list[str]]:
    """A run's validation rows, what they are called, and what has to be said about them.

    Raises:
        InputError: the data are no longer there.
    """
    record = read_run(run)
    settings = record.config.data
    apart = settings.split is not None and is_data(settings.split)
    if "apart" in record.data_files and not apart:
        raise InputError(
            f"{settings.split}: the validation data of {run} are no longer there; give prompts with --data"
        )
    held = set(record.rows.validation.ids)
    rows = [row for row in rows_of(settings, settings.split if apart else None) if row.id in held]
    where, caveats = f"the validation prompts of {run}", []
    if changed := difference(record):
        where = f"rows that have the ids of the validation prompts of {run}"
        caveats.append(f"{changed}; these may be other prompts, and trained on: judge on others with --data")
    if record.options.get("early_stopping_steps"):
        caveats.append("these prompts also chose the run's checkpoint (early stopping); judge on others with --data")
    return rows, where, caveats
