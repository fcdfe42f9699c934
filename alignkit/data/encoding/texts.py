"""Many texts over one flat array of UTF-8, with the stretches of each that the loss sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from alignkit.data.trees.flat import ranges


class TextWithSpans(NamedTuple):
    """Text, and the half-open character ranges of it that the loss sees.

    Args:
        plain: ranges that look like special tokens but are what a message says, and are tokenized as text.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    plain: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class FlatTexts:
    """Texts end to end: text n is `utf8[offsets[n]:offsets[n + 1]]`.

    Args:
        utf8: uint8 [bytes].
        offsets: int64 [texts + 1].
        spans: int64 [spans, 2] in C order, half-open, in bytes of their text.
        span_offsets: int64 [texts + 1], where each text's spans begin, and the end.
        is_normal: bool [texts], surely in Unicode's normal form C; the others may be too.
        plain: the texts, by number, with stretches that look like special tokens but are text.
    """

    utf8: np.ndarray
    offsets: np.ndarray
    spans: np.ndarray
    span_offsets: np.ndarray
    is_normal: np.ndarray
    plain: Mapping[int, TextWithSpans] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Sequence[TextWithSpans]) -> FlatTexts:
        """Lay texts end to end.

        Raises:
            UnicodeEncodeError: one holds half a character.
        """
        encoded = [text.text.encode() for text in texts]
        spans: list[tuple[int, int]] = []
        for text, own in zip(texts, encoded, strict=True):
            if len(own) == len(text.text):
                spans += text.spans
            else:
                spans += [(len(text.text[:a].encode()), len(text.text[:b].encode())) for a, b in text.spans]
        return FlatTexts(
            np.frombuffer(b"".join(encoded), np.uint8),
            offsets_of([len(own) for own in encoded]),
            np.array(spans, np.int64).reshape(-1, 2),
            offsets_of([len(text.spans) for text in texts]),
            np.array([text.text.isascii() for text in texts], bool),
            {number: text for number, text in enumerate(texts) if text.plain},
        )

    @classmethod
    def stretches(cls, utf8: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> FlatTexts:
        """Make texts without spans: each of k stretches of UTF-8, int64 [texts, k], one after another."""
        places, is_normal = ranges(starts.reshape(-1), lengths.reshape(-1)), np.zeros(len(starts), bool)
        none = np.zeros(len(starts) + 1, np.int64)
        return FlatTexts(utf8[places], offsets_of(lengths.sum(axis=1)), np.zeros((0, 2), np.int64), none, is_normal)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __add__(self, other: FlatTexts) -> FlatTexts:
        return FlatTexts(
            np.concatenate([self.utf8, other.utf8]),
            np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            np.concatenate([self.spans, other.spans]),
            np.concatenate([self.span_offsets, other.span_offsets[1:] + self.span_offsets[-1]]),
            np.concatenate([self.is_normal, other.is_normal]),
            {**self.plain, **{len(self) + number: text for number, text in other.plain.items()}},
        )

    def character_ends(self, places: np.ndarray) -> np.ndarray:
        """Move places in `utf8` back to where no character is cut, int64."""
        places = places.copy()
        for _ in range(3):  # a character has at most four bytes
            inside = places < len(self.utf8)
            inside[inside] = (self.utf8[places[inside]] & 0xC0) == 0x80
            places -= inside
        return places

    def text(self, number: int) -> str:
        """Return one text."""
        return self.utf8[self.offsets[number] : self.offsets[number + 1]].tobytes().decode()

    def scored(self, number: int) -> TextWithSpans:
        """Return one text with its spans in characters."""
        if number in self.plain:
            return self.plain[number]
        encoded = self.utf8[self.offsets[number] : self.offsets[number + 1]].tobytes()
        own = self.spans[self.span_offsets[number] : self.span_offsets[number + 1]].tolist()
        return TextWithSpans(
            encoded.decode(), tuple((len(encoded[:a].decode()), len(encoded[:b].decode())) for a, b in own)
        )


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of stretches of these lengths begins, and the end, int64 [n + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
