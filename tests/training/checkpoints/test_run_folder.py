"""A run's folder: who may write it, and what a start that failed or was killed leaves."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from small_runs import command
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.errors import UsageError
from alignkit.training.checkpoints.folder_lock import FolderLock
from alignkit.training.checkpoints.run_folder import RunFolder, open_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def leave_lock(folder: Path) -> None:
    """A folder as a process leaves it that was killed: its lock's file is there, and nobody holds it."""
    killed = RunFolder(folder)
    killed.lock()
    content = (folder / ".lock").read_bytes()
    killed.unlock()
    folder.mkdir(exist_ok=True)
    (folder / ".lock").write_bytes(content)


@pytest.mark.parametrize("names", [["log.txt"], ["log.txt", ".lock"], ["notes.md"], []])
def test_a_failed_start_takes_nothing_that_was_there(names: list[str], model: Path, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.mkdir()
    for name in names:
        (users / name).write_text("three years of notes")
    assert main([*command(model, tmp_path / "none.jsonl", users), "--resume"]) == 2
    assert {path.name: path.read_text() for path in users.iterdir()} == dict.fromkeys(names, "three years of notes")


def test_a_killed_start_is_begun_again_and_a_failed_one_leaves_nothing(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_lock(run)
    (run / "log.txt").write_text("a line")
    assert main([*command(model, tmp_path / "none.jsonl", run), "--resume"]) == 2
    assert list(run.iterdir()) == []
    assert main([*command(model, tmp_path / "none.jsonl", tmp_path / "new"), "--resume"]) == 2
    assert not (tmp_path / "new").exists()


def test_a_start_that_was_killed_while_it_wrote_run_json_is_begun_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_lock(run)
    (run / "log.txt").write_text("a line")
    (run / ".run.json.0123456789ab.part").write_text('{"method": ')
    again = open_run("sft", out=str(run), resume=True)
    again.unlock()
    (run / ".run.json.notes.part").write_text("a user's")
    with pytest.raises(UsageError, match="is no run"):
        open_run("sft", out=str(run), resume=True)


def test_a_lock_that_changes_hands_is_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (RunFolder(tmp_path / "run") for _ in range(3))
    first.lock()
    opened_before = RunFolder(tmp_path / "run")
    with pytest.raises(UsageError, match="written by another process"):
        opened_before.lock()
    release = FolderLock.release

    def slow_release(lock: FolderLock) -> None:
        monkeypatch.undo()
        release(lock)
        second.lock()  # another process, in the moment after the release

    monkeypatch.setattr(FolderLock, "release", slow_release)
    first.unlock()
    with pytest.raises(UsageError, match="written by another process"):
        third.lock()
    second.unlock()
    third.lock()
    third.unlock()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    locking = fcntl.flock
    removed: list[int] = []

    def late(descriptor: int, kind: int) -> None:
        if not removed:  # the holder let go and removed the file between our opening and our locking
            (run.path / ".lock").unlink()
            removed.append(descriptor)
        locking(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    run.lock()
    monkeypatch.undo()
    with pytest.raises(UsageError, match="written by another process"):
        RunFolder(run.path).lock()
    run.unlock()
