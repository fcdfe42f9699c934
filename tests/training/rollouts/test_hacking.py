"""The alarm for a reward that rises only with length or repetition, and the held-out share that beats the reference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from grpo_runs import options, values
from tiny_models import tiny_model

import alignkit
from alignkit.data.reading.rows import to_row
from alignkit.errors import RunStopped
from alignkit.rollouts.sampler import Completion
from alignkit.training.rollouts.eval_rollouts import beats
from alignkit.training.rollouts.reward_checks import (
    WINDOW,
    RewardHackingMonitor,
    batch_sums,
    clearest_example,
    correlation,
    within_slopes,
)
from alignkit.training.rollouts.sampling import Group


def group(lengths: list[int], texts: list[str] | None = None) -> Group:
    drawn = tuple(Completion(np.zeros(n, np.int32), np.zeros(n, np.float32), False) for n in lengths)
    row = to_row({"id": "p", "prompt": "Hi"}, where="test")
    same = tuple(texts or ["a b c d"] * len(lengths))
    return Group(row, np.zeros(1, np.int32), 0, drawn, (1.0,) * len(lengths), same)


def test_correlation_within_groups_is_as_computed_by_hand() -> None:
    sums = batch_sums([group([3, 5]), group([3, 5])], np.array([[0.0, 4.0], [3.0, 1.0]]))
    # deviations of length -1, 1 twice; of reward -2, 2 and 1, -1: products 4 and -2, squares 4 and 10
    assert (sums["reward*length"], sums["length*length"], sums["reward*reward"]) == (2.0, 4.0, 10.0)
    assert correlation(sums, "length") == pytest.approx(2 / np.sqrt(40))
    assert np.isnan(correlation(sums, "repetition")) and sums["reward"] == 2.0 and sums["length"] == 4.0


def test_a_missing_reward_is_in_no_sum() -> None:
    sums = batch_sums([group([1, 9, 3]), group([5, 5, 5])], np.array([[1.0, np.nan, 2.0], [np.nan] * 3]))
    assert (sums["length"], sums["reward"], sums["length*length"], sums["reward*length"]) == (2.0, 1.5, 2.0, 1.0)


def run(
    monitor: RewardHackingMonitor, rng: np.random.Generator, reward: object, lengths: tuple[float, float], batches: int
) -> None:
    """Batches whose mean length goes from one value to the other."""
    for number in range(1, batches + 1):
        middle = np.interp(number, [1, batches], lengths)
        drawn = [np.maximum(1, rng.normal(middle, 4, 4)).astype(int).tolist() for _ in range(4)]
        groups = [group(lengths) for lengths in drawn]
        monitor.see(number, groups, np.array([[reward(n, number) for n in lengths] for lengths in drawn]))  # type: ignore[operator]


def test_a_reward_of_length_rings_and_says_what_length_pays() -> None:
    monitor = RewardHackingMonitor()
    run(monitor, np.random.default_rng(0), lambda length, number: 0.1 * length, (30, 80), 4 * WINDOW)
    found = monitor.finding()
    assert found is not None and found.alarms and found.share == pytest.approx(1.0)
    assert list(found.grown) == ["length"] and "alarm: the reward rose by" in found.line()
    assert within_slopes([*monitor.first, *monitor.last], ["length"])["length"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("reward", "lengths"),
    [
        (lambda length, number: number / 10, (30, 80)),  # better at the same time, but not for being longer
        (lambda length, number: 0.1 * length, (50, 50)),  # a taste for length that nothing follows
        (lambda length, number: -0.1 * length + number, (30, 60)),  # longer against the reward's taste
    ],
)
def test_no_alarm_where_length_does_not_pay_for_the_rise(reward: object, lengths: tuple[float, float]) -> None:
    monitor, rng = RewardHackingMonitor(), np.random.default_rng(1)
    noisy = lambda length, number: reward(length, number) + 0.01 * rng.normal()  # type: ignore[operator]  # noqa: E731
    run(monitor, rng, noisy, lengths, 4 * WINDOW)
    found = monitor.finding()
    assert found is None or not found.alarms


def test_repetition_rings_too_and_the_sample_that_shows_it_is_found() -> None:
    loop, plain = "so so so so so so so so", "one two three four five six seven eight"
    monitor = RewardHackingMonitor()
    for number in range(1, 3 * WINDOW + 1):
        texts = [loop if number > WINDOW or (k == 0 and number % 3 == 0) else plain for k in range(3)] + [plain]
        groups = [group([8] * 4, texts)]
        rewards = np.array([[float(text == loop) for text in texts]])
        monitor.see(number, groups, rewards)
    found = monitor.finding()
    assert found is not None and found.alarms and list(found.grown) == ["repetition"]
    assert clearest_example(groups, rewards, "repetition") == (0, 0, 3)


def test_what_is_watched_survives_a_checkpoint_and_a_batch_counts_once() -> None:
    monitor = RewardHackingMonitor()
    run(monitor, np.random.default_rng(0), lambda length, number: 0.1 * length, (30, 80), 4 * WINDOW)
    again = RewardHackingMonitor(**json.loads(json.dumps(monitor.state())))
    assert again == monitor and again.finding() == monitor.finding()
    again.see(4 * WINDOW, [group([1, 2])], np.array([[5.0, 6.0]]))
    assert again == monitor


@pytest.mark.slow
def test_a_run_whose_reward_is_length_stops_with_samples_and_the_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(tmp_path / "model")
    given = options(
        model,
        tmp_path,
        tmp_path / "run",
        "return len(completion)",
        reward_hacking="stop",
        max_steps=80,
        max_new_tokens=40,
        learning_rate=5e-3,
        warmup_steps=0,
        kl=0.0,
        validation_interval=1000,
    )
    with pytest.raises(RunStopped, match=r"alarm: the reward rose by .* more length .* stopped by reward_hacking"):
        alignkit.train("grpo", **given)
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().split("\n") if line]
    shown = [line for line in lines if line["kind"] == "alarm"]
    assert len(shown) == 2 and shown[0]["reward"] > shown[1]["reward"] and shown[0]["shows"] == "length"
    assert shown[0]["row"] == f"row {shown[0]['id']}" and f"tokens, {shown[0]['row']}" in caplog.text
    stopped = int((tmp_path / "run" / "checkpoints").glob("step-*").__next__().name.removeprefix("step-"))
    more = alignkit.train(
        "grpo",
        **given | {"reward_hacking": "warn", "max_steps": stopped + 1},
        resume=True,
        allow_changed=["reward_hacking", "max_steps"],
    )
    assert values(more, "reward_explained_by_form")[-1] > 0.8


def test_wins_over_the_reference_count_ties_half_and_leave_out_what_is_missing() -> None:
    reference = {"a": 1.0, "b": 1.0, "c": 1.0, "d": float("nan"), "e": 2.0}
    assert beats({"a": 2.0, "b": 1.0, "c": 0.0, "d": 5.0, "e": float("nan"), "f": 9.0}, reference) == 0.5
    assert beats({"a": 2.0, "b": 1.0}, reference) == 0.75
    assert np.isnan(beats({"d": 1.0}, reference))


def test_the_held_out_share_starts_at_half_and_rises_with_training(tmp_path: Path) -> None:
    vowels = "return sum(letter in 'aeiou' for letter in completion) - 0.01 * len(completion)"
    given = options(
        tiny_model(tmp_path / "model"),
        tmp_path,
        tmp_path / "run",
        vowels,
        max_steps=20,
        validation_interval=10,
        learning_rate=3e-2,
        warmup_steps=0,
        split="0.5",
        max_new_tokens=8,
        validation_prompts=5,
    )
    run = alignkit.train("grpo", **given)
    share = values(run, "validation/beats_reference")
    assert len(share) == 3 and share[0] == 0.5 and share[-1] > 0.5
    report = (run.path / "report.html").read_text()
    assert "beats the reference" in report
    journal = run.path / "rollouts" / "validation"
    assert any(journal.glob("000020-0.scored.*"))


def test_without_a_kl_no_reference_is_loaded_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.training.inputs import weights as inputs_weights

    loaded = []
    original = inputs_weights.load_policy
    monkeypatch.setattr(inputs_weights, "load_policy", lambda *a, **more: loaded.append(a) or original(*a, **more))
    model = tiny_model(tmp_path / "model")
    given = options(model, tmp_path, tmp_path / "run", "return len(completion)", kl=0.0, max_steps=1)
    run = alignkit.train("grpo", **given)
    assert len(loaded) == 1 and not values(run, "validation/kl") and not values(run, "kl")
    run = alignkit.train("grpo", **given | {"out": str(tmp_path / "asked"), "reference": "online"})
    assert len(loaded) == 3 and values(run, "validation/kl")[0] == pytest.approx(0.0, abs=1e-6)
