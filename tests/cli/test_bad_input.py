"""Bad input is one line with what, where and what to do; exit 2, or 3 for the disk; nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs import CATALOGUE, Case, write_files, write_models
from safetensors.torch import load_file

from alignkit.cli.main import main

# In a name space of its own an ordinary user may mount; what lies on that disk is copied to ./out to be looked at.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 tmpfs full && head -c 4096 /dev/zero >full/taken || exit 99
shift
"$@"
code=$?
[ ! -e full/run ] || cp -r full/run out
exit $code
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    return root


@pytest.fixture
def folder(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with every file and model that the catalogue names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    Path("models").symlink_to(models)
    write_files()
    return tmp_path


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=pytest.mark.slow if case.disk else ()) for case in CATALOGUE]
)
def test_bad_input_is_one_line_and_leaves_nothing_half_written(
    case: Case, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    with case.around():
        code = run(case)
    out, err = capfd.readouterr()
    *above, line = err.splitlines()
    assert code == case.code, err
    assert out == ""
    assert re.match(f"alignkit: error: .*{case.said}", line), line
    assert not [text for text in above if text.startswith("alignkit: error: ")]
    assert ("Traceback" in err) == (case.raised is not None)
    if case.raised:
        assert above[-1] == case.raised
        assert "functions/" not in "".join(above)  # the frames of the user's own file only
    if case.leaves:
        assert_whole(folder / "out")
        shutil.rmtree(folder / "out")
    assert contents(folder) == before


AMONG = {
    "train": ("--out rows/run", "train sft --model models/sound --data rows --out rows/run"),
    "generate": ("--out rows/a.jsonl", "generate models/sound --data rows --out rows/a.jsonl"),
    "judge": ("--evidence rows/e.json", "judge models/sound --vs models/sound --data rows --evidence rows/e.json"),
    "audit": ("--list rows/l.jsonl", "data audit --data rows --list rows/l.jsonl"),
    "prepare": ("variable ALIGNKIT_CACHE rows/cache", "data prepare --method sft --model models/sound --data rows"),
}


@pytest.mark.parametrize(("option", "command"), AMONG.values(), ids=AMONG.keys())
def test_no_command_writes_where_the_next_one_would_read_rows(
    option: str, command: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("rows").mkdir()
    shutil.copy("rows.jsonl", "rows/rows.jsonl")
    if "ALIGNKIT_CACHE" in option:
        monkeypatch.setenv("ALIGNKIT_CACHE", "rows/cache")
    before = contents(folder)
    assert main(shlex.split(command)) == 2
    err = capfd.readouterr().err.splitlines()[-1]
    assert f"{option}: it would stand in " in err and "rows, a folder whose files are all read as rows; name a" in err
    assert contents(folder) == before


def run(case: Case) -> int:
    """Run the command in this process, or on a small disk in its own."""
    arguments = shlex.split(case.command)
    if case.disk is None:
        return main(arguments)
    trial = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "full"]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no ordinary process mount a small file system")
    command = [*NAMESPACE, "sh", "-c", ON_A_SMALL_DISK, "sh", case.disk, sys.executable, "-m", "alignkit", *arguments]
    return subprocess.run(command, env={**os.environ, "COLUMNS": "200"}, check=False).returncode


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below the folder with what it holds; links are not followed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def assert_whole(run_folder: Path) -> None:
    """No lock, no part of a file; every file that is there can be read to its end."""
    files = [path for path in run_folder.rglob("*") if path.is_file()]
    assert "run.json" in {path.name for path in files}
    for path in files:
        assert not path.name.startswith("."), path
        if path.suffix == ".safetensors":  # of the checkpoint that the run goes on from
            load_file(path)
            continue
        assert path.suffix in {".json", ".jsonl", ".txt"}, path
        text = path.read_text(encoding="utf-8")
        for document in [text] if path.suffix == ".json" else text.splitlines() if path.suffix == ".jsonl" else []:
            json.loads(document)
