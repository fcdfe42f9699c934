"""Masks (Eq. 1): a token is scored exactly where its text lies wholly inside a span of its row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import reference_kernels as reference
from hypothesis import given
from hypothesis import strategies as st

from alignkit import _native

Token = tuple[int, int, int]
Span = tuple[int, int]
Row = tuple[list[Token], list[Span]]


def masked(rows: list[Row]) -> list[list[int]]:
    """Labels of rows of ([(id, start, end)], [(start, end)]), through the flat arrays of the kernel."""
    tokens = np.array([token for own, _ in rows for token in own], np.int64).reshape(-1, 3)
    row_offsets = np.cumsum([0, *(len(own) for own, _ in rows)], dtype=np.int64)
    labels = _native.mask_labels(
        tokens[:, 0].astype(np.int32),
        tokens[:, 1].copy(),
        tokens[:, 2].copy(),
        row_offsets,
        np.array([span for _, own in rows for span in own], np.int64).reshape(-1, 2),
        np.cumsum([0, *(len(own) for _, own in rows)], dtype=np.int64),
    )
    assert labels.dtype == np.int32
    return [own.tolist() for own in np.split(labels, row_offsets[1:-1])] if rows else []


@st.composite
def texts(draw: st.DrawFn) -> Row:
    """A row cut into tokens (some empty, some sharing a character) and into spans (some empty, some adjacent)."""
    length = draw(st.integers(0, 30))
    places = st.integers(0, length)
    cuts = sorted(draw(st.lists(places, max_size=20)))
    shared = draw(st.lists(st.tuples(places, places).map(sorted), max_size=4))
    tokens = [*pairwise(cuts), *shared]
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=len(tokens), max_size=len(tokens)))
    borders = sorted(draw(st.lists(places, max_size=8)))
    spans = list(zip(borders[::2], borders[1::2], strict=False))
    return [(token, start, end) for token, (start, end) in zip(ids, tokens, strict=True)], spans


@given(st.lists(texts(), max_size=6))
def test_labels_equal_the_reference(rows: list[Row]) -> None:
    assert masked(rows) == reference.mask_labels(rows)


@given(texts())
def test_scored_text_lies_in_one_span_and_other_text_in_none(row: Row) -> None:
    tokens, spans = row
    (labels,) = masked([row])
    for (token, start, end), label in zip(tokens, labels, strict=True):
        characters = set(range(start, end))
        inside = any(characters <= set(range(*span)) for span in spans)
        if characters:
            assert label == (token if inside else -100)
        elif label != -100:
            assert any(start in range(*span) for span in spans)


@given(texts())
def test_what_is_masked_and_what_is_not_are_the_row_again(row: Row) -> None:
    tokens, _ = row
    ids = [token for token, _, _ in tokens]
    (labels,) = masked([row])
    (others,) = masked([(tokens, [])])
    assert others == [-100] * len(ids)
    assert [given if label == -100 else label for given, label in zip(ids, labels, strict=True)] == ids
    length = max((end for _, _, end in tokens), default=0)
    (everything,) = masked([(tokens, [(0, length + 1)])])
    assert everything == ids


def test_two_turns_of_one_conversation_are_scored_and_the_prompts_are_not() -> None:
    text = "U:hi A:yo. U:so A:no."
    spans = [(7, 10), (18, 21)]
    tokens = [(at, at, at + 1) for at in range(len(text))]
    (labels,) = masked([(tokens, spans)])
    assert "".join(text[label] for label in labels if label != -100) == "yo.no."


def test_a_token_across_a_border_is_not_scored() -> None:
    tokens = [(10, 0, 3), (11, 3, 6), (12, 6, 8), (13, 8, 11)]
    assert masked([(tokens, [(4, 9)])]) == [[-100, -100, 12, -100]]
    assert masked([(tokens, [(3, 5), (5, 8)])]) == [[-100, -100, 12, -100]]


def test_a_token_without_text_belongs_to_the_text_that_follows_it() -> None:
    tokens = [(1, 2, 2), (2, 3, 3), (3, 4, 4), (4, 6, 6)]
    assert masked([(tokens, [(2, 4), (4, 6)])]) == [[1, 2, 3, -100]]


def test_rows_do_not_see_the_spans_of_others() -> None:
    tokens = [(5, 0, 1), (6, 1, 2)]
    assert masked([(tokens, [(0, 1)]), (tokens, []), ([], [(0, 9)]), (tokens, [(0, 2)])]) == [
        [5, -100],
        [-100, -100],
        [],
        [5, 6],
    ]


def test_no_rows_have_no_labels() -> None:
    assert masked([]) == []


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(3, 4), (1, 2)], r"row 1: span 1 begins at 1, before the end 4"),
        ([(0, 3), (2, 4)], r"row 1: span 1 begins at 2, before the end 3"),
        ([(-1, 2)], r"row 1: span 0 lies at \[-1, 2\)"),
        ([(2, 1)], r"row 1: span 0 lies at \[2, 1\)"),
    ],
)
def test_wrong_spans_are_refused_with_their_row(spans: list[Span], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masked([([(1, 0, 1)], [(0, 1)]), ([(1, 0, 1)], spans)])


@pytest.mark.parametrize("token", [(1, -1, 0), (1, 3, 2)])
def test_tokens_that_are_no_text_are_refused_with_their_row(token: Token) -> None:
    with pytest.raises(ValueError, match=r"row 1: token 1 lies at"):
        masked([([(1, 0, 1)], []), ([(1, 0, 1), token], [])])


def arguments(**changed: np.ndarray) -> dict[str, np.ndarray]:
    """Two tokens in two rows, each with its span, with some arguments changed."""
    right = {
        "ids": np.array([5, 6], np.int32),
        "starts": np.array([0, 1]),
        "ends": np.array([1, 2]),
        "row_offsets": np.array([0, 1, 2]),
        "spans": np.array([[0, 1], [1, 2]]),
        "span_offsets": np.array([0, 1, 2]),
    }
    return right | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"starts": np.array([0])}, "2 ids, 1 starts and 2 ends"),
        ({"ends": np.array([1, 2, 3])}, "2 ids, 2 starts and 3 ends"),
        ({"row_offsets": np.array([], np.int64)}, "row_offsets are empty"),
        ({"row_offsets": np.array([1, 1, 2])}, "row 0: row_offsets begin at 1"),
        ({"row_offsets": np.array([0, 3, 2])}, "row 1: row_offsets fall from 3 to 2"),
        ({"row_offsets": np.array([0, 1, 3])}, "row_offsets end at 3, but there are 2"),
        ({"span_offsets": np.array([0, 1, 1])}, "span_offsets end at 1, but there are 2"),
        ({"row_offsets": np.array([0, 2])}, "row_offsets hold 1 rows, span_offsets 2"),
        ({"spans": np.zeros((2, 3), np.int64)}, r"spans must have the shape \[m, 2\]"),
        ({"spans": np.asfortranarray([[0, 1], [1, 2]])}, "in C order"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changed: dict[str, np.ndarray], message: str) -> None:
    assert _native.mask_labels(**arguments()).tolist() == [5, 6]
    with pytest.raises(ValueError, match=message):
        _native.mask_labels(**arguments(**changed))


@pytest.mark.parametrize(
    "changed", [{"ids": np.array([5, 6], np.int64)}, {"starts": np.array([0, 9, 1, 9])[::2]}, {"ends": [1, 2]}]
)
def test_other_dtypes_and_layouts_are_type_errors(changed: dict[str, np.ndarray]) -> None:
    with pytest.raises(TypeError):
        _native.mask_labels(**arguments(**changed))


@given(st.lists(texts(), max_size=6))
def test_scores_by_bytes_equal_labels_by_places(rows: list[Row]) -> None:
    gapless = []
    for tokens, spans in rows:
        places = [(start, end) for _, start, end in tokens]
        cuts = sorted({at for place in places for at in place} | {0})
        gapless.append(([(n, start, end) for n, (start, end) in enumerate(pairwise(cuts))], spans))
    lengths = np.arange(32, dtype=np.int32)  # a token's id is its length
    ids = np.array([end - start for own, _ in gapless for _, start, end in own], np.int32)
    scored, unequal = _native.score_bytes(
        ids,
        np.cumsum([0, *(len(own) for own, _ in gapless)], dtype=np.int64),
        lengths,
        np.array([own[-1][2] if own else 0 for own, _ in gapless], np.int64),
        np.array([span for _, own in gapless for span in own], np.int64).reshape(-1, 2),
        np.cumsum([0, *(len(own) for _, own in gapless)], dtype=np.int64),
    )
    assert len(unequal) == 0
    assert scored.tolist() == [label != -100 for own in masked(gapless) for label in own]


def test_a_row_whose_bytes_are_not_its_texts_is_named_and_not_scored() -> None:
    scored, unequal = _native.score_bytes(
        np.array([1, 1, 1], np.int32),
        np.array([0, 2, 3]),
        np.array([0, 2], np.int32),
        np.array([5, 2]),
        np.array([[0, 5], [0, 2]]),
        np.array([0, 1, 2]),
    )
    assert unequal.tolist() == [0] and scored.tolist() == [False, False, True]
