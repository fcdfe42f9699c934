"""Verdicts stay where they were written, looks are counted whoever keeps the ledger, and changed data are named."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model
from verdicts import rated, verdict_on

import alignkit
from alignkit.cli.main import main
from alignkit.judging import verdict_files
from alignkit.storage import write_numbered

ROWS = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"no {n}"} for n in range(24)]


def verdict(seed: int, **changes: Any) -> Any:
    return verdict_on(rated(60.0, 55.0, 65.0)).model_copy(update={"seed": seed} | changes)


def test_a_removed_verdict_frees_no_number_below_the_highest(tmp_path: Path) -> None:
    names = [verdict_files.keep(tmp_path, verdict(seed)) for seed in range(3)]
    assert [file.name for file in names if file] == ["001.json", "002.json", "003.json"]
    (tmp_path / "verdicts" / "001.json").unlink()
    (tmp_path / "verdicts" / "notes.json").write_text("mine")
    (tmp_path / "verdicts" / "0007.json").mkdir()
    kept = verdict_files.keep(tmp_path, verdict(7))
    assert kept is not None and kept.name == "008.json"
    assert [v.seed for v in verdict_files.read(tmp_path)] == [1, 2, 7]


def _write(folder: Path, worker: int) -> None:
    for number in range(25):
        write_numbered(folder, f"{worker} {number}")


@pytest.mark.parametrize("links", [True, False])
def test_writers_at_once_keep_all_that_they_write(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(tmp_path / "v", worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    files = sorted((tmp_path / "v").iterdir())
    assert [file.name for file in files] == [f"{n:03d}.json" for n in range(1, 101)]
    assert len({file.read_text() for file in files}) == 100
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_verdict_that_cannot_be_kept_is_still_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "verdicts").write_text("a file in its way")
    assert verdict_files.keep(tmp_path, verdict(1)) is None
    assert "the verdict was not kept" in caplog.text


def test_verdicts_are_read_by_number_also_past_999_and_damaged_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "verdicts").mkdir()
    for number, seed in ((999, 1), (1000, 2), (2, 0)):
        (tmp_path / "verdicts" / f"{number:03d}.json").write_text(verdict(seed).model_dump_json())
    (tmp_path / "verdicts" / "1001.json").write_text("{")
    (tmp_path / "verdicts" / "1002.json").mkdir()
    assert [v.seed for v in verdict_files.read(tmp_path)] == [0, 1, 2]
    assert "1001.json: no verdict of this alignkit" in caplog.text and "1002.json: cannot be read" in caplog.text


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "one", seed=0)
    tiny_model(folder / "other", seed=1)
    return folder


@pytest.fixture(scope="module")
def trained(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with rows, a judge, and a run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        _train(models)
    return folder


@pytest.fixture
def place(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "place"))
    return tmp_path


def _train(models: Path) -> None:
    write_rows("rows.jsonl", ROWS)
    write_judge(1)
    command = [
        "train",
        "sft",
        "--model",
        str(models / "one"),
        "--data",
        "rows.jsonl",
        "--out",
        "run",
        "--max-steps",
        "1",
    ]
    assert main([*command, "--split", "0.5", "--batch-size", "4", "--precision", "fp32", "--max-new-tokens", "2"]) == 0


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_judge(number: int) -> None:
    Path("j.py").write_text(f"def score(completion, row):\n    return len(completion) * {number} % 7\n")


def judged(models: Path, capsys: pytest.CaptureFixture[str], *more: str, model: str = "run") -> dict[str, Any]:
    capsys.readouterr()
    command = [
        "judge",
        model,
        "--vs",
        str(models / "other"),
        "--judge",
        "j.py:score",
        "--max-new-tokens",
        "2",
        "--json",
        "--difference",
        "45",
    ]
    assert main([*command, *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_another_judge_in_the_same_file_is_another_look_and_a_new_ledger_sets_none_back(
    place: Path, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for number in (1, 2, 3, 2):
        write_judge(number)
        seen.append(judged(models, capsys)["look"])
    assert seen == [1, 2, 3, 2]
    monkeypatch.setenv("ALIGNKIT_LEDGER", str(place / "fresh.sqlite"))
    assert judged(models, capsys, "--seed", "9")["look"] == 4
    assert judged(models, capsys)["look"] == 2  # known by the verdicts, and no further look


def test_another_template_of_the_same_weights_is_another_look_and_not_another_pair(
    place: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models / "one", "one")
    assert judged(models, capsys, "--data", "rows.jsonl", model="one")["look"] == 1
    template = Path("one/chat_template.jinja")
    template.write_text("You are kind. " + template.read_text())
    assert judged(models, capsys, "--data", "rows.jsonl", model="one")["look"] == 2


def test_data_that_changed_since_the_run_are_said_and_never_called_its_validation_prompts(
    place: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("rows.jsonl", "secret.jsonl")
    before, on_secret = judged(models, capsys), judged(models, capsys, "--data", "secret.jsonl")
    assert before["prompts"] == "the validation prompts of run"
    assert any("judged prompts are in the training set of run" in caveat for caveat in on_secret["caveats"])
    assert not any("has changed" in caveat for caveat in [*before["caveats"], *on_secret["caveats"]])
    write_rows("rows.jsonl", [row | {"prompt": f"Something else, number {n}"} for n, row in enumerate(ROWS)])
    after, on_secret = judged(models, capsys), judged(models, capsys, "--data", "secret.jsonl")
    assert after["prompts"] == "rows that have the ids of the validation prompts of run"
    for found in (after, on_secret):
        assert any("the data file has changed since the run: rows.jsonl" in caveat for caveat in found["caveats"])


def test_the_verdicts_of_a_run_are_its_owners_alone(
    place: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(models, capsys)
    assert Path("run/verdicts").stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in Path("run/verdicts").iterdir()} == {
        "001.json": 0o600,
        "001.answers.jsonl": 0o600,
    }
    (kept,) = alignkit.Run("run").verdicts
    assert kept.pair is not None and kept.look_id is not None
