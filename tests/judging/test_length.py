"""Win rates at equal length: AlpacaEval's estimator against its published tables, and the one for own prompts."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from places import BESIDE

from alignkit import api
from alignkit.cli.main import main
from alignkit.errors import InputError, UsageError
from alignkit.judging.length import Pairs, length_facts
from alignkit.judging.length_adjusted import length_adjusted
from alignkit.statistics.logistic import fit_l1, fit_resamples, log_loss, sigmoid
from alignkit.statistics.resampling import Clusters

FACTS = BESIDE / "facts" / "alpaca-eval"
PUBLISHED = list(csv.DictReader((FACTS / "published.csv").read_text().splitlines())) if FACTS.exists() else []
needs_tables = pytest.mark.skipif(not PUBLISHED, reason="AlpacaEval's tables are not beside the repository")


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda row: row["model"])
@needs_tables
def test_alpaca_evals_published_numbers_come_out(
    published: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (FACTS / "preferences.csv").read_text(encoding="utf-8").splitlines()
    file = tmp_path / "judged.csv"
    own = [line for line in lines[1:] if line.startswith(published["model"] + ",")]
    file.write_text("\n".join([lines[0], *own]) + "\n", encoding="utf-8")
    tables = ["--difficulties", str(FACTS / "instruction_difficulty.csv")]
    tables += ["--regularisation", str(FACTS / "gamed_baseline_rows.csv")]
    assert main(["judge", "--from", str(file), *tables, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_prompts"] == int(published["rows"])
    assert found["win_rate"] == pytest.approx(float(published["win_rate"]), abs=1e-6)
    assert found["standard_error"] == pytest.approx(float(published["standard_error"]), abs=1e-6)
    assert found["length_controlled_win_rate"] == pytest.approx(
        float(published["length_controlled_win_rate"]), abs=0.01
    )
    low, high = found["length_controlled_win_rate_low"], found["length_controlled_win_rate_high"]
    assert low < found["length_controlled_win_rate"] < high
    assert found["length_adjusted_win_rate"] is None


def test_the_l1_fit_is_at_its_optimum() -> None:
    rng = np.random.default_rng(0)
    x_PK, y_P, weight_P = rng.normal(size=(300, 3)), rng.random(300), rng.random(300)
    w_K = fit_l1(x_PK, y_P, weight_P, C=0.3, start_K=np.zeros(3))

    def objective(w: np.ndarray) -> float:
        return 0.3 * log_loss(x_PK, y_P, weight_P, w) + float(np.abs(w).sum())

    assert all(objective(w_K) <= objective(w_K + 1e-4 * rng.normal(size=3)) + 1e-12 for _ in range(200))
    assert not fit_l1(x_PK, y_P, weight_P, C=1e-4, start_K=np.ones(3)).any()  # a strong penalty leaves nothing


def test_resamples_fitted_at_once_are_each_the_fit_of_their_rows() -> None:
    rng = np.random.default_rng(1)
    own_P, y_P = rng.normal(size=80), rng.random(80)
    weight_PB = rng.multinomial(80, np.full(80, 1 / 80), size=5).T.astype(float)
    w_KB = fit_resamples(
        np.repeat(own_P[:, None], 5, 1),
        np.ones((80, 1)),
        y_P,
        weight_PB,
        start_K=np.zeros(2),
        slope_K=np.zeros(2),
        ridge=1e-6,
    )
    design = np.stack([own_P, np.ones(80)], axis=1)
    alone = [fit_l1(design, y_P, weight_PB[:, b], C=1e6, start_K=np.zeros(2)) for b in range(5)]
    np.testing.assert_allclose(w_KB.T, alone, atol=1e-4)


def made(num: int, *, quality: float, bias: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes won by quality and by length, and dl = theirs - ours in characters; ours is 100 longer on average."""
    rng = np.random.default_rng(seed)
    delta_P = rng.normal(-100, 200, num)
    chance_P = sigmoid(quality - bias * np.tanh(delta_P / delta_P.std(ddof=1)))
    return (rng.random(num) < chance_P).astype(float), delta_P


def test_the_adjusted_rate_finds_the_quality_under_a_length_bias() -> None:
    outcome_P, delta_P = made(20_000, quality=-0.4, bias=2.0)
    result = length_adjusted(outcome_P, delta_P, Clusters.single(20_000), seed=0, num_resamples=50)
    assert 100 * outcome_P.mean() > 52  # length makes the worse model win
    assert result.rate == pytest.approx(100 * sigmoid(np.array(-0.4)), abs=2)
    assert result.rate is not None and result.low is not None and result.high is not None
    assert result.low < result.rate < result.high < 50


def test_the_adjusted_interval_is_as_wide_as_the_estimates_scatter() -> None:
    estimates = []
    for seed in range(120):
        outcome_P, delta_P = made(300, quality=0.2, bias=1.0, seed=seed)
        result = length_adjusted(outcome_P, delta_P, Clusters.single(300), seed=0, num_resamples=300 if not seed else 5)
        estimates.append(result.rate)
        if not seed:
            width = (result.high or 0) - (result.low or 0)
    assert width == pytest.approx(2 * 1.96 * np.std(np.array(estimates, float)), rel=0.25)


def test_the_adjusted_rate_fails_as_documented_where_quality_and_length_share_a_cause() -> None:
    """The judge cares nothing for length; ours is better at the prompts on which it also writes more."""
    rng = np.random.default_rng(3)
    rates = []
    for _ in range(20):
        first_P = rng.random(800) < 0.5
        delta_P = rng.normal(np.where(first_P, -500, 100), 300)
        outcome_P = (rng.random(800) < sigmoid(np.where(first_P, 0.6, -0.6))).astype(float)
        rates.append(length_adjusted(outcome_P, delta_P, Clusters.single(800), seed=0, num_resamples=1).rate)
    assert np.mean(np.array(rates, float)) == pytest.approx(44.9, abs=1)  # the truth is 50


def test_there_is_no_number_where_hardly_an_answer_is_shorter_than_the_baselines() -> None:
    outcome_P, delta_P = made(400, quality=0.0, bias=1.0)
    result = length_adjusted(outcome_P, -np.abs(delta_P), Clusters.single(400), seed=0)
    assert (result.rate, result.low, result.high) == (None, None, None)
    assert result.reason.startswith(
        "too few answers are shorter than the baseline's: longer on 400, shorter on 0 of 400"
    )


def test_a_separable_length_bias_gives_finite_numbers() -> None:
    delta_P = np.linspace(-100, 100, 60)
    result = length_adjusted((delta_P < 0).astype(float), delta_P, Clusters.single(60), seed=0, num_resamples=200)
    assert result.rate == pytest.approx(50, abs=1)
    assert result.low is not None and math.isfinite(result.low)


def test_length_facts_count_what_they_say() -> None:
    ours = np.array([100.0] * 10 + [210.0] * 10 + [40.0] * 10 + [105.0] * 10)
    outcome = np.array([0.5] * 10 + [1.0] * 10 + [0.0] * 5 + [1.0] * 5 + [1.0] * 10)
    difference = np.array([0.0] * 10 + [2.0] * 10 + [-1.0] * 5 + [1.0] * 5 + [0.5] * 10)
    pairs = Pairs(outcome, ours, np.full(40, 100.0), difference, Clusters.single(40))
    facts = length_facts(pairs, seed=0, num_resamples=100)
    assert facts is not None
    assert (facts.near_equal.num_prompts, facts.near_equal.rate) == (20, 75.0)
    assert [(b.num_prompts, b.rate) for b in facts.buckets] == [
        (10, 50.0),
        (0, None),
        (20, 75.0),
        (0, None),
        (10, 100.0),
    ]
    assert (facts.num_decided, facts.longer_wins) == (30, 25 / 30)  # 10 + 5 + 10 of the unequal decided ones
    assert facts.pearson == pytest.approx(np.corrcoef(difference, np.log((ours + 1) / 101))[0, 1])


def write(folder: Path, text: str, name: str = "given.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_csv_and_jsonl_give_the_same_verdict_and_further_columns_are_ignored(tmp_path: Path) -> None:
    rows = [(n, 100 + n, 90 + 2 * n, 1 + (n * 7 % 11) / 10) for n in range(40)]
    text = "model,row,baseline_chars,model_chars,preference\n" + "".join(f"x,{a},{b},{c},{d}\n" for a, b, c, d in rows)
    names = ("row", "baseline_chars", "model_chars", "preference")
    lines = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    one = api.judge_file(write(tmp_path, text))
    two = api.judge_file(write(tmp_path, lines, "given.jsonl"))
    assert one.win_rate == two.win_rate
    assert one.length == two.length
    assert one.win_rate.rate == pytest.approx(100 * np.mean([row[3] - 1 for row in rows]))


def test_scores_and_both_forms_of_a_tie_are_read(tmp_path: Path) -> None:
    scores = api.judge_file(write(tmp_path, "row,score_model,score_baseline\n0,2,1\n1,1,1\n2,0,3\n3,,1\n"))
    found = scores.win_rate
    assert (found.num_wins, found.num_ties, found.num_losses, found.num_missing) == (1, 1, 1, 1)
    ties = api.judge_file(write(tmp_path, "row,preference\n0,0\n1,1.5\n2,2\n"))
    assert (ties.win_rate.num_ties, ties.win_rate.num_wins, ties.length) == (2, 1, None)


def test_scores_that_differ_by_rounding_alone_tie(tmp_path: Path) -> None:
    dust = "".join(f"{n},{0.1 + 0.2},0.3\n" for n in range(100))
    found = api.judge_file(write(tmp_path, "row,score_model,score_baseline\n" + dust)).win_rate
    assert (found.num_wins, found.num_ties, found.rate) == (0, 100, 50.0)
    # of 1000 a billionth is 1e-6: 1e-7 apart is a tie, 1e-5 is none
    rows = "0,1000.0000001,1000\n1,1000.00001,1000\n2,-1000,-1000.0000001\n3,1e-300,0\n4,0,0\n"
    found = api.judge_file(write(tmp_path, "row,score_model,score_baseline\n" + rows)).win_rate
    assert (found.num_wins, found.num_ties, found.num_losses) == (2, 3, 0)


def test_a_preference_beside_scores_is_read_and_may_not_contradict_them(tmp_path: Path) -> None:
    text = "row,preference,score_model,score_baseline\n0,2,0.9,0.1\n1,1.5,0.4,0.3\n2,1,,0.3\n"
    verdict = api.judge_file(write(tmp_path, text))
    assert (verdict.win_rate.num_wins, verdict.win_rate.num_ties, verdict.win_rate.num_losses) == (1, 1, 1)
    assert "the column preference was read" in verdict.caveats[0]
    with pytest.raises(InputError, match=r"line 5: preference is '2', score_model is '0.1', .* \(and 1 more row\)"):
        api.judge_file(write(tmp_path, text + "3,2,0.1,0.9\n4,1,0.9,0.1\n"))


@pytest.mark.parametrize(
    ("wins", "answer"), [(70, "better"), (30, "worse"), (50, "no difference that matters"), (56, "not enough evidence")]
)
def test_a_verdict_on_one_source_says_so_in_its_headline(
    wins: int, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{n},{1 + (n % 100 < wins)},web\n" for n in range(200))
    file = write(tmp_path, "row,preference,source\n" + rows)
    met = main(["judge", "--from", str(file), "--margin", "10", "--require", "better"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    stamp = "" if answer == "not enough evidence" else " on this one source"
    assert first.startswith(f"{answer}{stamp}: ") and met is (answer == "better")
    two = "".join(f"{n},{1 + (n % 100 < wins)},web{n % 2}\n" for n in range(200))
    alone = api.judge_file(write(tmp_path, "row,preference,source\n" + two), cluster="none", margin=10)
    assert str(alone).startswith(f"{answer}{stamp.replace('this one source', 'these sources alone')}: ")


def test_a_file_says_that_its_judge_is_unknown(tmp_path: Path) -> None:
    said = str(api.judge_file(write(tmp_path, "row,preference\n0,2\n1,1\n")))
    assert "judge: an unknown judge, whose judgements the file holds\n" in said and " - (" not in said


def test_rows_without_a_source_are_counted_apart_from_the_sources(tmp_path: Path) -> None:
    rows = [f"{n},{1 + n % 2},{f's{n % 15}' if n < 150 else ''}\n" for n in range(450)]
    verdict = api.judge_file(write(tmp_path, "row,preference,source\n" + "".join(rows)))
    assert (verdict.win_rate.num_clusters, verdict.units) == (315, "15 sources, and 300 prompts without one")
    verdict = api.judge_file(write(tmp_path, "row,preference,topic\n" + "".join(rows)), cluster="topic")
    assert verdict.units == "15 values of topic, and 300 prompts without one"


@pytest.mark.parametrize(
    ("wins", "margin", "reason"),
    [(30, 3, "the answer is worse: 96 % interval "), (50, 3, "goes down to "), (50, 10, None)],
)
def test_a_requirement_that_is_not_met_says_why_on_stderr(
    wins: int, margin: int, reason: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "row,preference\n" + "".join(f"{n},{1 + (n % 100 < wins)}\n" for n in range(200)))
    command = ["judge", "--from", str(file), "--margin", str(margin)]
    assert main([*command, "--require", "not-worse"]) == (0 if reason is None else 1)
    said = capsys.readouterr().err.splitlines()
    if reason is None:
        assert said == []
    else:
        [line] = said
        assert line.startswith("--require not-worse is not met by the model against the baseline: ") and reason in line
    if reason == "goes down to ":
        assert line.endswith(", below 50 - 3 = 47")
    assert main([*command, "--require", "better"]) == 1
    assert "is not met by the model against the baseline: the answer is " in capsys.readouterr().err


def test_many_missing_scores_are_shown_as_if_lost_and_as_if_won(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(num_missing: int) -> list[str]:
        rows = "".join(f"{n},{'' if n < num_missing else 2}\n" for n in range(200))
        assert main(["judge", "--from", str(write(tmp_path, "row,preference\n" + rows))]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("missing: ")]

    rates = "the win rate is 50.0 % if all of them were losses, 100.0 % if all were wins"
    assert said(100) == [f"missing: 100 of 200 prompts (50 %); {rates}"]
    assert (len(said(11)), said(10)) == (1, [])  # more than 5 %


def test_a_file_that_names_templates_is_judged_by_clusters(tmp_path: Path) -> None:
    text = "row,preference,template\n" + "".join(f"{n},{1 + n % 3 / 2},t{n // 4}\n" for n in range(80))
    verdict = api.judge_file(write(tmp_path, text))
    assert (verdict.win_rate.num_clusters, verdict.units) == (20, "clusters of prompts with the same template (20)")
    alone = api.judge_file(write(tmp_path, text), cluster="none")
    assert alone.win_rate.num_clusters is None
    with pytest.raises(UsageError, match="no judged row has this column; did you mean 'template'"):
        api.judge_file(write(tmp_path, text), cluster="templates")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows: the file is empty"),
        ("[]", "a JSON list; give JSONL, one object a line"),
        ("[1,2]\n", "a JSON list; give JSONL, one object a line"),
        ("5\n", "one line alone, '5': a header without rows"),
        ("row;preference\n0;1,5\n", "its fields are parted by ';'; save the file with commas"),
        ("row\tpreference\n0\t1\n", r"its fields are parted by '\\t'"),
        ("row,score_model\n1,2\n", "needed are the columns"),
        ("row,preference\n0,2\n0,1\n", "line 3: row 0 is also in .*line 2"),
        ("row,preference\n0,2.5\n", "line 2: preference is '2.5'; it is from 1"),
        ("row,preference\n0.5,2\n", "row is '0.5'; a whole number"),
        ("row,preference\n0,two\n", "preference is 'two'; a finite number"),
        ("row,preference\n0,1,3\n", "line 2: not as many fields"),
        ("row,preference,model_chars\n0,1,3\n", "belong together"),
        ('{"row": 0, "preference": 1}\n{"row": 1}\n', "line 2: lacks preference"),
        ('{"row": 0, "preference": 1e999}\n', "a finite number is needed"),
        ('{"row": 0,\n', "line 1: not JSON"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        api.judge_file(write(tmp_path, text))


def test_from_takes_no_model_and_no_half_of_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path, "row,preference\n" + "".join(f"{n},2\n" for n in range(40))))
    assert main(["judge", "some-model", "--from", file]) == 2
    assert main(["judge", "--from", file, "--vs", "base"]) == 2
    assert "--vs has no meaning with --from" in capsys.readouterr().err
    assert main(["judge", "--from", file, "--difficulties", file]) == 2
    assert main(["judge", "--difficulties", file]) == 2
    assert main(["judge", "--from", file, "--require", "better"]) == 0
    file = str(write(tmp_path, "row,preference\n" + "".join(f"{n},1\n" for n in range(40))))
    assert main(["judge", "--from", file, "--require", "better"]) == 1
