# ruff: noqa: RUF001  (punctuation of other scripts)
"""What stands in the texts of a set: each finder on rows made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from alignkit.audit import repeats, texts
from alignkit.audit.findings import TextFinding
from alignkit.audit.pairs import PairSet, read_pairs
from alignkit.data.reading.rows import to_row

RIVER = "The Volga is the longest river of Europe; it rises north of Moscow and flows to the Caspian Sea."
DANUBE = "I would say that it is the Danube, which passes ten countries on its way from Germany to the sea."
ASKED = "Name the longest river of Europe and say in one sentence where it rises and where it flows to."


def pairs_of(*rows: Sequence[str | None] | Mapping[str, Any]) -> PairSet:
    """Rows from (prompt, chosen, rejected) or from their fields; ids count from 0."""
    made = []
    for number, row in enumerate(rows):
        fields = row if isinstance(row, Mapping) else dict(zip(("prompt", "chosen", "rejected"), row, strict=False))
        made.append(to_row({"id": f"{number}", **fields}, where=f"x, line {number + 1}"))
    return read_pairs(made)


def ids(finding: TextFinding) -> list[str]:
    return sorted(example.id for example in finding.examples)


def test_an_edited_row_is_a_repeat_and_a_swapped_one_an_opposite() -> None:
    pairs = pairs_of(
        (ASKED, RIVER, DANUBE),
        ("How is bread baked?", "In an oven.", "By baking it."),
        (f"Please: {ASKED}", RIVER.replace("Volga", "great Volga"), DANUBE),
        (ASKED, DANUBE, f"{RIVER} I am quite sure of that."),
        (ASKED, RIVER, "Rivers are water that runs downhill, and many people like to sit beside them in summer."),
    )
    found = repeats.find_repeats(pairs)
    assert found.of_P.tolist() == [-1, -1, 0, 0, -1]
    assert found.is_opposite_P.tolist() == [False, False, False, True, False]
    assert found.is_contested_P.tolist() == [True, False, False, True, False]
    repeating, opposing = repeats.removals(pairs, found)
    assert repeating == {2: "says nearly the same as row 0"}
    assert opposing == {3: "prefers the opposite of row 0, which says nearly the same"}  # two rows against one
    assert (texts.repeated(pairs, found, 1).count, texts.contradicted(pairs, found, 1).count) == (1, 1)
    assert texts.repeated(pairs, found, 1).examples[0].other == "0"


def test_set_phrases_that_answer_another_question_are_listed_and_stay() -> None:
    phrases = "I am glad that you ask; as a model I know nothing of it, but here is what many people say. " * 3
    asked = ("Where is Bern?", "Where is Rome?", "Where is Bern", "where is Oslo?")
    pairs = pairs_of(*((prompt, phrases, DANUBE * 3) for prompt in asked), (asked[1], DANUBE * 3, phrases))
    found = repeats.find_repeats(pairs)
    assert (found.of_P[1:] == 0).all()
    repeating, opposing = repeats.removals(pairs, found)
    assert (repeating, sorted(opposing)) == ({2: "says nearly the same as row 0"}, [1, 4])


def test_where_as_many_say_one_thing_as_the_other_all_of_them_go() -> None:
    pairs = pairs_of((ASKED, RIVER, DANUBE), (ASKED, DANUBE, RIVER))
    repeating, opposing = repeats.removals(pairs, repeats.find_repeats(pairs))
    assert (repeating, sorted(opposing)) == ({}, [0, 1])


def test_ties_and_labels_oppose_only_where_they_say_something() -> None:
    tie = {"score_chosen": 3, "score_rejected": 3}
    tied = pairs_of((ASKED, RIVER, DANUBE), {"prompt": ASKED, "chosen": DANUBE, "rejected": RIVER, **tie})
    found = repeats.find_repeats(tied)
    assert (found.is_duplicate_P.tolist(), found.is_opposite_P.any()) == ([False, True], False)
    labelled = pairs_of(*({"prompt": ASKED, "completion": RIVER, "label": label} for label in (True, False, True)))
    found = repeats.find_repeats(labelled)
    assert found.is_opposite_P.tolist() == [False, True, False]


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"w{n}" for n in range(4000)])

    def text(count: int) -> list[str]:
        return rng.choice(words, count).tolist()

    def edited(own: Sequence[str]) -> list[str]:
        new = list(own)
        for _ in range(max(1, len(own) // 12)):
            new[rng.integers(len(new))] = str(rng.choice(words))
        return new + text(8) * int(rng.integers(2))

    rows = [[text(int(rng.integers(15, 60))) for _ in range(3)] for _ in range(600)]
    rows += [[edited(part) for part in rows[number]] for number in range(100)]
    pairs = pairs_of(*([" ".join(part) for part in row] for row in rows))
    of = repeats.find_repeats(pairs).of_P
    assert (of[:600] == -1).all()
    assert np.mean(of[600:] == np.arange(100)) >= 0.95


def test_answers_that_repeat_their_prompt_are_counted_by_side() -> None:
    pairs = pairs_of((ASKED, RIVER, f"You ask: {ASKED}"), (ASKED, "The Volga.", ASKED), (ASKED, RIVER, DANUBE))
    found = texts.quoted(pairs)
    assert (found.count, found.chosen, found.rejected, ids(found)) == (2, 0, 2, ["0", "1"])
    long = " ".join(f"word{n}" for n in range(40))
    found = texts.quoted(pairs_of((long, long, "no"), ("x", long, "no"), (long, None, None)))
    assert (found.count, found.of, found.chosen) == (1, 2, 1)


def test_refusals_are_counted_by_side_and_by_source() -> None:
    no = "I'm sorry, but I cannot help with that."
    rows = [
        {"prompt": "a", "chosen": no, "rejected": RIVER, "source": "one"},
        {"prompt": "b", "chosen": RIVER, "rejected": "很抱歉，我无法提供这方面的信息。", "source": "two"},
        {"prompt": "c", "chosen": no, "rejected": no + "!", "source": "two"},
    ]
    found = texts.refused(pairs_of(*rows))
    assert (found.count, found.chosen, found.rejected) == (3, 2, 2)
    assert [(s.source, s.count, s.of) for s in found.sources] == [("two", 2, 2), ("one", 1, 1)]


def test_an_answer_in_another_language_is_found_and_names_in_latin_letters_are_none() -> None:
    german = "Die Wolga ist der längste Fluss Europas und mündet in das Kaspische Meer."
    chinese = "伏尔加河是欧洲最长的河流，它流入里海。"
    asked = "What is the longest river of Europe, and where does it flow to?"
    pairs = pairs_of(
        (asked, RIVER, german),
        (asked, chinese, RIVER),
        (
            "欧洲最长的河流是哪一条？请用一句话回答。",
            f"{chinese}（Volga）",
            "我认为是 Danube，它流经许多国家，最后流入黑海。",
        ),
        (asked, "42", "Volga"),
    )
    found, languages = texts.languages(pairs)
    assert (found.count, found.chosen, found.rejected, ids(found)) == (2, 1, 1, ["0", "1"])
    counts = {one.language: (one.prompts, one.chosen, one.rejected) for one in languages}
    assert counts["English"] == (3, 1, 1)
    assert counts["Chinese"] == (1, 2, 1)
    assert counts["German"] == (0, 0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "It is a river. It flows through many lands and then it",
        "It is a river. It flows through lands, forests, hills,",
        "Like this:\n```python\nprint(1)",
        "这是一条河。它流经许多国家，然后流入大海旁边的一个",
    ],
)
def test_an_answer_that_stops_in_the_middle_is_cut(text: str) -> None:
    assert texts.is_cut_off(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "It is a river. It flows to the sea.",
        "a river without any punctuation at all in its one line",
        "These are rivers:\n1. Rhine\n2. the long one that flows through many lands",
        "See it. The address of the page is https://example.org/",
        "```python\nprint(1)\n```",
        "So it is. We all loved it very much #rivers #europe",
        "这是一条河。",
        "Rivers flow. That is what they do 🌊",
    ],
)
def test_an_answer_that_ends_is_whole(text: str) -> None:
    assert not texts.is_cut_off(text)


def test_a_cut_answer_counts_where_the_other_one_is_whole() -> None:
    cut = "It is a river. It flows through many lands and then it"
    pairs = pairs_of(("a", cut, RIVER), ("b", RIVER, cut), ("c", cut, cut + " is"), {"prompt": "d", "chosen": cut})
    found = texts.cut(pairs)
    assert (found.count, found.chosen, found.rejected) == (3, 2, 1)


def test_rows_that_hold_a_test_prompt_are_found_and_taken_out() -> None:
    pairs = pairs_of((f"Here is a question. {ASKED}", RIVER, DANUBE), ("How is bread baked at home?", "So.", "No."))
    tests = [to_row({"id": "t", "prompt": ASKED.upper()}, where="y")]
    leaks = texts.find_leaks(pairs, {"test.jsonl": tests})
    assert leaks.test_P.tolist() == [0, -1]
    found = texts.leaked(pairs, leaks)
    assert (found.count, found.examples[0].other, found.taken_out) == (1, "test.jsonl, row t", 1)
    assert texts.leak_removals(leaks) == {0: "holds a test prompt: test.jsonl, row t"}


def test_lengths_without_a_tokenizer_are_in_characters() -> None:
    lengths = texts.lengths_in_characters(pairs_of(("abc", "de", "f"), ("abcde", "x", None)))
    assert [(column.column, column.count, column.mean, column.max) for column in lengths] == [
        ("prompt", 2, 4.0, 5),
        ("chosen", 2, 1.5, 2),
        ("rejected", 1, 1.0, 1),
    ]
