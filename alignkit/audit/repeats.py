"""Rows that repeat an earlier one in nearly the same words, and pairs that prefer the opposite of an earlier one.

Two rows are near-duplicates where their sets of pairs of words have a Jaccard similarity of at least 0.5 and their
answers are alike too (rust_ext/core/src/duplicates.rs). Of real rows with answers of twenty words or more, 98 of 100
are found again after one word in ten of both answers was changed (bench/data_audit.py). Shape letter: P rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignkit._native import near_duplicates
from alignkit.audit.pairs import PairSet

THRESHOLD = 0.5
REPEATS, OPPOSES = "says nearly the same", "prefers the opposite"
"""How the reasons begin for which rows are taken out."""
_ADDED = 0.1  # of a prompt's words, which a copy of it may have more
_COMPARED = 500  # prompts of one group; set answers to more than these are told apart by their words alone
_WORD = re.compile(r"\w+|[^\w\s.,!?:;'\"]")


@dataclass(frozen=True)
class Repeats:
    """What each row repeats.

    Args:
        of_P: int64 [P], the earlier row, itself no repeat, or -1.
        similarity_P: float64 [P], to that row.
        is_opposite_P: bool [P], the answer that the earlier row prefers is the rejected one here, or marked bad.
    """

    of_P: np.ndarray
    similarity_P: np.ndarray
    is_opposite_P: np.ndarray

    @property
    def is_duplicate_P(self) -> np.ndarray:
        """bool [P]: repeats an earlier row with the same preference."""
        return (self.of_P >= 0) & ~self.is_opposite_P

    @property
    def is_contested_P(self) -> np.ndarray:
        """bool [P]: prefers the opposite of an earlier row, or is such an earlier row."""
        is_contested_P = self.is_opposite_P.copy()
        is_contested_P[self.of_P[self.is_opposite_P]] = True
        return is_contested_P


def find_repeats(pairs: PairSet, rows: np.ndarray | None = None) -> Repeats:
    """Compare every row with the rows before it.

    Args:
        rows: int64, which rows alone are compared, rising; all where None.
    """
    rows = np.arange(len(pairs)) if rows is None else rows
    columns = [[texts[row] or "" for row in rows] for texts in (pairs.prompts, pairs.chosen, pairs.rejected)]
    of, similarity, is_crossed = near_duplicates(columns[0], columns[1], columns[2], THRESHOLD)
    of_P = np.full(len(pairs), -1)
    of_P[rows] = np.where(of >= 0, rows[of], -1) if len(rows) else -1
    similarity_P, is_crossed_P = np.zeros(len(pairs)), np.zeros(len(pairs), bool)
    similarity_P[rows], is_crossed_P[rows] = similarity, is_crossed
    says_P = pairs.is_preference_P | (pairs.label_P >= 0)
    return Repeats(of_P, similarity_P, is_crossed_P & says_P & says_P[of_P])


def removals(pairs: PairSet, repeats: Repeats) -> tuple[dict[int, str], dict[int, str]]:
    """Say which rows are taken out as repeats, and which as opposites, each with its reason.

    Only rows with nearly the same prompt are: answers of set phrases are alike to many questions. Of rows that repeat
    each other the first one stays. Where some prefer the opposite of others, those that are fewer
    go; where there are as many of each, all of them.
    """
    groups: Mapping[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(repeats.of_P >= 0).tolist():
        groups[int(repeats.of_P[row])].append(row)
    repeating: dict[int, str] = {}
    opposing: dict[int, str] = {}
    for group in _by_prompt(pairs, groups):
        opposite = [row for row in group if repeats.is_opposite_P[row]]
        same = [row for row in group if not repeats.is_opposite_P[row]]
        for rows, against in ((same, opposite), (opposite, same)):
            if against and len(rows) <= len(against):
                reason = f"{OPPOSES} of {pairs.said(against[0])}, which says nearly the same"
                opposing |= dict.fromkeys(rows, reason)
                continue
            for row in rows[1:]:
                repeating[row] = f"{REPEATS} as {pairs.said(rows[0])}"
    return repeating, opposing


def _by_prompt(pairs: PairSet, groups: Mapping[int, Sequence[int]]) -> Iterator[list[int]]:
    """Part rows that say nearly the same into those with nearly the same prompt."""
    for first, others in groups.items():
        parts: list[tuple[list[str], list[int]]] = []
        same: dict[tuple[str, ...], list[int]] = {}
        for row in (first, *others):
            words = _WORD.findall(pairs.prompts[row].casefold())
            rows = same.get(tuple(words))
            if rows is None:
                rows = next((rows for own, rows in parts[:_COMPARED] if _ask_alike(own, words)), None)
            if rows is None:
                rows = same[tuple(words)] = []
                parts.append((words, rows))
                rows.append(row)
            else:
                rows.append(row)
        yield from (rows for _, rows in parts)


def _ask_alike(words: Sequence[str], others: Sequence[str]) -> bool:
    """Whether one prompt is the other with at most a tenth of its words added; another word is another question."""
    shorter, longer = sorted((words, others), key=len)
    if len(longer) - len(shorter) > _ADDED * len(longer):
        return False
    rest = iter(longer)
    return all(word in rest for word in shorter)
