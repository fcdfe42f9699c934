"""A run says in how many steps the gradient was clipped, and in how many a term's ratio decided, not its weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from alignkit_plugins.grpo import GRPOConfig
from alignkit_plugins.sft_lenpen import SFTLengthPenaltyConfig
from grpo_runs import values
from small_runs import stop_at, write_numbered_rows
from tiny_models import tiny_model

import alignkit
from alignkit.errors import Interrupted
from alignkit.progress import Silent
from alignkit.training.loop.health_checks import Tally, count_in_tally, tally_lines


class Noting(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def run_of(model: Path, folder: Path, name: str, **more: Any) -> tuple[alignkit.Run, list[str]]:
    """Four steps, a penalty in two of them: samples of a random model overrun by far."""
    given = {
        "data": str(write_numbered_rows(folder / "rows.jsonl")),
        "out": str(folder / name),
        "precision": "fp32",
        "split": "0.2",
        "max_new_tokens": 60,
        "max_steps": 4,
        "penalty_interval": 2,
        "checkpoint_interval": 1,
        "early_stopping_steps": None,
        "penalty_samples": 4,
    }
    progress = Noting()
    return alignkit.train("sft-lenpen", model=str(model), progress=progress, **(given | more)), progress.said


def test_a_run_says_in_how_many_steps_the_ratio_decided_and_the_gradient_was_clipped(
    model: Path, tmp_path: Path
) -> None:
    run, said = run_of(model, tmp_path, "run", penalty=1.0, max_grad_norm=1e-3)
    assert values(run, "grad_limited/penalty") == [1.0, 1.0] and values(run, "grad_clipped") == [1.0] * 4
    assert (
        "penalty: in 2 of 2 steps with it --max-penalty-ratio 1, not --penalty, decided how strongly it pulled" in said
    )
    clipped = "the gradient was clipped to max_grad_norm 0.001 in 4 of 4 steps: in every one its direction counted"
    assert any(line.startswith(clipped) for line in said)
    assert run.info["finished"]["tally"] == {
        "grad_clipped": {"steps": 4, "of": 4},
        "grad_limited/penalty": {"steps": 2, "of": 2},
    }
    run, said = run_of(model, tmp_path, "weak", penalty=1e-9, max_grad_norm=1e6)
    assert values(run, "grad_limited/penalty") == [0.0, 0.0]
    assert any("in 0 of 2 steps with it --max-penalty-ratio" in line for line in said)
    assert not any("clipped" in line for line in said)


def test_without_a_ratio_the_penalty_keeps_its_length(model: Path, tmp_path: Path) -> None:
    run, said = run_of(model, tmp_path, "run", penalty=1.0, max_penalty_ratio=None, max_grad_norm=1e6)
    assert values(run, "grad_limited/penalty") == [0.0, 0.0] and not any("max-penalty-ratio" in line for line in said)
    apart = values(run, "grad_norm/penalty")[0] - values(run, "grad_norm/likelihood")[0]
    assert 0 < apart <= values(run, "grad_norm")[1]  # the sum's, of the first step with a penalty


def test_a_run_that_ends_before_its_first_penalty_says_so_before_it_trains(model: Path, tmp_path: Path) -> None:
    run, said = run_of(model, tmp_path, "run", penalty_interval=100)
    assert not values(run, "length_penalty")
    first = "penalty: the run ends after 4 steps, before the penalty is first applied, at step 100"
    (place,) = [n for n, line in enumerate(said) if line.startswith("penalty: ")]  # no line at the end says otherwise
    assert said[place].startswith(first) and said[place].endswith("lower --penalty-interval")
    _, said = run_of(model, tmp_path, "none", penalty_interval=100, penalty=0.0)
    assert not any(line.startswith("penalty: ") for line in said)


def test_a_resumed_run_counts_its_steps_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        with pytest.raises(Interrupted):
            run_of(model, tmp_path, "run", max_grad_norm=1e-3)
    run, _ = run_of(model, tmp_path, "run", max_grad_norm=1e-3, resume=True)
    assert run.info["finished"]["tally"]["grad_clipped"] == {"steps": 4, "of": 4}


def test_steps_without_an_update_are_said() -> None:
    tally: Tally = {}
    for no_update in (1.0, 0.0, 1.0):
        count_in_tally(tally, {"no_update": no_update, "loss": math.nan})
    assert tally_lines(tally, GRPOConfig()) == [
        "no weight was changed in 2 of 3 steps: none of their groups had different rewards"
    ]
    assert tally_lines({"grad_clipped": [0, 5], "no_update": [0, 5]}, SFTLengthPenaltyConfig()) == []
