"""The reference's log-probs: kept on disk, shared, checked on load, the same as online ones."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import Tree, tree
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.reference_cache import CachedLogprobs, known_logprobs
from alignkit.training.inputs import weights as inputs_weights


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(tiny_model(tmp_path_factory.mktemp("model")), precision="fp32").eval()


@pytest.fixture(autouse=True)
def _said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def pairs(count: int, seed: int = 0) -> list[Tree]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, (count, 3))
    return [
        tree(f"row-{n}", rng.integers(0, 256, p), [(rng.integers(0, 256, k), np.ones(k, bool)) for k in (a, b)])
        for n, (p, a, b) in enumerate(sizes)
    ]


def keep(policy: Policy, trees: list[Tree], folder: Path, weights: str = "w") -> CachedLogprobs:
    return known_logprobs(policy, trees, weights=weights, capacity=32, folder=folder)


def test_cached_log_probs_are_those_of_a_forward_pass_however_rows_are_laid(policy: Policy, tmp_path: Path) -> None:
    trees = pairs(7)
    known = keep(policy, trees, tmp_path)
    row = lay_out([trees[n] for n in (5, 0, 3)])
    found = known.of(row, None)
    assert found is not None
    with torch.no_grad():
        assert np.abs(found - policy(row).logprob_T.numpy()).max() < 1e-5


def test_a_second_run_reads_the_file_and_other_weights_or_tokens_make_another(
    policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trees = pairs(5)
    first = keep(policy, trees, tmp_path)
    assert "computed once" in caplog.text
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    caplog.clear()
    second = keep(policy, trees, tmp_path)
    assert "as kept before" in caplog.text and file.stat().st_mtime_ns == written
    assert all(np.array_equal(first.values[key], second.values[key]) for key in first.values)
    keep(policy, trees, tmp_path, weights="other")
    keep(policy, trees[:-1], tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_named_and_made_again(
    policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trees = pairs(5)
    expected = keep(policy, trees, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-40], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], b""):
        file.write_bytes(damaged)
        caplog.clear()
        found = keep(policy, trees, tmp_path)
        assert f"{file}: " in caplog.text and "computed anew" in caplog.text
        assert all(np.array_equal(found.values[key], expected.values[key]) for key in expected.values)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_log_probs_of_a_slightly_trained_model_under_the_same_name_are_found_out(
    precision: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trees = pairs(5)
    policy, other = (load_policy(tiny_model(tmp_path / "model"), precision=precision).eval() for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * p.std() * torch.randn(p.shape, generator=generator))
    keep(other, trees, tmp_path / "cache")
    keep(other, trees, tmp_path / "cache")
    assert "differ" not in caplog.text
    found = keep(policy, trees, tmp_path / "cache")
    assert "differ" in caplog.text
    known = found.of(lay_out(trees[:1]), None)
    assert known is not None
    with torch.no_grad():
        gap = np.abs(known - policy(lay_out(trees[:1])).logprob_T.numpy()).max()
    assert gap < (1e-5 if precision == "fp32" else 0.05)


def test_what_cannot_be_written_is_said_and_used(
    policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    known = keep(policy, pairs(2), tmp_path / "file")
    assert "cannot be kept" in caplog.text and len(known.values) == 2


def test_another_temperature_or_row_is_computed_online(policy: Policy, tmp_path: Path) -> None:
    trees = pairs(4)
    known = keep(policy, trees[:3], tmp_path)
    loads = []

    def load() -> Policy:
        loads.append(1)
        return policy

    reference = Reference(policy, load=load, known=[known])
    reference.logprobs(lay_out(trees[:3]))
    assert not loads
    with torch.no_grad():
        warm = policy(lay_out(trees[:1]), np.full(2, 0.7, np.float32)).logprob_T
    assert (reference.logprobs(lay_out(trees[:1]), np.full(2, 0.7, np.float32)) - warm).abs().max() < 1e-5
    reference.release()
    reference.logprobs(lay_out(trees[2:]))
    assert len(loads) == 2


class OnGpu(torch.nn.Linear):
    """What a policy looks like beside a GPU: `places` are the devices that it was moved to."""

    has_adapter = False

    def __init__(self) -> None:
        super().__init__(10, 10)
        self.places = [torch.device("cuda", 0)]

    @property
    def device(self) -> torch.device:
        return self.places[-1]

    def to(self, device: torch.device | str) -> OnGpu:  # type: ignore[override]
        self.places.append(torch.device(device))
        return self


@pytest.mark.parametrize(("free_bytes", "num_loads"), [(1000, 1), (500, 2)])
def test_beside_a_gpu_a_released_copy_waits_in_the_hosts_memory_where_there_is_room(
    free_bytes: int, num_loads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.training.gradient.reference.free_machine_bytes", lambda: free_bytes)
    policy: Any = OnGpu()
    loaded: list[Any] = []

    def load() -> Any:
        loaded.append(OnGpu())  # 440 bytes
        return loaded[-1]

    reference = Reference(policy, load=load)
    for _ in range(2):
        with reference.policy() as frozen:
            assert frozen is loaded[-1] and frozen.device.type == "cuda"
        reference.release()
    assert len(loaded) == num_loads
    moves = ["cuda", "cpu", "cuda", "cpu"] if num_loads == 1 else ["cuda"]
    assert [place.type for place in loaded[0].places] == moves


@pytest.mark.gpu
def test_a_copy_that_waited_on_the_host_computes_the_same(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    policy = load_policy(folder, precision="fp32").eval()
    reference = Reference(policy, load=lambda: load_policy(folder, precision="fp32"))
    before = reference.logprobs(lay_out(pairs(4)))
    reference.release()
    assert reference.frozen is not None and reference.frozen.device.type == "cpu"
    assert torch.equal(reference.logprobs(lay_out(pairs(4))), before)


def test_a_file_under_another_files_name_and_what_killed_writers_left_are_not_taken(
    policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = pairs(5), pairs(5, seed=1)
    expected = keep(policy, one, tmp_path)
    (first,) = tmp_path.iterdir()
    keep(policy, other, tmp_path)
    (second,) = set(tmp_path.iterdir()) - {first}
    second.replace(first)
    orphan, young = (tmp_path / f".{letter * 64}.npz.{letter * 12}.part" for letter in "ab")
    for file in (orphan, young):
        file.write_bytes(b"half")
    os.utime(orphan, (0, 0))
    found = keep(policy, one, tmp_path)
    assert f"{first}: damaged; computed anew" in caplog.text
    assert all(np.array_equal(found.values[key], expected.values[key]) for key in expected.values)
    assert not orphan.exists() and young.exists()


def test_rows_computed_as_training_lays_them_give_the_same_bits(policy: Policy, tmp_path: Path) -> None:
    trees = pairs(9)
    rows = [[4, 2], [8], [0, 1, 3], [7, 6, 5]]
    known = known_logprobs(policy, trees, weights="w", capacity=32, rows=rows, folder=tmp_path)
    again = known_logprobs(policy, trees, weights="w", capacity=32, rows=rows, folder=tmp_path)
    keep(policy, trees, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # other rows round otherwise: another file
    for row in rows:
        pack = lay_out([trees[n] for n in row])
        with torch.no_grad():
            ours = policy(pack).logprob_T.numpy()
        for one in (known, again):
            assert np.array_equal(one.of(pack, None), ours)


@pytest.mark.parametrize(
    ("precision", "more"),
    [("fp32", {}), ("bf16", {}), ("bf16", {"lora_rank": 2}), ("fp32", {"set": "model.reference=online"})],
)
def test_dpo_starts_at_a_margin_of_0_and_an_accuracy_of_one_half(
    precision: str, more: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"id": f"r{n}", "prompt": f"Say {n}.", "chosen": "yes " * int(rng.integers(1, 30)), "rejected": f"no {n} " * 9}
        for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"precision": precision, "max_steps": 2, "max_new_tokens": 4, "split": "0.3", **more}
    model = tiny_model(tmp_path / "model", num_hidden_layers=4)
    given = [text for name, x in options.items() for text in (f"--{name.replace('_', '-')}", str(x))]
    run = tmp_path / "run"
    given += ["--model", str(model), "--data", str(tmp_path / "rows.jsonl"), "--out", str(run)]
    assert main(["train", "dpo", *given]) == 0
    said = " ".join(capsys.readouterr().err.split())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = {line["name"]: line["value"] for line in metrics if line["step"] <= 1}
    for name in ("margin", "validation/margin"):
        assert first[name] == 0.0
    assert first["accuracy"] == first["validation/accuracy"] == 0.5
    assert first["loss"] == first["validation/loss"] == pytest.approx(np.log(2), abs=1e-7)
    check, noise = json.loads((run / "checks.json").read_text())[-2:]
    assert check["ok"] and check["value"] == 0.0
    assert noise["value"] < (1e-6 if precision == "fp32" else 0.1) and noise["pairs"] > 4
    assert ("bf16 rounding moves it by" in said) == (precision == "bf16")


def test_another_reference_than_the_policy_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"it is {n}", "rejected": "no"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_model(tmp_path / "model")
    original = inputs_weights.known_logprobs

    def other(*given: Any, **more: Any) -> CachedLogprobs:
        known = original(*given, **more)
        return CachedLogprobs({key: x - 0.01 * np.arange(len(x)) for key, x in known.values.items()})

    monkeypatch.setattr(inputs_weights, "known_logprobs", other)
    for precision in ("fp32", "bf16"):
        out = str(tmp_path / precision)
        given = ["--model", str(model), "--data", str(tmp_path / "rows.jsonl"), "--out", out, "--precision", precision]
        assert main(["train", "dpo", *given, "--max-steps", "2", "--beta", "1"]) == 3
        assert "start-up check failed: margin before the first step" in capsys.readouterr().err
