"""The catalogue of bad input: each is one line with what, where and what to do, exit 2 (3 for the disk), nothing half-written."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_models import tiny_model

from alignkit.cli.main import main

ROWS = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"no, not {n}"} for n in range(24)]
MISTAKEN = [{**row, "chosen": ""} if n in (3, 5) else row for n, row in enumerate(ROWS)]
SMALL = "--max-steps 2 --batch-size 2 --max-new-tokens 4 --precision fp32"
SFT = f"train sft --model models/sound --out out {SMALL} --data"
GRPO = f"train grpo --model models/sound --out out {SMALL} --data rows.jsonl"


@dataclass(frozen=True)
class Case:
    """A command, what its error says, and how it ends.

    Args:
        said: regular expressions that the error's line matches: what, where, what to do.
        raised: last line of the user's own traceback above the error, where there is one.
        around: what holds while the command runs.
        process: a command line before the command's own, which then runs in its own process.
        leaves: the run folder may stay, of whole files only.
    """

    name: str
    command: str
    said: tuple[str, ...]
    code: int = 2
    raised: str | None = None
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    process: tuple[str, ...] = ()
    leaves: bool = False


def full_disk(size: str) -> tuple[str, ...]:
    """Run with a file system of `size` mounted at ./full, whose files are copied to ./out for a look afterwards."""
    script = f'mount -t tmpfs -o size={size} tmpfs full && "$@"; code=$?; [ ! -e full/run ] || cp -r full/run out; exit $code'
    return ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")


@contextlib.contextmanager
def written_by_another_process() -> Iterator[None]:
    code = "import filelock, sys; filelock.FileLock('out/.lock').acquire(); print('held', flush=True); sys.stdin.read()"
    Path("out").mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.communicate()


DISK = f"train sft --model models/sound --out full/run --data rows.jsonl {SMALL.replace('--max-steps 2', '--max-steps 80')}"
CATALOGUE = [
    # data that cannot be read
    Case("missing file", f"{SFT} no.jsonl", (r"no\.jsonl: no such file", "--data")),
    Case("no such data", f"{SFT} dmeo", ("no data is named 'dmeo'; did you mean 'demo'", "give a file")),
    Case("no such part", f"{SFT} demo:trian", (r"data set 'demo' has no part 'trian'; did you mean 'train'\?",)),
    Case("unreachable hub", f"{SFT} owner/name", ("owner/name: the hub cannot be reached", "--data FILE.jsonl")),
    Case("unknown kind of file", f"{SFT} rows.csv", (r"rows\.csv: unknown kind of file; read are \.jsonl, ",)),
    Case("torn gzip", f"{SFT} torn.jsonl.gz", (r"torn\.jsonl\.gz: cannot be read: .*ended before", "give a whole file")),
    Case("corrupt gzip", f"{SFT} corrupt.jsonl.gz", (r"corrupt\.jsonl\.gz: cannot be read: ", "give a whole file")),
    Case("not gzip", f"{SFT} plain.jsonl.gz", (r"plain\.jsonl\.gz: cannot be read: Not a gzipped file",)),
    Case("torn zst", f"{SFT} torn.jsonl.zst", (r"torn\.jsonl\.zst.*: (cannot be|not) read", "; ")),
    Case("not parquet", f"{SFT} torn.parquet", (r"torn\.parquet: not a readable Parquet file", "write it again")),
    Case("empty file", f"{SFT} empty.jsonl", (r"empty\.jsonl: no rows; give a file",)),
    Case("empty folder", f"{SFT} nothing", (r"nothing: no data file in this folder; read are \.jsonl",)),
    Case("wrong JSON", f"{SFT} wrong.jsonl", (r"wrong\.jsonl, line 3: not JSON: .* at column 2", "correct or remove")),
    Case("not UTF-8", f"{SFT} latin.jsonl", (r"latin\.jsonl, line 1: not UTF-8: .* at byte 12", "save the file as UTF-8")),
    Case("half a character", f"{SFT} half.jsonl", (r"half\.jsonl, line 2: no valid text", "correct or remove")),
    Case("bottomless JSON", f"{SFT} deep.jsonl", (r"deep\.jsonl, line 1: JSON that cannot be read", "correct or remove")),
    Case("endless number", f"{SFT} digits.jsonl", (r"digits\.jsonl, line 1: JSON that cannot be read",)),
    Case("not an object", f"{SFT} list.jsonl", (r"list\.jsonl, line 1: expected an object, found list",)),
    Case("wrong JSON to look at", "data show --model models/sound --data wrong.jsonl", (r"wrong\.jsonl, line 3: not JSON",)),
    Case("wrong JSON to answer", "generate models/sound --data wrong.jsonl", (r"wrong\.jsonl, line 3: not JSON",)),
    # rows that cannot be used
    Case(
        "unknown shape", f"{SFT} shape.jsonl",
        (r"shape\.jsonl, line 1: unknown row shape; fields found: answer, question; shapes known: ", r"\[data\.columns\]"),
    ),
    Case("malformed message", f"{SFT} message.jsonl", (r"message\.jsonl, line 1: a message needs 'role' and 'content'",)),
    Case(
        "unusable rows", f"{SFT} mistaken.jsonl",
        (r"2 of \d+ rows \(\d\.\d %\) cannot be used", r"2 empty chosen answer \(r3, r5\)", "raise --max-skipped"),
    ),
    Case("rows too long", f"{SFT} long.jsonl --max-length 60", (r"rows \(.* %\) are longer than --max-length 60 tokens", "--truncation")),
    Case("malformed rules", f"{GRPO.replace('rows', 'rules')}", (r"row 'r0', rule 1: unknown kind 'eqals'; did you mean 'equals'\?",)),
    # models
    Case("no such model", f"{SFT} rows.jsonl --model models/none/here", ("models/none/here: no such model folder; name a run",)),
    Case("no such hub model", f"{SFT} rows.jsonl --model owner/name", ("the hub cannot be reached", "give a model folder")),
    Case("not a model folder", f"{SFT} rows.jsonl --model nothing", (r"nothing: neither a run \(run\.json\) nor a model folder",)),
    Case("no tokenizer", f"{SFT} rows.jsonl --model models/no-tokenizer", ("no-tokenizer: no tokenizer", "copy the tokenizer.json")),
    Case("no template", f"{SFT} rows.jsonl --model models/no-template", ("no-template has no chat template", "--chat-template FILE")),
    Case("no template file", f"{SFT} rows.jsonl --chat-template no.jinja", (r"chat template no\.jinja: cannot be read",)),
    Case("no weights", f"{SFT} rows.jsonl --model models/no-weights", ("no-weights: cannot be loaded", "whole safetensors")),
    Case("torn weights", f"{SFT} rows.jsonl --model models/torn-weights", ("torn-weights: cannot be loaded", "whole safetensors")),
    Case("no configuration", f"{SFT} rows.jsonl --model models/torn-config", ("torn-config: ", "not a valid JSON file")),
    Case("unfinished run as a model", f"{SFT} rows.jsonl --model old", ("run old has no model yet", "go on with --resume --out old")),
    # names and options
    Case("unknown method", "train sfft", ("no method is named 'sfft'; did you mean 'sft'?".replace("?", r"\?"),)),
    Case("unknown option", f"{SFT} rows.jsonl --lerning-rate 1", ("no such option: --lerning-rate; did you mean '--learning-rate'",)),
    Case("unknown key", f"{SFT} rows.jsonl --config key.toml", (r"key\.toml:2: train\.sft\.lerning_rate .*did you mean 'learning_rate'",)),
    Case("unknown table", f"{SFT} rows.jsonl --config table.toml", (r"table\.toml:1: traim is not a known key; did you mean 'train'",)),
    Case("wrong TOML", f"{SFT} rows.jsonl --config wrong.toml", (r"wrong\.toml:1: not valid TOML",)),
    Case("unknown --set", f"{SFT} rows.jsonl --set sede=1", ("--set sede=1: 'sede' is not a known key; did you mean 'seed'",)),
    Case("wrong value", f"{SFT} rows.jsonl --learning-rate fast", ('--learning-rate: "fast" was given, a number, above 0 is allowed',)),
    Case("unknown sampler", f"{SFT} rows.jsonl --sampler vlm", ("no sampler is named 'vlm'", "known: transformers")),
    Case("unknown tracker", f"{SFT} rows.jsonl --track wandbb", ("no tracker is named 'wandbb'",)),
    Case("wrong split", f"{SFT} rows.jsonl --split half", ("--split 'half': give first-N or a share",)),
    # run folders
    Case("existing run", f"{SFT} rows.jsonl --out old", ("run folder old exists; go on with it by --resume, or give another",)),
    Case("a file for a run", f"{SFT} rows.jsonl --out rows.csv", (r"--out rows\.csv: a file of that name exists",)),
    Case("a run below a file", f"{SFT} rows.jsonl --out rows.csv/run", ("--out rows.csv/run: a file stands in its way",)),
    Case("resume of no run", f"{SFT} rows.jsonl --out models --resume", (r"models is no run \(it has no run\.json\)",)),
    Case("resume of a broken run", f"{SFT} rows.jsonl --out old --resume", (r"run\.json is not what a run writes", "another --out")),
    Case("resume of nothing", "train dpo --resume", ("there is no unfinished dpo run", "--out")),
    Case(
        "run written by another", f"{SFT} rows.jsonl --resume", ("run out is being written by another process", "another --out"),
        around=written_by_another_process,
    ),
    Case("disk full at once", DISK, (r"full/run/run\.json: cannot be written: No space left on device; make room",), 3, process=full_disk("4k")),
    Case("disk full in training", DISK, ("full/run: No space left on device; make room and go on with --resume",), 3,
         process=full_disk("24k"), leaves=True),
    Case("disk full at a checkpoint", f"{DISK} --checkpoint-interval 1", ("checkpoint of step 1 cannot be written: no disk space", "make room"), 3,
         process=full_disk("1m"), leaves=True),
    # rewards
    Case("no reward", GRPO, ("no reward: the rows carry no rules and none was named", "give --reward FILE.py:function")),
    Case("rules without rules", f"{GRPO} --reward rules", ("none of the 23 rows has `rules`", "add rules to the data")),
    Case("unknown judge", f"{GRPO} --reward rulez", ("no judge is named 'rulez'; did you mean 'rules'",)),
    Case("a policy as a reward", f"{GRPO} --reward models/sound", ("models/sound: .* is no reward model", "alignkit train reward")),
    Case("no reward file", f"{GRPO} --reward no.py:score", (r"no\.py: no such file \(a reward is FILE\.py:function\)",)),
    Case("no reward function", f"{GRPO} --reward raises.py:scroe", (r"raises\.py has no function 'scroe'; did you mean 'score'",)),
    Case("wrong weight", f"{GRPO} --reward raises.py:score=half", ("the weight 'half' is not a number",)),
    Case("a reward file that fails at import", f"{GRPO} --reward import.py:score",
         (r"import\.py: the reward file cannot be imported; correct it",), raised="ModuleNotFoundError: No module named 'not_here'"),
    Case("a reward that raises", f"{GRPO} --reward raises.py:score",
         (r"raises\.py:score, row r\d+: the reward function raised ZeroDivisionError; correct it",),
         raised="ZeroDivisionError: division by zero", leaves=True),
    Case("a reward that is no number", f"{GRPO} --reward nan.py:score", (r"nan\.py:score, row r\d+: the reward function returned nan",), leaves=True),
    Case("a judge that raises", "judge models/sound --vs models/sound --data rows.jsonl --judge raises.py:score --max-new-tokens 2",
         (r"raises\.py:score, row r0: the reward function raised ZeroDivisionError",), raised="ZeroDivisionError: division by zero"),
    Case("groups of one", f"{GRPO} --group-size 1", ("--group-size: 1 was given, a whole number, at least 2 is allowed",)),
    Case("temperature of 0", f"{GRPO} --temperatures 0,1", (r"--temperatures: \[0\.0, 1\.0\] was given: temperatures must be above 0",)),
    # judging
    Case("nothing to judge", "judge", ("nothing to judge: there is no finished run", "name a run or a model")),
    Case("nothing to compare with", "judge models/sound --data rows.jsonl", ("name what models/sound is compared with: --vs MODEL",)),
    Case("no judge", "judge models/sound --vs models/sound --data rows.jsonl", ("no judge: the rows carry no rules", "what would work")),
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound tiny model, and copies of it that each lack one thing."""
    root = tmp_path_factory.mktemp("models")
    sound = tiny_model(root / "sound")
    for name in ("no-tokenizer", "no-weights", "torn-weights", "torn-config"):
        shutil.copytree(sound, root / name)
    for pattern in ("tokenizer*", "special_tokens*", "chat_template*"):
        for file in (root / "no-tokenizer").glob(pattern):
            file.unlink()
    tiny_model(root / "no-template", template=None)
    (root / "no-weights" / "model.safetensors").unlink()
    (root / "torn-weights" / "model.safetensors").write_bytes((sound / "model.safetensors").read_bytes()[:5000])
    (root / "torn-config" / "config.json").write_text("{")
    return root


@pytest.fixture
def folder(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with every file that the catalogue names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    Path("models").symlink_to(models)
    for name in ("nothing", "old", "full"):
        Path(name).mkdir()
    lines = [json.dumps(row) for row in ROWS]
    packed = gzip.compress("\n".join(lines).encode())
    files: dict[str, str | bytes] = {
        "rows.jsonl": "\n".join(lines),
        "rows.csv": "a,b",
        "empty.jsonl": "\n\n",
        "wrong.jsonl": "\n".join([*lines[:2], "{oops", *lines[3:]]),
        "latin.jsonl": b'{"prompt": "\xe9"}',
        "half.jsonl": lines[0] + '\n{"prompt": "a\\ud800", "chosen": "b"}',
        "deep.jsonl": "[" * 100_000,
        "digits.jsonl": '{"prompt": ' + "1" * 5000 + "}",
        "list.jsonl": '["prompt"]',
        "torn.jsonl.gz": packed[: len(packed) // 2],
        "corrupt.jsonl.gz": packed[:30] + bytes(255 - x for x in packed[30:40]) + packed[40:],
        "plain.jsonl.gz": lines[0],
        "torn.jsonl.zst": b"\x28\xb5\x2f\xfd\x04\x58\x41\x01",
        "torn.parquet": b"PAR1",
        "shape.jsonl": '{"question": "a", "answer": "b"}',
        "message.jsonl": '{"prompt": [{"role": "user", "text": "a"}], "chosen": "b"}',
        "mistaken.jsonl": "\n".join(json.dumps(row) for row in MISTAKEN),
        "long.jsonl": "\n".join(json.dumps({**row, "chosen": "y" * 80}) for row in ROWS),
        "rules.jsonl": "\n".join(json.dumps({**row, "rules": [{"kind": "eqals", "value": "1"}]}) for row in ROWS),
        "key.toml": "[train.sft]\nlerning_rate = 1\n",
        "table.toml": "[traim]\nseed = 1\n",
        "wrong.toml": "[train\n",
        "old/run.json": "{}",
        "raises.py": "def score(completion, row):\n    return 1 / 0\n",
        "import.py": "import not_here\n",
        "nan.py": "def score(completion, row):\n    return float('nan')\n",
    }
    for name, content in files.items():
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path


@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_bad_input_is_one_line_with_what_where_and_what_to_do(
    case: Case, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    with case.around():
        code = run(case)
    out, err = capfd.readouterr()
    *above, line = err.splitlines()
    assert code == case.code, err
    assert out == ""
    assert line.startswith("alignkit: error: ")
    assert not [text for text in above if text.startswith("alignkit: error: ")]
    for what in case.said:
        assert re.search(what, line), line
    assert ("Traceback" in err) == (case.raised is not None)
    if case.raised:
        assert above[-1] == case.raised
        assert "alignkit/" not in "".join(above)  # the user's own frames only
    if case.leaves:
        assert_whole(folder / "out")
        shutil.rmtree(folder / "out")
    elif case.around is written_by_another_process:
        assert [path.name for path in (folder / "out").iterdir()] == [".lock"]
        shutil.rmtree(folder / "out")
    assert contents(folder) == before


def run(case: Case) -> int:
    """Run the command in this process, or behind `case.process` in its own."""
    arguments = shlex.split(case.command)
    if not case.process:
        return main(arguments)
    probe = [*case.process[:4], "mount", "-t", "tmpfs", "tmpfs", "full"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no ordinary process mount a small file system")
    command = [*case.process, sys.executable, "-m", "alignkit", *arguments]
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below the folder with what it holds; links are not followed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def assert_whole(run_folder: Path) -> None:
    """No lock, no part of a file, no model, and every line of what is there can be read."""
    files = [path for path in run_folder.rglob("*") if path.is_file()]
    assert "run.json" in {path.name for path in files}
    for path in files:
        assert path.suffix in {".json", ".jsonl", ".txt"}, path
        assert not path.name.startswith("."), path
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        for line in path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else ():
            json.loads(line)
