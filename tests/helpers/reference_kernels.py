"""The kernels of alignkit._native in plain Python: slow, and simple enough to be read as right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

UNSCORED = -100


def mask_labels(rows: Sequence[tuple[Sequence[tuple[int, int, int]], Sequence[tuple[int, int]]]]) -> list[list[int]]:
    """Labels of rows of ([(id, start, end) of each token], [(start, end) of each span])."""
    return [[token if _is_inside(start, end, spans) else UNSCORED for token, start, end in own] for own, spans in rows]


def _is_inside(start: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(span_start <= start < span_end and end <= span_end for span_start, span_end in spans)


def pack_trees(lengths: Sequence[int], capacity: int) -> tuple[list[int], int]:
    """Best fit decreasing; among rows with equally little space the one put to last."""
    row_of = [-1] * len(lengths)
    free: list[int] = []
    put_at: list[int] = []
    for time, tree in enumerate(sorted(range(len(lengths)), key=lambda tree: -lengths[tree])):
        enough = [row for row in range(len(free)) if free[row] >= lengths[tree]]
        if enough:
            row = min(enough, key=lambda row: (free[row], -put_at[row]))
        else:
            row = len(free)
            free.append(capacity)
            put_at.append(time)
        free[row] -= lengths[tree]
        put_at[row] = time
        row_of[tree] = row
    return row_of, len(free)


def quantile(lengths: Sequence[int], q: float) -> float:
    """Interpolate linearly between the ranks around q (n - 1)."""
    ordered = sorted(lengths)
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def histogram(lengths: Sequence[int], edges: Sequence[int]) -> list[int]:
    """Lengths in each [edges[i], edges[i + 1])."""
    return [sum(low <= length < high for length in lengths) for low, high in pairwise(edges)]
