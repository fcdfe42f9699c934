"""Texts -> token ids, and which of them are scored, many at a time over flat arrays.

gigatoken makes the ids where it and awkward, in whose arrays it answers, are there, where it takes the vocabulary, and
where it gives the same ids as `tokenizers` on a sample of the run's own texts; else `tokenizers` does. Its cache grows
with what it has seen, so that it is made anew after _REBUILT_AFTER bytes. Vocabularies that lack a byte, which it
refuses, get one for it that no text may end up with: texts that do are left to `tokenizers`.

Where a token lies follows from the bytes of those before it, in the text's normal form C where the tokenizer has that.
FlatTexts for which that does not come out (bytes without a token, letters joined across a span's border), texts in
which something looks like a special token but is what a message says, and all texts of tokenizers that are not
byte-level, take their places from the tokenizer's own offsets.

Many tokenizers do something at the beginning of a text alone: SentencePiece's put a space before it. An answer does not
begin a text, so that its ids are those that the whole text has behind the prompt's (`encode_behind`).
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from alignkit import _native
from alignkit.data.encoding.texts import FlatTexts, TextWithSpans, offsets_of
from alignkit.errors import InputError

UNSCORED = -100
_SAMPLE = 128  # texts on which both tokenizers must agree
_SAMPLE_BYTES = 200_000
_REBUILT_AFTER = 256 << 20
_MIDDLES = ("\n", ")", "a", "0")  # of every kind: before any text, a token ends with one of them
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
        _ = self._token_lengths, self._normalizes, self._gigatoken, self.fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokenizer as it was when this was first asked."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def ids(self, text: TextWithSpans) -> np.ndarray:
        """Return the token ids of one text, int32."""
        if text.plain:
            return self._with_offsets(text)[0]
        return np.array(self._backend.encode(text.text, add_special_tokens=False).ids, np.int32)

    def ids_behind(self, before: TextWithSpans, text: TextWithSpans) -> np.ndarray:
        """Return the token ids that a text has behind another, int32; see `encode_behind`."""
        if self.encodes_apart:
            return self.ids(text)
        return self._behind(before, self.ids(before), text)[0][0]

    def encode(self, texts: FlatTexts) -> Encoded:
        """Return the token ids of texts, and which are scored."""
        if not self.is_local:
            return _scored([(texts.scored(n), self._with_offsets(texts.scored(n))) for n in range(len(texts))])
        ids, offsets = self._flat(texts)
        lengths, spans, unsure = self._normal_places(texts)
        scored, unequal = _native.score_bytes(ids, offsets, self._token_lengths, lengths, spans, texts.span_offsets)
        slow = {int(row) for row in unequal} | set(texts.plain) | unsure
        if slow:
            return self._patched(texts, Encoded(ids, scored, offsets), slow)
        return Encoded(ids, scored, offsets)

    def encode_behind(self, texts: FlatTexts, befores: np.ndarray) -> tuple[Encoded, np.ndarray]:
        """Encode texts of which some go on from others of them.

        A text that goes on has the ids that both texts as one have behind the first's. Where those do not begin with
        the first's own ids, because a token lies across the border, it has those of itself in the middle of a text:
        a sampler goes on from the first's ids.

        Args:
            befores: int64 [texts], the text before each, -1 for none.

        Returns:
            The ids, and which texts have a token across the border, bool [texts].
        """
        own = [texts.scored(number) for number in range(len(texts))]
        encoded: list[_WithOffsets] = [(_NOTHING, _NOTHING, _NOTHING)] * len(own)
        is_across = np.zeros(len(own), bool)
        for number in np.flatnonzero(befores < 0).tolist():
            encoded[number] = self._with_offsets(own[number])
        for number in np.flatnonzero(befores >= 0).tolist():
            before = int(befores[number])
            encoded[number], is_across[number] = self._behind(own[before], encoded[before][0], own[number])
        return _scored(list(zip(own, encoded, strict=True))), is_across

    def plain_ids(self, texts: FlatTexts) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of texts, int32, and their offsets, int64."""
        ids, offsets = self._flat(texts)
        beyond = np.flatnonzero(ids >= self._num_tokens)
        if len(beyond):
            encoded = Encoded(ids, np.zeros(len(ids), bool), offsets)
            rows = {int(row) for row in np.searchsorted(offsets, beyond, side="right") - 1}
            encoded = self._patched(texts, encoded, rows)
            return encoded.ids, encoded.offsets
        return ids, offsets

    @cached_property
    def is_local(self) -> bool:
        """Whether tokens depend on what is near them alone: bytes, split into words before they are merged."""
        own = self._backend.pre_tokenizer
        return own is not None and "ByteLevel" in _kinds(from_json(own.__getstate__()))

    @cached_property
    def encodes_apart(self) -> bool:
        """Whether a text has the same tokens behind others as by itself, but where tokens cross the border."""
        return self.is_local and not self._marks_beginnings()

    def _marks_beginnings(self) -> bool:
        for before in ("a\n", "a)", "0:"):
            for text in ("A", " A", "  A"):
                own = self.ids(TextWithSpans(before))
                whole = self.ids(TextWithSpans(before + text))
                is_across = not np.array_equal(whole[: len(own)], own)
                if not is_across and not np.array_equal(whole[len(own) :], self.ids(TextWithSpans(text))):
                    return True
        return False

    def _normal_places(self, texts: FlatTexts) -> tuple[np.ndarray, np.ndarray, set[int]]:
        """The texts' lengths and spans in bytes, int64, as the normalizer leaves them.

        Returns also the texts for which this is not known: their tokens' places do not follow from the tokens.
        """
        lengths, spans, unsure = np.diff(texts.offsets), texts.spans, set[int]()
        for number in np.flatnonzero(~texts.is_normal).tolist() if self._normalizes else ():
            if unicodedata.is_normalized("NFC", texts.text(number)):
                continue
            place = self._normal_bytes(texts.scored(number))
            if place is None:
                unsure.add(number)
                continue
            own = slice(texts.span_offsets[number], texts.span_offsets[number + 1])
            spans = spans.copy() if spans is texts.spans else spans
            spans[own] = np.array([(place[a], place[b]) for a, b in texts.scored(number).spans], np.int64).reshape(
                -1, 2
            )
            lengths[number] = max(place.values())
        return lengths, spans, unsure

    def _normal_bytes(self, text: TextWithSpans) -> dict[int, int] | None:
        """Where the borders of a text's spans lie in the bytes of its normal form C, by their places in characters.

        None where another normalizer is used, or letters are joined across such a border or a special token's.
        """
        if type(self._backend.normalizer).__name__ != "NFC":
            return None
        whole = text.text
        marks = (border for found in self._special.finditer(whole) for border in found.span())
        borders = sorted({0, *marks, *(border for span in text.spans for border in span), len(whole)})
        parts = [unicodedata.normalize("NFC", whole[start:end]) for start, end in pairwise(borders)]
        if not unicodedata.is_normalized("NFC", "".join(parts)):
            return None
        return dict(zip(borders, accumulate((len(part.encode()) for part in parts), initial=0), strict=True))

    def _flat(self, texts: FlatTexts) -> tuple[np.ndarray, np.ndarray]:
        if not self._is_compared and len(texts.utf8) > _SAMPLE_BYTES // 4:  # a few texts are not worth it
            self._is_compared = True
            self._fast = self._compared(texts)
        if self._fast is not None:
            return self._fast.encode(texts.utf8, texts.offsets)
        return self._by_tokenizers([texts.text(number) for number in range(len(texts))])

    def _by_tokenizers(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        own = [np.array(encoding.ids, np.int32) for encoding in encoded]
        return np.concatenate([np.zeros(0, np.int32), *own]), offsets_of([len(ids) for ids in own])

    def _compared(self, texts: FlatTexts) -> _Gigatoken | None:
        """gigatoken, if it gives the ids of `tokenizers` on a sample of texts."""
        fast = self._gigatoken
        if fast is None:
            return None
        numbers = np.arange(0, len(texts), max(1, len(texts) // _SAMPLE))
        lengths = np.diff(texts.offsets)[numbers]
        numbers = numbers[: max(1, int(np.searchsorted(np.cumsum(lengths), _SAMPLE_BYTES, side="right")))]
        sample = FlatTexts.stretches(texts.utf8, texts.offsets[numbers, None], lengths[: len(numbers), None])
        ids, offsets = fast.encode(sample.utf8, sample.offsets)
        own, own_offsets = self._by_tokenizers([sample.text(number) for number in range(len(sample))])
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
        except ImportError as error:
            say_once(
                f"tokenized by tokenizers, more slowly: gigatoken cannot be used ({error}); install what is missing"
            )
            return None
        except Exception as error:  # it refuses vocabularies with errors of many kinds
            _log.info("tokenized by tokenizers: gigatoken refuses this vocabulary (%s)", str(error).splitlines()[:1])
            return None

    def _patched(self, texts: FlatTexts, encoded: Encoded, rows: set[int]) -> Encoded:
        """Encode some of the texts again, with the tokenizer's own offsets."""
        lengths = np.diff(encoded.offsets)
        all_ids, all_scored, at = [], [], 0
        for row in sorted(rows):
            text = texts.scored(row)
            own = _scored([(text, self._with_offsets(text))])
            before = slice(at, encoded.offsets[row])
            all_ids += [encoded.ids[before], own.ids]
            all_scored += [encoded.scored[before], own.scored]
            at, lengths[row] = encoded.offsets[row + 1], len(own.ids)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids, scored = np.concatenate([*all_ids, encoded.ids[at:]]), np.concatenate([*all_scored, encoded.scored[at:]])
        return Encoded(ids, scored, offsets)

    def _behind(self, before: TextWithSpans, before_ids: np.ndarray, text: TextWithSpans) -> tuple[_WithOffsets, bool]:
        """Ids and places of a text behind another, and whether a token of the whole lies across the border."""
        found = self._cut(before, before_ids, text)
        if found is not None:
            return found, False
        for letter in _MIDDLES:
            middle = TextWithSpans(letter)
            found = self._cut(middle, self.ids(middle), text)
            if found is not None:
                return found, True
        return self._with_offsets(text), True

    def _cut(self, before: TextWithSpans, before_ids: np.ndarray, text: TextWithSpans) -> _WithOffsets | None:
        """Ids and places of the second of two texts, cut from the whole; None where a token lies across the border."""
        by = len(before.text)
        plain = *before.plain, *((start + by, end + by) for start, end in text.plain)
        ids, starts, ends = self._with_offsets(TextWithSpans(before.text + text.text, (), plain))
        at = len(before_ids)
        if not np.array_equal(ids[:at], before_ids):
            return None
        # A token that also stands for the prompt's last letters, which a special token swallowed, begins the text.
        return ids[at:], np.maximum(starts[at:] - by, 0), np.maximum(ends[at:] - by, 0)

    def _with_offsets(self, text: TextWithSpans) -> _WithOffsets:
        """Ids of a text, and where each begins and ends, in characters."""
        if not text.plain:
            return self._places(text.text, *self._piece(text.text))
        pieces = self._pieces(text)
        hidden = _without(text)
        whole = self._backend.encode(hidden, add_special_tokens=False).ids
        for behind_special in (self._piece, self._piece_in_the_middle):
            if self._encoded(hidden, pieces, behind_special)[0] == whole:
                return self._places(text.text, *self._encoded(text.text, pieces, behind_special))
        raise InputError(
            "a message holds what looks like a special token, and this tokenizer cannot write it as text: "
            f"{text.text[slice(*text.plain[0])]!r}; take it out of the row"
        )

    def _places(self, text: str, ids: Sequence[int], places: list[tuple[int, int]]) -> _WithOffsets:
        """As arrays; a token that swallows the white space beside it has the place of its own letters."""
        if self._greedy:
            for number, (start, end) in enumerate(places):
                content = text[start:end].strip()
                if content in self._greedy:
                    at = text.index(content, start)
                    places[number] = at, at + len(content)
        starts, ends = np.array(places, np.int64).reshape(-1, 2).T
        return np.array(ids, np.int32), np.ascontiguousarray(starts), np.ascontiguousarray(ends)

    @cached_property
    def _greedy(self) -> dict[str, tuple[bool, bool]]:
        """The added tokens that swallow white space, and whether before and behind them."""
        added = self._backend.get_added_tokens_decoder().values()
        return {token.content: (token.lstrip, token.rstrip) for token in added if token.lstrip or token.rstrip}

    def _pieces(self, text: TextWithSpans) -> list[tuple[int, int, bool]]:
        """Split at the true special tokens, with what they swallow: (start, end, whether it is one)."""
        hidden = _without(text)
        pieces, at = [], 0
        for found in self._special.finditer(hidden):
            start, end = found.span()
            swallows_before, swallows_behind = self._greedy.get(found.group(), (False, False))
            if swallows_before:
                start = at + len(hidden[at:start].rstrip())
            if swallows_behind:
                end = len(hidden) - len(hidden[end:].lstrip())
            pieces += [(at, start, False), (start, end, True)]
            at = end
        return [piece for piece in [*pieces, (at, len(text.text), False)] if piece[0] < piece[1]]

    def _encoded(
        self, text: str, pieces: Sequence[tuple[int, int, bool]], behind_special: Callable[[str], _IdsAndPlaces]
    ) -> _IdsAndPlaces:
        all_ids: list[int] = []
        places: list[tuple[int, int]] = []
        was = self._backend.encode_special_tokens
        try:
            for at, end, is_special in pieces:
                self._backend.encode_special_tokens = not is_special
                encode = behind_special if at and not is_special else self._piece
                ids, own = encode(text[at:end])
                all_ids += ids
                places += [(at + start, at + end) for start, end in own]
        finally:
            self._backend.encode_special_tokens = was
        return all_ids, places

    def _piece(self, text: str) -> _IdsAndPlaces:
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _piece_in_the_middle(self, text: str) -> _IdsAndPlaces:
        """As `_piece`, without what the tokenizer does at the beginning of a text."""
        for letter in _MIDDLES:
            own = self._piece(letter)[0]
            ids, places = self._piece(letter + text)
            if ids[: len(own)] == own:
                return ids[len(own) :], [(max(0, start - 1), max(0, end - 1)) for start, end in places[len(own) :]]
        return self._piece(text)

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


_WithOffsets = tuple[np.ndarray, np.ndarray, np.ndarray]
"""int32 ids, and where each begins and ends in its text, int64, in characters."""
_IdsAndPlaces = tuple[list[int], list[tuple[int, int]]]
_NOTHING = np.zeros(0, np.int64)


def _scored(encoded: Sequence[tuple[TextWithSpans, _WithOffsets]]) -> Encoded:
    """Lay texts end to end, and say which tokens lie in their spans."""
    offsets = offsets_of([len(places[0]) for _, places in encoded])
    ids, starts, ends = (np.concatenate([_NOTHING, *(places[k] for _, places in encoded)]) for k in range(3))
    ids = ids.astype(np.int32)
    spans = np.array([span for text, _ in encoded for span in text.spans], np.int64).reshape(-1, 2)
    labels = _native.mask_labels(
        ids, starts, ends, offsets, spans, offsets_of([len(text.spans) for text, _ in encoded])
    )
    return Encoded(ids, labels != UNSCORED, offsets)


class _Gigatoken:
    """gigatoken on a tokenizer.json, made anew after a bounded volume of text."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = _with_all_bytes(settings)
        self._made = self._make()
        self._num_bytes = 0

    def encode(self, utf8: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and offsets of texts end to end."""
        self._num_bytes += len(utf8)
        if self._num_bytes > _REBUILT_AFTER:
            self._made, self._num_bytes = self._make(), 0
        if len(offsets) == 1:
            return np.zeros(0, np.int32), np.zeros(1, np.int64)
        layout = self._made.encode_batch(_byte_strings(utf8, offsets)).layout
        ends = np.asarray(layout.offsets.data, np.int64)
        ids = np.asarray(layout.content.data).view(np.int32)[ends[0] : ends[-1]]
        return ids, ends - ends[0]

    def _make(self) -> Any:
        import awkward  # noqa: F401 - what gigatoken answers with; without it the answers are lists
        import gigatoken

        made = gigatoken.Tokenizer.from_json(self._settings)
        made.encode_batch([b""])  # loads what it answers with
        return made


def _byte_strings(utf8: np.ndarray, offsets: np.ndarray) -> Any:
    """Texts end to end as an array of byte strings, without a copy."""
    import awkward

    letters = awkward.contents.NumpyArray(utf8, parameters={"__array__": "byte"})
    ends = awkward.index.Index64(np.ascontiguousarray(offsets, np.int64))
    return awkward.Array(awkward.contents.ListOffsetArray(ends, letters, parameters={"__array__": "bytestring"}))


@cache
def say_once(line: str) -> None:
    _log.warning("%s", line)


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


def _without(text: TextWithSpans) -> str:
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
