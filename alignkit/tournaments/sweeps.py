"""What --sweep makes: one entrant for each point of a grid, or of random draws; and what each halving of them keeps.

    sweep    train.METHOD.OPTION=VALUE,VALUE   or ENTRANT.OPTION=LOW..HIGH, which needs --draws
    halving  successive halving (Jamieson and Talwalkar 2016, AISTATS 51): every point is trained for 1 / 2^H of the
             steps, the better half, by the tuning prompts and over all seeds, goes on to 1 / 2^(H - 1), and so on

A run that goes on is the same run with more steps, so that nothing is trained twice: each part of it has a warm-up
and a schedule of its own (training/gradient/optimizer.py). No torch here.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel

from alignkit.config import fields as config_fields
from alignkit.config.settings import DataSection, ModelSection, RolloutsSection, RunOptions
from alignkit.errors import UsageError, nearest
from alignkit.registry import registry
from alignkit.tournaments.results import Entry

_MOST_CHARACTERS = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._=,+-]{{0,{_MOST_CHARACTERS - 1}}}")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9._=,+-]+")
_COMMA = re.compile(r",(?![^\[{]*[\]}])")  # between values, not inside one that is a list or a table
_RANGE = re.compile(r"[-+.e0-9]+\.\.[-+.e0-9]+")
FOR_ALL = {"out", "resume", "plan", "seed", *DataSection.model_fields} - {"max_length", "truncation", "max_skipped"}
"""What is the same for all entrants: what concerns the rows, and a run's place."""


def part_steps(total: int, halvings: int) -> list[int]:
    """The steps of each part of a run that every halving lets go on, `halvings` + 1 of them.

    Raises:
        UsageError: there are fewer steps than that.
    """
    ends = [round(total / 2 ** (halvings - rung)) for rung in range(halvings + 1)]
    parts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    if min(parts) < 1:
        raise UsageError(f"--halvings {halvings}: {total} steps cannot be halved so often; give fewer, or more steps")
    return parts


def num_left(num: int, halvings: int) -> list[int]:
    """How many of a sweep's entrants train each part."""
    left = [num]
    for _ in range(halvings):
        left.append(math.ceil(left[-1] / 2))
    return left


def swept(
    entries: Sequence[Entry], sweeps: Sequence[str], draws: int | None, halvings: int, *, seed: int
) -> list[Entry]:
    """Put one entrant for each point of a sweep in the place of the entrant that is swept.

    Raises:
        UsageError: it is not KEY=VALUES, nothing has that option, or another entrant starts from what is swept.
    """
    if not sweeps:
        if draws is not None:
            raise UsageError("--draws without --sweep: say what is drawn: --sweep train.METHOD.OPTION=LOW..HIGH")
        if halvings:
            raise UsageError(
                f"--halvings {halvings} without --sweep: say what is compared: --sweep train.METHOD.OPTION=..."
            )
        return list(entries)
    axes: dict[str, list[tuple[str, Any]]] = {}
    for text in sweeps:
        key, equals, values = text.partition("=")
        owner, dot, option = key.strip().rpartition(".")
        if not equals or not values or not dot or owner == "train":
            raise UsageError(f"--sweep {text}: write train.METHOD.OPTION=VALUE,VALUE or ENTRANT.OPTION=LOW..HIGH")
        method = owner.removeprefix("train.") if owner.startswith("train.") else None
        wanted = [e for e in entries if e.method and (e.name == owner if method is None else e.method == method)]
        if not wanted:
            known = [str(e.name if method is None else e.method) for e in entries if e.method]
            raise UsageError(f"--sweep {text}: no entrant is {method or owner!r}{nearest(method or owner, known)}")
        for entry in wanted:
            if option in [name for name, _ in axes.get(entry.name, [])]:
                raise UsageError(f"--sweep {text}: {option} of {entry.name} is swept twice; list all its values once")
            axes.setdefault(entry.name, []).append((option, _values(entry, option, values, text, draws=draws)))
    for entry in entries:
        for needed in [entry.start, *entry.rewards]:
            if needed in axes:
                raise UsageError(
                    f"--sweep of {needed}: {entry.name} starts from it; sweep it alone, then let {entry.name} start "
                    "from the winner's run"
                )
    made: dict[str, Entry] = {entry.name: entry for entry in entries if entry.name not in axes}
    for name, point in (
        (p.name, p) for entry in entries if entry.name in axes for p in _points(entry, axes, draws, seed)
    ):
        if made.setdefault(name, point) != point:
            raise UsageError(
                f"--sweep: two entrants would be named {name!r}: give one of them a file or name of its own"
            )
    order = [entry.name for entry in entries]
    return sorted(made.values(), key=lambda entry: order.index(entry.sweep or entry.name))


def _points(entry: Entry, axes: Mapping[str, list[tuple[str, Any]]], draws: int | None, seed: int) -> Iterator[Entry]:
    names, dimensions = zip(*axes[entry.name], strict=True)
    has_ranges = any(isinstance(values, tuple) for values in dimensions)
    rng = np.random.default_rng(seed)
    if has_ranges:
        chosen = [tuple(_draw(values, rng) for values in dimensions) for _ in range(draws or 0)]
    else:
        chosen = list(itertools.product(*dimensions))
        if draws is not None:  # without the same point twice
            chosen = [chosen[n] for n in rng.permutation(len(chosen))[:draws]]
    for point in chosen:
        label = ",".join(f"{name}={_short(value)}" for name, value in zip(names, point, strict=True))
        name = f"{entry.name}-{label}"[:_MOST_CHARACTERS]
        options = {**entry.options, **dict(zip(names, point, strict=True))}
        yield replace(entry, name=name, options=options, sweep=entry.name)


def _values(entry: Entry, key: str, text: str, whole: str, *, draws: int | None) -> Any:
    """The values of one dimension as a list, or (low, high) of a range."""
    config = registry().find("method", str(entry.method)).Config
    sections: tuple[type[BaseModel], ...] = (config, ModelSection, RolloutsSection, DataSection, RunOptions)
    found = next((model.model_fields[key] for model in sections if key in model.model_fields), None)
    if key in FOR_ALL or (key in RunOptions.model_fields and key != "preset"):
        raise UsageError(f"--sweep {whole}: {key} is the same for all entrants")
    if found is None:
        known = [name for model in sections[:3] for name in model.model_fields]
        raise UsageError(f"--sweep {whole}: {entry.method} has no option {key!r}{nearest(key, known)}")
    low, dots, high = text.partition("..")
    if dots and draws is not None and not low.startswith((".", "/", "~")):
        ends: list[Any] = [config_fields.parse(end.strip(), found.annotation) for end in (low, high)]
        if all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends) and ends[0] < ends[1]:
            return tuple(ends)
        raise UsageError(f"--sweep {whole}: LOW..HIGH are two numbers, the lower one first")
    values = [value.strip() for value in _COMMA.split(text)]
    if dots and any(_RANGE.fullmatch(value) for value in values):
        raise UsageError(f"--sweep {whole}: a range is drawn from: say how often by --draws N, or list values")
    return [config_fields.parse(value, found.annotation) for value in values]


def _draw(values: Any, rng: np.random.Generator) -> Any:
    """One of the values, or a number of a range: uniform in its logarithm where it lies above 0, to 3 digits."""
    if isinstance(values, list):
        return values[int(rng.integers(len(values)))]
    low, high = values
    if isinstance(low, int) and isinstance(high, int):
        return int(rng.integers(low, high + 1))
    drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if low > 0 else rng.uniform(low, high)
    return float(f"{drawn:.3g}")


def _short(value: Any) -> str:
    """A value in an entrant's name: without what a name may not have."""
    return _NOT_IN_NAME.sub("", f"{value:g}" if isinstance(value, float) else str(value))
