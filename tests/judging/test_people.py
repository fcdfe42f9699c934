"""What people's votes say of a judge: the rate they would give, agreement, skips, and voters who do not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from alignkit.judging.people import Judged, People, caveats, facts, kappa_of, people_of
from alignkit.scoring.votes import Choice, Vote, Votes
from alignkit.statistics.prediction_powered import chances, prediction_powered

SIZE = 200
RNG = np.random.default_rng(0)
KEYS = np.sort(RNG.random(SIZE))
TRUTH = RNG.random(SIZE) < 0.6


def vote(place: int, choice: Choice, voter: str = "Ann", *, ours_first: bool = True) -> Vote:
    sides = ("ours", "theirs") if ours_first else ("theirs", "ours")
    return Vote("poll", f"p{place}", voter, f"q{place}", *sides, choice, place, KEYS[place], 1.0)


def truthful(places: Sequence[int]) -> list[Vote]:
    """Votes for the truth, ours shown first on every other pair."""
    return [vote(n, "first" if TRUTH[n] == (n % 2 == 0) else "second", ours_first=n % 2 == 0) for n in places]


def found(votes: Sequence[Vote], outcome: np.ndarray, ours_chars: Sequence[int] | None = None) -> People:
    chars = ours_chars if ours_chars is not None else [50] * SIZE
    judged = [Judged(f"p{n}", "ours", float(outcome[n]), chars[n], 50) for n in range(SIZE)]
    content: Mapping[str, Any] = {"pairs": [[f"p{n}", [], "", "", KEYS[n], 1.0] for n in range(SIZE)]}
    made = people_of(judged, Votes(votes), lambda name: content if name == "poll" else None, seed=0)
    assert made is not None
    return made


def test_the_rate_is_prediction_powered_inference_over_the_poll() -> None:
    outcome = np.where(RNG.random(SIZE) < 0.8, TRUTH, ~TRUTH).astype(float)
    people = found(truthful(range(50)), outcome)
    chance = chances(KEYS, np.ones(SIZE), 50)
    assert chance[:50] == pytest.approx(KEYS[50])  # uniform asking: the next key
    expected = prediction_powered(TRUTH[:50].astype(float), np.arange(50), outcome, chance)
    assert people.rate is not None and people.alone is not None
    assert people.rate.value == pytest.approx(100 * expected.mean)
    assert people.alone.value == pytest.approx(100 * TRUTH[:50].mean())  # uniform: the plain mean
    assert people.rate.low < 100 * TRUTH.mean() < people.rate.high
    assert people.rate.high - people.rate.low < people.alone.high - people.alone.low
    assert (people.num_pairs, people.num_voted, people.voters) == (SIZE, 50, {"Ann": 50})
    assert "from 50 of 200 unequal pairs and the judge on all" in dict(facts(people))["win rate people would give"]


def test_a_judge_that_says_what_people_say_makes_every_pair_known() -> None:
    people = found(truthful(range(50)), TRUTH.astype(float))
    assert people.rate is not None and people.rate.value == pytest.approx(100 * TRUTH.mean())
    assert people.agreement is not None and people.agreement.judge.value == 1
    assert people.agreement.kappa is not None and people.agreement.kappa.value == pytest.approx(1)
    assert not people.agreement.is_no_better_than_length and caveats(people) == []


def test_kappa_by_hand() -> None:
    people_K, judge_K = np.array([1, 1, 1, 0, -1, -1]), np.array([1, 1, -1, 0, -1, 1])
    # agreement 4/6; expected 3/6 * 3/6 + 1/6 * 1/6 + 2/6 * 2/6 = 14/36
    kappa, expected = kappa_of(people_K, judge_K, np.ones(6))
    assert (kappa, expected) == (pytest.approx((24 / 36 - 14 / 36) / (22 / 36)), pytest.approx(14 / 36))
    assert np.isnan(kappa_of(np.ones(4), np.ones(4), np.ones(4))[0])  # one outcome alone: chance agrees always


def test_a_judge_that_goes_by_length_is_said_to() -> None:
    chars = [80 if x else 20 for x in RNG.random(SIZE) < 0.5]
    by_length = np.array([float(x == 80) for x in chars])
    people = found(truthful(range(60)), by_length, chars)
    assert people.agreement is not None and people.agreement.is_no_better_than_length
    assert people.agreement.longer == people.agreement.judge.value
    assert any("nothing shows that it judges better than length does" in said for said in caveats(people))
    better = found(truthful(range(60)), TRUTH.astype(float), chars)
    assert better.agreement is not None and not better.agreement.is_no_better_than_length


def test_a_voter_who_always_presses_the_same_key_is_said() -> None:
    votes = [vote(n, "first", "Bob", ours_first=n % 2 == 0) for n in range(20)]
    people = found(votes, TRUTH.astype(float))
    assert "Bob chose the answer shown first in 20 of 20 votes: that is hardly a judgement" in caveats(people)
    assert found(truthful(range(20)), TRUTH.astype(float)).notes == ()


def test_skipped_pairs_were_asked_and_bound_the_rate() -> None:
    votes = [vote(n, "skip") if n % 4 == 3 else vote(n, "first") for n in range(40)]  # 30 wins, 10 skips
    people = found(votes, np.full(SIZE, 0.5))
    assert (people.num_voted, people.num_skipped) == (30, 10)
    assert (people.skipped_lost, people.skipped_won) == (pytest.approx(75), pytest.approx(100))
    assert "10 of 40 asked (25 %)" in dict(facts(people))["pairs people skipped"]
    assert found(truthful(range(40)), TRUTH.astype(float)).skipped_lost is None


def test_the_mean_of_two_voters_counts_and_votes_out_of_turn_are_said() -> None:
    votes = [*truthful(range(12)), *(vote(n, "tie", "Bob") for n in range(12)), vote(30, "first")]
    people = found(votes, np.full(SIZE, 0.5))
    assert people.num_voted == 12
    assert people.alone is not None and people.alone.value == pytest.approx(100 * (TRUTH[:12].mean() + 0.5) / 2)
    assert any(note.startswith("1 votes out of turn") for note in people.notes)


def test_few_votes_give_no_rate_and_votes_on_other_pairs_nothing() -> None:
    people = found(truthful(range(9)), TRUTH.astype(float))
    assert people.rate is None and people.agreement is None
    assert "at least 10 are needed" in people.notes[0]
    assert (
        people_of([Judged("other", "ours", 1.0, 1, 1)], Votes(truthful(range(20))), lambda name: None, seed=0) is None
    )
