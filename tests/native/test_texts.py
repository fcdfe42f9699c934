# ruff: noqa: RUF001  (punctuation of other scripts)
"""What is counted in texts: measures, phrases and hashed n-grams equal plain references."""

from __future__ import annotations

import random

import numpy as np
import pytest
import reference_texts as reference
from hypothesis import given
from hypothesis import strategies as st

from alignkit import _native
from alignkit.audit.measures import MEASURES, REFUSAL_WORDS, text_measures

WORDS = "a B cat Don't Ä é e\u0301 Груши 写 诗 กข 7 42 _ \u0301 \U0001f600 ✅".split()
MARKS = '- |2. |1、|# |#######|| x |```|~~~|**|`|https://|www.|/|.|…|?|？|!|！|。|,|，|"|“|「'.split("|")
PIECES = (*WORDS, *MARKS, "| x |", " ", " ", " ", "\n", "\n\n", "\t")
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), max_size=5)


@given(TEXTS)
def test_measures_equal_the_reference(texts: list[str]) -> None:
    found = _native.text_measures(texts)
    assert found.shape == (len(texts), len(_native.TEXT_MEASURES)) and found.dtype == np.int32
    for text, row in zip(texts, found.tolist(), strict=True):
        assert dict(zip(_native.TEXT_MEASURES, row, strict=True)) == reference.measures(text)


@given(TEXTS, st.lists(st.lists(st.sampled_from(("a", "B a", "don t", "写诗", "?", "cat 7 cat")))), st.integers(0, 9))
def test_phrases_equal_the_reference(texts: list[str], lists: list[list[str]], within: int) -> None:
    found = _native.count_phrases(texts, lists, within)
    assert found.shape == (len(texts), len(lists))
    expected = [[reference.count_phrases(text, phrases, within) for phrases in lists] for text in texts]
    assert found.tolist() == expected


@given(TEXTS, st.integers(1, 3), st.integers(1, 31))
def test_ngrams_equal_the_reference(texts: list[str], longest: int, bits: int) -> None:
    offsets, buckets, counts = _native.hashed_ngrams(texts, longest, bits)
    assert (offsets.dtype, buckets.dtype, counts.dtype) == (np.int64, np.int32, np.int32)
    assert (offsets[0], offsets[-1], len(offsets)) == (0, len(buckets), len(texts) + 1)
    for text, first, end in zip(texts, offsets, offsets[1:], strict=False):
        found = list(zip(buckets[first:end].tolist(), counts[first:end].tolist(), strict=True))
        assert found == reference.hashed_ngrams(text, longest, bits)


@pytest.mark.parametrize(("longest", "bits"), [(0, 8), (2, 0), (2, 32)])
def test_ngrams_of_no_size_are_refused(longest: int, bits: int) -> None:
    with pytest.raises(ValueError, match="longest must be at least 1, and bits from 1 to 31"):
        _native.hashed_ngrams(["a"], longest, bits)


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        _native.text_measures(["a\ud800"])


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_shared_runs_equal_the_reference(left: list[str], right: list[str], size: int) -> None:
    pairs = list(zip(left, right, strict=False))
    found = _native.shared_runs([a for a, _ in pairs], [b for _, b in pairs], size)
    assert found.shape == (len(pairs), 3)
    assert [tuple(row) for row in found.tolist()] == [reference.shared_runs(*pair, size) for pair in pairs]


def test_texts_without_another_are_refused() -> None:
    with pytest.raises(ValueError, match="1 texts have 0 others"):
        _native.shared_runs(["a"], [], 2)
    with pytest.raises(ValueError, match="there are 1 prompts, 0 first and 0 second answers"):
        _native.near_duplicates(["a"], [], [], 0.5)


def test_near_duplicates_equal_a_comparison_of_all_with_all() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{n}" for n in range(60)] + list("写一首诗关于大海")
    rows: list[tuple[str, str, str]] = []
    for _ in range(150):
        made = [" ".join(rng.choices(vocabulary, k=rng.choice((0, 1, 4, 15, 60)))) for _ in range(3)]
        if rows and rng.random() < 0.6:
            made = [edited(text, rng) for text in rng.choice(rows)]
        if rng.random() < 0.2:
            made[1:] = made[:0:-1]
        rows.append((made[0], made[1], made[2]))
    expected = reference.near_duplicates(rows, 0.6)
    of, similarity, is_crossed = _native.near_duplicates(*(list(column) for column in zip(*rows, strict=True)), 0.6)
    assert list(zip(of.tolist(), similarity.tolist(), is_crossed.tolist(), strict=True)) == expected
    assert sum(earlier >= 0 for earlier, _, _ in expected) > 30 and any(crossed for _, _, crossed in expected)


def edited(text: str, rng: random.Random) -> str:
    own = text.split()
    for _ in range(rng.choice((0, 0, 1, 3))):
        if own:
            own[rng.randrange(len(own))] = "new"
    return " ".join(own)


def test_scripts_and_languages_are_named_where_they_are_known() -> None:
    texts = [
        "What is the longest river, and where does it flow to?",
        "Der längste Fluss Europas mündet in das Kaspische Meer.",
        "7",
    ]
    expected = [("Latin", "English"), ("Latin", "German"), (None, None)]
    assert _native.scripts_and_languages(texts) == expected


REFUSED = (
    "I’m sorry, but I can’t help with that.",
    "As an AI language model, I cannot provide opinions.",
    "Es tut mir leid, dabei kann ich nicht helfen.",
    "Désolé, je ne peux pas répondre à cette demande.",
    "Lo siento, no puedo ayudarte con eso.",
    "Desculpe, não posso ajudar com isso.",
    "Mi dispiace, non posso aiutarti.",
    "Извините, я не могу помочь с этим.",
    "很抱歉，我无法提供这方面的信息。",
    "申し訳ありませんが、お手伝いできません。",
    "죄송하지만 도와드릴 수 없습니다.",
    "عذراً، لا أستطيع مساعدتك في ذلك.",
)
ANSWERED = (
    "The Rhine.",
    "You can't help but admire it.",
    "She told him that " + "and then " * REFUSAL_WORDS + "I cannot help you.",
    "Der Rhein kann nicht überquert werden.",
    "长江是中国最长的河流。",
)


def test_refusals_are_known_in_many_languages_and_only_where_an_answer_begins() -> None:
    refusals = MEASURES.index("refusals")
    assert (text_measures(REFUSED)[:, refusals] > 0).all()
    assert not text_measures(ANSWERED)[:, refusals].any()
    assert text_measures(REFUSED)[:, MEASURES.index("apologies")].sum() >= 10


def test_hedges_are_counted_wherever_they_stand() -> None:
    texts = ["Perhaps. It might be so; I think it may be.", "It is so.", "他可能来，也许不来。"]
    assert text_measures(texts)[:, MEASURES.index("hedges")].tolist() == [4, 0, 2]


def test_a_finder_finds_what_it_was_given_in_a_contents_bytes() -> None:
    finder = _native.Finder(["<|", "</s>", "Human:", "\u00e9"], ignores_case=True)
    for content in ("a" * 99 + "</S>", "HUMAN:", "caf\u00e9", "<" * 70 + "|"):
        assert finder.is_in(content.encode()), content
    for content in ("", "<s>", "human:", "cafe", "<" * 70):
        assert not finder.is_in(content.encode()), content
    assert not _native.Finder(["</s>"]).is_in(b"</S>")
