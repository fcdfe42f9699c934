"""What a resume refuses, with the difference: another configuration, other code, other rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from small_runs import command, stop_at, write_numbered_rows
from tiny_models import tiny_model

import alignkit
from alignkit.cli.main import main
from alignkit.errors import Interrupted, UsageError
from alignkit.training.run.resume import code_fingerprint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


def test_resume_refuses_a_changed_configuration_with_the_difference(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"model": str(model), "data": str(data), "out": str(tmp_path / "run"), "max_steps": 4}
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(Interrupted):
            alignkit.train("sft", **given)
    with pytest.raises(UsageError, match=r"learning_rate: 0\.0001 -> 0\.5"):
        alignkit.train("sft", **given, learning_rate=0.5, resume=True)
    run = alignkit.train("sft", **given, learning_rate=0.5, resume=True, allow_changed=["learning_rate"])
    assert run.info["finished"]["steps"] == 4


def test_the_code_of_a_method_is_all_of_the_package_that_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "own_methods"
    package.mkdir()
    for name, text in (("__init__.py", ""), ("method.py", "from own_methods import terms"), ("terms.py", "weight = 1")):
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = code_fingerprint("own_methods.method")
    (package / "terms.py").write_text("weight = 2")
    assert code_fingerprint("own_methods.method") != before


def test_resume_refuses_other_code_and_warns_of_other_hardware(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        assert main(command(model, data, tmp_path / "run")) == 130
    written = tmp_path / "run" / "run.json"
    before = json.loads(written.read_text())
    before["fingerprints"]["code"] = "0" * 64
    before["versions"]["torch"] = "1.0"
    before["hardware"]["threads"] = 64
    written.write_text(json.dumps(before))
    resumed = [*command(model, data, tmp_path / "run"), "--resume"]
    assert main(resumed) == 2
    said = capsys.readouterr().err
    assert "fingerprint of code: 000000000000..." in said and "version of torch: 1.0 -> " in said
    assert main([*resumed, "--allow-changed", "code", "--allow-changed", "torch"]) == 0
    assert "threads: 64 -> 1" in capsys.readouterr().err


def test_options_given_again_to_a_finished_run_are_refused_where_they_differ(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(model, data, tmp_path / "run", max_steps=1)
    assert main(words) == 0
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    for same in ([], ["--set", "generate_timeout_s=5"], ["--set", "judge.margin=1"]):
        assert main([*words, "--resume", *same]) == 0
        assert "is done" in capsys.readouterr().err
    assert main(["train", "sft", "--out", str(tmp_path / "run"), "--resume"]) == 0  # nothing that is given differs
    capsys.readouterr()
    for other in (["--epochs", "2"], ["--epochs", "2", "--allow-changed", "epochs"], ["--set", "train.epochs=2"]):
        assert main([*words, "--resume", *other]) == 2
        assert (
            "the run is done, and was trained with other options: train.sft.epochs: 10 -> 2" in capsys.readouterr().err
        )
    Path("alignkit.toml").write_text("[model]\nsystem = 'Be brief.'\n")
    assert main([*words, "--resume"]) == 2
    assert "model.system: None -> Be brief." in capsys.readouterr().err
    words[1] = "dpo"
    assert main([*words, "--resume"]) == 2
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


CHANGING_METHOD = """
import os, signal
from alignkit import hookimpl
from alignkit_plugins.sft import SFT
from alignkit.training.run.resume import code_fingerprint

calls = 0


class Changing(SFT):
    name = "changing"

    def loss(self, batch, config):
        global calls
        calls += 1
        if os.environ.get("STOP_AT") == str(calls):
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(batch, config)


@hookimpl
def register_methods(register):
    register(Changing)
"""


@pytest.mark.slow
def test_resume_refuses_a_source_file_that_really_changed(model: Path, data: Path, tmp_path: Path) -> None:
    """A method of its own distribution, in real processes: edited between a run and its resume."""
    site = tmp_path / "site"
    (site / "changing-1.0.dist-info").mkdir(parents=True)
    (site / "changing-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: changing\nVersion: 1.0\n")
    (site / "changing-1.0.dist-info" / "entry_points.txt").write_text("[alignkit]\nchanging = changing\n")
    (site / "changing.py").write_text(CHANGING_METHOD)

    def run(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        arguments = command(model, data, tmp_path / "run", max_steps=6)
        arguments[arguments.index("sft")] = "changing"
        return subprocess.run(
            [sys.executable, "-m", "alignkit", *arguments, *more],
            env=os.environ | {"PYTHONPATH": str(site), **environment},
            capture_output=True,
            text=True,
        )

    assert run(STOP_AT="4").returncode == 130
    with open(site / "changing.py", "a") as source:
        source.write("# changed\n")
    refused = run("--resume")
    assert refused.returncode == 2 and "fingerprint of code: " in refused.stderr and "--allow-changed" in refused.stderr
    allowed = run("--resume", "--allow-changed", "code")
    assert allowed.returncode == 0, allowed.stderr
    assert alignkit.Run(tmp_path / "run").info["finished"]["steps"] == 6


def test_resume_refuses_other_rows(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    shutil.copy(data, rows)
    given: dict[str, Any] = {"model": str(model), "data": str(rows), "out": str(tmp_path / "run"), "max_steps": 4}
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(Interrupted):
            alignkit.train("sft", **given)
    rows.write_text(rows.read_text().replace("it is 7", "it is 8"))
    with pytest.raises(UsageError, match="fingerprint of data"):
        alignkit.train("sft", **given, resume=True)


def test_the_fingerprint_of_the_code_is_of_all_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or b"")
    code_fingerprint("alignkit_plugins.dpo")
    names = {str(path.relative_to(ROOT)) for path in read if ROOT in path.parents}
    assert {"alignkit/methods.py", "alignkit/data/trees/packs.py", "alignkit/policy/policy.py"} <= names
    assert "plugins/alignkit_plugins/dpo.py" in names
