"""Signs that one text is unwell: repetition, loops, stock phrases, much formatting. One number per text.

Words are what white space separates; a language written without spaces is one long word here, for which only the
compression ratio and emptiness say something.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence

PHRASES = (
    "as an ai",
    "as a language model",
    "i hope this helps",
    "certainly!",
    "it is important to note",
    "it's important to note",
    "in conclusion",
    "great question",
    "i'd be happy to",
    "let me know if",
    "i apologize",
    "feel free to",
    "delve into",
)
MIN_COMPRESSED_BYTES = 200  # shorter texts compress to little else than zlib's own header
_MIN_REPEATS = 3
_MAX_PATTERN_WORDS = 64
_MARK = re.compile(
    r"^[^\S\n]*(?:#{1,6}\s|[-*+]\s|\d+[.)]\s|\|)|\*\*[^*\n]+\*\*|```|[\U0001F300-\U0001FAFF]", re.MULTILINE
)
_PHRASE = re.compile("|".join(rf"(?<!\w){re.escape(phrase)}(?!\w)" for phrase in PHRASES))


def repeated_share(text: str, n: int = 4) -> float:
    """Share of a text's word n-grams that repeat an earlier one: 1 - unique / all n-grams; 0 below n words.

    Source: seq-rep-n of Welleck et al. 2019, arXiv 1908.04319 (there on tokens; words need no tokenizer).
    """
    words = text.split()
    ngrams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """Mean of `repeated_share` over texts; 0 without texts."""
    return sum(repeated_share(text, n) for text in texts) / max(1, len(texts))


def loop_share(text: str) -> float:
    """Share of the words that stand in a loop at the text's end: at least 3 repeats of one pattern, else 0.

    The last repeat may be cut short, as the length limit cuts it.
    """
    words = text.split()
    longest = 0
    for period in range(1, min(_MAX_PATTERN_WORDS, len(words) // _MIN_REPEATS) + 1):
        run = period
        while run < len(words) and words[-run - 1] == words[-run - 1 + period]:
            run += 1
        if run >= _MIN_REPEATS * period:
            longest = max(longest, run)
    return longest / len(words) if words else 0.0


def compression_ratio(text: str) -> float:
    """Bytes / zlib-compressed bytes; high where a text repeats itself; nan below 200 bytes."""
    content = text.encode("utf-8", "surrogatepass")
    if len(content) < MIN_COMPRESSED_BYTES:
        return math.nan
    return len(content) / len(zlib.compress(content, 9))


def has_phrase(text: str) -> float:
    """1 where the text holds a phrase of the list, in any case, else 0."""
    return float(_PHRASE.search(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None)


def marks_per_100_words(text: str) -> float:
    """Headings, list items, table rows, bold, code fences and emoji for each 100 words; nan without words."""
    words = len(text.split())
    return 100 * len(_MARK.findall(text)) / words if words else math.nan


def is_empty(text: str) -> float:
    """1 where nothing but white space was answered."""
    return float(not text.strip())
