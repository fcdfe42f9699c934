"""Is a verdict right as often as it says? Simulated judgements, judged by the product's own rule.

    python -m bench.verdict_calibration [--quick] [--json FILE] [--seed N] [--parts FILE]

2,000 simulated sets of judgements in each cell: 50, 200 and 2,000 prompts; 0, 25 and 60 % ties; prompts by themselves,
in clusters of equal size, and of unequal (geometric) sizes. Within a cluster outcomes are correlated through a normal
effect behind a threshold (correlation 0.1 of the latent numbers).

    aa_false_alarm      share of better or worse where both sides are equal; the largest of all cells (at most 0.06)
    interval_coverage   share of intervals that hold the true rate, at 50, 60 and 75 %; the least of all (at least 0.94)
    power_at_planned    share of better where the difference is what the planner says these prompts find in 80 of 100
                        cases, and of the default number of prompts for 5 points; the least of all (at least 0.78).
                        With fewer than 10 effective clusters nothing is planned

`--parts` keeps each finished setting in a file of JSON lines; the same command goes on with it. The constants of the
planner and of the interval's tails were chosen on seed 20250: the default seed is another one.

Resampling is drawn 2,000 times here and 10,000 times in the product, which moves a bound by about 0.02 standard errors.
There is no peer: no other tool gives such a verdict.
Shape letters: P prompts, G clusters.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import multivariate_normal, norm

from alignkit.judging.decision import decide
from alignkit.judging.planner import DIFFERENCE, detectable, prompts_for
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import win_rate

NUM_PROCESSES = 2
NUM_JUDGEMENTS = 2000
NUM_RESAMPLES = 2000
NUM_PROMPTS = (50, 200, 2000)
TIES = (0.0, 0.25, 0.6)
CLUSTERINGS = ("none", "equal", "unequal")
PROMPTS_A_CLUSTER = {50: 5, 200: 10, 2000: 20}
LATENT_CORRELATION = 0.1
SEED = 7
LIMITS = {
    "aa_false_alarm": ("at most", 0.06),
    "interval_coverage": ("at least", 0.94),
    "power_at_planned": ("at least", 0.78),
}


@dataclass(frozen=True)
class Cell:
    """One setting and its shares; `rate` is the true win rate in percent."""

    num_prompts: int
    ties: float
    clustering: str
    num_clusters: int
    rate: float
    purpose: str
    better: float
    worse: float
    covered: float


def simulate(
    num_prompts: int, ties: float, clustering: str, rate: float, *, purpose: str, num: int, rng: np.random.Generator
) -> Cell:
    """Draw `num` sets of judgements with a true win rate of `rate` percent and apply the rule to each."""
    better = worse = covered = 0
    clusters = Clusters.single(num_prompts)
    for number in range(num):
        if clustering != "none":
            clusters = draw_clusters(num_prompts, clustering, rng)
        outcome_P = draw_outcomes(clusters, ties, rate / 100, rng)
        result = win_rate(outcome_P, seed=number, num_resamples=NUM_RESAMPLES, clusters=clusters)
        answer = decide(result, margin=3.0)
        better += answer == "better"
        worse += answer == "worse"
        covered += result.low - 1e-9 <= rate <= result.high + 1e-9
    return Cell(num_prompts, ties, clustering, clusters.num, rate, purpose, better / num, worse / num, covered / num)


def draw_clusters(num_prompts: int, clustering: str, rng: np.random.Generator) -> Clusters:
    """Clusters of equal or geometric sizes; in total `num_prompts` prompts."""
    size = PROMPTS_A_CLUSTER.get(num_prompts, 10)
    if clustering == "equal":
        return Clusters.of((np.arange(num_prompts) // size).tolist())
    starts_P = rng.random(num_prompts) < 1 / size  # each prompt begins a new cluster with the chance 1 / size
    return Clusters.of(np.cumsum(starts_P).tolist())


def draw_outcomes(clusters: Clusters, ties: float, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Outcomes 1, 0.5, 0 with mean `rate`; correlated within clusters."""
    n = len(clusters.number_P)
    latent_P = rng.standard_normal(n)
    if clusters.num < n:
        effect_G = rng.standard_normal(clusters.num)
        latent_P = (
            math.sqrt(1 - LATENT_CORRELATION) * latent_P + math.sqrt(LATENT_CORRELATION) * effect_G[clusters.number_P]
        )
    wins = rate - ties / 2
    return np.where(latent_P < norm.ppf(wins), 1.0, np.where(latent_P < norm.ppf(min(wins + ties, 1.0)), 0.5, 0.0))


def outcome_correlation(ties: float, rate: float) -> float:
    """Correlation of two outcomes in one cluster, which the planner is told."""
    cuts = [float(norm.ppf(rate - ties / 2)), float(norm.ppf(min(rate + ties / 2, 1.0)))]
    joint = multivariate_normal(mean=[0, 0], cov=[[1, LATENT_CORRELATION], [LATENT_CORRELATION, 1]])
    both = sum(float(joint.cdf([a, b])) for a in cuts for b in cuts) / 4  # outcome = mean of the two indicators
    variance = (1 - ties) / 4 - (rate - 0.5) ** 2
    return (both - rate**2) / variance


def planned(num_prompts: int, ties: float, clustering: str, rng: np.random.Generator) -> float | None:
    """Difference in points that the planner says these prompts find."""
    if clustering == "none":
        return detectable(num_prompts, ties=ties)
    sizes = [num_prompts / draw_clusters(num_prompts, clustering, rng).effective for _ in range(100)]
    return detectable(num_prompts, ties=ties, cluster_size=float(np.mean(sizes)), icc=outcome_correlation(ties, 0.5))


def cells(num: int, seed: int, parts: Path | None) -> list[Cell]:
    """Simulate everything, each setting with its own random numbers, on two processes; known parts are read."""
    settings = [(n, ties, clustering) for n in NUM_PROMPTS for ties in TIES for clustering in CLUSTERINGS]
    known = _read(parts, num, seed)
    with ProcessPoolExecutor(NUM_PROCESSES) as pool:
        left = [number for number in range(len(settings) + 1) if number not in known]
        jobs = {pool.submit(_setting, number, [*settings, None][number], num, seed): number for number in left}
        for job in as_completed(jobs):
            known[jobs[job]] = job.result()
            if parts is not None:
                line = {"number": jobs[job], "num": num, "seed": seed, "cells": [asdict(c) for c in job.result()]}
                with open(parts, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    return [cell for number in sorted(known) for cell in known[number]]


def _read(parts: Path | None, num: int, seed: int) -> dict[int, list[Cell]]:
    lines = parts.read_text(encoding="utf-8").splitlines() if parts is not None and parts.exists() else []
    kept = [line for line in map(json.loads, lines) if (line["num"], line["seed"]) == (num, seed)]
    return {line["number"]: [Cell(**cell) for cell in line["cells"]] for line in kept}


def _setting(number: int, setting: tuple[int, float, str] | None, num: int, seed: int) -> list[Cell]:
    given: dict[str, Any] = {"num": num, "rng": np.random.default_rng([seed, number])}
    if setting is None:  # the default number of prompts
        return [simulate(prompts_for(DIFFERENCE), 0.0, "none", 50 + DIFFERENCE, purpose="planned", **given)]
    n, ties, clustering = setting
    done = [simulate(n, ties, clustering, 50.0, purpose="equal", **given)]
    for rate in (60.0, 75.0):
        if rate / 100 + ties / 2 < 1:
            done.append(simulate(n, ties, clustering, rate, purpose="coverage", **given))
    found = planned(n, ties, clustering, given["rng"])
    if found is not None:
        done.append(simulate(n, ties, clustering, 50 + found, purpose="planned", **given))
    return done


def figures(done: list[Cell]) -> dict[str, float]:
    """The worst of all cells, for each figure."""
    return {
        "aa_false_alarm": max(cell.better + cell.worse for cell in done if cell.purpose == "equal"),
        "interval_coverage": min(cell.covered for cell in done),
        "power_at_planned": min(cell.better for cell in done if cell.purpose == "planned"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 simulated judgements a cell instead of 2,000")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--parts", type=Path, metavar="FILE", help="keep finished settings here, and go on with them")
    given = parser.parse_args()
    num = NUM_JUDGEMENTS // 4 if given.quick else NUM_JUDGEMENTS
    began = time.perf_counter()
    done = cells(num, given.seed, given.parts)
    seconds = time.perf_counter() - began
    print(
        f"{'prompts':>7} {'ties':>5} {'clusters':>8} {'rate':>6} {'purpose':>9} "
        f"{'better':>7} {'worse':>7} {'covered':>8}"
    )
    for cell in done:
        print(
            f"{cell.num_prompts:>7} {cell.ties:>5} {cell.clustering:>8} {cell.rate:>6.1f} {cell.purpose:>9} "
            f"{cell.better:>7.4f} {cell.worse:>7.4f} {cell.covered:>8.4f}"
        )
    worst = figures(done)
    for name, value in worst.items():
        print(f"{name:<20} {value:.4f}   ({LIMITS[name][0]} {LIMITS[name][1]})")
    print(f"{seconds:.0f} seconds in {NUM_PROCESSES} processes")
    content = {
        "figures": worst,
        "settings": {
            "judgements_a_cell": num,
            "resamples": NUM_RESAMPLES,
            "seed": given.seed,
            "latent_correlation": LATENT_CORRELATION,
            "prompts_a_cluster": PROMPTS_A_CLUSTER,
            "seconds": None if given.parts else round(seconds),
            "processes": NUM_PROCESSES,
            "cells": [asdict(cell) for cell in done],
        },
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("alignkit", "numpy", "scipy")}},
        "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
    }
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
