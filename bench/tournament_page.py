"""The page of a large tournament, and what a second call with nothing to do takes.

    tournament_report_mib      MiB of the page of 5 entrants, 3 seeds and 320 prompts, answers of about 900 characters
                               and runs of 1,000 steps
    tournament_report_open_s   seconds that Chromium needs for it beyond an empty page: load, styles, layout, scripts;
                               the median of five
    reuse_s                    seconds of a whole process of `alignkit tournament` that finds everything done; the
                               median of three

    overhead                   what bench/tournament.py calls tournament_overhead

The results are made, not trained: sizes decide these figures, not models. The tournament for reuse_s is tiny and real.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from alignkit.tournaments.page import write_page
from alignkit.tournaments.results import Health, Results
from alignkit.tournaments.table import make_table
from bench.browser import open_s

_HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
sys.path.insert(0, str(_HELPERS))
from tournaments import ENTRANTS, made_results  # noqa: E402

_SEEDS, _PROMPTS, _STEPS, _WORDS = 3, 320, 1000, 150
_METRICS = ("loss", "reward", "kl", "samples_length")
_VALIDATED = ("validation/loss", "validation/kl", "validation/reward", "validation/accuracy")


def page_figures() -> dict[str, float]:
    """Size of the page, and how long Chromium opens it; nan without Chromium."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = _results(np.random.default_rng(0))
        for run in results.runs.values():
            _write_metrics(folder / run)
        page = write_page(folder, results, make_table(results), commands=[("the table", "alignkit tournament")])
        return {"tournament_report_mib": page.stat().st_size / 2**20, "tournament_report_open_s": open_s(page)}


def reuse_s() -> float:
    """Seconds of a second call, as a user types it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = f"import sys; from pathlib import Path; sys.path.insert(0, {str(_HELPERS)!r})\n"
        code += "from tiny_models import tiny_model; from small_runs import write_numbered_rows\n"
        code += "tiny_model(Path('model')); write_numbered_rows(Path('rows.jsonl'))"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
        (folder / "alignkit.toml").write_text("[entrants.sft]\n", encoding="utf-8")
        words = ["--model=model", "--data=rows.jsonl", "--steps=2", "--num-prompts=4", "--max-new-tokens=6"]
        command = [
            sys.executable,
            "-m",
            "alignkit",
            "tournament",
            *words,
            f"--judge={_HELPERS}/tournament_judge.py:letters",
        ]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            took.append(time.perf_counter() - began)
        return statistics.median(took)


def overhead() -> float:
    """The share of a demo tournament's time, with one seed, that is neither training, answering nor judging.

    The model is unpacked before, which a machine does once; nothing else is in the cache.
    """
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "alignkit", "tournament", "--preset", "demo", "--seeds", "16,", "--out", "out"]
        environment = os.environ | {"ALIGNKIT_CACHE": str(Path(name) / "cache")}  # no row is prepared yet
        unpack = "from alignkit.pretrained.names import find_model; find_model('SmolLM2-135M-Instruct')"
        subprocess.run([sys.executable, "-c", unpack], check=True, env=environment)  # once on every machine
        began = time.perf_counter()
        subprocess.run(command, cwd=name, check=True, stdout=subprocess.DEVNULL, env=environment)
        whole_s = time.perf_counter() - began
        times = json.loads((Path(name) / "out" / "times.json").read_text(encoding="utf-8"))
        return 1 - sum(times[f"{kind}_s"] for kind in ("training", "answering", "judging")) / whole_s


def _write_metrics(run: Path) -> None:
    rng = np.random.default_rng(len(run.name))
    lines = [
        {"step": step, "name": name, "value": float(rng.normal())}
        for step in range(1, _STEPS + 1)
        for name in _METRICS + (_VALIDATED if step % 50 == 0 else ())
    ]
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _results(rng: np.random.Generator) -> Results:
    """The made results of the tests, with texts of a real tournament's size."""
    shape = (len(ENTRANTS), _SEEDS, _PROMPTS)
    words = np.array(["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 9))) for _ in range(3000)])
    text = np.empty(shape, dtype=object)
    for at in np.ndindex(shape):
        text[at] = " ".join(rng.choice(words, _WORDS))
    health = ("repetition", "loops", "compression_ratio", "stock_phrases", "formatting", "empty", "truncated_share")
    return made_results(
        _SEEDS,
        _PROMPTS,
        prompts=tuple(" ".join(rng.choice(words, 40)) for _ in range(_PROMPTS)),
        references=tuple(" ".join(rng.choice(words, _WORDS)) for _ in range(_PROMPTS)),
        text_ESP=text,
        health={name: Health(rng.random(shape), name, 1, False) for name in health},
        runs={(e.name, s): f"{e.name}-{s}" for e in ENTRANTS[1:] for s in range(_SEEDS)},
    )
