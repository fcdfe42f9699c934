"""Own functions as rewards, several judges added up, and scores that are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.scoring.judge import Item, Judge, Missing, Scored
from alignkit.scoring.rewards import reward
from alignkit.scoring.specs import NamedJudge, distinct, make_judge


def item(text: str, **row: object) -> Item:
    return Item([{"role": "user", "content": "Hi"}], text, {"id": "r1", **row})


class Fixed(Judge):
    """Answers what it was told."""

    name, version = "fixed", "1"

    def __init__(self, answers: list[Scored | Missing]) -> None:
        super().__init__()
        self.answers = answers

    def parameters(self) -> dict[str, object]:
        return {"answers": repr(self.answers)}

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        return self.answers


def write(folder: Path, code: str) -> str:
    (folder / "rewards.py").write_text(code)
    return str(folder / "rewards.py")


def test_an_own_function_scores_completions_with_its_weight(tmp_path: Path) -> None:
    path = write(tmp_path, "def right(completion, row):\n    return float(row['answer'] in completion)\n")
    named = make_judge(f"{path}:right=0.5")
    assert (named.label, named.weight, named.judge.verifiable) == ("right", 0.5, True)
    assert named.judge.score([item("it is 4", answer="4"), item("no", answer="4")]) == [Scored(1.0), Scored(0.0)]


def test_none_means_that_a_reward_does_not_apply(tmp_path: Path) -> None:
    path = write(tmp_path, "def f(completion, row):\n    return None\n")
    assert make_judge(f"{path}:f").judge.score([item("x")]) == [Missing("does not apply", applies=False)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", r"(?s)ZeroDivisionError.*row r1: the reward function raised ZeroDivisionError"),
        ("return float('nan')", "row r1: the reward function returned nan"),
        ("return 'good'", "row r1: the reward function returned 'good'"),
    ],
)
def test_a_failing_function_names_the_row_behind_its_own_traceback(tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path, f"def f(completion, row):\n    {body}\n")
    with pytest.raises(InputError, match=message) as caught:
        make_judge(f"{path}:f").judge.score([item("x")])
    assert "functions.py" not in str(caught.value)


def test_files_and_names_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "def right(completion, row):\n    return 1\n")
    with pytest.raises(InputError, match="no such file"):
        make_judge(str(tmp_path / "none.py") + ":f")
    with pytest.raises(UsageError, match="no function 'rihgt'; did you mean 'right'"):
        make_judge(f"{path}:rihgt")
    with pytest.raises(UsageError, match="weight 'much' is not a number"):
        make_judge(f"{path}:right=much")
    with pytest.raises(UsageError, match="name the function too"):
        make_judge(path)
    with pytest.raises(InputError, match=r"(?s)SyntaxError.*cannot be imported"):
        make_judge(write(tmp_path, "def f(:\n") + ":f")


def test_rewards_add_up_with_their_weights() -> None:
    items = [[item("a"), item("b")]]
    judges = [
        NamedJudge("one", Fixed([Scored(1.0), Scored(2.0)])),
        NamedJudge("two", Fixed([Scored(10.0), Scored(20.0)]), weight=0.1),
    ]
    rewards = reward(items, judges)
    assert rewards.total_PG.tolist() == [[2.0, 4.0]] and rewards.num_missing == 0
    assert rewards.by_name["two"].tolist() == [[10.0, 20.0]]


def test_a_failed_score_is_missing_and_never_zero() -> None:
    rewards = reward([[item("a"), item("b")]], [NamedJudge("one", Fixed([Scored(1.0), Missing("timeout")]))])
    assert rewards.total_PG[0, 0] == 1.0 and math.isnan(rewards.total_PG[0, 1])
    assert rewards.num_missing == 1 and rewards.reasons == ("timeout",)


def test_a_judge_that_does_not_apply_to_one_sample_is_left_out_for_the_group() -> None:
    apart = Missing("does not apply", applies=False)
    items = [[item("a"), item("b")], [item("c"), item("d")]]
    judges = [
        NamedJudge("one", Fixed([Scored(1.0)] * 4)),
        NamedJudge("two", Fixed([Scored(5.0), apart, Scored(5.0), Scored(7.0)])),
    ]
    rewards = reward(items, judges)
    assert rewards.total_PG.tolist() == [[1.0, 1.0], [6.0, 8.0]] and rewards.num_missing == 0
    alone = reward(items[:1], [NamedJudge("two", Fixed([Scored(5.0), apart]))])
    assert np.isnan(alone.total_PG).all()


@pytest.mark.parametrize("answers", [[Scored(1.0)], [Scored(1.0), Scored(math.nan)], [Scored(1.0), 3.0]])
def test_a_judge_that_breaks_its_contract_stops_the_run(answers: list) -> None:
    with pytest.raises(RunStopped, match="judge 'one'"):
        reward([[item("a"), item("b")]], [NamedJudge("one", Fixed(answers))])


def test_an_unknown_judge_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'rules'"):
        make_judge("rulse")


def test_rewards_that_share_a_name_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNKIT_LEDGER", str(tmp_path / "ledger.sqlite"))
    for folder, name, gives in ((".", "a", 1), (".", "b", 2), ("x", "a", 3)):
        (tmp_path / folder).mkdir(exist_ok=True)
        text = f"def score(completion, row): return {gives}\ndef other(completion, row): return 9\n"
        (tmp_path / folder / f"{name}.py").write_text(text)
    a, b, xa = (str(tmp_path / file) for file in ("a.py", "b.py", "x/a.py"))

    def labels(*specs: str) -> list[str]:
        return [named.label for named in distinct([make_judge(spec) for spec in specs])]

    assert labels(f"{a}:score") == ["score"]
    assert labels(f"{a}:score=0.5", f"{b}:score", f"{a}:other") == ["a.score", "b.score", "other"]
    assert labels(f"{a}:score", f"{xa}:score", f"{b}:score") == ["score", "score#2", "score#3"]
    assert labels("rules", "rules=2") == ["rules", "rules#2"]
    both = distinct([make_judge(f"{a}:score=0.5"), make_judge(f"{b}:score")])
    found = reward([[Item([], "x", {"id": "r"}), Item([], "y", {"id": "r"})]], both)
    assert {name: x.tolist() for name, x in found.by_name.items()} == {"a.score": [[1, 1]], "b.score": [[2, 2]]}
    assert [named.plain_label for named in both] == ["score", "score"]
