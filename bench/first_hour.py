"""What a newcomer waits for and reads: first word, silence, help, hints, doctor, report. On a terminal of 80 columns.

    python -m bench.first_hour                everything
    python -m bench.first_hour --only help    one part: help, output, training, doctor, report, export, hints

Each figure has a goal; there is no peer. Times are of this machine as it is loaded now: `pass_ms`, `python -c pass`,
stands beside them. Training is of a random model of two layers on 64 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from bench import export_difference
from bench.browser import open_s
from bench.commit import commit
from bench.export_difference import export_figures

ROOT = Path(__file__).parents[1]
COLUMNS = 80
GOALS = {
    "first_output_s": 1.0,
    "longest_silence_s": 2.0,
    "help_ms": 200.0,
    "command_help_ms": 350.0,
    "help_lines": 80,
    "help_columns": 80,
    "doctor_s": 15.0,
    "report_mib": 1.5,
    "report_open_s": 1.0,
    "broken_hints": 0,
    **export_difference.GOALS,
}
_ALIGNKIT = [sys.executable, "-m", "alignkit"]
_COMMANDS = ("train sft", "judge", "generate", "evaluate", "chat", "vote", "runs", "doctor", "init", "data show")
_REPEATS = 5
_ANSWERS, _ANSWER_TOKENS, _STEPS = 320, 150, 100


def help_figures() -> dict[str, float]:
    """Milliseconds of --help beyond those of `python -c pass`, and the shape of `train sft --help`."""
    base = _median_ms([sys.executable, "-c", "pass"])
    found = {"pass_ms": base, "help_ms": _median_ms([*_ALIGNKIT, "--help"]) - base}
    found["command_help_ms"] = max(_median_ms([*_ALIGNKIT, *command.split(), "--help"]) - base for command in _COMMANDS)
    lines = _run([*_ALIGNKIT, "train", "sft", "--help"]).splitlines()
    return found | {"help_lines": len(lines), "help_columns": max(map(len, lines))}


def output_figures(folder: Path) -> dict[str, float]:
    """Seconds to the first word of commands that compute something."""
    rows, model = _rows(folder), _model(folder)
    commands: list[list[str]] = [
        ["train", "sft", "--model", model, "--data", rows, "--max-steps", "1", "--out", str(folder / "first")],
        ["generate", model, "--data", rows, "--num-prompts", "2"],
        ["judge", model, "--vs", model, "--data", rows],
        ["evaluate", model, "--data", rows],
        ["chat", model],
        ["doctor", "--model", model],
        ["runs"],
        ["data", "show", "--data", rows, "--model", model],
    ]
    first = {words[0]: _moments([*_ALIGNKIT, *words], folder, until_first=True)[1] for words in commands}
    print(*(f"first output of {name}: {seconds:.2f} s" for name, seconds in first.items()), sep="\n")
    return {"first_output_s": max(first.values())}


def training_figures(folder: Path) -> dict[str, float]:
    """Seconds of the longest silence of a training, from the command to its end."""
    words = ["train", "dpo", "--model", _model(folder), "--data", _rows(folder), "--out", str(folder / "run")]
    moments = _moments([*_ALIGNKIT, *words], folder)
    return {"longest_silence_s": max(b - a for a, b in pairwise(moments))}


def doctor_figures(folder: Path) -> dict[str, float]:
    """Seconds of `alignkit doctor` with the model that it takes by default; the first time it also converts that."""
    first, again = (_moments([*_ALIGNKIT, "doctor"], folder)[-1] for _ in range(2))
    return {"first_doctor_s": first, "doctor_s": again}


def report_figures(folder: Path) -> dict[str, float]:
    """Size of the report of a run judged against another on 320 prompts, and seconds that Chromium opens it for."""
    rows, model, prompts = _rows(folder), _model(folder), folder / "prompts.jsonl"
    lines = [{"prompt": f"Question {n}: how does this work?", "completion": "Like this."} for n in range(_ANSWERS)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "length.py").write_text("def length(completion, row):\n    return len(completion)\n", encoding="utf-8")
    for method in ("sft", "dpo"):
        _type(folder, f"train {method} --model {model} --data {rows} --max-steps {_STEPS} --out {folder}/{method}")
    sides = f"judge {folder}/dpo --vs {folder}/sft --data {prompts} --num-prompts {_ANSWERS}"
    _type(folder, f"{sides} --judge length.py:length --max-new-tokens {_ANSWER_TOKENS} --temperature 1")
    page = folder / "dpo" / "report.html"
    return {"report_mib": page.stat().st_size / 2**20, "report_open_s": open_s(page)}


def hint_figures() -> dict[str, float]:
    """Commands in docs and messages that cannot be typed: the failures of tests/house/test_hints.py."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/house/test_hints.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"broken_hints": sum(line.startswith("FAILED") for line in done.stdout.splitlines())}


def _median_ms(command: Sequence[str]) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        _run(command)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _run(command: Sequence[str]) -> str:
    environment = os.environ | {"COLUMNS": str(COLUMNS)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def _type(folder: Path, words: str) -> None:
    environment = os.environ | {"ALIGNKIT_LEDGER": str(folder / "ledger.sqlite")}
    done = subprocess.run([*_ALIGNKIT, *words.split()], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"alignkit {words}: {done.stderr}")


def _moments(command: Sequence[str], folder: Path, *, until_first: bool = False) -> list[float]:
    """Seconds, from its start, at which a command on a terminal wrote something; its start and its end as well.

    Args:
        until_first: end the command at its first word.
    """
    ours, theirs = pty.openpty()
    began = time.monotonic()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm", "ALIGNKIT_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=folder, env=environment
    )
    os.close(theirs)
    moments = [0.0]
    while select.select([ours], [], [], None)[0]:
        try:
            if not os.read(ours, 65_536):
                break
        except OSError:  # the other end is closed: the process ended
            break
        moments.append(time.monotonic() - began)
        if until_first:
            process.terminate()
            break
    process.wait()
    os.close(ours)
    return [*moments, time.monotonic() - began]


def _rows(folder: Path) -> str:
    topics = ("refunds", "invoices", "passwords", "shipping", "upgrades", "exports", "privacy", "billing")
    asked = (
        "How do {}?",
        "My {} failed",
        "Question on {}",
        "Who does {}?",
        "{} broke",
        "Need {}",
        "Is {} free?",
        "{}?",
    )
    rows = [
        {"prompt": text.format(t), "chosen": f"For {t} press {n}.", "rejected": f"I do not know {t}, try {n} again."}
        for n, t in enumerate(topics)
        for text in asked
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def _model(folder: Path) -> str:
    target = folder / "model"
    if not target.exists():
        code = f"import sys; from pathlib import Path; sys.path.insert(0, {str(ROOT / 'tests/helpers')!r})\n"
        code += f"from tiny_models import tiny_model; tiny_model(Path({str(target)!r}))"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    return str(target)


def main() -> None:
    """Print each figure with its goal, and keep them in bench/results/first_hour.json where all were measured."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "help": help_figures,
            "output": lambda: output_figures(folder),
            "training": lambda: training_figures(folder),
            "doctor": lambda: doctor_figures(folder),
            "report": lambda: report_figures(folder),
            "export": lambda: export_figures(folder, quick=False),
            "hints": hint_figures,
        }
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--only", choices=parts)
        only = parser.parse_args().only
        found: dict[str, float] = {}
        for part in [only] if only else parts:
            found |= parts[part]()
    for key, value in found.items():
        goal = GOALS.get(key)
        missed = "" if goal is None or value <= goal else "  <- not met"
        print(f"{key:<28} {value:>9,.4g}  {'' if goal is None else f'at most {goal:g}'}{missed}")
    if only is None:
        (ROOT / "bench/results/first_hour.json").write_text(
            json.dumps({"figures": found, "goals": GOALS, "commit": commit(), "cpus": os.cpu_count()}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
