"""What is seen of long work: two lines that fit, phases, JSON for programs."""

from __future__ import annotations

import json
import re

import pytest

from alignkit.cli.main import main
from alignkit.cli.progress import RichProgress, make_progress, sparkline
from alignkit.progress import Silent, phase, shown, watched_by


class Seen(Silent):
    def __init__(self) -> None:
        self.phases: list[tuple[str, int, int | None]] = []

    def phase(self, description: str, done: int = 0, total: int | None = None) -> None:
        self.phases.append((description, done, total))


def test_a_phase_is_counted_where_it_runs_and_the_outer_one_comes_back() -> None:
    seen = Seen()
    with watched_by(seen), phase("reading rows"), phase("preparing rows", 4) as count:
        count(3)
    with phase("seen by nobody"):
        pass
    assert seen.phases == [
        ("reading rows", 0, None),
        ("preparing rows", 0, 4),
        ("preparing rows", 3, 4),
        ("reading rows", 0, None),
        ("", 0, None),
    ]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_terminal_shows_step_time_and_numbers_in_two_lines_that_fit(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("alignkit.cli.progress.time.monotonic", lambda: now[0])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    progress = RichProgress()
    progress.start("sft-lenpen step", 400, 100)
    for step in range(20):
        now[0] += 3.0
        progress.advance(1, loss=2.0 - 0.05 * step, accuracy=0.71, tokens_per_s=1581.4, memory_mib=913.0, lr=1e-5)
    progress.phase("validating", 40, 150)
    progress.stop()
    err = capsys.readouterr().err
    lines = [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err)) if line.strip()]
    assert max(map(len, lines)) <= columns
    assert lines[-2].startswith("sft-lenpen step 120/4") and lines[-2].endswith("  1:00, 14:00 left")
    assert re.match("loss 1.05 █[▂-█]{10}▁  accuracy 0.71", lines[-1])
    assert ("validating 40/150" in lines[-2]) == (columns >= 60)
    assert ("1,581 tokens/s" in lines[-1]) == (columns >= 60)
    assert "lr" not in err


def test_phases_that_take_turns_are_named_once_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RichProgress(draws=False)
    for _ in range(3):
        progress.phase("reference log-probs")
        progress.phase("loading the model")
    progress.stop()
    assert capsys.readouterr().err == "reference log-probs\nloading the model\n"


def test_programs_get_a_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress("json", verbose=False)
    progress.phase("starting")
    progress.start("sft step", 4, 1)
    progress.advance(1, loss=0.5)
    progress.note("a line\nof two")
    progress.stop()
    out, err = capsys.readouterr()
    assert out == ""
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["phase", "start", "step", "note", "stop"]
    assert events[2] == {"event": "step", "task": "sft step", "done": 2, "total": 4, "numbers": {"loss": 0.5}}


def test_what_a_method_shows_comes_first_then_the_speed() -> None:
    metrics = {"memory_mib": 3.0, "loss": 1.0, "tokens_per_s": 2.0, "kl": float("nan")}
    assert list(shown(metrics, ("loss", "kl"))) == ["loss", "tokens_per_s", "memory_mib"]


def test_a_sparkline_has_equal_parts() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([1.0] * 50) == "▁" * 12
    assert len(sparkline(list(range(100)))) == 12


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--lr", "here it is --learning-rate"),
        ("--num_train_epochs", "here it is --epochs"),
        ("--per-device-train-batch-size", "here it is --batch-size"),
        ("--optim", "here it is --set optimizer=NAME"),
        ("--logging-steps", "--logging-steps; every step is logged"),
        ("--torch_dtype", "here it is --precision"),
        ("--num-generations", "did you mean"),  # of grpo alone
        ("--learning-rates", "did you mean '--learning-rate'?"),
        ("--neftune", "no such option: --neftune; see"),
    ],
)
def test_what_other_tools_call_an_option_is_answered_with_ours(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "sft", typed, "1"]) == 2
    assert said in capsys.readouterr().err
