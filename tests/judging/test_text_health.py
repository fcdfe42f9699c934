"""Repetition, loops, boilerplate, thinking, and clusters of prompts."""

from __future__ import annotations

import math

import pytest

from alignkit.data.reading.rows import to_row
from alignkit.judging.answers import Answer, Answers, split_thinking
from alignkit.judging.bleu import sentence_bleu_mean
from alignkit.judging.boilerplate import boilerplate
from alignkit.judging.clustering import find_clusters
from alignkit.judging.health import lines, measure
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.texts import compression_ratio, has_phrase, loop_share, marks_per_100_words

TOPICS = "rivers bread stars trains cats salt winter maps glass sleep music rain".split()


def test_a_loop_at_the_end_is_found_and_one_in_the_middle_is_none() -> None:
    assert loop_share("so it goes on and on and on and on") == pytest.approx(7 / 10)  # "on and on and on and on"
    assert loop_share("a a a and then something else") == 0
    assert loop_share("one two one two") == 0  # two repeats are no loop
    assert loop_share("") == 0


def test_phrases_marks_and_compression() -> None:
    assert has_phrase("Well. As an AI, I cannot.") == 1
    assert has_phrase("I was an aide.") == 0
    assert marks_per_100_words("# Title\n- one\n- **two**") == pytest.approx(100 * 4 / 6)
    assert math.isnan(compression_ratio("short"))
    assert compression_ratio("the same words " * 50) > 8


def test_boilerplate_is_found_without_a_list() -> None:
    prompts = [f"Tell me about {topic}." for topic in TOPICS]
    said = [
        f"{topic.title()} matter. I am a model trained on many texts about {topic}. Confidence: {80 + n} %"
        for n, topic in enumerate(TOPICS)
    ]
    found = boilerplate(said, prompts)
    assert found.closing is not None
    assert (found.closing.text, found.closing.share) == ("confidence: 0 %", 1.0)
    assert all(found.closes)
    assert any("am a model trained on many texts" in shared.text for shared in found.ngrams)
    assert all(found.holds)
    plain = boilerplate([f"{topic.title()} are {topic[::-1]} and more." for topic in TOPICS], prompts)
    assert (plain.opening, plain.closing, plain.ngrams) == (None, None, ())
    asked = "Please do it in your own words now, please."
    assert len(boilerplate([asked] * 12, prompts).ngrams) == 1
    copied = boilerplate([asked] * 12, [f"{prompt} {asked}" for prompt in prompts])
    assert copied.ngrams == ()


def answers(texts: list[str], num_truncated: int = 0) -> Answers:
    rows = [to_row({"id": f"r{n}", "prompt": f"question {n}"}, where="test") for n in range(len(texts))]
    given = zip(rows, texts, strict=True)
    return Answers("model", tuple(Answer(row, x, 5, n < num_truncated) for n, (row, x) in enumerate(given)), math.nan)


def test_a_repeating_model_is_flagged_against_its_baseline_with_the_worst_answers() -> None:
    fine = answers([f"answer {n} speaks of {TOPICS[n % 12]} and stops here" for n in range(40)])
    bad = answers([f"word{n % 7} " * (10 + n % 5) for n in range(40)], num_truncated=20)
    by_name = {one.name: one for one in measure(bad, fine, seed=0)}
    assert by_name["repeated 4-grams, %"].is_flagged
    assert by_name["truncated, %"].ours == 50
    assert by_name["distinct 1-grams, %"].is_flagged  # fewer different words is worse
    assert by_name["repeated 4-grams, %"].worst[0].id == "r4"  # the longest, first of its like
    assert any(line.endswith("WORSE") for line in lines(list(by_name.values())))
    equal = measure(fine, fine, seed=0)
    assert not any(one.is_flagged for one in equal)
    alone = measure(fine, None, seed=0)
    assert all(one.theirs is None and not one.is_flagged for one in alone)


@pytest.mark.parametrize(
    ("text", "said", "thinking"),
    [
        ("<think>hm</think>\nYes.", "Yes.", "<think>hm</think>"),
        ("<think>cut off", "", "<think>cut off"),
        ("begun in the template</think>Yes.", "Yes.", "begun in the template</think>"),
        (" no thinking ", " no thinking ", ""),
        ("a<think>b</think>c<think>d</think>e", "ace", "<think>b</think><think>d</think>"),
    ],
)
def test_thinking_is_taken_out(text: str, said: str, thinking: str) -> None:
    assert split_thinking(text) == (said, thinking)


def test_sentence_bleu_smooths_orders_without_a_match() -> None:
    # 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, 0 of 1: method1 counts 0.1 there, method4 ln(4) / 10
    texts, refs = ["a b c x"], ["a b c d"]
    one = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25
    four = 100 * (3 / 4 * 2 / 3 * 1 / 2 * math.log(4) / 10) ** 0.25
    assert sentence_bleu_mean(texts, refs, mode="method1") == pytest.approx(one)
    assert sentence_bleu_mean(texts, refs, mode="method4") == pytest.approx(four)
    assert sentence_bleu_mean(["", "a b c d"], ["a", "a b c d"], mode="method1") == pytest.approx(50)
    assert sentence_bleu_mean(["a"], [None], mode="method1") is None


def test_clusters_are_templates_or_sources_the_coarser_and_copies_stay_together() -> None:
    rows = [{"template": f"t{n // 2}", "source": f"s{n // 4}"} for n in range(8)]
    found = find_clusters(rows, list(range(8)), column=None)
    assert (found.clusters.num, found.words) == (2, "clusters of prompts with the same source (2)")
    assert find_clusters(rows, list(range(8)), column="template").clusters.num == 4
    assert find_clusters(rows, [0, 0, 1, 2, 3, 4, 5, 6], column="none").clusters.num == 7
    joined = find_clusters(rows, [0, 1, 2, 3, 0, 4, 5, 6], column="source")  # one prompt in both sources
    assert joined.clusters.num == 1
    same = find_clusters([{"source": "x"}] * 3, [0, 1, 2], column=None)
    assert (same.clusters.num, same.words.startswith("prompts; all are of one source"), same.alone) == (3, True, None)


def test_too_few_sources_are_strata_of_a_verdict_that_speaks_for_them_alone() -> None:
    rows = [{"source": f"s{n // 40}"} for n in range(120)]
    found = find_clusters(rows, list(range(120)), column=None)
    assert found.alone is not None and found.alone.strata is not None
    assert (found.alone.clusters.num, found.alone.strata.num) == (120, 3)
    assert found.alone.words == "prompts within 3 groups of the same source; the verdict speaks for these alone"
    by_hand = find_clusters(rows, list(range(120)), column="none")
    assert (by_hand.words, by_hand.strata is not None) == (found.alone.words, True)
    many = [{"source": f"s{n // 4}"} for n in range(120)]
    assert find_clusters(many, list(range(120)), column=None).alone is None
    assert find_clusters(many, list(range(120)), column="none").words == "prompts"


def test_text_health_resamples_the_clusters_that_the_win_rate_does() -> None:
    fine = [f"Word {n} of a plain answer number {n}." for n in range(60)]
    empty = ["" if n // 10 in (0, 2) else text for n, text in enumerate(fine)]
    ours, theirs = answers(empty), answers(fine)
    clusters = Clusters.of([n // 10 for n in range(60)])
    alone = {one.name: one for one in measure(ours, theirs, seed=0)}["empty, %"]
    together = {one.name: one for one in measure(ours, theirs, seed=0, clusters=clusters)}["empty, %"]
    assert (alone.is_flagged, together.is_flagged, alone.difference) == (True, False, together.difference)
