"""What stands in the texts themselves: repeats, quotations, refusals, languages, cut answers, test prompts, lengths.

Each finder says in `rule` when a row counts, and in `means` what that means for training. Shape letter: P rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignkit._native import LengthStatistics, OverlapIndex, count_phrases, scripts_and_languages, shared_runs
from alignkit.audit.findings import Example, LanguageCount, SourceCount, TextFinding, TextLengths
from alignkit.audit.measures import REFUSAL_WORDS
from alignkit.audit.pairs import PairSet
from alignkit.audit.phrases import REFUSALS
from alignkit.audit.repeats import Repeats
from alignkit.data.looking.lengths import ColumnLengths, summarise
from alignkit.data.looking.overlap import SIZE, THRESHOLD, prompt_text
from alignkit.data.reading.rows import Row

_SHOWN = 3
_SHOWN_CHARACTERS = 100
_QUOTED_RUNS = 12  # of 8 words, at least: an answer of 19 words
_QUOTED_SHARE = 0.5
_SHARE_SPARED = 0.02  # languages of fewer texts are counted as others
_OTHER = "others"
_CHINESE = "Chinese"  # written alike, whatever of it is spoken
_EAST_ASIAN = ("Han", "kana")  # Japanese writes both
_FENCE = "```"
_CLOSED = tuple(
    ".!?:;)]}>*|`\"'\u201d\u2019\u2026\u3002\uff01\uff1f\uff1a\uff1b\uff09\u300d\u300f\u300b\u0964\u06d4\u061f~_$%/\\=+-"
)
_OPEN = ",\uff0c\u3001"
_SENTENCE_END = re.compile(r"[.!?]\s|[\u3002\uff01\uff1f\u0964\u06d4\u061f]")
_NO_PROSE = re.compile(r"\s*(?:[-*+#|>\u2022]|(?:\d{1,3}|[A-Za-z])[.)\u3001])")
_LETTERS_ALONE = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
_MIN_LINE_WORDS = 6
_MIN_LINE_LETTERS = 12  # of a script without spaces


@dataclass(frozen=True)
class Leaks:
    """Rows whose prompts hold test prompts.

    Args:
        test_P: int64 [P], the number of the test prompt, -1 where there is none.
        share_P: float64 [P], the share of its runs of 8 words.
        names: "FILE, row ID" of each test prompt.
        files: how they were named.
    """

    test_P: np.ndarray
    share_P: np.ndarray
    names: list[str]
    files: tuple[str, ...]


def repeated(pairs: PairSet, repeats: Repeats, taken_out: int, gone: Mapping[str, int] | None = None) -> TextFinding:
    """Rows that repeat an earlier one."""
    return _finding(
        pairs,
        "near-duplicates",
        repeats.is_duplicate_P,
        rule="the row says nearly the same as an earlier one: half of all pairs of words in prompt and answers are "
        "shared, and the answers are alike",
        means="They count double in training and leak between training and validation rows. Keep one of each. "
        "Rows with another prompt stay: look at them.",
        others={row: pairs.ids[repeats.of_P[row]] for row in np.flatnonzero(repeats.is_duplicate_P).tolist()},
        order_P=-repeats.similarity_P,
        taken_out=taken_out,
        taken_otherwise=gone,
    )


def contradicted(
    pairs: PairSet, repeats: Repeats, taken_out: int, gone: Mapping[str, int] | None = None
) -> TextFinding:
    """Pairs that prefer the opposite of an earlier one."""
    return _finding(
        pairs,
        "opposite preferences",
        repeats.is_opposite_P,
        rule="the row says nearly the same as an earlier one, with the answers the other way round",
        means="Such pairs cancel each other: the model learns nothing from them but noise. Keep the side that more "
        "rows are on, or neither.",
        others={row: pairs.ids[repeats.of_P[row]] for row in np.flatnonzero(repeats.is_opposite_P).tolist()},
        order_P=-repeats.similarity_P,
        taken_out=taken_out,
        taken_otherwise=gone,
    )


def unusable(pairs: PairSet) -> TextFinding:
    """Rows that methods skip."""
    found_P = np.array([why is not None for why in pairs.unusable], bool)
    return _finding(
        pairs,
        "rows that methods skip",
        found_P,
        rule="an answer or the prompt is empty, both answers say the same, or they are no answers to one prompt",
        means="No method trains on them, and training stops where they are more than --max-skipped, 1 in 100. Mend "
        "them or leave them out.",
        taken_out=int(found_P.sum()),
    )


def unusable_removals(pairs: PairSet) -> dict[int, str]:
    """Say which rows are taken out because methods skip them."""
    return {row: why for row, why in enumerate(pairs.unusable) if why is not None}


def quoted(pairs: PairSet) -> TextFinding:
    """Answers that repeat their prompt at length."""
    found = []
    for texts in (pairs.chosen, pairs.rejected):
        runs = shared_runs([text or "" for text in texts], pairs.prompts, SIZE)
        found.append((runs[:, 2] >= _QUOTED_RUNS) & (runs[:, 2] >= _QUOTED_SHARE * runs[:, 0]))
    return _of_answers(
        pairs,
        "answers that quote the prompt",
        found,
        rule="at least half of an answer's runs of 8 words, and 12 of them, stand in its prompt",
        means="Right where the task is to edit or copy a text. Elsewhere the model learns to repeat the question "
        "before, or instead of, an answer: look at the examples.",
    )


def refused(pairs: PairSet) -> TextFinding:
    """Answers that refuse in their first words."""
    found = []
    for texts in (pairs.chosen, pairs.rejected):
        said = count_phrases([text or "" for text in texts], (REFUSALS,), REFUSAL_WORDS)
        found.append(said[:, 0] > 0)
    return _of_answers(
        pairs,
        "refusals",
        found,
        rule=f"an answer says in its first {REFUSAL_WORDS} words that it cannot or will not help, by a list of phrases "
        "in 12 languages",
        means="Where refusals are chosen more often than rejected, the model learns to refuse; where they are rejected "
        "more often, to comply. Check that it is what you want.",
    )


def languages(pairs: PairSet) -> tuple[TextFinding, tuple[LanguageCount, ...]]:
    """Answers in another language than their prompt's; and which languages there are."""
    asked = scripts_and_languages(pairs.prompts)
    answered = [scripts_and_languages([text or "" for text in texts]) for texts in (pairs.chosen, pairs.rejected)]
    found = [np.array([_differ(*two) for two in zip(asked, side, strict=True)], bool) for side in answered]
    finding = _of_answers(
        pairs,
        "answers in another language",
        found,
        rule="prompt and answer are in different scripts, or in different languages where both are known for sure",
        means="Right for translations and language lessons. Elsewhere the model learns to answer in another language "
        "than it was asked in: look at the examples.",
    )
    counts = [Counter(_language(names) for names in side if names[0]) for side in (asked, *answered)]
    total = sum(counts, Counter[str]())
    common = [name for name, count in total.most_common() if count >= _SHARE_SPARED * total.total()]
    table = [LanguageCount(language=name, **_columns(counts, (name,))) for name in common]
    if rest := tuple(name for name in total if name not in common):
        table.append(LanguageCount(language=_OTHER, **_columns(counts, rest)))
    return finding, tuple(table)


def _columns(counts: Sequence[Counter[str]], names: Iterable[str]) -> dict[str, int]:
    sums = [sum(count[name] for name in names) for count in counts]
    return dict(zip(("prompts", "chosen", "rejected"), sums, strict=True))


def _language(names: tuple[str | None, str | None]) -> str:
    script, language = names
    return _CHINESE if language == "Mandarin" else language or f"not clear, {script} script"


def _differ(asked: tuple[str | None, str | None], answered: tuple[str | None, str | None]) -> bool:
    if asked[0] is None or answered[0] is None:
        return False
    if asked[0] != answered[0]:
        # a few letters in another script (a name, a formula) are no other language: one must be known
        return not (asked[0] in _EAST_ASIAN and answered[0] in _EAST_ASIAN) and None not in (asked[1], answered[1])
    return None not in (asked[1], answered[1]) and asked[1] != answered[1]


def cut(pairs: PairSet) -> TextFinding:
    """Answers that end in the middle, where the other answer, if there is one, does not."""
    is_cut = [np.array([is_cut_off(text) for text in texts], bool) for texts in (pairs.chosen, pairs.rejected)]
    found = [is_cut[0] & ~is_cut[1], is_cut[1] & ~is_cut[0]]
    return _of_answers(
        pairs,
        "cut answers",
        found,
        rule="an answer stops inside a code block, or in a last line of prose without an end though its earlier "
        "sentences have one, and the other answer ends whole",
        means="Chosen answers that are cut teach the model to stop in the middle. Rejected ones teach it that being "
        "whole is what makes an answer good, whatever it says. Have them written to their end, or leave them out.",
        shows_end=True,
    )


def is_cut_off(text: str | None) -> bool:
    """Whether an answer stops inside a code block or a sentence, by its last line."""
    text = (text or "").rstrip()
    if not text:
        return False
    if text.count(_FENCE) % 2 == 1:
        return True
    if text.endswith(_CLOSED) or (not text[-1].isalnum() and text[-1] != ","):
        return False
    line = text[text.rfind("\n") + 1 :]
    if _NO_PROSE.match(line) or line.split()[-1][0] in "#@" or _SENTENCE_END.search(text) is None:
        return False
    return len(line.split()) >= _MIN_LINE_WORDS or len(_LETTERS_ALONE.findall(line)) >= _MIN_LINE_LETTERS


def find_leaks(pairs: PairSet, tests: Mapping[str, Iterable[Row]]) -> Leaks:
    """Look for the prompts of test files in the set's prompts, as `data overlap` does, row by row."""
    names, prompts = [], []
    for file, rows in tests.items():
        for row in rows:
            names.append(row.name if row.name == row.where else f"{file}, {row.said}")
            prompts.append(prompt_text(row))
    test_P, share_P = OverlapIndex(prompts, SIZE).most_shown(pairs.prompts)
    return Leaks(np.where(share_P >= THRESHOLD, test_P, -1), share_P, names, tuple(tests))


def leaked(pairs: PairSet, leaks: Leaks) -> TextFinding:
    """Rows whose prompts hold a test prompt."""
    unusable = [why for row, why in unusable_removals(pairs).items() if leaks.test_P[row] >= 0]
    return _finding(
        pairs,
        "test prompts in the set",
        leaks.test_P >= 0,
        rule=f"the row's prompt holds half of a test prompt's runs of {SIZE} words ({', '.join(leaks.files)})",
        means="A model trained on them has seen the test: its score there says nothing. Leave these rows out.",
        others={row: leaks.names[leaks.test_P[row]] for row in np.flatnonzero(leaks.test_P >= 0).tolist()},
        order_P=-leaks.share_P,
        taken_out=int((leaks.test_P >= 0).sum()) - len(unusable),
        taken_otherwise=dict(Counter(unusable).most_common()),
    )


def leak_removals(leaks: Leaks) -> dict[int, str]:
    """Say which rows are taken out because of test prompts."""
    rows = np.flatnonzero(leaks.test_P >= 0).tolist()
    return {row: f"holds a test prompt: {leaks.names[leaks.test_P[row]]}" for row in rows}


def lengths_in_characters(pairs: PairSet) -> tuple[TextLengths, ...]:
    """Say how long prompts and answers are, without a tokenizer."""
    statistics = LengthStatistics()
    for name, texts in (("prompt", pairs.prompts), ("chosen", pairs.chosen), ("rejected", pairs.rejected)):
        statistics.add(name, np.array([len(text) for text in texts if text is not None], np.int64))
    return tuple(_lengths(column, "characters") for column in summarise(statistics, limits=()))


def lengths_in_tokens(statistics: LengthStatistics, limits: Sequence[int]) -> tuple[TextLengths, ...]:
    """Say how long columns and whole rows are (`data.looking.lengths.measure`)."""
    return tuple(_lengths(column, "tokens") for column in summarise(statistics, limits=limits))


def _lengths(column: ColumnLengths, unit: str) -> TextLengths:
    return TextLengths(
        column=column.column,
        unit=unit,
        count=column.count,
        mean=column.mean,
        p50=column.p50,
        p90=column.p90,
        p99=column.p99,
        max=column.max,
        over=column.over,
    )


def _of_answers(
    pairs: PairSet, name: str, found: Sequence[np.ndarray], *, rule: str, means: str, shows_end: bool = False
) -> TextFinding:
    """A finding of chosen and rejected answers, bool [P] each."""
    is_there_P = np.array([a is not None or b is not None for a, b in zip(pairs.chosen, pairs.rejected, strict=True)])
    return _finding(
        pairs,
        name,
        found[0] | found[1],
        rule=rule,
        means=means,
        looked_at_P=is_there_P,
        answers=found,
        shows_end=shows_end,
    )


def _finding(
    pairs: PairSet,
    name: str,
    found_P: np.ndarray,
    *,
    rule: str,
    means: str,
    others: Mapping[int, str] | None = None,
    order_P: np.ndarray | None = None,
    looked_at_P: np.ndarray | None = None,
    answers: Sequence[np.ndarray] | None = None,
    shows_end: bool = False,
    taken_out: int = 0,
    taken_otherwise: Mapping[str, int] | None = None,
) -> TextFinding:
    looked_at_P = np.ones(len(pairs), bool) if looked_at_P is None else looked_at_P
    rows = np.flatnonzero(found_P)
    if order_P is not None:
        rows = rows[np.argsort(order_P[rows], kind="stable")]
    examples = []
    for row in rows[:_SHOWN].tolist():
        texts = [pairs.prompts] if answers is None else [pairs.chosen if answers[0][row] else pairs.rejected]
        text = _excerpt(texts[0][row] or "", shows_end)
        other = others.get(row) if others else None
        examples.append(Example(id=pairs.ids[row], place=pairs.places[row], text=text, other=other))
    return TextFinding(
        name=name,
        rule=rule,
        means=means,
        count=len(rows),
        of=int(looked_at_P.sum()),
        chosen=None if answers is None else int(answers[0].sum()),
        rejected=None if answers is None else int(answers[1].sum()),
        sources=_by_source(pairs, found_P, looked_at_P),
        examples=tuple(examples),
        taken_out=taken_out,
        taken_otherwise=dict(taken_otherwise or {}),
    )


def _excerpt(text: str, shows_end: bool) -> str:
    text = " ".join(text.split())
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"... {text[-_SHOWN_CHARACTERS:]}" if shows_end else f"{text[:_SHOWN_CHARACTERS]} ..."


def _by_source(pairs: PairSet, found_P: np.ndarray, looked_at_P: np.ndarray) -> tuple[SourceCount, ...]:
    found = Counter(pairs.sources[row] for row in np.flatnonzero(found_P).tolist())
    of = Counter(pairs.sources[row] for row in np.flatnonzero(looked_at_P).tolist())
    if len(set(pairs.sources)) < 2:
        return ()
    return tuple(SourceCount(source=name, count=count, of=of[name]) for name, count in found.most_common())
