"""Judging in rounds: what is asked, when it stops, and what the verdict then says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.data.reading.rows import to_row
from alignkit.judging.answers import Answer, Answers
from alignkit.judging.decision import level_of
from alignkit.judging.rounds import Judged, expected_prompts, levels_of, rounds_of, why_whole
from alignkit.judging.scores import BothScores
from alignkit.scoring.judge import Scored
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import win_rate


def test_rounds_are_fifths_in_an_order_of_the_seed_and_hold_every_prompt_once() -> None:
    rounds = rounds_of(123, seed=3)
    assert [len(one) for one in rounds] == [25, 24, 25, 24, 25]
    assert sorted(np.concatenate(rounds).tolist()) == list(range(123))
    assert [one.tolist() for one in rounds_of(123, seed=3)] == [one.tolist() for one in rounds]
    assert rounds_of(123, seed=4)[0].tolist() != rounds[0].tolist()


def test_early_rounds_are_judged_far_more_strictly_than_the_last() -> None:
    levels = levels_of(0.96)
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 0.999999 and 0.955 < levels[-1] < 0.975 and len(levels) == 5


@pytest.mark.parametrize("look", [1, 2, 5, 9, 30])
def test_every_round_of_a_later_look_has_an_interval(look: int) -> None:
    levels = levels_of(level_of(look))
    assert levels == sorted(levels, reverse=True) and levels[0] < 1
    for num in (26, 175, 400):
        outcome_P = np.tile([1.0, 1.0, 0.5, 0.0], 100)[:num]
        lows = [win_rate(outcome_P, seed=0, level=level, num_resamples=500).low for level in levels]
        assert 0 <= lows[0] <= lows[-1] < 100 * outcome_P.mean()
        clusters = Clusters.of([n % 8 for n in range(num)])
        assert 0 <= win_rate(outcome_P, seed=0, level=levels[0], clusters=clusters).low < 50


def test_too_few_clusters_or_prompts_are_judged_whole() -> None:
    assert why_whole(Clusters.single(400)) == ""
    assert "99 prompts are too few" in why_whole(Clusters.single(99))
    assert "in 19 clusters, too few" in why_whole(Clusters.of([n % 19 for n in range(380)]))
    assert why_whole(Clusters.of([n % 20 for n in range(400)])) == ""


def test_a_large_difference_is_expected_to_need_fewer_prompts() -> None:
    some, many = (expected_prompts(Clusters.single(874), points, 0.96) for points in (5.0, 10.0))
    assert 400 < many < some < 874


def judged(numbers: list[int], tokens: int, perplexity: float) -> Judged:
    answers = tuple(Answer(to_row({"id": f"r{n}", "prompt": "x"}, where="x"), f"a{n}", 1, False) for n in numbers)
    side = Answers("m", answers, perplexity, num_reference_tokens=tokens)
    scores: list[Any] = [Scored(float(n)) for n in numbers]
    return Judged(np.array(numbers), side, side, BothScores(scores, list(reversed(scores)), 2, 1, 1))


def test_rounds_are_put_together_in_the_order_of_the_prompts() -> None:
    both = judged([1, 4], 10, 2.0).with_more(judged([0, 3], 30, 8.0))
    assert both.number_P.tolist() == [0, 1, 3, 4] and both.ours.texts == ["a0", "a1", "a3", "a4"]
    assert [score.value for score in both.scored.ours if isinstance(score, Scored)] == [0.0, 1.0, 3.0, 4.0]
    assert both.outcome_P.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert (both.scored.num_compared, both.scored.num_flipped) == (4, 2)
    assert both.ours.perplexity == pytest.approx(math.exp((10 * math.log(2) + 30 * math.log(8)) / 40))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "one", seed=0)
    tiny_model(folder / "other", seed=1)
    return folder


def test_a_settled_question_is_judged_no_further_and_the_same_again_asks_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "SEEN = {}\ndef mine(completion, row):\n"
        "    with open('asked.txt', 'a') as file:\n        file.write(row['id'] + '\\n')\n"
        "    return SEEN.setdefault(row['id'], completion) == completion\n"
    )
    rows = ({"id": f"r{n}", "prompt": f"Say {n}", "reference": "yes"} for n in range(300))
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["judge", str(models / "one"), "--vs", str(models / "other"), "--data", "rows.jsonl", "--json"]
    command += ["--judge", "mine.py:mine", "--max-new-tokens", "2", "--temperature", "1"]
    assert main([*command, "--early"]) == 0
    out, err = capsys.readouterr()
    verdict = json.loads(out)
    assert "judging in 5 rounds, until it is settled: about 2" in err
    assert (verdict["answer"], verdict["look"]) == ("better", 1)
    assert verdict["num_prompts"] in (60, 120) and verdict["level"] > 0.999
    texts = 2 * (300 - verdict["num_prompts"])
    assert verdict["rounds"].endswith(f"{verdict['num_prompts']} of 300 prompts; {texts} texts were not scored")
    assert len(set(Path("asked.txt").read_text().split())) == verdict["num_prompts"]
    before = Path("asked.txt").read_text()
    assert main([*command, "--early"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again | {"created": ""} == verdict | {"created": ""} and Path("asked.txt").read_text() == before
    assert main(command) == 0  # all at once is another look; what is known is not asked again
    whole = json.loads(capsys.readouterr().out)
    assert (whole["num_prompts"], whole["look"], whole["rounds"]) == (300, 2, None)
