"""Several sources as one: `a.jsonl,b.jsonl` (all rows of both), or with weights, `a.jsonl=3,b.jsonl=1`.

Weights are shares of the mixture. No row is taken twice: of source i with n_i rows and share p_i, round(N p_i) rows
are taken, where N = min_i(n_i / p_i); the scarcest source is used whole. Which rows a source gives is drawn by a fixed
seed, and the sources alternate in the ratio of their rows, so that any stretch has the mixture's shares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from alignkit.errors import UsageError

_T = TypeVar("_T")


def parse(data: str) -> list[tuple[str, float | None]]:
    """Split `--data` into its sources with their weights; a path that exists is one source, whatever is in its name.

    Raises:
        UsageError: a part is empty, or a weight is not a number above 0.
    """
    if not data.strip():  # an unset variable of a shell, which as a path would be the working folder
        raise UsageError("--data is empty: name a file, a folder or a data set ('.' is the working folder)")
    if Path(data).expanduser().exists():
        return [(data, None)]
    sources: list[tuple[str, float | None]] = []
    for part in data.split(","):
        name, equals, weight = part.strip().rpartition("=")
        if not equals:
            name, weight = weight, ""
        if not name:
            raise UsageError(f"--data {data}: an empty part; write FILE,FILE or FILE=WEIGHT,FILE=WEIGHT")
        sources.append((name, _weight(data, name, weight) if equals else None))
    if any(weight is not None for _, weight in sources):
        return [(name, 1.0 if weight is None else weight) for name, weight in sources]
    return sources


def mix(names: Sequence[str], weights: Sequence[float], read: Callable[[str], Iterator[_T]]) -> Iterator[_T]:
    """Yield the mixture. Every source is read twice: to count its rows, and to take them."""
    counts = [sum(1 for _ in read(name)) for name in names]
    taken = shares(counts, weights)
    parts = [_drawn(name, read(name), count, wanted) for name, count, wanted in zip(names, counts, taken, strict=True)]
    given = [0] * len(names)
    for _ in range(sum(taken)):
        # whichever source is furthest behind its share; the first of equals
        behind = [(given[i] + 1) / taken[i] if given[i] < taken[i] else np.inf for i in range(len(names))]
        source = int(np.argmin(behind))
        given[source] += 1
        yield next(parts[source])


def shares(counts: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return how many rows each source gives."""
    share = np.array(weights) / sum(weights)
    whole = min(np.array(counts) / share)
    return [min(count, round(whole * p)) for count, p in zip(counts, share, strict=True)]


def _drawn(name: str, rows: Iterator[_T], count: int, wanted: int) -> Iterator[_T]:
    """Yield `wanted` of the source's rows in their order, drawn by a seed made of its name."""
    seed = int.from_bytes(hashlib.blake2b(Path(name).name.encode(), digest_size=8).digest(), "little")
    chosen = np.zeros(count, bool)
    chosen[np.random.Generator(np.random.Philox(key=seed)).permutation(count)[:wanted]] = True
    return (row for row, is_taken in zip(rows, chosen, strict=True) if is_taken)


def _weight(data: str, name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 < weight < np.inf:
        raise UsageError(f"--data {data}: the weight {text!r} of {name} is not a number above 0")
    return weight
