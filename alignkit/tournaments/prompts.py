"""Which prompts judge, chosen once for a tournament: none of them trains, and no two parts share one.

    test     the final table
    tuning   where a sweep picks its winner
    off-task measured beside, where the tournament names such data

A run's own validation prompts, which may choose its checkpoint, come out of what is left. The ids and texts of the
first two lie in OUT/prompts.jsonl, and every run is told to leave them out (`data.exclude`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignkit.config.file import Settings
from alignkit.data.prepared.selection import prompt_key, split_key
from alignkit.data.reading.read import Source, read_rows
from alignkit.data.reading.rows import Row
from alignkit.errors import InputError, UsageError
from alignkit.storage import write_atomically
from alignkit.tournaments.entrants import Tournament

TEST, TUNING, OFF_TASK = "test", "tuning", "off-task"
_RUNG = TUNING + "@"
FILE = "prompts.jsonl"
_TEST_SHARE, _TUNING_SHARE = 5, 10  # of the data's distinct prompts one in so many, at most


@dataclass(frozen=True)
class Asked:
    """The rows of each part, in the order in which they are judged; a part that is not needed is not there."""

    parts: dict[str, list[Row]]

    def rows(self, part: str) -> list[Row]:
        """The rows of a part; of `rung_part` too."""
        return self.parts[whole_part(part)]

    @property
    def held(self) -> list[Row]:
        """What no run may train on."""
        return [row for part in (TEST, TUNING) for row in self.parts.get(part, [])]


def rung_part(rung: int) -> str:
    """The tuning prompts as they are answered after so many halvings of a sweep, before the last part of its runs."""
    return f"{_RUNG}{rung + 1}"


def rung_of(part: str) -> int | None:
    """The rung of a part; None: it is answered by the whole run."""
    return int(part.removeprefix(_RUNG)) - 1 if part.startswith(_RUNG) else None


def whole_part(part: str) -> str:
    """The part that those answer who are in no sweep."""
    return TUNING if part.startswith(_RUNG) else part


def choose(made: Tournament) -> Asked:
    """Read the data and choose the prompts; the same each time, whatever the seeds of training.

    Raises:
        InputError: there are no prompts, or too few to hold some back.
    """
    settings, section = made.settings, made.section
    wanted = settings.judge.num_prompts or _enough()
    rng = np.random.Generator(np.random.Philox(key=settings.judge.seed))
    parts: dict[str, list[Row]] = {}
    if section.test is not None:
        rows = _distinct(read_rows(section.test, columns=settings.data.read_as))
        order = rng.permutation(len(rows))
        parts[TEST] = [rows[n] for n in order[: min(wanted, len(rows))]]
    held = {prompt_key(row) for row in parts.get(TEST, [])}
    needed = [] if section.test is not None else [(TEST, _TEST_SHARE)]
    if made.sweeps:
        needed.append((TUNING, _TUNING_SHARE))
    if needed:
        parts |= _out_of_data(settings, needed, wanted, held, rng)
    if section.off_task is not None:
        parts[OFF_TASK] = read_rows(section.off_task, limit=section.off_task_prompts)
    return Asked(parts)


def hold_back(asked: Asked, folder: Path) -> Path:
    """Write the prompts that no run may train on; returns the file.

    Raises:
        InputError: a prompt would not be read again as it is.
    """
    file = folder / FILE
    lines = [json.dumps({"id": row.id, "prompt": list(row.prompt)}) + "\n" for row in asked.held]
    text = "".join(lines)
    if file.exists():
        if file.read_text(encoding="utf-8") != text:
            raise UsageError(
                f"{file}: this tournament was judged on other prompts: the data, their number or the judge's seed "
                "changed since; set them back, or give another --out"
            )
        return file
    write_atomically(file, text, private=True)
    again = {prompt_key(row) for row in Source(str(file)).rows(numbered=False)}
    if again != {prompt_key(row) for row in asked.held}:
        file.unlink()
        raise InputError("a prompt is not read again as it was written: name the prompts by tournament.test")
    return file


def _out_of_data(
    settings: Settings, needed: list[tuple[str, int]], wanted: int, held: set[str], rng: np.random.Generator
) -> dict[str, list[Row]]:
    """Take prompts out of the training data, by keys of the prompts: those that a run's split leaves for training."""
    data = settings.data
    source = Source(data.data, data.read_as, data.limit)
    keys = [prompt_key(row) for row in source.rows(numbered=False) if row.prompt]
    distinct = sorted({key for key in keys if key not in held}, key=split_key, reverse=True)
    part_of: dict[str, str] = {}
    at = 0
    for part, share in needed:
        count = min(wanted, max(1, len(distinct) // share))
        part_of |= dict.fromkeys(distinct[at : at + count], part)
        at += count
    if at >= len(distinct):
        raise InputError(f"{data.data}: {len(distinct)} prompts are too few to hold some back for judging")
    chosen: dict[str, list[Row]] = {part: [] for part, _ in needed}
    for row in source.rows():
        if (key := prompt_key(row)) in part_of:
            chosen[part_of.pop(key)].append(row)
    return {part: [rows[n] for n in rng.permutation(len(rows))] for part, rows in chosen.items()}


def _enough() -> int:
    from alignkit.judging.prompts import MAX_PROMPTS  # scipy, which slots need not wait for

    return MAX_PROMPTS


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """The first row of every prompt."""
    return list({prompt_key(row): row for row in reversed([row for row in rows if row.prompt])}.values())[::-1]
