"""A function handed over in Python as a reward or a judge: it runs in the caller's process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpo_runs import options, values
from small_runs import stop_at
from tiny_models import tiny_model

import alignkit
from alignkit.cli.main import main
from alignkit.errors import InputError, Interrupted, RunStopped, UsageError
from alignkit.scoring.functions.given import GivenFunction, give
from alignkit.scoring.judge import Item, Missing, Scored


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


ITEM = Item([], "text", {"id": "r1"})


def long(completion: str, row: dict[str, Any]) -> float:
    return float(len(completion))


def raising(error: BaseException) -> Callable[[str, dict[str, Any]], float]:
    def function(completion: str, row: dict[str, Any]) -> float:
        raise error

    return function


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit()])
def test_what_would_end_the_process_stops_with_the_row(error: BaseException) -> None:
    with pytest.raises(RunStopped, match=r"function(#\d+)?, row r1: the reward function would end the process by"):
        GivenFunction(give(raising(error))).score([ITEM])


def test_exceptions_and_values_are_those_of_a_file() -> None:
    with pytest.raises(InputError, match=r"(?s)in function.*row r1: the reward function raised KeyError"):
        GivenFunction(give(raising(KeyError("x")))).score([ITEM])
    assert GivenFunction(give(lambda c, r: True)).score([ITEM]) == [Scored(1.0)]
    assert GivenFunction(give(lambda c, r: None)).score([ITEM]) == [Missing("does not apply", applies=False)]
    with pytest.raises(InputError, match=r"returned \[1\], a list"):
        GivenFunction(give(lambda c, r: [1])).score([ITEM])
    with pytest.raises(UsageError, match=r"takes \(completions\); a reward takes"):
        GivenFunction(give(lambda completions: 1.0))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseException("a deadline")])
def test_ctrl_c_and_a_deadline_inside_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        GivenFunction(give(raising(error))).score([ITEM])


def test_functions_of_one_name_are_told_apart() -> None:
    one, other = give(lambda c, r: 1), give(lambda c, r: 2)
    assert other == one.partition("#")[0] + "#" + str(int(one.partition("#")[2] or 1) + 1)


def test_a_function_trains_and_goes_on_in_python_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = []

    def counting(completion: str, row: dict[str, Any]) -> float:
        pids.append(os.getpid())
        return float(len(completion))

    file = options(model, tmp_path, tmp_path / "file", "return float(len(completion))", max_steps=3, split="0.1")
    given = file | {"out": str(tmp_path / "run"), "reward": counting}
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(Interrupted):
            alignkit.train("grpo", **given)
    with pytest.raises(UsageError, match=r"fingerprint of reward .*allow_changed=.*'long'"):
        alignkit.train("grpo", **given | {"reward": [long]}, resume=True, allow_changed=["reward"])
    run = alignkit.train("grpo", **given, resume=True)
    assert set(pids) == {os.getpid()}
    assert values(run, "reward/counting") == values(alignkit.train("grpo", **file), "reward/score")
    (spec,) = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["rollouts"]["reward"]
    command = ["train", "grpo", "--model", str(model), "--data", file["data"], "--reward", "python:elsewhere.score"]
    assert main(command) == 2 and spec.startswith("python:")
    assert "a function that was handed over in Python: go on there" in capsys.readouterr().err


def test_a_function_judges(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps({"prompt": f"Say {n}"}) + "\n" for n in range(4)))
    other = tiny_model(tmp_path / "other", seed=1)
    verdict = alignkit.judge(model, vs=str(other), data="rows.jsonl", judge=long, max_new_tokens=3)
    assert verdict.judge.name == "long" and verdict.win_rate.num_prompts == 4
