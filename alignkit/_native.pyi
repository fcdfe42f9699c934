"""The kernels of the data path, in Rust. Source: rust_ext/.

Ragged data come as flat arrays with offsets: row r is [offsets[r], offsets[r + 1]). Arrays are contiguous and of
exactly the dtype named, or it is a TypeError; results are new arrays. The interpreter is released while a kernel runs,
so that no other thread may write to its arrays meanwhile.
"""

from collections.abc import Sequence
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TEXT_MEASURES",
    "Finder",
    "LengthStatistics",
    "OverlapIndex",
    "Splicer",
    "count_phrases",
    "hashed_ngrams",
    "lay_out",
    "mask_labels",
    "near_duplicates",
    "pack_trees",
    "score_bytes",
    "scripts_and_languages",
    "share_rows",
    "shared_runs",
    "text_measures",
]

TEXT_MEASURES: Final[list[str]]
"""The columns of `text_measures`, in order."""

def text_measures(texts: Sequence[str]) -> NDArray[np.int32]:
    """Count what the surface of each text shows.

    A word is a run of letters and digits; letters of scripts without spaces are words by themselves. Lines hold more
    than white space; paragraphs are lines that follow one another. List items begin with -, *, +, a bullet or a number;
    headings with one to six #; table rows with a bar and have a second one. Lines inside a fence of three backticks or
    tildes are none of these. Bold and inline code count where they open and close on one line.

    Returns:
        int32 [texts, measures], the columns of `TEXT_MEASURES`.

    Raises:
        UnicodeEncodeError: a text holds half a character.
    """

def near_duplicates(
    prompts: Sequence[str], first: Sequence[str], second: Sequence[str], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Find for each row (a prompt and two answers) the most similar earlier row that it repeats.

    Similarity is Jaccard's, of the sets of pairs of words that follow one another in prompt and answers; pairs that
    stand in more than 1 % of the prompts are left out. The answers must be alike too, in either order: half the pairs
    of words of the shorter one stand in the other (up to 12 words also: half the words of the longer one, or 80 % of
    those of the shorter one). A row that repeats a duplicate repeats what that one repeats. Candidates come from
    MinHash signatures: of rows with a similarity of 0.5 one in 250 is missed, of 0.6 one in 25,000.

    Args:
        first, second: the answers; empty where there are none.
        threshold: similarity from which on a row repeats another, 0.5 or more.

    Returns:
        int64 [rows], the earlier row, itself no duplicate, or -1; float64 [rows], the similarity to the row that it was
        recognised by; bool [rows], whether the answers stand the other way round.

    Raises:
        ValueError: the columns are not equally long.
        UnicodeEncodeError: a text holds half a character.

    Source: Broder 1997, On the resemblance and containment of documents.
    """

def scripts_and_languages(texts: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Name each text's script and language in English, by its first 400 characters outside code; None if not known.

    Raises:
        UnicodeEncodeError: a text holds half a character.
    """

def shared_runs(left: Sequence[str], right: Sequence[str], size: int) -> NDArray[np.int64]:
    """Compare each text with the other one in its place, by runs of `size` words.

    Returns:
        int64 [texts, 3]: the distinct runs of the left text, of the right one, and those of both. Where a text has
        fewer words, runs are as short as it.

    Raises:
        ValueError: there are not as many of each.
        UnicodeEncodeError: a text holds half a character.
    """

def count_phrases(texts: Sequence[str], lists: Sequence[Sequence[str]], within: int) -> NDArray[np.int32]:
    """Count the phrases of each list in each text, word by word: capital letters and punctuation do not count.

    Args:
        within: phrases count that begin in so many first words of the text.

    Returns:
        int32 [texts, lists].

    Raises:
        UnicodeEncodeError: a text holds half a character.
    """

def hashed_ngrams(
    texts: Sequence[str], longest: int, bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Count each text's n-grams of 1 to `longest` words in 2^bits buckets, as rows of a sparse matrix.

    Args:
        bits: 1 to 31.

    Returns:
        int64 [texts + 1], where each row's entries begin, and the end; the entries' buckets, int32, rising within a
        row; their counts, int32. `scipy.sparse.csr_array((counts, buckets, offsets), shape=(texts, 2**bits))`.

    Raises:
        ValueError: `longest` is 0, or bits are out of range.
        UnicodeEncodeError: a text holds half a character.
    """

def lay_out(
    ids: NDArray[np.int32],
    scored: NDArray[np.bool_],
    token_ends: NDArray[np.int64],
    segment_ends: NDArray[np.int64],
    numbers: NDArray[np.int64],
) -> tuple[NDArray[np.int64], ...]:
    """Lay trees one after another into one row.

    Args:
        ids, scored: int32 and bool [tokens], of all trees.
        token_ends: int64 [segments + 1], where each segment's tokens begin, and the end.
        segment_ends: int64 [trees + 1], where each tree's segments begin, and the end; the first one is the prompt.
        numbers: int64 [k], the trees to pack, in this order.

    Returns:
        int64 arrays, S packed tokens, T scored, N completions: ids [S], positions [S] (each completion's follow the
        prompt's), sources [T] (index in S of the hidden state that predicts the token: a completion's first one is
        predicted from the prompt's last), targets [T] (ids), completions [T], groups [N] (which of the k trees),
        num_tokens [N] (scored), last [N] (index in S of the last token), and the ends in S of each tree's segments.

    Raises:
        ValueError: the arrays do not belong together, or no tree has one of the numbers.
    """

def mask_labels(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    row_offsets: NDArray[np.int64],
    spans: NDArray[np.int64],
    span_offsets: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Label each token with its id where its text lies wholly inside one of its row's spans, else with -100.

    A token across a span's border is not scored. A token without text (start = end) belongs to the text that follows
    it: it is scored at a span's start and within, not at the span's end.

    Args:
        ids: int32 [n], token ids of all rows.
        starts, ends: int64 [n], each token's text [start, end) in its row's text; characters or bytes, as the spans.
        row_offsets: int64 [rows + 1], where each row's tokens begin.
        spans: int64 [m, 2] in C order, half-open [start, end), sorted and without overlap within a row.
        span_offsets: int64 [rows + 1], where each row's spans begin.

    Returns:
        int32 [n].

    Raises:
        ValueError: lengths disagree, offsets do not divide their entries, or a token or span is negative, reversed,
            out of order or overlaps; names the row.

    Source: Eq. 1 of the paper, which masks the prompt; spans extend it to several turns.
    """

def pack_trees(lengths: NDArray[np.int64], capacity: int) -> tuple[NDArray[np.int64], int]:
    """Assign trees to rows by best fit decreasing.

    Trees of equal length go in their order; of rows with equally little space left, the one put to last is taken. Rows
    are numbered in the order in which they are opened, so that row 0 holds the longest tree.

    Args:
        lengths: int64 [n], tokens of each tree, 0 to capacity.
        capacity: tokens that a row holds, 1 to 16,777,216.

    Returns:
        The row of each tree, int64 [n], and the number of rows.

    Raises:
        ValueError: the capacity is out of range, or a tree, which is named, is negative or longer than a row.

    Source: D. S. Johnson, Near-optimal bin packing algorithms, 1973: at most 11/9 of the fewest rows possible, and 4.
    """

def share_rows(costs: NDArray[np.int64], num_ranks: int, max_rows: int) -> NDArray[np.int64]:
    """Assign rows to ranks so that each has about the same cost: the costliest row first, to the least loaded rank.

    Rows of equal cost go in their order; of ranks with equally little, the first is taken.

    Args:
        costs: int64 [n], not negative.
        num_ranks: at least 1.
        max_rows: a rank that has so many gets no more.

    Returns:
        The rank of each row, int64 [n].

    Raises:
        ValueError: there is no rank, a cost, which is named, is negative, or there are more rows than the ranks take.

    Source: R. L. Graham, Bounds on multiprocessing timing anomalies, 1969: at most 4/3 of the least possible maximum.
    """

@final
class OverlapIndex:
    """The runs of `size` words in a small set of texts, to be looked for in a large set that streams past.

    A word is a run of letters and digits in lower case; letters of scripts without spaces are words by themselves. A
    text of fewer words is one run of them all. Runs are compared by 64-bit hashes. One thread at a time.
    """

    def __new__(cls, texts: Sequence[str], size: int) -> OverlapIndex: ...
    def scan(self, texts: Sequence[str]) -> None:
        """Look for the runs in further texts of the large set."""

    def overlaps(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return of each text of the small set: its distinct runs, those seen, the first text with one (or -1)."""

    def most_shown(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Name for each text that text of the small set of which it shows the largest share of runs, and the share.

        -1 and 0 where it shows none; the earliest of equal ones.
        """

def score_bytes(
    ids: NDArray[np.int32],
    row_offsets: NDArray[np.int64],
    token_lengths: NDArray[np.int32],
    text_lengths: NDArray[np.int64],
    spans: NDArray[np.int64],
    span_offsets: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Score each token whose bytes lie wholly inside one of its row's spans.

    For tokenizers whose tokens stand for bytes: where a token lies follows from the lengths of those before it.

    Args:
        ids: int32 [n], token ids of all rows.
        row_offsets: int64 [rows + 1], where each row's tokens begin.
        token_lengths: int32 [vocabulary], bytes that each token stands for.
        text_lengths: int64 [rows], bytes of each row's text.
        spans: int64 [m, 2] in C order, half-open [start, end) in bytes, sorted and without overlap within a row.
        span_offsets: int64 [rows + 1], where each row's spans begin.

    Returns:
        bool [n], and int64 [k] the rows whose tokens' bytes are not as many as their text's: nothing of them is scored.

    Raises:
        ValueError: lengths disagree, offsets do not divide their entries, an id is not in the vocabulary, or a span is
            negative, reversed, out of order or overlaps; names the row.

    Source: Eq. 1 of the paper, as `mask_labels`.
    """

@final
class Finder:
    """Short texts to be looked for in the UTF-8 of others.

    Args:
        ignores_case: of ASCII letters but a text's first one.
    """

    def __new__(cls, texts: Sequence[str], *, ignores_case: bool = False) -> Finder: ...
    def is_in(self, content: bytes) -> bool:
        """Whether one of the texts stands in a content. The interpreter is kept: a row takes less time than that."""

@final
class Splicer:
    """Layouts of conversations, into which contents are spliced, many at a time.

    Args:
        special: special tokens, which no content may hold.
    """

    def __new__(cls, special: Sequence[str]) -> Splicer: ...
    def add(self, literals: Sequence[str], slots: Sequence[int], spans: Sequence[Sequence[tuple[int, int]]]) -> int:
        """Keep a layout and return its number.

        Args:
            literals: the text before the first content, between contents, and after the last.
            slots: which of a conversation's contents stands behind each literal but the last.
            spans: begin and end of each scored span: (literal, offset in it in bytes) each.

        Raises:
            ValueError: there is not one literal more than slots, or a span lies in no literal.
        """

    def splice(
        self, which: NDArray[np.int64], contents: Sequence[str], content_offsets: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]
    ]:
        """Splice contents into layouts.

        Args:
            which: int64 [texts], the layout of each.
            contents: of all texts.
            content_offsets: int64 [texts + 1], where each text's contents begin, and the end.

        Returns:
            UTF-8, uint8; int64 [texts + 1], where each text begins, and the end; the spans' begins and ends in their
            text's bytes, one after another, int64; int64 [texts + 1], where each text's spans begin, and the end; bool
            [texts], whether a content holds a special token, and the text is left empty; bool [texts], whether it is
            surely in Unicode's normal form C.

        Raises:
            ValueError: a layout or contents are not there; names the text.
            UnicodeEncodeError: a content holds half a character.
        """

@final
class LengthStatistics:
    """Exact statistics of lengths, column by column, over any number of parts.

    Memory grows with the distinct lengths. One thread at a time: use while another method runs, or merging an object
    into itself, is a RuntimeError. Every method but `add`, `merge` and `columns` raises ValueError for a column that
    was never added to.
    """

    def __new__(cls) -> LengthStatistics: ...
    def add(self, column: str, lengths: NDArray[np.int64]) -> None:
        """Count lengths (int64 [n]), making the column where it is new.

        Raises:
            ValueError: a length, which is named, is negative; then none was counted.
        """

    def add_differences(self, column: str, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        """Count left - right, row by row (int64 [n] each), in a column of their own; differences may be negative.

        Raises:
            ValueError: a length is negative, or there are not as many of each; then none was counted.
        """

    def merge(self, other: LengthStatistics) -> None:
        """Count what `other` has counted; its new columns follow the own ones.

        Raises:
            ValueError: a column would hold more than 2^63 - 1 lengths; then none was counted.
        """

    def columns(self) -> list[str]:
        """Return the columns in order of first use."""

    def count(self, column: str) -> int:
        """Return how many lengths the column holds."""

    def mean(self, column: str) -> float:
        """Return the mean length, from the exact sum.

        Raises:
            ValueError: the column is empty.
        """

    def min(self, column: str) -> int:
        """Return the shortest length.

        Raises:
            ValueError: the column is empty.
        """

    def max(self, column: str) -> int:
        """Return the longest length.

        Raises:
            ValueError: the column is empty.
        """

    def quantile(self, column: str, q: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the exact quantiles of all lengths, as `numpy.quantile` does by default.

        Args:
            q: float64 [k], each from 0 to 1.

        Returns:
            float64 [k], interpolated between the two ranks nearest to q (count - 1).

        Raises:
            ValueError: the column is empty, or a q is out of range.
        """

    def histogram(self, column: str, edges: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the lengths in each half-open bin [edges[i], edges[i + 1]); those outside all bins are in none.

        Args:
            edges: int64 [k + 1], rising.

        Returns:
            int64 [k].

        Raises:
            ValueError: the edges are fewer than two or do not rise.
        """

    def share_over(self, column: str, limit: int) -> int:
        """Return how many lengths are greater than `limit`."""
