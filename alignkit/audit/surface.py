"""What the two answers of a pair look like beside each other: the features that every later part compares.

A pair is described by differences, chosen less rejected, so that swapping its answers changes all signs and nothing
else: for each measure (measures.py) of log(1 + count), of its sign and of the count per word; of how many of the
prompt's words an answer takes up; and of the 1- and 2-grams of words that stand in one answer alone.
Shape letters: P pairs, M measures, K features, B buckets of hashed n-grams.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from alignkit._native import hashed_ngrams
from alignkit.audit.measures import MEASURES, text_measures
from alignkit.audit.pairs import PairSet
from alignkit.statistics.resampling import Clusters

REPEATS, ENDS = "repeats", "ends"
COVERED, TAKEN, SHARED = "covered", "taken", "shared"
"""The share of the prompt's words that an answer has, of the answer's that the prompt has, and their number."""
ODD = "odd characters"
"""(log length - 5)^2, length in characters: very short and very long answers are alike."""
COLUMNS = (*MEASURES, REPEATS, ENDS)
"""Counts of one answer: the measures, words and pairs of words that stand in it before, whether it ends whole."""
FEATURES = (*(f"{kind} {name}" for kind in ("log", "more", "rate") for name in COLUMNS), *(COVERED, TAKEN, SHARED, ODD))
OTHERS = "other sources"
MIN_PAIRS = 100
"""A source with fewer has no fit of its own, and others are not measured by it."""
_MAX_SOURCES = 16
_BITS = 18
_FARTHEST = 4.0  # standard deviations; beyond them a difference counts no more
_ENDS = tuple(".!?:)]}>*|`\"'\u201d\u2026\u3002\uff01\uff1f\uff09\u300d")  # the last seven: quotes, stops and brackets
_AT_ONCE = 4096
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Compared:
    """The preferences of a set: pairs of different answers, ties left out.

    Args:
        rows: int64 [P], their places in the `PairSet`.
        names: each pair's source, as its row says.
        prompts: which pairs have the same prompt.
        counts_P2M: int32 [P, 2, M], `COLUMNS` of the chosen and the rejected answer.
        overlap_P3: float64 [P, 3], `COVERED`, `TAKEN` and `SHARED`, chosen less rejected.
        signs_PB: int8 [P, B], which n-grams the chosen answer has alone (1) and the rejected one (-1).
        answer_P2: int64 [P, 2]: the same number for the same answer to the same prompt.
        means_PE: float32 [P, E], mean embeddings of the answers' tokens, chosen less rejected; None without a model.
    """

    rows: np.ndarray
    names: list[str]
    prompts: Clusters
    counts_P2M: np.ndarray
    overlap_P3: np.ndarray
    signs_PB: sparse.csr_array
    answer_P2: np.ndarray
    means_PE: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask_P: np.ndarray) -> Compared:
        """Some of the pairs, as a set of their own."""
        return Compared(
            self.rows[mask_P],
            [name for name, is_kept in zip(self.names, mask_P, strict=True) if is_kept],
            self.prompts.where(mask_P),
            self.counts_P2M[mask_P],
            self.overlap_P3[mask_P],
            self.signs_PB[np.flatnonzero(mask_P)],
            self.answer_P2[mask_P],
            None if self.means_PE is None else self.means_PE[mask_P],
        )

    @cached_property
    def sources(self) -> list[str]:
        """Sources with enough pairs for a fit of their own, the largest first; the rest are one, `OTHERS`."""
        counts = Counter(self.names)
        common = [name for name, count in counts.most_common(_MAX_SOURCES) if count >= MIN_PAIRS]
        return common + [OTHERS] * (len(common) < len(counts))

    @cached_property
    def source_P(self) -> np.ndarray:
        """int64 [P], numbers of `sources`."""
        numbers = {name: number for number, name in enumerate(self.sources)}
        return np.array([numbers.get(name, len(self.sources) - 1) for name in self.names], np.int64)

    @cached_property
    def x_PK(self) -> np.ndarray:
        """float32 [P, K], `FEATURES`: differences of mean square 1, not centred."""
        counts_P2M = self.counts_P2M.astype(np.float64)
        logs = np.log1p(counts_P2M)
        logs_PM = logs[:, 0] - logs[:, 1]
        rates = counts_P2M / np.maximum(counts_P2M[:, :, [COLUMNS.index("words")]], 1)
        odd = (logs[:, :, COLUMNS.index("characters")] - 5) ** 2
        parts = (logs_PM, np.sign(logs_PM), rates[:, 0] - rates[:, 1], self.overlap_P3, odd[:, [0]] - odd[:, [1]])
        return scaled(np.concatenate(parts, axis=1))

    @cached_property
    def grams_PB(self) -> sparse.csr_array:
        """float32 [P, B], the n-grams weighted by log(P / pairs that differ in them); rows of length 1 or 0.

        Those in which only one pair differs are left out.
        """
        signs, num_pairs = self.signs_PB, len(self)
        pairs_B = np.bincount(signs.indices, minlength=signs.shape[1])
        weight_B = np.where(pairs_B > 1, np.log((num_pairs + 1) / np.maximum(pairs_B, 1)), 0).astype(np.float32)
        weighted = (signs.data * weight_B[signs.indices], signs.indices.copy(), signs.indptr.copy())
        grams = sparse.csr_array(weighted, signs.shape)
        grams.eliminate_zeros()  # in place: of arrays of its own
        length_P = sparse.linalg.norm(grams, axis=1).astype(np.float32)
        grams.data /= np.repeat(length_P, np.diff(grams.indptr))
        return grams


def compare(pairs: PairSet) -> Compared:
    """Describe the preferences of a set."""
    rows = np.flatnonzero(pairs.is_preference_P)
    parts = [rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE)] or [rows]
    with ThreadPoolExecutor(_THREADS) as threads:  # the kernels release the interpreter
        counts, overlaps, signs = zip(*threads.map(lambda part: _compare(pairs, part.tolist()), parts), strict=True)
    return Compared(
        rows,
        [pairs.sources[row] for row in rows],
        pairs.prompt_P.where(pairs.is_preference_P),
        np.concatenate(counts),
        np.concatenate(overlaps),
        sparse.vstack(signs, format="csr"),
        _answers(pairs, rows),
    )


def _compare(pairs: PairSet, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray, sparse.csr_array]:
    """Counts, overlaps and signs of some of the pairs."""
    chosen = [pairs.chosen[row] or "" for row in rows]
    rejected = [pairs.rejected[row] or "" for row in rows]
    asked = _grams([pairs.prompts[row] for row in rows], 1)
    sides = [(texts, _grams(texts, 2)) for texts in (chosen, rejected)]
    overlap_P3 = _overlap(asked, _grams(chosen, 1)) - _overlap(asked, _grams(rejected, 1))
    signs_PB = _present(sides[0][1]) - _present(sides[1][1])
    signs_PB.eliminate_zeros()
    return np.stack([_counts(texts, grams) for texts, grams in sides], axis=1), overlap_P3, signs_PB


def scaled(x_PK: np.ndarray) -> np.ndarray:
    """Differences divided by the root of their mean square, column by column, the farthest cut, float32 [P, K]."""
    scale_K = np.sqrt((x_PK.astype(np.float64) ** 2).sum(0) / max(1, len(x_PK)))
    cut_PK = np.clip(x_PK / np.where(scale_K > 0, scale_K, 1), -_FARTHEST, _FARTHEST)
    return cut_PK.astype(np.float32)


def _grams(texts: Sequence[str], longest: int) -> sparse.csr_array:
    offsets, buckets, counts = hashed_ngrams(texts, longest, _BITS)
    return sparse.csr_array((counts, buckets, offsets), shape=(len(texts), 1 << _BITS))


def _present(grams: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones(grams.nnz, np.int8), grams.indices, grams.indptr), shape=grams.shape)


def _counts(texts: Sequence[str], grams: sparse.csr_array) -> np.ndarray:
    repeats = np.asarray(grams.sum(1)).ravel() - np.diff(grams.indptr)
    ends = [text.rstrip().endswith(_ENDS) for text in texts]
    return np.concatenate((text_measures(texts), np.stack((repeats, ends), axis=1)), axis=1).astype(np.int32)


def _overlap(asked: sparse.csr_array, answered: sparse.csr_array) -> np.ndarray:
    """`COVERED`, `TAKEN` and `SHARED` of each answer, float64 [texts, 3]."""
    first, second = _present(asked), _present(answered)
    shared = np.asarray((first * second).sum(1, dtype=np.int64)).ravel()
    sizes = np.stack([np.diff(first.indptr), np.diff(second.indptr)], axis=1)
    return np.concatenate((shared[:, None] / np.maximum(sizes, 1), shared[:, None]), axis=1)


def _answers(pairs: PairSet, rows: np.ndarray) -> np.ndarray:
    numbers: dict[tuple[int, str], int] = {}
    answer_P2 = np.empty((len(rows), 2), np.int64)
    for place, row in enumerate(rows.tolist()):
        prompt = int(pairs.prompt_P.number_P[row])
        for side, texts in enumerate((pairs.chosen, pairs.rejected)):
            answer_P2[place, side] = numbers.setdefault((prompt, texts[row] or ""), len(numbers))
    return answer_P2
