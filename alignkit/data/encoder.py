"""Texts -> token ids, and which of them are scored, many at a time over flat arrays.

gigatoken makes the ids where it is there, takes the vocabulary, and gives the same ids as `tokenizers` on a sample of
the run's own texts; else `tokenizers` does. Its cache grows with what it has seen, so that it is made anew after
_REBUILT_AFTER bytes. Vocabularies that lack a byte, which it refuses, get one for it that no text may end up with:
texts that do are left to `tokenizers`.

Where a token lies follows from the bytes of those before it. Texts for which that does not come out (normalised
texts, bytes without a token), and texts in which something looks like a special token but is what a message says, take
their places from the tokenizer's own offsets.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from alignkit import _native
from alignkit.data.layouts import Scored
from alignkit.errors import InputError

UNSCORED = -100
_SAMPLE = 128  # texts on which both tokenizers must agree
_SAMPLE_CHARACTERS = 200_000
_REBUILT_AFTER = 256 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """Token ids of many texts: text n has [offsets[n], offsets[n + 1]).

    Args:
        ids: int32 [tokens].
        scored: bool [tokens], which lie wholly inside a span of their text.
        offsets: int64 [texts + 1].
    """

    ids: np.ndarray
    scored: np.ndarray
    offsets: np.ndarray


class Encoder:
    """One tokenizer, made fast.

    Args:
        tokenizer: a fast tokenizer of transformers.
        special: matches its special tokens.
    """

    def __init__(self, tokenizer: Any, special: re.Pattern[str]) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._special = special
        self._fast: _Gigatoken | None = None
        self._is_compared = False

    def load(self) -> None:
        """Make now what the first many texts would make: tables of the vocabulary, and gigatoken's tokenizer."""
        _ = self._token_lengths, self._normalizes, self._gigatoken

    def ids(self, text: Scored) -> np.ndarray:
        """Return the token ids of one text, int32."""
        if text.plain:
            return self._with_offsets(text)[0]
        return np.array(self._backend.encode(text.text, add_special_tokens=False).ids, np.int32)

    def encode(self, texts: Sequence[Scored]) -> Encoded:
        """Return the token ids of texts, and which are scored."""
        ids, offsets = self._flat([text.text for text in texts])
        byte_spans, span_offsets, lengths = _in_bytes(texts)
        scored, unequal = _native.score_bytes(ids, offsets, self._token_lengths, lengths, byte_spans, span_offsets)
        slow = {int(row) for row in unequal} | {row for row, text in enumerate(texts) if self._needs_care(text)}
        if slow:
            return self._patched(texts, Encoded(ids, scored, offsets), slow)
        return Encoded(ids, scored, offsets)

    def plain_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of texts, int32, and their offsets, int64."""
        ids, offsets = self._flat(texts)
        beyond = np.flatnonzero(ids >= self._num_tokens)
        if len(beyond):
            encoded = Encoded(ids, np.zeros(len(ids), bool), offsets)
            rows = {int(row) for row in np.searchsorted(offsets, beyond, side="right") - 1}
            encoded = self._patched([Scored(text) for text in texts], encoded, rows)
            return encoded.ids, encoded.offsets
        return ids, offsets

    @cached_property
    def reads_left_to_right(self) -> bool:
        """Whether tokens depend on what is near them alone: bytes, split into words before they are merged."""
        own = self._backend.pre_tokenizer
        return own is not None and "ByteLevel" in _kinds(from_json(own.__getstate__()))

    def _needs_care(self, text: Scored) -> bool:
        return bool(text.plain) or (
            self._normalizes and not text.text.isascii() and not unicodedata.is_normalized("NFC", text.text)
        )

    def _flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if not self._is_compared and sum(map(len, texts)) > _SAMPLE_CHARACTERS // 4:  # a few texts are not worth it
            self._is_compared = True
            self._fast = self._compared(texts)
        if self._fast is not None:
            return self._fast.encode(texts)
        return self._by_tokenizers(texts)

    def _by_tokenizers(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        own = [np.array(encoding.ids, np.int32) for encoding in encoded]
        offsets = np.cumsum([0, *map(len, own)], dtype=np.int64)
        return np.concatenate([np.zeros(0, np.int32), *own]), offsets

    def _compared(self, texts: Sequence[str]) -> _Gigatoken | None:
        """gigatoken, if it gives the ids of `tokenizers` on a sample of texts."""
        fast = self._gigatoken
        if fast is None:
            return None
        step = max(1, len(texts) // _SAMPLE)
        sample: list[str] = []
        size = 0
        for text in texts[::step]:
            size += len(text)
            if size > _SAMPLE_CHARACTERS and sample:
                break
            sample.append(text)
        (ids, offsets), (own, own_offsets) = fast.encode(sample), self._by_tokenizers(sample)
        for number in range(len(sample)):
            found = ids[offsets[number] : offsets[number + 1]]
            known = own[own_offsets[number] : own_offsets[number + 1]]
            if (found < self._num_tokens).all() and not np.array_equal(found, known):
                _log.warning("tokenized by tokenizers: gigatoken gives other ids on a sample of these texts")
                return None
        return fast

    @cached_property
    def _gigatoken(self) -> _Gigatoken | None:
        """gigatoken with this vocabulary, where it is there and takes it."""
        try:
            return _Gigatoken(from_json(self._backend.to_str(), cache_strings="keys"))
        except ImportError:
            return None
        except Exception as error:  # it refuses vocabularies with errors of many kinds
            _log.info("tokenized by tokenizers: gigatoken refuses this vocabulary (%s)", str(error).splitlines()[:1])
            return None

    def _patched(self, texts: Sequence[Scored], encoded: Encoded, rows: set[int]) -> Encoded:
        """Encode some of the texts again, with the tokenizer's own offsets."""
        ids = np.split(encoded.ids, encoded.offsets[1:-1])
        scored = np.split(encoded.scored, encoded.offsets[1:-1])
        for row in rows:
            ids[row], starts, ends = self._with_offsets(texts[row])
            spans = np.array(texts[row].spans, np.int64).reshape(-1, 2)
            places = np.array([0, len(ids[row])]), np.array([0, len(spans)])
            labels = _native.mask_labels(ids[row], starts, ends, places[0], spans, places[1])
            scored[row] = labels != UNSCORED
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        return Encoded(np.concatenate(ids), np.concatenate(scored), offsets)

    def _with_offsets(self, text: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids of a text, and where each begins and ends, in characters."""
        if not text.plain:
            return _places([(0, self._backend.encode(text.text, add_special_tokens=False))])
        pieces = self._pieces(text)
        hidden = _without(text)
        whole = self._backend.encode(hidden, add_special_tokens=False).ids
        if whole != [number for _, piece in self._encoded(hidden, pieces) for number in piece.ids]:
            raise InputError(
                "a message holds what looks like a special token, and this tokenizer cannot write it as text: "
                f"{text.text[slice(*text.plain[0])]!r}; take it out of the row"
            )
        return _places(self._encoded(text.text, pieces))

    def _pieces(self, text: Scored) -> list[tuple[int, int, bool]]:
        """Split at the true special tokens: (start, end, whether it is one)."""
        pieces, at = [], 0
        for found in self._special.finditer(_without(text)):
            pieces += [(at, found.start(), False), (*found.span(), True)]
            at = found.end()
        return [piece for piece in [*pieces, (at, len(text.text), False)] if piece[0] < piece[1]]

    def _encoded(self, text: str, pieces: Sequence[tuple[int, int, bool]]) -> list[tuple[int, Any]]:
        encoded = []
        was = self._backend.encode_special_tokens
        try:
            for start, end, is_special in pieces:
                self._backend.encode_special_tokens = not is_special
                encoded.append((start, self._backend.encode(text[start:end], add_special_tokens=False)))
        finally:
            self._backend.encode_special_tokens = was
        return encoded

    @cached_property
    def _normalizes(self) -> bool:
        return self._backend.normalizer is not None

    @cached_property
    def _num_tokens(self) -> int:
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def _token_lengths(self) -> np.ndarray:
        """Bytes of each token, int32; a byte-level token has a letter for each."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        lengths = np.zeros(self._num_tokens + 256, np.int32)  # and 256 for the bytes that gigatoken wants
        lengths[np.fromiter(vocabulary.values(), np.int64, len(vocabulary))] = np.fromiter(
            map(len, vocabulary), np.int32, len(vocabulary)
        )
        for number, token in self._backend.get_added_tokens_decoder().items():
            lengths[number] = len(token.content.encode())
        lengths[self._num_tokens :] = -(1 << 20)  # never comes out: texts with them are encoded again
        return lengths


class _Gigatoken:
    """gigatoken on a tokenizer.json, made anew after a bounded volume of text."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = _with_all_bytes(settings)
        self._made = self._make()
        self._num_bytes = 0

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        self._num_bytes += sum(map(len, texts))
        if self._num_bytes > _REBUILT_AFTER:
            self._made, self._num_bytes = self._make(), 0
        if not texts:
            return np.zeros(0, np.int32), np.zeros(1, np.int64)
        layout = self._made.encode_batch(list(texts)).layout
        offsets = np.asarray(layout.offsets.data, np.int64)
        ids = np.asarray(layout.content.data).view(np.int32)[offsets[0] : offsets[-1]]
        return ids, offsets - offsets[0]

    def _make(self) -> Any:
        import gigatoken

        return gigatoken.Tokenizer.from_json(self._settings)


def _with_all_bytes(settings: Mapping[str, Any]) -> bytes:
    """Add a token beyond the vocabulary for each byte that has none; the tokenizer.json of that."""
    vocabulary = settings["model"]["vocab"]
    used = [*vocabulary.values(), *(token["id"] for token in settings["added_tokens"])]
    visible = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 256)}
    hidden = iter(range(256, 512))
    letters = [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]
    missing = [letter for letter in letters if letter not in vocabulary]
    more = {letter: max(used) + 1 + number for number, letter in enumerate(missing)}
    model = {**settings["model"], "vocab": {**vocabulary, **more}} if missing else settings["model"]
    return to_json({**settings, "model": model})


def _in_bytes(texts: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans of all texts in bytes, int64 [m, 2], where each text's begin, and each text's length in bytes."""
    spans: list[int] = []
    counts, lengths = [0], []
    for text in texts:
        if text.text.isascii():
            lengths.append(len(text.text))
            for span in text.spans:
                spans += span
        else:
            lengths.append(len(text.text.encode()))
            for start, end in text.spans:
                first = len(text.text[:start].encode())
                spans += (first, first + len(text.text[start:end].encode()))
        counts.append(len(spans) // 2)
    return np.array(spans, np.int64).reshape(-1, 2), np.array(counts, np.int64), np.array(lengths, np.int64)


def _places(encoded: Sequence[tuple[int, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = [number for _, piece in encoded for number in piece.ids]
    places = [(at + start, at + end) for at, piece in encoded for start, end in piece.offsets]
    starts, ends = np.array(places, np.int64).reshape(-1, 2).T
    return np.array(ids, np.int32), np.ascontiguousarray(starts), np.ascontiguousarray(ends)


def _without(text: Scored) -> str:
    """The text with letters in place of what only looks like special tokens."""
    parts, at = [], 0
    for start, end in text.plain:
        parts += [text.text[at:start], "x" * (end - start)]
        at = end
    return "".join([*parts, text.text[at:]])


def _kinds(pre_tokenizer: Any) -> set[str]:
    """The kinds of a pre-tokenizer and of those it is made of."""
    if not isinstance(pre_tokenizer, dict):
        return set()
    inner = (_kinds(part) for part in pre_tokenizer.get("pretokenizers", ()))
    return {str(pre_tokenizer.get("type"))}.union(*inner)
