"""Sampled steps: the journal, what a pause keeps, the first ratio, groups of equal reward, kills."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.transformers_sampler import TransformersSampler
from grpo_runs import command, options, values
from places import HELPERS
from safetensors.torch import load_file
from tiny_models import tiny_model
from vllm_engines import needs_vllm

import alignkit
from alignkit.cli.main import main
from alignkit.data.reading.rows import to_row
from alignkit.errors import RunStopped
from alignkit.policy.load import load_policy
from alignkit.rollouts.agreement import Agreement, distance
from alignkit.rollouts.sampler import Completion, Request
from alignkit.scoring.judge import Missing
from alignkit.scoring.rewards import Rewards
from alignkit.training.rollouts.journal import Journal
from alignkit.training.rollouts.micro_batches import drop_truncated, sample_micro_batches, zero_variance_groups
from alignkit.training.rollouts.sampling import Group


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


VOWELS = "return sum(letter in 'aeiou' for letter in completion) + len(completion)"


def test_first_ratio_is_one_at_mixed_temperatures(model: Path, tmp_path: Path) -> None:
    run = alignkit.train(
        "grpo",
        **options(model, tmp_path, tmp_path / "run", VOWELS, updates_per_batch=2, learning_rate=1e-2, warmup_steps=0),
    )
    fresh, used = values(run, "sampling_gap")
    assert fresh < 1e-5 < used
    assert values(run, "ratio")[0] == pytest.approx(1.0, abs=1e-5)
    assert {f"reward/temperature-{t:g}" for t in (0.6, 0.8, 1.0, 1.2)} <= set(run.metrics["name"])


def test_samples_of_another_temperature_stop_the_run_before_anything_changes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Group.__init__
    monkeypatch.setattr(
        Group,
        "__init__",
        lambda self, row, ids, target, completions, temperatures, texts: original(
            self, row, ids, target, completions, (1.0,) * len(temperatures), texts
        ),
    )
    with pytest.raises(RunStopped, match=r"the first step's ratio is not 1.*try precision fp32, or attention='plain'"):
        alignkit.train("grpo", **options(model, tmp_path, tmp_path / "run", VOWELS))
    assert not (tmp_path / "run" / "model").exists()


def without_logprobs(monkeypatch: pytest.MonkeyPatch, unknown: Callable[[np.ndarray], Any]) -> None:
    """Let the sampler not know some of its log-probs: those at the places that `unknown` gives."""
    generate = TransformersSampler.generate

    def generating(self: TransformersSampler, requests: Any) -> list[Completion]:
        drawn = generate(self, requests)
        for completion in drawn:
            completion.logprobs[unknown(completion.logprobs)] = np.nan
        return drawn

    monkeypatch.setattr(TransformersSampler, "generate", generating)


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_a_token_whose_sampler_gave_no_log_prob_is_left_out_and_counted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kl_in: str
) -> None:
    more = {"kl_estimator": "k1"} if kl_in == "reward" else {}
    whole = alignkit.train("grpo", **options(model, tmp_path, tmp_path / "whole", VOWELS, **more))
    without_logprobs(monkeypatch, lambda logprobs: slice(0, 1))
    run = alignkit.train("grpo", **options(model, tmp_path, tmp_path / "run", VOWELS, **more))
    assert values(whole, "unknown_logprobs") == [0.0, 0.0]
    assert all(0 < share < 0.5 for share in values(run, "unknown_logprobs"))
    assert values(run, "missing_scores") == [0.0, 0.0] and max(values(run, "sampling_gap")) < 1e-5
    if kl_in == "reward":  # no reward is lost with them
        assert values(run, "reward_kl") == pytest.approx(values(whole, "reward_kl"), abs=1e-4)
        assert values(run, "samples_length")[0] == values(whole, "samples_length")[0]


def test_a_sampler_that_knows_hardly_any_log_prob_stops_the_run_before_anything_changes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_logprobs(monkeypatch, lambda logprobs: slice(None))
    with pytest.raises(RunStopped, match="step 1: the sampler gave 100% of the tokens no finite log-prob"):
        alignkit.train("grpo", **options(model, tmp_path, tmp_path / "run", VOWELS))
    assert not (tmp_path / "run" / "model").exists()


def test_the_agreement_of_weights_passes_over_tokens_without_a_log_prob_but_not_over_nonsense(model: Path) -> None:
    policy = load_policy(model, precision="fp32")
    sampler = TransformersSampler(policy, end_ids=frozenset({256}))
    requests = [Request([5, 6, 7], 1.0, seed, 8) for seed in range(3)]
    drawn = list(zip(requests, sampler.generate(requests), strict=True))
    drawn[0][1].logprobs[:3] = -np.inf
    assert distance(policy, drawn) < 1e-4
    for _, completion in drawn:
        completion.logprobs[:] = np.nan
    with pytest.raises(RunStopped, match="stale weights"):
        Agreement(policy, sampler="copying").check(drawn)


def test_a_run_whose_scores_are_missing_pauses_and_goes_on_without_drawing_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alignkit.scoring.functions.judge import FunctionJudge

    out = tmp_path / "run"
    given = options(model, tmp_path, out, VOWELS, max_steps=3, split="0.1", validation_interval=100)
    whole = alignkit.train("grpo", **{**given, "out": str(tmp_path / "whole")})
    before = FunctionJudge.score
    calls = []

    def failing(self: FunctionJudge, items: Any) -> list[Any]:
        calls.append(len(items))
        return [Missing("HTTP 500")] * len(items) if len(calls) > 2 else before(self, items)

    monkeypatch.setenv("ALIGNKIT_LEDGER", str(tmp_path / "another.sqlite"))
    with monkeypatch.context() as patch:
        patch.setattr(FunctionJudge, "score", failing)
        assert main(command(given)) == 3
        said = capsys.readouterr().err
        assert "8 of 8 scores are missing: 8 HTTP 500" in " ".join(said.split()) and "--resume" in said
    drawn = (out / "rollouts" / "000002-0.completions.safetensors").stat().st_mtime_ns
    run = alignkit.train("grpo", **given, resume=True)
    assert (out / "rollouts" / "000002-0.completions.safetensors").stat().st_mtime_ns == drawn
    ours, theirs = (load_file(x.path / "model" / "model.safetensors") for x in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_reward_that_is_always_the_same_trains_nothing_and_says_what_it_cost(model: Path, tmp_path: Path) -> None:
    given = options(model, tmp_path, tmp_path / "run", "return 0.1", kl=0.0, max_steps=3, checkpoint_interval=2)
    with pytest.raises(RunStopped, match="6 groups: 6 have equal rewards"):
        alignkit.train("grpo", **given)
    run = alignkit.Run(tmp_path / "run")
    assert values(run, "zero_variance_groups") == [1.0] * 3 and min(values(run, "zero_variance_groups_s")) > 0
    kept = next((run.path / "checkpoints" / "step-000002").glob("weights*"))
    before, after = load_file(model / "model.safetensors"), load_file(kept)
    assert sorted(after) == sorted(f"model.{name}" for name in before)
    assert all(torch.equal(before[name], after[f"model.{name}"]) for name in before)


def test_a_step_whose_groups_are_all_skipped_takes_no_optimizer_step_and_is_counted(
    model: Path, tmp_path: Path
) -> None:
    some = "return 0.1 if int(row['id'][1:]) in (1, 4, 5, 8) else float(len(completion) * 7 % 5)"
    given = {
        "kl": 0.0,
        "batch_size": 1,
        "max_steps": 6,
        "checkpoint_interval": 1,
        "weight_decay": 0.1,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
    }
    run = alignkit.train("grpo", **options(model, tmp_path, tmp_path / "run", some, **given))
    skipped = values(run, "no_update")
    assert skipped == values(run, "zero_variance_groups") and 0 < sum(skipped[2:5]) < 3

    def kept(step: int) -> list[bytes]:
        files = sorted((run.path / "checkpoints" / f"step-{step:06d}").rglob("*.safetensors"))
        return [file.read_bytes() for file in files]

    steps = [int(path.name.removeprefix("step-")) for path in sorted((run.path / "checkpoints").iterdir())]
    for step in steps[1:]:  # weights and moments
        assert (kept(step) == kept(step - 1)) == bool(skipped[step - 1])


def test_zero_variance_groups_are_replaced_by_other_prompts_within_the_budget(model: Path, tmp_path: Path) -> None:
    some = "return 0.1 if int(row['id'][1:]) % 2 else float(len(completion) * 7 % 5)"
    run = alignkit.train(
        "grpo",
        **options(
            model, tmp_path, tmp_path / "run", some, zero_variance_groups="resample", max_resamples=3, max_steps=3
        ),
    )
    assert sum(values(run, "resampled_groups")) > 0
    assert np.mean(values(run, "zero_variance_groups")) < 0.5


def test_zero_variance_groups_are_known_by_their_rewards_and_not_by_rounded_advantages() -> None:
    rewards = np.array([[0.1, 0.1, 0.1], [0.1, np.nan, 0.2], [np.nan, np.nan, 0.3], [np.nan, 0.7, 0.7]])
    assert zero_variance_groups(rewards).tolist() == [True, False, False, True]


def test_truncated_completions_are_compared_with_but_not_trained_on() -> None:
    ids, logprobs = np.array([5], np.int32), np.array([-1.0], np.float32)
    drawn = tuple(Completion(ids, logprobs, truncated) for truncated in (True, False, False))
    group = Group(to_row({"id": "p", "prompt": "Hi"}, where="test"), ids, 0, drawn, (1.0,) * 3, ("a", "b", "c"))
    advantages = np.array([[2.0, -1.0, -1.0]])
    kept = drop_truncated(advantages, [group])
    assert np.isnan(kept[0, 0]) and kept[0, 1:].tolist() == [-1.0, -1.0]
    (micro_batch,) = sample_micro_batches([group], kept, 64, kept_P=np.array([True]))
    assert micro_batch.advantage_N is not None and micro_batch.advantage_N.tolist() == [-1.0, -1.0]


def test_k1_in_the_reward_is_zero_at_the_reference_and_is_logged(model: Path, tmp_path: Path) -> None:
    run = alignkit.train(
        "grpo",
        **options(model, tmp_path, tmp_path / "run", VOWELS, kl_estimator="k1", learning_rate=1e-2, warmup_steps=0),
    )
    first, second = values(run, "reward_kl")
    assert first == pytest.approx(0.0, abs=1e-4) and abs(second) > 1e-3


def test_the_journal_gives_back_what_was_kept_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "rollouts")
    drawn = [
        Completion(np.array([3, 4], np.int32), np.array([-1.0, -0.5], np.float32), False),
        Completion(np.array([7], np.int32), np.array([-2.5], np.float32), True),
    ]
    rewards = Rewards(np.array([[1.0, np.nan]]), {"one": np.array([[1.0, np.nan]])}, 1, ("timeout",))
    journal.keep_completions(3, 0, "key", drawn)
    journal.keep_scored(3, 0, "key", rewards)
    found = journal.completions(3, 0, "key")
    assert found is not None
    assert [(c.ids.tolist(), c.logprobs.tolist(), c.truncated) for c in found] == [
        ([3, 4], [-1.0, -0.5], False),
        ([7], [-2.5], True),
    ]
    scored = journal.scored(3, 0, "key")
    assert scored is not None and np.array_equal(scored.total_PG, rewards.total_PG, equal_nan=True)
    assert (scored.num_missing, scored.reasons) == (1, ("timeout",))
    assert journal.completions(3, 0, "another key") is None and journal.completions(4, 0, "key") is None
    file = tmp_path / "rollouts" / "000003-0.completions.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert journal.completions(3, 0, "key") is None and "it is not what was written" in caplog.text
    journal.prune(before=4)
    assert not list((tmp_path / "rollouts").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "kills"), [("transformers", 10), pytest.param("vllm", 2, marks=needs_vllm)])
def test_kills_change_no_bit_and_buy_no_score_twice(sampler: str, kills: int, tmp_path: Path) -> None:
    script = HELPERS / "grpo_kills.py"
    command = [sys.executable, script, tmp_path, sampler, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout
