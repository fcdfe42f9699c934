"""A phase that does not end: stacks and memory are logged, what there is is saved, exit 3. Faults in a GRPO run."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from alignkit_plugins.grpo import GRPO
from alignkit_plugins.transformers_sampler import TransformersSampler
from chaos_server import running
from grpo_runs import command, options, values
from places import HELPERS
from safetensors.torch import load_file
from small_runs import way_on
from tiny_models import tiny_model

import alignkit
from alignkit.cli.main import main
from alignkit.scoring import rewards
from alignkit.scoring.functions.judge import FunctionJudge
from alignkit.scoring.judge import Scored
from alignkit.training.lifecycle import deadlines
from alignkit.training.loop.train_loop import Loop
from alignkit.training.rollouts import scoring
from alignkit.training.rollouts.scoring import Ahead

VOWELS = "return sum(letter in 'aeiou' for letter in completion) + len(completion)"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("phase", ["generate", "sync", "score", "train"])
def test_a_phase_that_hangs_is_saved_and_stops_with_3_and_goes_on(
    phase: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It hangs in step 2, inside code that catches every Exception."""
    given = options(model, tmp_path, tmp_path / "run", VOWELS, max_steps=3, validation_interval=100, split="0.1")
    alignkit.train("grpo", **given | {"out": str(tmp_path / "whole")})
    owner: Any = {"train": GRPO, "score": FunctionJudge}.get(phase, TransformersSampler)
    name = {"train": "loss"}.get(phase, phase)
    original, calls = getattr(owner, name), []
    hangs_at = {"train": 2, "score": 3}.get(phase, 4)  # validation and shown samples come before the first step

    def hanging(*arguments: Any, **more: Any) -> Any:
        calls.append(None)
        if len(calls) == hangs_at:
            for _ in range(3):
                try:
                    time.sleep(60)
                except Exception:
                    continue
        return original(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, hanging)
        patch.setenv("ALIGNKIT_LEDGER", str(tmp_path / "another.sqlite"))
        began = time.monotonic()
        assert main(command(given | {f"{phase}_timeout_s": 1.0})) == 3
    assert time.monotonic() - began < 40
    said = " ".join(capsys.readouterr().err.split())
    assert f"step 2: {phase} took longer than 1 s ({phase}_timeout_s)" in said and "saved after step 1" in said
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "in hanging" in log and "most recent call first" in log  # the stack
    assert "memory, MiB: weights" in log and "optimizer" in log
    assert main([*way_on(said), "--set", f"rollouts.{phase}_timeout_s=600"]) == 0  # deadlines may change
    assert same(tmp_path / "run", tmp_path / "whole")


LOCK = "lock, mutex = ctypes.{}(None).pthread_mutex_lock, ctypes.create_string_buffer(64); lock(mutex); lock(mutex)"
HANGS = {
    "a mutex locked twice": LOCK.format("CDLL"),
    "one that holds the interpreter": LOCK.format("PyDLL"),
    "one that catches everything": "while True:\n  try: time.sleep(60)\n  except BaseException: pass",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", HANGS)
def test_what_never_listens_is_ended_from_outside_within_the_grace_with_3(
    how: str, model: Path, tmp_path: Path
) -> None:
    """A judge of a plugin, in the run's own process. No signal wakes a mutex."""
    given = options(
        model,
        tmp_path,
        tmp_path / "run",
        VOWELS,
        score_timeout_s=2.0,
        max_steps=3,
        split="0.1",
        checkpoint_interval=1,
        validation_interval=100,
    )
    script = (
        "import ctypes, os, sys, time; from alignkit.training.lifecycle import deadlines; deadlines.GRACE_S = 1.0\n"
        "from alignkit.scoring.functions.judge import FunctionJudge; score = FunctionJudge.score\n"
        "from alignkit.training.loop.train_loop import Loop; step = Loop.step\n"
        f"def hanging():\n{textwrap.indent(HANGS[how], '  ')}\n"
        "def scoring(self, items):\n  return hanging() if os.path.exists('now') else score(self, items)\n"
        "def stepping(self):\n    step(self)\n    open('now', 'w').close() if self.position.step == 2 else None\n"
        "Loop.step, FunctionJudge.score = stepping, scoring\n"
        "from alignkit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command(given)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "error: score took longer than 2 s and does not stop when asked to" in last
    assert "saved after step 2, go on with: alignkit train --resume" in last
    assert "in hanging" in (tmp_path / "run" / "log.txt").read_text()
    (tmp_path / "now").unlink()
    assert main([*command(given), "--resume"]) == 0


def test_a_reward_that_swallows_everything_ends_at_its_deadline_saved(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is over after the deadline and no grace."""
    monkeypatch.chdir(tmp_path)
    hang = (
        "import os, time\n    while os.path.exists('now'):\n"
        "        try: time.sleep(60)\n        except BaseException: pass\n    return len(completion)"
    )
    given = options(model, tmp_path, tmp_path / "run", hang, score_timeout_s=1.0, split="0.1")
    Path("now").touch()
    began = time.monotonic()
    assert main(command(given)) == 3
    assert time.monotonic() - began < 25
    assert "score took longer than 1 s (score_timeout_s)" in capsys.readouterr().err.splitlines()[-1]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "the reward function was here when it was stopped" in log and "rewards.py" in log
    Path("now").unlink()
    assert main([*command(given), "--resume"]) == 0


def test_a_phase_that_swallows_its_deadline_is_late_all_the_same(tmp_path: Path) -> None:
    watched = deadlines.Deadlines(dict.fromkeys(deadlines.PHASES, 0.3), log=tmp_path / "log.txt")

    def swallow() -> None:
        with watched, watched.phase("score"), contextlib.suppress(BaseException):
            time.sleep(30)

    with pytest.raises(deadlines.DeadlinePassed, match="score took longer than"):
        swallow()


def test_a_phase_within_its_deadline_leaves_no_handler_and_no_process(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with deadlines.Deadlines(dict.fromkeys(deadlines.PHASES, 0.5), log=tmp_path / "log.txt") as watched:
        process = watched._process
        with watched.phase("train"), watched.phase("score"):  # a phase inside another is a part of it
            pass
        time.sleep(0.8)  # between two phases no deadline runs
        with pytest.raises(deadlines.DeadlinePassed, match="score took longer than"), watched.phase("score"):
            time.sleep(30)
    assert process is not None and process.poll() is not None and signal.getsignal(signal.SIGUSR2) == before


def test_a_late_reward_is_waited_for_and_changes_nothing(model: Path, tmp_path: Path) -> None:
    given = options(model, tmp_path, tmp_path / "run", VOWELS)
    alignkit.train("grpo", **given)
    late = options(model, tmp_path, tmp_path / "late", f"import time; time.sleep(0.05); {VOWELS}")
    alignkit.train("grpo", **late)
    assert same(tmp_path / "run", tmp_path / "late")


@pytest.mark.parametrize(
    ("fails", "message"), [("raise KeyError('answer')", "raised KeyError"), ("return float('nan')", "returned nan")]
)
def test_a_reward_that_fails_in_the_middle_stops_saved_and_names_the_row(
    fails: str, message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f"import os\n    if os.path.exists({str(tmp_path / 'now')!r}): {fails}\n    {VOWELS}"
    given = options(model, tmp_path, tmp_path / "run", body, max_steps=3, validation_interval=100, split="0.1")
    original = Loop.step

    def stepping(self: Loop) -> None:
        original(self)
        (tmp_path / "now").touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "step", stepping)
        assert main(command(given)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said and "row p" in said and "step 2" in said and "the run is saved" in said
    assert (tmp_path / "run" / "checkpoints" / "step-000001" / "manifest.json").exists()
    (tmp_path / "now").unlink()
    assert main([*command(given), "--resume"]) == 0


def test_a_judge_with_the_wrong_number_of_scores_stops_saved(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FunctionJudge, "score", lambda self, items: [Scored(1.0)] * (len(items) - 1))
    assert main(command(options(model, tmp_path, tmp_path / "run", VOWELS))) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "items" in said and "--resume" in said


def test_a_full_disk_under_the_ledger_stops_saved_and_goes_on(
    model: Path, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGNKIT_LEDGER", str(small_disk / "ledger.sqlite"))
    (small_disk / "others").write_bytes(bytes(12 * 2**20 - 60_000))
    given = options(
        model,
        tmp_path,
        tmp_path / "run",
        VOWELS,
        max_steps=12,
        validation_interval=100,
        split="0.1",
        learning_rate=1e-2,
    )
    assert main(command(given)) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "the ledger cannot be written" in said and "the run is saved, go on with: " in said
    (small_disk / "others").unlink()
    assert main(way_on(said)) == 0


def remote(tmp_path: Path, urls: list[str], **more: Any) -> None:
    """alignkit.toml with a Nemotron service on this machine."""
    settings: dict[str, Any] = {
        "base_url": urls,
        "requests_per_minute": 1e7,
        "timeout_s": 4.0,
        "backoff_s": 0.02,
        "max_backoff_s": 0.2,
        "max_attempts": 20,
        "max_outage_s": 20.0,
    } | more
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (tmp_path / "alignkit.toml").write_text("[judge.nemotron]\n" + "\n".join(lines) + "\n")
    assert main(["trust", str(tmp_path)]) == 0


def test_500s_for_a_while_in_a_run_cost_time_and_nothing_else(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = options(model, tmp_path, tmp_path / "run", VOWELS, max_steps=3, split="0.1") | {"reward": ["nemotron"]}
    with running(faults=0.0, outage_at=20, outage_s=1.5) as urls:
        remote(tmp_path, urls)
        run = alignkit.train("grpo", **given)
    assert values(run, "missing_scores") == [0.0] * 3 and max(values(run, "score_s")) > 0.5


def test_a_remote_judge_scores_while_the_next_prompts_are_drawn_with_the_same_result(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a run that scores each part before it draws the next, and one whose own function gives the same scores."""
    monkeypatch.chdir(tmp_path)
    here = str(HELPERS)
    function = (
        f"import sys; sys.path.insert(0, {here!r})\n"
        "    from chaos_server import true_score\n    return true_score(completion)"
    )
    more: dict[str, Any] = {"batch_size": 20, "learning_rate": 1e-2, "warmup_steps": 0, "validation_prompts": 3}
    given = options(model, tmp_path, tmp_path / "serial", function, **more)
    serial = alignkit.train("grpo", **given)
    drawing: list[float] = []
    original = TransformersSampler.generate

    def generate(self: TransformersSampler, requests: Any) -> Any:
        found = original(self, requests)
        drawing.append(time.monotonic())
        return found

    asked: list[float] = []
    monkeypatch.setattr(TransformersSampler, "generate", generate)

    def reward(*arguments: Any) -> Any:
        asked.append(time.monotonic())
        return rewards.reward(*arguments)

    monkeypatch.setattr(scoring, "reward", reward)
    with running(faults=0.0) as urls:
        remote(tmp_path, urls)
        more = given | {"reward": ["nemotron"]}
        ahead = alignkit.train("grpo", **more | {"out": str(tmp_path / "ahead")})
        assert any(a < b for a, b in zip(asked, drawing[1:], strict=False))  # asked before the last part was drawn
        monkeypatch.setenv("ALIGNKIT_LEDGER", str(tmp_path / "another.sqlite"))
        monkeypatch.setattr(Ahead, "add", in_turn)
        alignkit.train("grpo", **more | {"out": str(tmp_path / "in-turn")})
    assert same(tmp_path / "ahead", tmp_path / "in-turn")
    for name in ("reward", "samples_length", "reward_spread"):
        assert values(serial, name) == values(ahead, name)


def in_turn(self: Ahead, groups: Any) -> None:
    """Score a part before the next is drawn."""
    self._num_parts += 1
    self._scored.put(scoring._rewards(groups, self._judges))
