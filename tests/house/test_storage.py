"""Folders take their place whole: real kills at every file operation, and what a crash leaves is put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit import storage

_NAMES = ("config.json", "weights.bin", "deep/tokenizer.json")
_KILLED = """
import os, signal, sys
from pathlib import Path
from alignkit import storage

def die_at(number):
    left = number
    def watch(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.call_function"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)

folder = Path(sys.argv[1])
NAMES = ("config.json", "weights.bin", "deep/tokenizer.json")

def write(folder, text):
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / name).write_text(text)

write(folder / "model", "old")
if sys.argv[2] == "plain":
    storage._renameat2 = lambda: None
for number in range(1, 200):
    child = os.fork()
    if child == 0:
        die_at(number)
        storage.restore(folder / "model")
        write(folder / ".model.part", f"new {number}")
        storage.sync_tree(folder / ".model.part")
        storage.put_in_place(folder / ".model.part", folder / "model")
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    here = [f for f in (folder / "model", folder / ".model.old") if f.exists()]
    texts = [{(f / name).read_text() for name in NAMES} for f in here[:1]]
    assert texts and len(texts[0]) == 1, (number, here, texts)
    print(number, killed, here[0].name, *texts[0])
    if killed == 0:
        break
"""


@pytest.mark.parametrize("way", ["swap", "plain"])
def test_a_kill_at_any_file_operation_leaves_one_whole_folder(way: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), way], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.stderr == "", done.stderr[-1500:]
    assert len(lines) > 12 and all(int(killed) == -signal.SIGKILL for _, killed, *_ in lines[:-1]), done.stdout
    assert lines[-1][1:] == ["0", "model", "new", lines[-1][0]]
    assert ({line[2] for line in lines} == {"model"}) == (way == "swap"), done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    written = tmp_path / ".model.part"
    (written / "deep").mkdir(parents=True)
    for name in _NAMES:
        (written / name).write_text("new")
    storage.sync_tree(written)
    below = [str(written / name) for name in (*_NAMES, "deep")]
    assert set(synced[:-1]) == set(below) and synced[-1] == str(written)
    storage.put_in_place(written, tmp_path / "model")
    assert synced[-1] == str(tmp_path)
