"""Which prompts a model is judged on: the data named, else the validation prompts of its own run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from alignkit.config import DataSection
from alignkit.data.read import is_data, read_rows
from alignkit.data.rows import Row
from alignkit.errors import InputError
from alignkit.judging.planner import DIFFERENCE, prompts_for
from alignkit.judging.stamps import rows_of, seen_in_training
from alignkit.policy.names import ModelSource
from alignkit.runs import read_run
from alignkit.training.selection import prompt_key

MAX_PROMPTS = prompts_for(DIFFERENCE)  # more find smaller differences than are worth their time


@dataclass(frozen=True)
class Prompts:
    """The rows judged, where they are from, and what has to be said about them."""

    rows: tuple[Row, ...]
    source: str
    stamps: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """Of each row's prompt; equal for equal prompts."""
        return [prompt_key(row) for row in self.rows]

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
    stamps: list[str] = []
    run = None if source.run is None else read_run(source.run)
    if run is None or data_given:
        rows = read_rows(section.data, columns=section.columns, limit=section.limit)
        where = section.data
    else:
        settings = run.config.data
        where = f"the validation prompts of {source.run}"
        held = set(run.rows.validation.ids)
        apart = settings.split is not None and is_data(settings.split)
        rows = [row for row in rows_of(settings, settings.split if apart else None) if row.id in held]
        if run.options.get("early_stopping_steps") is not None:
            stamps.append("these prompts also chose the run's checkpoint (early stopping); judge on others with --data")
    rows = [row for row in rows if row.prompt]
    if not rows:
        raise InputError(f"{where}: no prompts to judge on")
    wanted = min(num_prompts or MAX_PROMPTS, len(rows))
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(rows))[:wanted]
    chosen = tuple(rows[number] for number in sorted(order))
    for model in (source, vs):
        if model is not None and model.run is not None and (data_given or model is not source):
            stamps += seen_in_training(chosen, model.run, name=model.name)
    return Prompts(chosen, where, tuple(stamps))
