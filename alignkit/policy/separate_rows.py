"""The plain path's batches: one completion a row, after its own copy of the prompt, padded on the right.

A causal model's token reads nothing behind it. So padding there needs no mask, neither in attention nor in a
convolution or a state that is carried along, and sdpa keeps its causal kernels. The start-up checks find a model that
reads later tokens. Rows lie sorted by length; a batch ends where its padding would cost more than another pass through
the model.
B rows, L tokens of the longest; other shape letters: alignkit/policy/__init__.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.data.trees.packs import Pack


@dataclass(frozen=True)
class SeparateRows:
    """A row of trees as batches of separate completions.

    Args:
        batches: int64 [B, L] each, token ids; every completion is in one of them.
        source_T: int64 [T], the place of the token that predicts each scored token, in the order of the pack; places
            count through all batches, padding included.
        last_N: int64 [N], the place of each completion's last token.
    """

    batches: Sequence[np.ndarray]
    source_T: np.ndarray
    last_N: np.ndarray

    @classmethod
    def of(cls, pack: Pack, *, max_padding: int, max_tokens: int) -> SeparateRows:
        """Lay a pack's completions out.

        Args:
            max_padding: tokens of padding that a batch may have.
            max_tokens: of a batch, padding included; a longer row is a batch of its own.
        """
        rows = [
            np.concatenate([pack.ids_S[span.start : span.prompt_end], pack.ids_S[start:end]])
            for span in pack.spans
            for start, end in span.completions
        ]
        batches, start_N, places = [], np.zeros(len(rows), np.int64), 0
        for numbers in _batches([len(row) for row in rows], max_padding, max_tokens):
            ids_BL = np.zeros((len(numbers), len(rows[numbers[0]])), np.int64)
            for ids_L, number in zip(ids_BL, numbers, strict=True):
                ids_L[: len(rows[number])] = rows[number]
            start_N[numbers] = places + ids_BL.shape[1] * np.arange(len(numbers))
            batches.append(ids_BL)
            places += ids_BL.size
        # A token's position is its place in its row: the prompt's tokens come first, then the completion's own.
        source_T = start_N[pack.completion_T] + pack.position_S[pack.source_T]
        return cls(batches, source_T, start_N + pack.position_S[pack.last_N])


def _batches(lengths: Sequence[int], max_padding: int, max_tokens: int) -> list[list[int]]:
    """Group the numbers of rows, the longest first."""
    batches: list[list[int]] = []
    longest = padding = 0
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        padding += longest - lengths[number]
        if not batches or padding > max_padding or (len(batches[-1]) + 1) * longest > max_tokens:
            batches.append([])
            longest, padding = lengths[number], 0
        batches[-1].append(number)
    return batches
