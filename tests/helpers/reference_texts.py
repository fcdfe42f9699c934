# ruff: noqa: RUF001  (punctuation of other scripts)
"""The kernels over texts in plain Python: words, measures, phrases and n-grams.

For texts of letters whose case and kind Python's own Unicode tables and Rust's agree on.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

_MASK = 2**64 - 1
_FACTOR = 0x9E3779B97F4A7C15
_ALONE = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
_WORD = re.compile(rf"(?={_ALONE})[^\W_]|(?:(?!{_ALONE})[^\W_][\u0300-\u036f]*)+")


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case; letters of scripts without spaces alone."""
    return _WORD.findall(text.lower())


def runs(own: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """All runs of `size` words, in order; none where there are fewer."""
    return [tuple(own[at : at + size]) for at in range(len(own) - size + 1)] if size else []


def measures(text: str) -> dict[str, int]:
    """What `text_measures` counts."""
    lines, fences = [], 0
    for line in (line.strip() for line in text.split("\n")):
        if line.startswith(("```", "~~~")):
            fences += 1
            lines.append("")
        elif line and fences % 2 == 0:
            lines.append(line)
    filled = [bool(line.strip()) for line in text.split("\n")]
    after = [*text[1:], " "]
    return {
        "characters": len(text),
        "words": len(words(text)),
        "distinct_words": len(set(words(text))),
        "sentences": sum(c in ".?!…" and n.isspace() for c, n in zip(text, after, strict=False))
        + sum(text.count(c) for c in "。।۔？؟！"),
        "lines": sum(filled),
        "paragraphs": sum(own and not before for before, own in pairwise([False, *filled])),
        "list_items": sum(bool(re.match(r"[-*+•◦●][ \t]|[0-9]{1,3}(?:[.)][ \t]|[、．）])", line)) for line in lines),
        "headings": sum(bool(re.match(r"#{1,6}[ \t]", line)) for line in lines),
        "table_rows": sum(line[:1] == "|" and "|" in line[1:] for line in lines),
        "code_blocks": -(-fences // 2),
        "bold_spans": sum(line.count("**") // 2 for line in lines),
        "inline_code": sum(line.count("`") // 2 for line in lines),
        "links": len(re.findall(r"https?://|(?<!/)www\.", text)),
        "digits": sum(unicodedata.category(c)[0] == "N" for c in text),
        "capitals": sum(c.isupper() for c in text),
        "commas": sum(text.count(c) for c in ",、，،"),
        "question_marks": sum(text.count(c) for c in "?？؟"),
        "exclamation_marks": sum(text.count(c) for c in "!！"),
        "quotation_marks": sum(text.count(c) for c in '"“”„‟«»「」『』'),
        "emoji": len(re.findall("[\u2600-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff]", text)),
    }


def count_phrases(text: str, phrases: Sequence[str], within: int) -> int:
    """How many phrases begin in the first words."""
    own = words(text)
    return sum(
        own[at : at + len(phrase)] == phrase
        for phrase in map(words, phrases)
        if phrase
        for at in range(min(within, len(own)))
    )


def hashed_ngrams(text: str, longest: int, bits: int) -> list[tuple[int, int]]:
    """(bucket, count) of a text's n-grams, in the order of buckets."""
    own = [_word_hash(word) for word in words(text)]
    found = [
        _run_hash(own[at : at + n]) >> (64 - bits) for n in range(1, longest + 1) for at in range(len(own) - n + 1)
    ]
    return sorted(Counter(found).items())


def shared_runs(left: str, right: str, size: int) -> tuple[int, int, int]:
    """Distinct runs of each text, and those of both."""
    one, other = words(left), words(right)
    size = min(size, len(one), len(other))
    these, those = set(runs(one, size)), set(runs(other, size))
    return len(these), len(those), len(these & those)


def near_duplicates(rows: Sequence[tuple[str, str, str]], threshold: float) -> list[tuple[int, float, bool]]:
    """Compare every row with all earlier ones less than 0.9 alike to one before; no pair of words is too common."""
    parts = [tuple(words(text) for text in row) for row in rows]
    sets = [set[tuple[str, ...]]().union(*map(_pairs, own)) for own in parts]
    found: list[tuple[int, float, bool]] = []
    for number, (_, *answers) in enumerate(parts):
        best = (-1, 0.0, False)
        for earlier in range(number):
            similarity = _jaccard(sets[number], sets[earlier])
            others = parts[earlier][1:]
            if found[earlier][1] >= 0.9 or not sets[number] or similarity < threshold or similarity <= best[1]:
                continue
            if any(all(map(_alike, answers, order)) for order in (others, others[::-1])):
                straight, crossed = (
                    sum(_jaccard(_pairs(a), _pairs(b)) for a, b in zip(answers, order, strict=True))
                    for order in (others, others[::-1])
                )
                first, _, is_crossed = found[earlier]
                best = (earlier if first < 0 else first, similarity, (crossed > straight + 0.1) != is_crossed)
        found.append(best)
    return found


def _pairs(own: Sequence[str]) -> set[tuple[str, ...]]:
    return set(runs(own, min(2, len(own))))


def _jaccard(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    return len(left & right) / len(left | right) if left or right else 1.0


def _alike(left: Sequence[str], right: Sequence[str]) -> bool:
    if not left or not right:
        return not left and not right
    these, those = _pairs(left), _pairs(right)
    if len(these & those) >= min(len(these), len(those)) / 2:
        return True
    shared = (Counter(left) & Counter(right)).total()
    short, long = sorted((len(left), len(right)))
    return short <= 12 and (shared >= long / 2 or shared >= 0.8 * short)


def _word_hash(word: str) -> int:
    hash_ = 0
    for letter in word:
        rotated = (hash_ << 5 | hash_ >> 59) & _MASK
        hash_ = ((rotated ^ (ord(letter) + 1)) * 0x517CC1B727220A95) & _MASK
    return _mixed(hash_)


def _run_hash(own: Sequence[int]) -> int:
    hash_ = 0
    for word in own:
        hash_ = (hash_ * _FACTOR + word) & _MASK
    return _mixed(hash_ ^ len(own))


def _mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
