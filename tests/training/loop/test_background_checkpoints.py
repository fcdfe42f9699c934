"""Checkpoints written while training goes on: the same files, whole or not there, and nothing that fails is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_kills import KILLED_AT
from places import ROOT
from safetensors.torch import load_file
from small_runs import command, stop_at, weights, write_numbered_rows
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.distributed.ranks import ALONE
from alignkit.distributed.shards import Piece, make_piece
from alignkit.storage import file_hash
from alignkit.training.checkpoints import background, checkpoint
from alignkit.training.checkpoints.background import Background
from alignkit.training.loop import saver, update


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture
def slow_background(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write in the background, slower than the steps; the names of the threads that wrote."""
    threads: list[str] = []
    write = Piece.write

    def writing(piece: Piece, folder: Path) -> str:
        threads.append(threading.current_thread().name)
        time.sleep(0.3)
        return write(piece, folder)

    monkeypatch.setattr(Piece, "write", writing)
    monkeypatch.setattr(saver, "writes_in_background", lambda models: True)
    return threads


def some_tensors() -> dict[str, torch.Tensor]:
    return {
        "a": torch.randn(1000, 3),
        "b": torch.arange(7, dtype=torch.uint8),
        "c": torch.randn(5, 4).bfloat16().t(),
        "d": torch.tensor(3.0),
        "e": torch.tensor([True, False]),
        "f": torch.zeros(0, 4),
    }


def test_a_piece_is_a_safetensors_file_and_its_hash_that_of_the_file(tmp_path: Path) -> None:
    tensors = some_tensors()
    digest = make_piece("x", tensors, ALONE).write(tmp_path)
    read = load_file(tmp_path / "x.safetensors")
    assert set(read) == set(tensors) - {"f"}  # what is empty is not written
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in read)
    assert digest == file_hash(tmp_path / "x.safetensors")


@pytest.mark.parametrize("block_bytes", [64, 5000, 1 << 20])
def test_copies_are_what_was_there_when_they_were_taken(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_BLOCK_BYTES", block_bytes)
    behind, may_write = Background(), threading.Event()
    for number in range(3):  # in the same blocks again
        tensors = some_tensors()
        pieces = [make_piece(name, tensors, ALONE) for name in ("one", "two")]
        expected = [piece.write(tmp_path) for piece in pieces]
        found: list[str] = []
        may_write.clear()

        def write(copies: Any, found: list[str] = found) -> None:
            assert may_write.wait(60)
            found += [piece.write(tmp_path) for piece in copies]

        assert behind.start(pieces, write)
        for tensor in tensors.values():
            tensor.zero_()  # as the next step does
        may_write.set()
        behind.wait()
        assert found == expected, number


def test_what_fails_in_the_background_is_raised_once() -> None:
    def fails(copies: Any) -> None:
        raise OSError(28, "No space left on device")

    behind = Background()
    assert behind.start([make_piece("x", some_tensors(), ALONE)], fails)
    with pytest.raises(OSError, match="No space"):
        behind.wait()
    behind.wait()
    assert behind.start([], lambda copies: None)


def test_without_memory_for_copies_the_step_waits_for_the_disk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "free_machine_bytes", lambda: 70 << 20)
    assert Background().start([make_piece("x", some_tensors(), ALONE)], lambda copies: None) is False
    assert "training waits for the disk" in caplog.text


@pytest.mark.slow
def test_killed_while_writing_a_run_goes_on_from_what_is_whole_to_the_same_bits(
    model: Path, data: Path, tmp_path: Path
) -> None:
    script = ROOT / "tests" / "helpers" / "checkpoint_kills.py"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"OMP_NUM_THREADS": "1", "ALIGNKIT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": paths}
    found = subprocess.run(
        [sys.executable, str(script), str(model), str(data), str(tmp_path)],
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert found.returncode == 0, found.stderr
    before, after = ["step-000002"], ["step-000004", "step-000002"]
    assert json.loads(found.stdout.splitlines()[-1]) == dict(zip(KILLED_AT, (before, after), strict=True))
    whole = tmp_path / "whole"
    for name in KILLED_AT:
        run = tmp_path / name
        assert all(torch.equal(tensor, weights(run)[key]) for key, tensor in weights(whole).items())
        for kept in ("step-000004", "step-000006"):
            for file in ("weights.safetensors", "optimizer.safetensors"):
                place = Path("checkpoints", kept, file)
                assert (run / place).read_bytes() == (whole / place).read_bytes()
        assert not list((run / "checkpoints").glob(".*"))


def test_a_disk_that_refuses_in_the_background_stops_the_next_steps_with_3(
    model: Path,
    data: Path,
    tmp_path: Path,
    slow_background: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = Piece.write

    def writing(piece: Piece, folder: Path) -> str:
        if "step-000004" in folder.name:
            raise OSError(28, "No space left on device")
        return write(piece, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Piece, "write", writing)
        assert main(command(model, data, tmp_path / "run")) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the checkpoint of step 4 cannot be written: No space left on device; make room and go on with" in said
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    assert not (tmp_path / "run" / "model").exists()
    assert main([*command(model, data, tmp_path / "run"), "--resume"]) == 0


def test_ctrl_c_waits_for_the_checkpoint_that_is_being_written(
    model: Path, data: Path, tmp_path: Path, slow_background: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(3, monkeypatch)
    assert main(command(model, data, tmp_path / "run")) == 130
    assert slow_background[:2] == ["checkpoint_0"] * 2
    good = [file.name for file in checkpoint.good(tmp_path / "run" / "checkpoints")]
    assert good == ["step-000003", "step-000002"]


def test_a_lost_gpu_still_leaves_the_checkpoint_that_was_being_written(
    model: Path,
    data: Path,
    tmp_path: Path,
    slow_background: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    accumulate, calls = update.accumulate, []

    def lost(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # right after the checkpoint of step 2 was begun
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return accumulate(*given, **more)

    monkeypatch.setattr(update, "accumulate", lost)
    assert main(command(model, data, tmp_path / "run")) == 3
    assert "saved after step 2, go on with" in capsys.readouterr().err.splitlines()[-1]
    assert [file.name for file in checkpoint.good(tmp_path / "run" / "checkpoints")] == ["step-000002"]


def test_the_best_weights_are_put_back_when_their_checkpoint_is_written(
    model: Path, data: Path, tmp_path: Path, slow_background: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"max_steps": 40, "learning_rate": 0.05, "validation_interval": 2, "early_stopping_steps": 2}
    assert main(command(model, data, tmp_path / "run", **more)) == 0
    finished = json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    best = finished["kept_step"]
    assert 0 < best == finished["steps"] - 2 and "checkpoint_0" in slow_background
    kept = load_file(tmp_path / "run" / "checkpoints" / f"step-{best:06d}" / "weights.safetensors")
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert torch.equal(kept["model.model.embed_tokens.weight"], exported["model.embed_tokens.weight"])


@pytest.mark.gpu
def test_copies_of_a_gpu_are_pinned_and_the_same(tmp_path: Path) -> None:
    tensors = {name: tensor.cuda() for name, tensor in some_tensors().items()}
    piece = make_piece("x", tensors, ALONE)
    expected, found = piece.write(tmp_path), []
    behind = Background()
    assert behind.start(
        [piece], lambda copies: found.extend([copies[0].content[0].is_pinned(), copies[0].write(tmp_path)])
    )
    for tensor in tensors.values():
        tensor.zero_()
    behind.wait()
    assert found == [True, expected]
