"""The table of made results: every number with its interval, dashes for what is missing, four ways to write it."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import numpy as np
import pytest

from alignkit.tournaments.results import Beside, Results, Rung
from alignkit.tournaments.table import Table, make_table, rows_of
from tests.helpers.tournaments import ENTRANTS, made_results


@pytest.fixture(scope="module")
def table() -> Table:
    results = made_results(beside=Beside("the paper's table", {"win_rate": {"dpo": "61.1"}}, ("one seed",)))
    results.nats_ESP[1, 0, :3] = math.nan
    results.reference_tokens_ESP[1, 0, :3] = math.nan
    return make_table(results)


def test_the_text_fits_80_columns_and_says_what_is_missing(table: Table) -> None:
    text = table.text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith(table.headline[:60])
    for words in ("win rate % vs", "vs own", "BLEU-4", "perplexity", "the paper's", "61.1", "one seed"):
        assert words in text, words
    assert "3 references were left out and 0 were cut" in " ".join(text.split())
    own_start = next(m for m in table.measures if m.key == "win_rate_1")
    assert own_start.cells["base"] is not None and own_start.cells["base"].mean is None


def test_numbers_of_any_size_keep_their_columns_and_bounds_what_can_be() -> None:
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(9, 3, (5, 3, 120)))
    lengths[:, 1] *= 40
    nats = np.exp(rng.normal(6, 1, (5, 3, 120)))
    table = make_table(made_results(length_ESP=lengths, nats_ESP=nats))
    by_key = {m.key: m for m in table.measures}
    least = {"excess_length": -100, "excess": 0, "perplexity": 1}
    for key, bound in least.items():
        assert min(cell.low for cell in by_key[key].cells.values() if cell and cell.low is not None) >= bound
    for line in table.text().partition("\n\n")[2].partition("Differences")[0].splitlines():
        cells = [line[at : at + 12] for at in range(20, len(line), 12)]
        assert all(cell.startswith(" ") and len(cell.split()) <= 1 for cell in cells if line[:20].strip()), line


def test_what_a_direct_comparison_tells_apart_is_said_where_the_first_opponent_cannot() -> None:
    results = made_results()
    results.outcome_ESVP[1:, :, 0] = 1.0  # all win against a weak opponent
    results.outcome_ESVP[3, :, 1] = 0.0  # and dpo loses against its own start
    table = make_table(results)
    assert "against instruct; a direct comparison tells more" in table.headline
    note = next(note for note in table.notes if note.startswith("Ranks and differences are by"))
    assert "dpo wins 0.0 % (0.0 to" in note and ") against sft" in note
    results.outcome_ESVP[3, :, 1] = 0.5
    assert "dpo" not in " ".join(n for n in make_table(results).notes if n.startswith("Ranks and differences are by"))


def test_answers_without_words_are_said() -> None:
    results = made_results()
    results.text_ESP[1] = " \n"
    notes = make_table(results).notes
    assert "All answers of sft are empty: a win of theirs is none of words." in notes
    assert "No KL from the base of sft: all answers are empty." in notes
    assert any(note.startswith("No KL from the base of lenpen, dpo, grpo: not begun") for note in notes)


def test_measures_are_what_they_say(table: Table) -> None:
    by_key = {m.key: m for m in table.measures}
    results = made_results()
    for e, entry in enumerate(ENTRANTS):
        cell = by_key["win_rate"].cells[entry.name]
        assert cell is not None and cell.mean == pytest.approx(100 * results.outcome_ESVP[e, :, 0].mean())
        assert cell.low < cell.mean < cell.high  # type: ignore[operator]
        perplexity = by_key["perplexity"].cells[entry.name]
        assert perplexity is not None and perplexity.mean == pytest.approx(7)
        excess = by_key["excess_length"].cells[entry.name]
        assert excess is not None
        assert excess.mean == pytest.approx(100 * (results.length_ESP[e].mean() / 40 - 1))
    assert by_key["perplexity"].cells["sft"].num_missing == 3  # type: ignore[union-attr]
    minutes = by_key["minutes"].cells
    assert minutes["base"] is None and minutes["dpo"] is not None and minutes["dpo"].low is None
    assert 0 < by_key["bleu4"].cells["dpo"].mean < 100  # type: ignore[union-attr, operator]


def test_a_ratio_of_sums_weighs_long_answers() -> None:
    nats, tokens = np.zeros((5, 3, 40)), np.ones((5, 3, 40))
    nats[..., ::2], tokens[..., ::2] = 30 * math.log(2), 30
    found = make_table(made_results(num_prompts=40, nats_ESP=nats, reference_tokens_ESP=tokens))
    perplexity = next(m for m in found.measures if m.key == "perplexity")
    assert perplexity.cells["dpo"].mean == pytest.approx(2 ** (30 / 31))  # type: ignore[union-attr]


def test_files_hold_the_same_numbers(table: Table) -> None:
    content = json.loads(table.json())
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    win = next(m for m in content["measures"] if m["key"] == "win_rate")
    assert [row["entrant"] for row in rows] == [entry.name for entry in ENTRANTS]
    for row, shown in zip(rows, rows_of(table), strict=True):
        assert float(row["win_rate"]) == win["cells"][row["entrant"]]["mean"] == shown["win_rate"]
    assert rows[0]["win_rate_1"] == "" and rows[0]["minutes"] == ""
    assert len(content["pairs"]) == 10


def test_latex_is_escaped_and_has_as_many_cells_as_columns(table: Table) -> None:
    lines = table.latex().splitlines()
    columns = next(line for line in lines if line.startswith("\\begin")).count("r", len("\\begin{tabular}"))
    body = [line for line in lines if line.endswith(r"\\")]
    assert all(line.replace(r"\&", "").count("&") == columns for line in body) and len(body) == 6
    assert r"win rate \% vs instruct" in body[0]


def test_no_number_is_made_up_where_nothing_was_judged() -> None:
    results = made_results(num_prompts=40)
    nothing = np.full_like(results.outcome_ESVP, math.nan)
    found = make_table(made_results(num_prompts=40, outcome_ESVP=nothing))
    assert found.headline == "Nothing was judged."
    assert all(m.key not in ("win_rate", "length_adjusted") for m in found.measures)
    assert found.text() and found.csv() and found.json() and found.latex()


def test_nothing_is_missing_of_an_entrant_that_is_its_own_opponent() -> None:
    outcome = made_results(num_prompts=40).outcome_ESVP.copy()
    outcome[0] = math.nan  # the base: against itself, and without a start
    outcome[3, 0, 0, :2] = math.nan
    for opponents in (("base", "start"), ("start", "base")):
        notes = make_table(made_results(num_prompts=40, outcome_ESVP=outcome, opponents=opponents)).notes
        assert "Prompts without a score, left out of every pair that they are in: dpo 2." in notes


def test_a_sweeps_pick_says_what_it_promises_too_much() -> None:
    entrants = tuple(
        entry if entry.name not in ("dpo", "grpo") else type(entry)(**vars(entry) | {"sweep": "beta"})
        for entry in ENTRANTS
    )
    tuning = made_results(entrants=entrants)
    end = tuning.outcome_ESVP[3:, :, 0]
    half = end.copy()
    half[1] = math.nan  # grpo failed
    rungs = (
        Rung(("dpo", "grpo"), ("beta", "beta"), (4, 4), half),
        Rung(("dpo", "grpo"), ("beta", "beta"), (8, 8), end),
    )
    found = make_table(made_results(num_prompts=40, tuning=tuning, rungs=rungs, picked={"beta": "dpo"}))
    name, best = found.picks["beta"]
    assert name == "dpo" and best.mean == pytest.approx(100 * end[0].mean()) and 0 <= best.optimism < 10
    assert any(note.startswith("Sweep beta: dpo won on the tuning prompts") for note in found.notes)
    grpo = f"{100 * end[1].mean():.1f} %"
    end[1] = end[0]
    notes = make_table(made_results(num_prompts=40, tuning=tuning, rungs=rungs, picked={"beta": "dpo"})).notes
    assert any(note.startswith("Sweep beta: dpo was picked as the first, as good as grpo, on the") for note in notes)
    rate = f"{100 * end[0].mean():.1f} %"
    assert [str(row) for row in found.sweeps] == [
        f"dpo: {rate} after 4 steps, {rate} after 8 steps; picked",
        f"grpo: no outcomes after 4 steps, {grpo} after 8 steps; not picked",
    ]
    assert any("trained in 2 parts, to step 4 and 8" in note for note in found.notes)


def test_what_a_second_judge_and_other_prompts_say_stands_in_the_table() -> None:
    def beside(num_prompts: int, **changed: Any) -> Results:
        return made_results(num_seeds=1, num_prompts=num_prompts, **changed)

    outcome = made_results(num_seeds=1, num_prompts=40).outcome_ESVP.copy()
    outcome[..., 10:] = math.nan
    nats = np.full((5, 1, 40), 20.0 * math.log(7.0))
    nats[4] += 20 * np.linspace(0.4, 0.6, 40)  # grpo loses half a nat a token; its guard does not pass
    clipped = np.array([[math.nan], [1.0], [0.5], [1.0], [0.0]])
    found = make_table(
        beside(40, second=beside(40, outcome_ESVP=outcome), off_task=beside(40, nats_ESP=nats), clipped_ES=clipped)
    )
    by_key = {m.key: m for m in found.measures}
    dpo = by_key["second"].cells["dpo"]
    assert dpo is not None and dpo.num_prompts == 10 and dpo.mean == pytest.approx(100 * outcome[3, 0, 0, :10].mean())
    assert by_key["off_task_perplexity"].cells["dpo"].mean == pytest.approx(7)  # type: ignore[union-attr]
    notes = " ".join(found.notes)
    assert "guard against base, sft, lenpen, dpo: pass; nearest to its margin is " in notes
    assert "against base, grpo: does not pass: -50.0" in notes
    assert "Every step of sft, dpo was clipped" in notes and "read the first 10 prompts" in notes


def test_tokens_over_the_reference_are_compared_prompt_by_prompt() -> None:
    results = made_results(num_prompts=4, num_seeds=1)
    results.length_ESP[3, 0] = [50, 30, 60, 40]  # references have 40 tokens
    results.rival_length_ESVP[3, 0, 1] = [45, 45, 40, 40]
    by_key = {m.key: m for m in make_table(results).measures}
    assert by_key["excess"].cells["dpo"].mean == 7.5  # type: ignore[union-attr]
    assert by_key["excess_vs_1"].cells["dpo"].mean == 5.0  # type: ignore[union-attr]


def test_what_paid_requests_cost_stands_below_its_entrant() -> None:
    paid = {"base": (40, 1.0), "grpo": (5000, None)}
    by_key = {m.key: m for m in make_table(made_results(num_prompts=40, num_seeds=1, paid=paid)).measures}
    assert by_key["requests"].cells["grpo"].mean == 5000 and by_key["requests"].cells["sft"] is None  # type: ignore[union-attr]
    assert by_key["money"].cells["base"].mean == 1.0 and by_key["money"].cells["grpo"].mean is None  # type: ignore[union-attr]


def test_the_kl_from_the_base_is_a_mean_over_tokens_and_says_where_there_is_none() -> None:
    results = made_results(num_prompts=4, num_seeds=1)
    results.kl_nats_ESP[3, 0, :2] = [3.0, 1.0]
    results.kl_tokens_ESP[3, 0, :2] = [10, 30]
    table = make_table(results)
    cells = next(m for m in table.measures if m.key == "kl_base").cells
    assert cells["dpo"].mean == pytest.approx(0.1)  # type: ignore[union-attr]
    assert any(note.startswith("No KL from the base of sft, lenpen, grpo: ") for note in table.notes)
