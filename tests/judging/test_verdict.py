"""The rule of a verdict, and its text."""

import json
import math

import numpy as np
import pytest
from scipy.stats import norm
from verdicts import rated, verdict_on

from alignkit.judging.decision import decide, level_of, prompts_needed, why_free
from alignkit.judging.health import Measure
from alignkit.judging.judged_answers import JudgedAnswers, examples_of
from alignkit.judging.length import Bucket, LengthFacts
from alignkit.judging.scores import BothScores, why_missing
from alignkit.judging.summary import summary
from alignkit.judging.verdict import JudgeName, Verdict
from alignkit.judging.verdict_text import as_json, facts, headline, lines, rule, table
from alignkit.scoring.judge import Missing, Scored
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import WinRate, win_rate

Z_FIRST, Z_SECOND = norm.ppf(1 - 0.92 * 0.02), norm.ppf(1 - 0.92 * 0.01 * 3 / math.pi**2)  # in standard errors


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (50.1, 60.0, "better"),
        (40.0, 49.9, "worse"),
        (50.1, 50.9, "better"),  # certain before small
        (47.0, 53.0, "no difference that matters"),
        (50.0, 52.0, "no difference that matters"),
        (46.9, 52.0, "not enough evidence"),
        (48.0, 53.1, "not enough evidence"),
        (50.0, 60.0, "not enough evidence"),
        (0.0, 100.0, "not enough evidence"),
    ],
)
def test_the_rule_is_applied_in_its_order(low: float, high: float, answer: str) -> None:
    assert decide(rated((low + high) / 2, low, high), margin=3.0) == answer


def test_without_an_interval_no_margin_is_wide_enough() -> None:
    assert decide(rated(60.0, 0.0, 100.0, method="none: only 3 clusters"), margin=50.0) == "not enough evidence"


def test_without_a_margin_no_difference_is_small_enough() -> None:
    assert decide(rated(50.0, 49.9, 50.1), margin=0.0) == "not enough evidence"


@pytest.mark.parametrize(("rate", "margin"), [(50.0, 3.0), (51.5, 3.0), (54.0, 3.0), (53.0, 0.5)])
def test_as_many_prompts_as_are_needed_settle_it_in_80_of_100_cases(rate: float, margin: float) -> None:
    # the truth given a first look of 300 prompts, by the planner's own words; then the rest of the prompts are drawn
    error = 100 * math.sqrt(0.25 / 300)
    first = rated(rate, rate - Z_FIRST * error, rate + Z_FIRST * error, 300, level=0.96)
    needed = prompts_needed(first, margin=margin, look=1)
    assert needed is not None and needed > 300
    rng, shrunk = np.random.default_rng(0), 1 / (1 + error**2 / 10**2)
    truth = 50 + shrunk * (rate - 50) + math.sqrt(shrunk) * error * rng.standard_normal(20_000)
    added = truth + 100 * math.sqrt(0.25 / (needed - 300)) * rng.standard_normal(20_000)
    seen = (300 * rate + (needed - 300) * added) / needed
    half = Z_SECOND * 100 * math.sqrt(0.25 / needed)
    settled = (seen - half > 50) | (seen + half < 50) | (np.abs(seen - 50) + half <= margin)
    assert settled.mean() == pytest.approx(0.8, abs=0.01)


def test_where_a_lifetime_of_prompts_would_not_do_that_is_said() -> None:
    first = rated(50.0, 45.0, 55.0, 300)
    assert prompts_needed(first, margin=0.0) is None
    assert headline(verdict_on(first, margin=0.0)).endswith("; to settle it takes more than 20,000 prompts")


@pytest.mark.parametrize(
    ("win_rate", "margin"),
    [(rated(None, 0.0, 100.0, 0), 3.0), (rated(100.0, 0.0, 100.0, 1, method="none: 1 prompt"), 3.0)],
)
def test_prompts_needed_is_silent_where_no_number_can_be_given(win_rate: WinRate, margin: float) -> None:
    assert prompts_needed(win_rate, margin=margin) is None


def test_only_missing_evidence_asks_for_more_prompts() -> None:
    assert verdict_on(rated(60.0, 52.0, 68.0)).num_prompts_needed is None
    open_verdict = verdict_on(rated(55.0, 45.0, 65.0))
    assert open_verdict.num_prompts_needed is not None and open_verdict.num_prompts_needed > 100
    said = f"about {open_verdict.num_prompts_needed:,} prompts, these included, would settle it in 80 of 100 cases"
    assert said in headline(open_verdict)


def test_a_verdict_survives_json() -> None:
    verdict = verdict_on(rated(60.0, 52.0, 68.0), caveats=["the judge was also the training reward"])
    assert verdict.ours["perplexity"] is None
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    nothing = verdict_on(win_rate(np.array([math.nan]), seed=0))
    assert Verdict.model_validate_json(nothing.model_dump_json()) == nothing


def test_the_headline_gives_answer_rate_interval_and_prompts() -> None:
    text = headline(verdict_on(rated(60.04, 52.0, 68.0, num_prompts=1200)))
    assert text == "better: runs/dpo wins 60.0 % against base, 95 % interval 52.0 to 68.0, 1,200 prompts"


def test_a_verdict_without_scores_says_so() -> None:
    verdict = verdict_on(win_rate(np.full(7, math.nan), seed=0))
    assert verdict.answer == "not enough evidence"
    assert headline(verdict).endswith("has no prompt that both have a score for (7 missing)")
    one = verdict_on(win_rate(np.array([1.0]), seed=0))
    assert headline(one) == "not enough evidence: runs/dpo wins 100.0 % against base, no interval, 1 prompt"


def test_the_text_holds_rule_caveats_judge_and_both_columns() -> None:
    verdict = verdict_on(rated(60.0, 52.0, 68.0, num_missing=2), caveats=["prompts overlap the training set"])
    text = lines(verdict)
    assert str(verdict) == "\n".join(text)
    assert text[1] == "note: prompts overlap the training set"
    assert rule(verdict) in text
    assert "within 50 +- 3;" in rule(verdict)
    assert "judge: rules 2 (verifiable: a rule that anyone can check)" in text
    assert dict(facts(verdict))["outcomes"] == "100 wins, 0 ties, 0 losses; 2 prompts left out for a missing score"
    assert dict(facts(verdict))["BLEU"] == "tok:13a"
    assert ("BLEU-4", "10.2", "-") in table(verdict)
    assert ("perplexity of the references", "-", "7.5") in table(verdict)
    assert ("truncated, %", "50.0", "0.0") in table(verdict)


def test_the_text_shows_only_what_changed_in_the_answers() -> None:
    changed = Measure(name="loops", ours=3.0, theirs=1.0, difference=2.0, low=0.5, high=3.5)
    same = Measure(name="stock phrases", ours=3.0, theirs=1.0, difference=2.0, low=-0.5, high=4.5)
    text = lines(verdict_on(rated(60.0, 52.0, 68.0), health=[changed, same]))
    assert text[-2:] == [
        "loops: 3.00 against 1.00, difference 2.00 (0.50 to 3.50); WORSE",
        "1 other measures: no change shown",
    ]


def test_the_summary_has_six_lines_and_the_caveat_that_matters_most() -> None:
    won = verdict_on(rated(60.04, 52.0, 68.0, 1200), caveats=["first", "second", "third"], look=2)
    assert summary(won) == [
        "better: runs/dpo against base",
        "win rate: 60.0 %, 95 % interval 52.0 to 68.0; 1,200 wins, 0 ties, 0 losses",
        "note: first (2 more with --details)",
        "length: ours 41.3, theirs 60.0 tokens",
        "rests on: rules 2 (verifiable: a rule that anyone can check); demo-tasks:test, seed 5; look 2 at this pair",
    ]
    open_verdict = verdict_on(rated(55.0, 45.0, 65.0))
    assert summary(open_verdict)[0].endswith(" would settle it in 80 of 100 cases")
    assert summary(open_verdict)[2] == "note: it speaks of these weights alone, not of another training seed"


def test_the_summary_says_why_there_is_no_interval_and_counts_what_is_missing() -> None:
    few = rated(60.0, 0.0, 100.0, num_missing=2, method="none: only 3 clusters of prompts")
    missing = why_missing(BothScores([Missing("HTTP 500"), Missing("HTTP 500"), Scored(1.0)], [Scored(0.0)] * 3))
    assert missing is not None
    text = summary(verdict_on(few, caveats=["first", missing], here=(rated(60.0, 52.0, 68.0), "prompts")))
    assert text[1].startswith(
        "win rate: 60.0 %, no interval: only 3 clusters of prompts; 100 wins, 0 ties, 0 losses; 2 "
    )
    assert text[2] == "on these sources alone, whatever others would say: better, 60.0 %, 95 % interval 52.0 to 68.0"
    assert text[3:5] == ["note: first (1 more with --details)", "note: 2 of 6 scores are missing: 2 HTTP 500"]
    mixed = why_missing(BothScores([Missing("does not apply"), Missing("HTTP 500")], [Missing("does not apply")] * 2))
    assert mixed == "4 of 4 scores are missing: 3 where the function gave None, 1 HTTP 500"
    assert sum("missing: " in line for line in summary(verdict_on(few, caveats=[missing]))) == 1


def test_the_examples_are_a_usual_win_a_usual_loss_and_the_most_unequal_pair() -> None:
    def pair(name: str, outcome: float | None, our_score: float, tokens: tuple[int, int] = (9, 9)) -> JudgedAnswers:
        texts = {"prompt": "user: x", "ours": "a", "theirs": "b"}
        scores = {"outcome": outcome, "our_score": our_score, "their_score": 0.0}
        return JudgedAnswers(id=name, **texts, **scores, our_tokens=tokens[0], their_tokens=tokens[1])

    answers = [pair("clear", 1, 9), pair("close", 1, 1), pair("usual", 1, 4), pair("tie", 0.5, 0, (2, 90))]
    answers += [pair("lost", 0, -2), pair("mute", None, 0, (1, 99))]
    assert [(name, one.id) for name, one in examples_of(answers)] == [
        ("a win", "usual"),
        ("a loss", "lost"),
        ("the most unequal lengths, no score", "mute"),
    ]
    assert [one.id for _, one in examples_of([pair("usual", 1, 4)])] == ["usual"]
    assert examples_of([]) == []


def test_the_json_form_and_the_details_say_what_missing_prompts_could_change() -> None:
    verdict = verdict_on(rated(60.0, 52.0, 68.0, num_prompts=150, num_missing=50))
    said = "50 of 200 prompts (25 %); the win rate is 45.0 % if all of them were losses, 70.0 % if all were wins"
    assert f"missing: {said}" in lines(verdict)
    found = json.loads(as_json(verdict))
    assert (found["if_missing_lost"], found["if_missing_won"]) == (pytest.approx(45), pytest.approx(70))


def test_a_judge_that_nobody_can_check_is_called_so() -> None:
    judge = JudgeName(name="reward-model", version="1", verifiable=False)
    assert "not verifiable" in dict(facts(verdict_on(rated(60.0, 52.0, 68.0), judge=judge)))["judge"]


def test_a_better_verdict_says_where_the_rate_at_equal_length_does_not_agree() -> None:
    nothing = Bucket(name="within 10 %", num_prompts=0, rate=None, low=0.0, high=100.0)

    def lengths(low: float | None, high: float | None) -> LengthFacts:
        rate = None if low is None or high is None else (low + high) / 2
        return LengthFacts(
            estimator="length_adjusted_win_rate",
            rate=rate,
            low=low,
            high=high,
            reason="",
            near_equal=nothing,
            buckets=(),
            longer_wins=0.8,
            num_decided=90,
            pearson=0.5,
            spearman=0.5,
        )

    won = rated(60.0, 52.0, 68.0)
    doubted = verdict_on(won, length=lengths(47.0, 56.0))
    assert (doubted.answer, doubted.at_equal_length) == ("better", False)
    assert headline(doubted).startswith("better, but not at equal length, as a model reads it: runs/dpo wins 60.0 %")
    sure = verdict_on(won, length=lengths(51.0, 66.0))
    assert (sure.at_equal_length, headline(sure)[:8]) == (True, "better: ")
    lost = verdict_on(rated(40.0, 32.0, 48.0), length=lengths(47.0, 56.0))
    assert headline(lost).startswith("worse, but not at equal length, as a model reads it")
    assert verdict_on(won, length=lengths(None, None)).at_equal_length is None
    assert verdict_on(rated(55.0, 45.0, 65.0), length=lengths(47.0, 56.0)).at_equal_length is None


def test_however_many_looks_there_are_they_spend_5_percent_together() -> None:
    assert [level_of(look) for look in (None, 1, 2, 3)] == pytest.approx([0.96, 0.96, 0.993921, 0.99848], abs=1e-6)
    assert sum(1 - level_of(look) for look in range(1, 100_000)) == pytest.approx(0.05, abs=1e-6)
    third = rule(verdict_on(rated(60.0, 52.0, 68.0), look=3))
    assert "the 3rd look at this pair: all looks together are wrong in at most 5 %" in third
    assert "look at this pair" not in rule(verdict_on(rated(60.0, 52.0, 68.0), look=1))
    assert dict(facts(verdict_on(rated(60.0, 52.0, 68.0))))["look"] == "not counted"


def test_the_json_form_is_flat_and_in_percent() -> None:
    content = json.loads(as_json(verdict_on(win_rate(np.array([1.0] * 70 + [0.0] * 30), seed=0))))
    assert (content["answer"], content["win_rate"], content["num_prompts"]) == ("better", 70.0, 100)
    assert content["standard_error"] == pytest.approx(100 * math.sqrt(0.21 * 100 / 99) / 10)
    assert content["low"] < 70 < content["high"]
    assert content["length_adjusted_win_rate"] is None
    assert content["length_controlled_win_rate"] is None


def test_a_free_look_at_few_sources_does_not_advise_more_prompts_of_them() -> None:
    assert why_free(90, 5.0).startswith("90 prompts find a difference of 5 points in ")
    few = why_free(90, 5.0, Clusters.of([n % 3 for n in range(90)]).too_few)
    assert "only 3 clusters of prompts: at least 5 are needed" in few and "--cluster none" in few
    assert "--difference" not in few
