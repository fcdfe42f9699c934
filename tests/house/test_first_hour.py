"""What a newcomer with own rows reads in the first hour: what will be trained on, what came of it, what to type next.

Ten things went wrong in a first hour that was watched. Each is a test, here or where it belongs:

1  DPO reads the default data set            data/reading/test_default_data.py
2  calls of tools are read, or refused       data/reading/test_tools.py, data/chat/test_tool_templates.py
3  what is said after Ctrl-C works           training/run/test_ways_on.py
4  progress fits a terminal; an end is said  cli/test_progress.py, and here
5  what `train` returns can be judged        cli/test_python.py
6  a corrected reward goes on as is said     training/run/test_ways_on.py
7  rows that are left out are said           here
8  the model is taken home                   exports/test_exports.py
9  too few prompts are said before training  here
10 the report holds verdict and answers      reports/test_run_report.py
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from small_runs import stop_at
from tiny_models import tiny_model

from alignkit.cli.main import main

TOPICS = ("refunds", "invoices", "passwords", "shipping", "upgrades", "exports", "privacy", "billing")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a tiny model and 64 own pairs as CSV, JSON and JSONL."""
    monkeypatch.chdir(tmp_path)
    tiny_model(Path("tiny"))
    rows = [
        {"prompt": f"Question {n} on {topic}", "chosen": f"For {topic} press {n}.", "rejected": "I do not know."}
        for topic in TOPICS
        for n in range(8)
    ]
    with open("pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    Path("pairs.json").write_text(json.dumps(rows))
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_training_says_what_it_leaves_out_what_a_verdict_can_find_and_how_it_ended(
    capfd: pytest.CaptureFixture[str],
) -> None:
    train = ["train", "dpo", "--model", "tiny", "--data", "pairs.csv", "--num-prompts", "16", "--epochs", "1"]
    assert main([*train, "--out", "runs/dpo"]) == 0
    out, err = capfd.readouterr()
    before, _, after = err.partition("writing the model")
    assert "training: 16 of 61 rows (--num-prompts 16)" in before
    assert re.search(r"verdict: 3 validation prompts find no difference, \d+ find 5 points", before)
    assert re.search(r"validation loss: [\d.]+ before the first step, best [\d.]+ at step \d, last [\d.]+", after)
    assert re.search(r"training loss: [\d.]+ in the first .*, [\d.]+ in the last", after)
    assert re.search(r"time: .* for 4 steps, [\d,]+ tokens/s\nmemory: planned .*, peak ", after)
    assert "report: runs/dpo/report.html\nmodel: runs/dpo/model\n" in after
    assert out == "runs/dpo\nnext: alignkit judge runs/dpo --judge FILE.py:FUNCTION\n"  # the rows have no rules
    Path("own.py").write_text("def length(completion, row):\n    return len(completion)\n")
    said = out.splitlines()[1].removeprefix("next: alignkit ")
    typed = shlex.split(said.replace("FILE.py:FUNCTION", "own.py:length"))
    assert main([*typed, "--max-new-tokens", "4"]) == 0
    log = Path("runs/dpo/log.txt").read_text()
    assert "training: 16 of 61 rows" in log and "validation loss: " in log


def test_ctrl_c_is_answered_at_once_with_what_is_saved(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(2, monkeypatch)
    assert main(["train", "sft", "--model", "tiny", "--data", "pairs.json", "--out", "runs/sft"]) == 130
    err = capsys.readouterr().err
    said = re.search(
        r"finishing this step(, about \d+ s)?, then saving; Ctrl-C again stops now: nothing is saved yet\n.*"
        r"alignkit: interrupted after step 2 of \d+; go on with: alignkit train --resume runs/sft\n",
        err,
        re.S,
    )
    assert said, err
