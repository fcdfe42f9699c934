"""What a GPU that cannot be used, or is lost in the middle of a run, leaves of it: one line, and a way on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_runs import command, way_on, weights, write_numbered_rows
from tiny_models import tiny_model

import alignkit.gpu as gpu
from alignkit.cli.main import main
from alignkit.errors import UsageError
from alignkit.gpu import driver_version, gpu_problem, lost_gpu
from alignkit.policy.load import autocast_type
from alignkit.training.loop import update

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
VERSION = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
LOST = "CUDA error: {}\nCUDA kernel errors might be asynchronously reported at some other API call\n"


@pytest.fixture
def unusable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card and a driver, older than the CUDA that torch is built for."""

    def init() -> None:
        raise RuntimeError(TOO_OLD)

    file = tmp_path / "version"
    file.write_text(VERSION)
    monkeypatch.setattr(gpu, "_DRIVER", file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.mark.usefixtures("unusable")
def test_a_driver_older_than_torch_is_said_by_doctor_and_train(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    line = (
        "a GPU is there, but torch cannot use it: its driver 535.104.05 is older than CUDA 13.0, which torch "
        f"{torch.__version__} is built for; update the driver"
    )
    assert driver_version() == "535.104.05"
    assert main(["doctor", "--model", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu_problem"].startswith(line)
    assert main(command(model, data, tmp_path / "run", max_steps=1)) == 0
    assert line in caplog.text and "this run is on the CPU" in caplog.text


def test_doctor_shows_what_the_card_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    card = gpu.Gpu("NVIDIA H100 80GB HBM3", 79.1, 70.0, "580.159.04", "13.0", "9.0", bf16=True)
    monkeypatch.setattr("alignkit.cli.doctor.find_gpu", lambda: card)
    monkeypatch.setattr("alignkit.api.start_up_checks", lambda model: [])
    assert main(["doctor", "--model", "any"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "70.0 GiB free of 79.1",
        "580.159.04; torch is built for CUDA 13.0",
        "bf16, capability 9.0; bf16 peak 989 TFLOP/s",
    ):
        assert part in said


@pytest.mark.usefixtures("unusable")
def test_a_torch_without_cuda_and_a_hidden_card_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA" in (gpu_problem() or "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_problem() is None


def test_a_machine_without_a_card_has_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr(gpu, "_DEVICES", ())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_problem() is None and driver_version() is None


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (LOST.format("device-side assert triggered"), "CUDA_LAUNCH_BLOCKING=1"),
        (LOST.format("unspecified launch failure"), "CUDA_LAUNCH_BLOCKING=1"),
        (LOST.format("uncorrectable ECC error encountered"), "Xid lines of dmesg"),
        (LOST.format("no kernel image is available for execution on the device"), "install one that is built for it"),
        ("Triton Error [CUDA]: an illegal memory access was encountered", "CUDA_LAUNCH_BLOCKING=1"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "nvidia-smi"),
    ],
)
def test_an_error_that_ends_the_gpu_is_one_line_with_what_to_do(text: str, advice: str) -> None:
    line = lost_gpu(torch.AcceleratorError(text) if "CUDA error" in text else RuntimeError(text))
    assert line is not None and advice in line and "\n" not in line and text.splitlines()[0] in line


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx(...)`"),
        RuntimeError("shape mismatch"),
        ValueError("CUDA error: of a user's own text"),
    ],
)
def test_other_errors_are_not_the_gpus(error: Exception) -> None:
    assert lost_gpu(error) is None


def test_a_gpu_lost_in_the_middle_stops_with_3_and_the_run_goes_on_from_what_is_saved(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accumulate, calls = update.accumulate, []

    def lost(*given: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == 6:
            raise torch.AcceleratorError(LOST.format("uncorrectable ECC error encountered"))
        return accumulate(*given, **more)  # type: ignore[arg-type]

    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(command(model, data, whole)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(update, "accumulate", lost)
        assert main(command(model, data, run)) == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said and "cannot go on: CUDA error: uncorrectable ECC error" in said.splitlines()[-1]
    assert "saved after step 4, go on with: alignkit train --resume" in said.splitlines()[-1]
    assert main(way_on(said)) == 0
    assert all(torch.equal(tensor, weights(run)[name]) for name, tensor in weights(whole).items())


def test_a_gpu_lost_before_the_first_step_stops_with_3_and_no_fallback(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*given: object, **more: object) -> None:
        raise torch.AcceleratorError(LOST.format("device-side assert triggered"))

    monkeypatch.setattr("alignkit.training.run.start_checks.run_checks", lost)
    assert main(command(model, data, tmp_path / "run")) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "cannot go on: CUDA error: device-side assert triggered" in last and "begin again with: alignkit" in last


def test_a_gpu_lost_in_another_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(model: str) -> None:
        raise torch.AcceleratorError(LOST.format("unspecified launch failure"))

    monkeypatch.setattr("alignkit.api.start_up_checks", lost)
    assert main(["doctor", "--model", "any"]) == 3
    said = capsys.readouterr().err.strip().splitlines()
    assert (
        len([line for line in said if line.startswith("alignkit:")]) == 1
        and "cannot go on: CUDA error: unspecified launch failure; one of the kernels" in said[-1]
    )


def test_bf16_is_refused_where_a_card_computes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    card = torch.device("cuda", 0)
    assert autocast_type("auto", card) is None and autocast_type("fp32", card) is None
    with pytest.raises(UsageError, match="Tesla T4 computes no bf16"):
        autocast_type("bf16", card)


@pytest.mark.gpu
def test_doctor_says_what_the_card_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    card = found["gpu"]
    assert found["gpu_problem"] is None and card["name"] == torch.cuda.get_device_name()
    assert 0 < card["free_gib"] <= card["total_gib"] and card["cuda"] == torch.version.cuda
