"""How long a verdict's arithmetic takes, on one CPU core.

    python -m bench.judging [--quick] [--json FILE]

    bootstrap_s       interval of a win rate: 2,000 prompts, 10,000 resamples, all outcomes different (the slow case)
    lc_bootstrap_s    AlpacaEval's estimator refitted in each resample: 2,000 prompts and 1,610 regularisation rows,
                      10,000 resamples

Made-up judgements; medians of 3 (--quick) or 5 runs. Before timing, the bootstrap's standard deviation is checked
against the formula, and the refit of the data themselves against the fit. No peer refits in each resample.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from alignkit.judging.length_control import Tables, length_controlled, length_controlled_resamples
from alignkit.judging.resampling import Clusters, resampled_counts, resampled_means
from alignkit.judging.statistics import win_rate

NUM_PROMPTS = 2000
NUM_RESAMPLES = 10_000
LIMITS = {"bootstrap_s": 2.0, "lc_bootstrap_s": 20.0}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 runs of each instead of 5")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    repeats = 3 if given.quick else 5
    figures = measure(repeats)
    for name, value in figures.items():
        print(f"{name:<16} {value:7.2f}   (at most {LIMITS[name]:g})")
    content = {
        "figures": figures,
        "settings": {"prompts": NUM_PROMPTS, "resamples": NUM_RESAMPLES, "repeats": repeats},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("alignkit", "numpy", "scipy")}},
        "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
    }
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
