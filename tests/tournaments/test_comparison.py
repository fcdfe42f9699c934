"""Cells, pairs, ranks and the headline of a tournament, on made outcomes whose truth is known."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import win_rate
from alignkit.tournaments.comparison import Comparison, Design, Prompts, averages, compare
from alignkit.tournaments.planning import pick, plan, plan_lines, power

FIVE = Design(
    ("base", "sft", "lenpen", "dpo", "grpo"), (None, "base", "base", "sft", "sft"), (False, True, True, True, True)
)


def outcomes(rates: list[float], num_seeds: int, num_prompts: int, *, deviation: float = 0.0) -> np.ndarray:
    """Wins and losses [E, S, P]; the first entrant's are the same for every seed."""
    rng = np.random.default_rng(0)
    rate_ES = np.array(rates)[:, None] / 100 + deviation / 100 * rng.normal(size=(len(rates), num_seeds))
    rate_ES[0] = rates[0] / 100
    prompt_P = rng.random(num_prompts)
    y = (0.5 * prompt_P + 0.5 * rng.random((len(rates), num_seeds, num_prompts)) < rate_ES[..., None]).astype(float)
    y[0] = y[0, 0]
    return y


def alone(num_prompts: int) -> Prompts:
    single = Clusters.single(num_prompts)
    return Prompts(single, single)


def told_apart(found: Comparison) -> set[tuple[str, str]]:
    return {(pair.first, pair.second) for pair in found.pairs if pair.is_told_apart}


def test_the_better_are_told_apart_and_the_equal_share_a_rank() -> None:
    y = outcomes([40, 60, 60, 80, 80], 3, 400)
    found = compare(y, FIVE, alone(400))
    ranks = {name: str(rank) for name, rank in found.ranks.items()}
    assert ranks == {"dpo": "1", "grpo": "1", "sft": "2", "lenpen": "2", "base": "3"}
    assert "dpo are better than every other entrant" in found.headline or "grpo are better" in found.headline
    assert found.ranks["dpo"].best == 1 and found.ranks["dpo"].worst == 2
    assert len(found.pairs) == 10 and ("dpo", "sft") in told_apart(found)
    assert "cannot be told apart with 3 seeds and 400 prompts" in found.headline
    for pair in found.pairs:
        assert pair.is_told_apart == (pair.low > 0) and pair.low <= pair.difference <= pair.high
    assert found.cells["dpo"].holds_seeds and found.cells["dpo"].num_seeds == 3
    assert found.cells["base"].num_seeds == 1
    look = win_rate(y[0, 0], seed=0)
    assert (found.cells["base"].low, found.cells["base"].high) == (look.low, look.high)


def test_two_share_a_rank_exactly_where_they_cannot_be_told_apart() -> None:
    y = outcomes([50, 58, 66], 3, 300, deviation=2)
    design = Design(("a", "b", "c"), (None, None, None), (False, True, True))
    found = compare(y, design, alone(300))
    for pair in found.pairs:
        shared = set(found.ranks[pair.first].groups) & set(found.ranks[pair.second].groups)
        assert bool(shared) != pair.is_told_apart
    assert any(pair.is_told_apart for pair in found.pairs) and not all(pair.is_told_apart for pair in found.pairs)


def test_runs_that_differ_widen_what_more_prompts_cannot() -> None:
    same, noisy = (compare(outcomes([50, 50, 50, 50, 50], 3, 400, deviation=d), FIVE, alone(400)) for d in (0, 8))
    for name in ("sft", "dpo"):
        narrow, wide = same.cells[name], noisy.cells[name]
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)  # type: ignore[operator]
        assert 4 < wide.seed_deviation < 14  # type: ignore[operator]
    assert not told_apart(noisy)


def test_with_one_seed_it_speaks_of_these_runs_and_of_prompts_alone() -> None:
    y = outcomes([40, 50, 50, 75, 75], 1, 200)
    found = compare(y, FIVE, alone(200))
    assert found.is_of_runs and found.headline.startswith("With one seed this is about these runs")
    assert any("another training run" in note for note in found.notes)
    look = win_rate(y[3, 0], seed=0)
    assert (found.cells["dpo"].low, found.cells["dpo"].high) == (look.low, look.high)
    assert not found.cells["dpo"].holds_seeds and found.cells["base"].holds_seeds


def test_a_missing_score_is_left_out_of_its_pairs_and_counted() -> None:
    y = outcomes([40, 50, 50, 75, 75], 3, 100)
    y[3, 1, :7] = math.nan
    found = compare(y, FIVE, alone(100))
    assert found.cells["dpo"].num_missing == 7 and found.cells["dpo"].num_prompts == 93
    assert found.cells["dpo"].mean == pytest.approx(100 * y[3, :, 7:].mean())
    for pair in found.pairs:
        assert pair.num_missing == (7 if "dpo" in (pair.first, pair.second) else 0)
    assert any("dpo 7" in note for note in found.notes)


def test_a_failed_run_leaves_the_others_and_a_failed_entrant_none() -> None:
    y = outcomes([40, 50, 50, 75, 75], 3, 150)
    y[4, 2] = math.nan
    y[2] = math.nan
    found = compare(y, FIVE, alone(150))
    assert found.cells["grpo"].num_seeds == 2 and found.cells["grpo"].num_missing == 0
    assert found.cells["lenpen"].mean is None and "lenpen" not in found.ranks
    assert len(found.pairs) == 6
    assert {p.num_seeds for p in found.pairs if "grpo" in (p.first, p.second)} == {2}


def test_too_few_clusters_speak_for_these_alone() -> None:
    y = outcomes([40, 50, 50, 75, 75], 3, 120)
    clusters = Clusters.of(np.repeat(np.arange(3), 40).tolist())
    found = compare(y, FIVE, Prompts(clusters, Clusters.single(120), "clusters of prompts with the same template (3)"))
    assert any("speak for these alone" in note for note in found.notes)
    assert found.cells["dpo"].low is not None


def test_what_would_tell_a_pair_apart_does() -> None:
    y = outcomes([50, 50, 53], 3, 200, deviation=1)
    design = Design(("base", "a", "b"), (None, "base", "base"), (False, True, True))
    pair = next(p for p in compare(y, design, alone(200)).pairs if {p.first, p.second} == {"a", "b"})
    assert not pair.is_told_apart and re.fullmatch(r"\d+ seeds would", pair.needs), pair


def test_nothing_and_one_entrant_are_said() -> None:
    design = Design(("a",), (None,), (True,))
    assert compare(np.full((1, 2, 10), math.nan), design, alone(10)).headline == "Nothing was judged."
    assert "a alone has outcomes" in compare(outcomes([50], 2, 40), design, alone(40)).headline


def test_a_plan_finds_what_it_says_and_more_noise_asks_for_more() -> None:
    quiet, loud = plan(0.0, num_entrants=3), plan(3.0, num_entrants=3)
    assert quiet.num_seeds == 2 and quiet.num_prompts is not None
    assert loud.num_seeds is not None and loud.num_seeds > quiet.num_seeds
    assert 0.8 <= power(0.0, 2, quiet.num_prompts, num_entrants=3) < 0.84
    assert power(0.0, 2, quiet.num_prompts // 2, num_entrants=3) < 0.6
    assert str(quiet) == f"6 points, runs that differ by 0: 2 seeds and {quiet.num_prompts:,} prompts"


def test_one_seed_is_planned_for_what_it_is() -> None:
    assert any("these runs alone" in line for line in plan_lines(num_entrants=2, num_seeds=1, num_prompts=320))


def test_the_pick_of_equal_entrants_promises_all_of_its_lead() -> None:
    rng = np.random.default_rng(3)
    real, said = [], []
    for _ in range(40):
        y = (rng.random((5, 2, 100)) < 0.5).astype(float)
        found = pick(y, Clusters.single(100))
        assert found.number == y.mean((1, 2)).argmax() and found.optimism >= 0
        assert found.optimism == pytest.approx(found.of_prompts + (found.of_seeds or 0.0))
        real.append(found.mean - 50)
        said.append(found.optimism)
    assert abs(np.mean(real) - np.mean(said)) < 1.5
    certain = np.stack([np.zeros((1, 50)), np.ones((1, 50))])
    assert pick(certain, Clusters.single(50)).optimism == 0 and pick(certain, Clusters.single(50)).of_seeds is None


def test_no_mean_share_is_above_100_or_below_0() -> None:
    x_ESP = np.zeros((5, 1, 6))
    x_ESP[:, 0, :5] = 100.0
    within = averages(x_ESP, FIVE, alone(6), within=(0.0, 100.0))
    free = averages(x_ESP, FIVE, alone(6))
    assert all(cell.high == 100.0 and cell.mean == pytest.approx(500 / 6) for cell in within.values())
    assert all(cell.high is not None and cell.high > 100.0 for cell in free.values())


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize(("num_prompts", "is_apart"), [(2, False), (5, False), (8, True), (40, True)])
def test_a_few_prompts_that_all_agree_tell_two_apart_no_sooner_than_one_look_does(
    num_seeds: int, num_prompts: int, is_apart: bool
) -> None:
    two = Design(("a", "b"), (None, None), (True, True))
    won = np.zeros((2, num_seeds, num_prompts))
    won[0] = 1
    found = compare(won, two, alone(num_prompts))
    pair = found.pairs[0]
    assert pair.is_told_apart is is_apart and (pair.low > 0) is is_apart and (pair.p <= 0.05) is is_apart
    assert pair.low < pair.difference == 100
    assert is_apart or re.fullmatch(r"\d+ (seeds|prompts) would", pair.needs)


def test_no_interval_is_a_point_where_all_prompts_agree() -> None:
    two = Design(("a", "b"), (None, None), (True, True))
    found = compare(np.ones((2, 2, 54)), two, alone(54))
    pair = found.pairs[0]
    assert pair.low < -5 and pair.high > 5
    assert pair.needs == "no number of seeds and prompts would: the difference seen is 0"
    cell = averages(np.full((2, 2, 54), 16.0), two, alone(54))["a"]
    assert (cell.mean, cell.low, cell.high) == (16, None, None)
