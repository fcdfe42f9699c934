"""The catalogue of bad input: commands, the files they name, and what their errors say."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tiny_models import tiny_model


@dataclass(frozen=True)
class Case:
    """A command, what its error says, and how it ends.

    Args:
        said: a regular expression for the error's line: what, where, what to do.
        raised: last line of the user's own traceback above the error, where there is one.
        around: what holds while the command runs.
        disk: size of the file system mounted at ./full while the command runs in its own process; None: in this one.
        leaves: the run folder stays, of whole files only.
    """

    name: str
    command: str
    said: str
    code: int = 2
    raised: str | None = None
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    disk: str | None = None
    leaves: bool = False


@contextlib.contextmanager
def written_by_another_process() -> Iterator[None]:
    """Let another process hold the lock of the run folder ./out."""
    code = (
        "import filelock, sys; lock = filelock.FileLock('out/.lock'); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    Path("out").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.communicate()
    shutil.rmtree("out")


SMALL = "--max-steps 2 --batch-size 2 --max-new-tokens 4 --precision fp32"
DATA = f"train sft --model models/sound --out out {SMALL} --data"
SFT = f"{DATA} rows.jsonl"
DISK = f"train sft --model models/sound --out full/run --data rows.jsonl {SMALL} --max-steps 80"
GRPO = f"train grpo --model models/sound --out out {SMALL} --data rows.jsonl"
JUDGE = "judge models/sound --data rows.jsonl --max-new-tokens 2"
DIVISION = "ZeroDivisionError: division by zero"

CATALOGUE = [
    # data that cannot be read
    Case("missing file", f"{DATA} no.jsonl", "no.jsonl: no such file or folder, and no data set"),
    Case("no such data", f"{DATA} dmeo", "no data is named 'dmeo'; did you mean 'demo'.; give a file"),
    Case("no such part", f"{DATA} demo:trian", "data set 'demo' has no part 'trian'; did you mean 'train'.; it has"),
    Case("unreachable hub", f"{DATA} owner/name", "owner/name: the hub cannot be reached; give .* --data FILE.jsonl"),
    Case("unknown kind of file", f"{DATA} rows.xlsx", "rows.xlsx: unknown kind of file; read are JSON"),
    Case("torn gzip", f"{DATA} torn.jsonl.gz", "torn.jsonl.gz: cannot be read: .*ended before.*; give a whole file"),
    Case("corrupt gzip", f"{DATA} corrupt.jsonl.gz", "corrupt.jsonl.gz: cannot be read: .*; give a whole file"),
    Case("not gzip", f"{DATA} plain.jsonl.gz", "plain.jsonl.gz: cannot be read: Not a gzipped file.*; give"),
    Case("torn zst", f"{DATA} torn.jsonl.zst", "torn.jsonl.zst: (cannot be read|not readable).*; (give|pack)"),
    Case("torn Parquet", f"{DATA} torn.parquet", "torn.parquet: not a readable Parquet file: .*; write it again"),
    Case("empty file", f"{DATA} empty.jsonl", "empty.jsonl: no rows; give a file"),
    Case("empty folder", f"{DATA} nothing", "nothing: no data file in this folder; read are JSON"),
    Case("wrong JSON", f"{DATA} wrong.jsonl", "wrong.jsonl, line 3: not JSON: .* at byte 2; correct this line"),
    Case("not UTF-8", f"{DATA} latin.jsonl", "latin.jsonl, line 1: not UTF-8: .* at byte 13; save the file as UTF-8"),
    Case("half a character", f"{DATA} half.jsonl", "half.jsonl, line 2: no valid text: .*; correct this line"),
    Case("bottomless JSON", f"{DATA} deep.jsonl", "deep.jsonl, line 1: JSON that cannot be read.*; correct this line"),
    Case("endless number", f"{DATA} digits.jsonl", "digits.jsonl, line 1: JSON that cannot be read.*; correct this"),
    Case("not an object", f"{DATA} list.jsonl", "list.jsonl, line 1, byte 2: expected an object in the array, found"),
    Case("wrong JSON to look at", "data show --model models/sound --data wrong.jsonl", "wrong.jsonl, line 3: not JSON"),
    Case("wrong JSON to answer", "generate models/sound --data wrong.jsonl", "wrong.jsonl, line 3: not JSON"),
    # rows that cannot be used
    Case(
        "unknown shape",
        f"{DATA} shape.jsonl",
        r"shape.jsonl, line 1: unknown row shape; fields found: a, q; "
        r"shapes known: prompt .*; map foreign names in \[data.columns\]",
    ),
    Case(
        "malformed message",
        f"{DATA} message.jsonl",
        "message.jsonl, line 1: 'prompt': a message needs 'role' and 'content'",
    ),
    Case(
        "unusable rows",
        f"{DATA} mistaken.jsonl",
        r"2 of 23 rows \(8.7 %\) cannot be used, more than --max-skipped 0.01: "
        r"2 empty chosen answer \(r3, r5\); correct them, or raise --max-skipped",
    ),
    Case(
        "rows too long",
        f"{DATA} long.jsonl --max-length 60",
        r"rows \(.* %\) are longer than --max-length 60 tokens; .* --truncation",
    ),
    Case(
        "malformed rules", GRPO.replace("rows", "rules"), "row r0, rule 1: unknown kind 'eqals'; did you mean 'equals'"
    ),
    # models
    Case("no such folder", f"{SFT} --model models/none/here", "models/none/here: no such model folder; name a run"),
    Case(
        "no such hub model", f"{SFT} --model owner/name", "'owner/name': .* the hub cannot be reached.*; give a model"
    ),
    Case(
        "not a model",
        f"{SFT} --model nothing",
        r"nothing: neither a run \(run.json\), a model folder \(config.json\) nor an ad",
    ),
    Case(
        "no tokenizer", f"{SFT} --model models/no-tokenizer", "no-tokenizer: no tokenizer .*; copy the tokenizer.json"
    ),
    Case(
        "no template", f"{SFT} --model models/no-template", "no-template has no chat template; .* --chat-template FILE"
    ),
    Case("no template file", f"{SFT} --chat-template no.jinja", "chat template no.jinja: cannot be read"),
    Case("no weights", f"{SFT} --model models/no-weights", "no-weights: cannot be loaded .* whole safetensors"),
    Case("torn weights", f"{SFT} --model models/torn-weights", "torn-weights: cannot be loaded .* whole safetensors"),
    Case("torn configuration", f"{SFT} --model models/torn-config", "torn-config: .* not a valid JSON file"),
    Case("unfinished run", f"{SFT} --model old", "run old has no model yet: .* and --resume --out old at its end"),
    # names, options and keys
    Case("unknown method", "train sfft", "no method is named 'sfft'; did you mean 'sft'"),
    Case("unknown option", f"{SFT} --lerning-rate 1", "no such option: --lerning-rate; did you mean '--learning-rate'"),
    Case(
        "unknown key", f"{SFT} --config key.toml", "key.toml:2: train.sft.lerning_rate .*; did you mean 'learning_rate'"
    ),
    Case("unknown table", f"{SFT} --config table.toml", "table.toml:1: traim is not a known key; did you mean 'train'"),
    Case("wrong TOML", f"{SFT} --config wrong.toml", "wrong.toml:1: not valid TOML: .*; correct this line"),
    Case("unknown --set", f"{SFT} --set sede=1", "--set sede=1: 'sede' is not a known key; did you mean 'seed'"),
    Case(
        "wrong value",
        f"{SFT} --learning-rate fast",
        '--learning-rate: "fast" was given, a number, above 0 and at most 1 is allowed',
    ),
    Case("unknown sampler", f"{SFT} --sampler vlm", "no sampler is named 'vlm'; .*known: .*transformers"),
    Case("unknown tracker", f"{SFT} --track wandbb", r"no tracker is named 'wandbb'; did you mean 'wandb'\?; known: "),
    Case("wrong split", f"{SFT} --split half", "--split 'half': give first-N or a share"),
    # run folders and disks
    Case("existing run", f"{SFT} --out old", "run folder old exists; go on with it by --resume, or give another --out"),
    Case("a file for a run", f"{SFT} --out rows.csv", "--out rows.csv: a file of that name exists"),
    Case(
        "a run below a file", f"{SFT} --out rows.csv/run", "--out rows.csv/run: a file stands in its way; give another"
    ),
    Case("resume of no run", f"{SFT} --out models --resume", r"models is no run \(it has no run.json\); give another"),
    Case("resume of a broken run", f"{SFT} --out old --resume", "run.json is not what a run writes; .* another --out"),
    Case("resume of nothing", "train dpo --resume", "there is no unfinished dpo run under runs; name one with --out"),
    Case(
        "run written by another",
        f"{SFT} --resume",
        "run out is being written by another process; wait .* another --out",
        around=written_by_another_process,
    ),
    Case("disk full at once", DISK, "full/run: cannot be written: No space left on device; make room", 3, disk="4k"),
    Case(
        "disk full in training",
        DISK,
        "full/run: No space left on device; make room and go on with: alignkit",
        3,
        disk="28k",
        leaves=True,
    ),
    Case(
        "disk full at a checkpoint",
        f"{DISK} --checkpoint-interval 1",
        "the checkpoint of step 1 cannot be written: no disk space: .*; make room and go on with: alignkit",
        3,
        disk="1m",
        leaves=True,
    ),
    # rewards
    Case("no reward", GRPO, "no reward: the rows carry no rules and none was named; give --reward FILE.py:function"),
    Case("rules without rules", f"{GRPO} --reward rules", "none of the 23 rows has `rules` .*; add rules to the data"),
    Case("unknown judge", f"{GRPO} --reward rulez", "no judge is named 'rulez'; did you mean 'rules'"),
    Case(
        "a policy as a reward", f"{GRPO} --reward models/sound", "sound: .* is no reward model .* alignkit train reward"
    ),
    Case("no reward file", f"{GRPO} --reward no.py:score", r"no.py: no such file \(a reward is FILE.py:function\)"),
    Case(
        "no reward function",
        f"{GRPO} --reward raises.py:scroe",
        "raises.py has no function 'scroe'; did you mean 'score'",
    ),
    Case("no function named", f"{GRPO} --reward raises.py", "raises.py: name the function too: raises.py:FUNCTION"),
    Case("wrong weight", f"{GRPO} --reward raises.py:score=half", "the weight 'half' is not a number"),
    Case(
        "a reward that is no number",
        f"{GRPO} --reward nan.py:score",
        r"nan.py:score, row r\d+: the reward function returned nan; return a finite number or None",
        leaves=True,
    ),
    Case(
        "a reward that raises",
        f"{GRPO} --reward raises.py:score",
        r"raises.py:score, row r\d+: the reward function raised ZeroDivisionError; the run is saved; correct it",
        raised=DIVISION,
        leaves=True,
    ),
    Case(
        "a reward file that raises",
        f"{GRPO} --reward import.py:score",
        "import.py: the reward file cannot be imported; correct it",
        raised="ModuleNotFoundError: No module named 'not_here'",
    ),
    Case(
        "groups of one",
        f"{GRPO} --group-size 1",
        "--group-size: 1 was given: a lone sample has no sibling .*: take 2 or more",
    ),
    Case(
        "temperature of 0", f"{GRPO} --temperatures 0,1", r"--temperatures: \[0.0, 1.0\] was given: .* must be above 0"
    ),
    # judging
    Case("nothing to judge", "judge", "nothing to judge: there is no finished run under runs/; name a run or a model"),
    Case("nothing to compare with", JUDGE, "name what models/sound is compared with: --vs MODEL"),
    Case("no judge", f"{JUDGE} --vs models/sound", "no judge: the rows carry no rules.*; what would work: "),
    Case(
        "a judge that raises",
        f"{JUDGE} --vs models/sound --judge raises.py:score",
        "raises.py:score, row r0: the reward function raised ZeroDivisionError; correct it",
        raised=DIVISION,
    ),
]


def write_files() -> None:
    """Write every file that the catalogue names into the working folder, but the models."""
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"no, not {n}"} for n in range(24)]
    rules = [{"kind": "eqals", "value": "1"}]
    lines = _lines(rows)
    packed = gzip.compress(lines.encode())
    files: dict[str, str | bytes] = {
        "rows.jsonl": lines,
        "rows.csv": "a,b",
        "rows.xlsx": "a,b",
        "empty.jsonl": "\n\n",
        "wrong.jsonl": _lines(rows[:2]) + "{oops\n" + _lines(rows[3:]),
        "latin.jsonl": b'{"prompt": "\xe9"}',
        "half.jsonl": _lines(rows[:1]) + '{"prompt": "a\\ud800", "chosen": "b"}',
        "deep.jsonl": '{"prompt": ' + "[" * 100_000,
        "digits.jsonl": '{"prompt": ' + "1" * 5000 + "}",
        "list.jsonl": '["prompt"]',
        "torn.jsonl.gz": packed[: len(packed) // 2],
        "corrupt.jsonl.gz": packed[:30] + bytes(255 - x for x in packed[30:40]) + packed[40:],
        "plain.jsonl.gz": lines,
        "torn.jsonl.zst": b"\x28\xb5\x2f\xfd\x04\x58\x41\x01",
        "torn.parquet": b"PAR1",
        "shape.jsonl": '{"q": "a", "a": "b"}',
        "message.jsonl": '{"prompt": [{"role": "user", "text": "a"}], "chosen": "b"}',
        "mistaken.jsonl": _lines([{**row, "chosen": ""} if row["id"] in ("r3", "r5") else row for row in rows]),
        "long.jsonl": _lines([{**row, "chosen": "y" * 80} for row in rows]),
        "rules.jsonl": _lines([{**row, "rules": rules} for row in rows]),
        "key.toml": "[train.sft]\nlerning_rate = 1\n",
        "table.toml": "[traim]\nseed = 1\n",
        "wrong.toml": "[train\n",
        "old/run.json": "{}",
        "raises.py": "def score(completion, row):\n    return 1 / 0\n",
        "import.py": "import not_here\n",
        "nan.py": "def score(completion, row):\n    return float('nan')\n",
    }
    for name in ("nothing", "old", "full"):
        Path(name).mkdir()
    for name, content in files.items():
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def write_models(root: Path) -> None:
    """Write a sound tiny model, and copies of it that each lack one thing."""
    sound = tiny_model(root / "sound")
    tiny_model(root / "no-template", template=None)
    for name in ("no-tokenizer", "no-weights", "torn-weights", "torn-config"):
        shutil.copytree(sound, root / name)
    for pattern in ("tokenizer*", "special_tokens*", "chat_template*"):
        for file in (root / "no-tokenizer").glob(pattern):
            file.unlink()
    (root / "no-weights" / "model.safetensors").unlink()
    (root / "torn-weights" / "model.safetensors").write_bytes((sound / "model.safetensors").read_bytes()[:5000])
    (root / "torn-config" / "config.json").write_text("{")


def _lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
