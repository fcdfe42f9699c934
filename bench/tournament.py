"""Is a tournament's table right as often as it says? Simulated tournaments, compared by the table's own tests.

    python -m bench.tournament [--quick] [--sets N] [--seed N] [--json FILE]

    aa_family_false_alarm  any difference told apart among four equal entrants; the worst cell. With one seed the table
                           speaks of its runs, and equal runs are simulated
    cell_coverage          intervals of cells that hold the true rate, at 50, 60 and 75 %; the least
    planted_winner_found   the best of four, 6 points above all others, is told apart from every one at the seeds and
                           prompts that are planned; the least
    pick_optimism_error    points between what the pick of a sweep's best is said to promise too much, and what it
                           does, on average; the most

and tournament_report_mib, tournament_report_open_s and reuse_s of bench/tournament_page.py; --page measures these
alone. --overhead runs one demo tournament with one seed, some 20 minutes, and adds

    tournament_overhead    the share of its time outside training, answering and judging: starts of processes and their
                           imports, rows, table and page

A run's true rate differs by the seed deviation, some of it alike in all entrants of a seed; prompts and clusters have
effects that all entrants share and effects of each; outcomes are wins and losses behind a threshold. Each cell has
2,000 sets; one beyond its goal is run again with 20,000 on fresh seeds, and the second share counts. A cell's
interval is the table's: crossed.py's, never shorter than that of one look, which is all of it with one seed.

Shape letters: N sets, E entrants, S seeds, P prompts.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from alignkit.statistics.crossed import (
    adjusted,
    all_pairs_steps,
    crossed,
    errors,
    half_width,
    is_noisier,
    seed_correlation,
    tails,
)
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import win_rate
from alignkit.tournaments.planning import DEVIATIONS, DIFFERENCE, optimism_of, plan
from bench.commit import commit
from bench.tournament_page import overhead, page_figures, reuse_s
from bench.verdict_draws import make_clusters

NUM_SETS = 2000
NUM_RESAMPLES = 2000  # 10,000 in the product
AGAIN = 10
SEED = 19
_DRAWN_AT_ONCE = 1 << 23
COMMON, ENTRANTS_OWN = 0.454, 0.399  # of the latent variance: outcomes correlate by 0.3 over entrants, 0.65 over seeds
GOALS = {
    "aa_family_false_alarm": ("at most", 0.05),
    "cell_coverage": ("at least", 0.94),
    "planted_winner_found": ("at least", 0.78),
    "pick_optimism_error": ("at most", 1.0),
    "tournament_report_mib": ("at most", 5.0),
    "tournament_report_open_s": ("at most", 2.0),
    "reuse_s": ("at most", 3.0),
    "tournament_overhead": ("at most", 0.05),
}


def settings(*, quick: bool) -> list[dict[str, Any]]:
    """Every cell's setting."""
    equal = [
        {"kind": "equal", "seeds": s, "deviation": d, "alike": a, "prompts": p, "clusters": g, "unequal": u, "rate": r}
        for s in (1, 2, 3, 5)
        for d in (DEVIATIONS if s > 1 else (0.0,))
        for a in ((0.0, 0.7) if d else (0.0,))
        for p, g, u in ((320, 0, False), (320, 80, False), (320, 8, False), (320, 20, True), (60, 0, False))
        for r in (50.0, 60.0, 75.0)
    ]
    planted = [
        {"kind": "planted", "deviation": d, "size": m, "cluster": c}
        for d in DEVIATIONS
        for m, c in ((1, 0.0), (8, 0.1))
    ]
    picks = [
        {"kind": "pick", "entrants": k, "seeds": s, "deviation": d, "spread": t}
        for k in (2, 3, 5, 10)
        for s in (1, 3)
        for d in (0.0, 3.0)
        for t in (0.0, 2.0, 5.0)
        if s > 1 or d == 0
    ]
    return (equal[::7] if quick else equal) + planted + picks


def simulate(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    return {"equal": _equal, "planted": _planted, "pick": _pick}[setting["kind"]](setting, num, rng)


def is_beyond(setting: dict[str, Any], found: dict[str, float]) -> bool:
    if setting["kind"] == "equal":
        return found["alarm"] > 0.05 or found["covered"] < 0.94
    return found["found"] < 0.78 if setting["kind"] == "planted" else abs(found["error"]) > 1


def figures(cells: list[tuple[dict[str, Any], dict[str, float]]]) -> dict[str, float]:
    """The worst of all cells, for each figure."""
    of = {kind: [found for s, found in cells if s["kind"] == kind] for kind in ("equal", "planted", "pick")}
    return {
        "aa_family_false_alarm": max(found["alarm"] for found in of["equal"]),
        "cell_coverage": min(found["covered"] for found in of["equal"]),
        "planted_winner_found": min(found["found"] for found in of["planted"]),
        "pick_optimism_error": max(abs(found["error"]) for found in of["pick"]),
    }


def draw(
    num: int,
    truth_E: np.ndarray,
    num_seeds: int,
    clusters: Clusters,
    rng: np.random.Generator,
    *,
    deviation: float = 0.0,
    alike: float = 0.0,
    cluster: float = 0.1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Outcomes 0 and 1, float64 [some of N, E, S, P], with the runs' own true rates [some of N, E, S].

    Args:
        truth_E: true rates as shares; or [N, E], of each set.
        deviation: of a run's true rate near 50 %, in points; `alike` is the share of its variance that is the seed's.
        cluster: latent variance of clusters, half of it every entrant's own.
    """
    num_E, num_P = truth_E.shape[-1], len(clusters.number_P)
    step = max(1, _DRAWN_AT_ONCE // (num_E * num_seeds * num_P))
    run = deviation / 100 / float(norm.pdf(0))
    threshold_E = norm.ppf(truth_E) * math.sqrt(1 + run**2)
    at_P = clusters.number_P

    def normal(n: int, *shape: int) -> np.ndarray:
        return rng.standard_normal((n, *shape), dtype=np.float32)

    for at in range(0, num, step):
        n = min(step, num - at)
        moved = run * (
            math.sqrt(1 - alike) * normal(n, num_E, num_seeds, 1) + math.sqrt(alike) * normal(n, 1, num_seeds, 1)
        )
        latent = math.sqrt(COMMON - cluster / 2) * normal(n, 1, 1, num_P)
        latent = latent + math.sqrt(ENTRANTS_OWN - cluster / 2) * normal(n, num_E, 1, num_P)
        if cluster:
            latent += math.sqrt(cluster / 2) * normal(n, 1, 1, clusters.num)[..., at_P]
            latent += math.sqrt(cluster / 2) * normal(n, num_E, 1, clusters.num)[..., at_P]
        latent = latent + math.sqrt(1 - COMMON - ENTRANTS_OWN) * normal(n, num_E, num_seeds, num_P)
        threshold = threshold_E if truth_E.ndim == 1 else threshold_E[at : at + n]
        shifted = moved + threshold.reshape(-1, num_E, 1, 1)
        yield (latent + shifted > 0).astype(np.float64), norm.cdf(shifted[..., 0])


def compared(y: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means and half-widths of cells [N, E]; differences and family-wise p-values of all pairs [N, K]."""
    num, num_seeds = y.shape[1:3]
    cells = crossed(y, clusters)
    rho = seed_correlation(cells.run_mean_S)
    noisier_E = is_noisier(cells.between, np.full(num, num_seeds))
    kind_E, seeds_E = np.zeros(num, dtype=int), np.full(num, num_seeds)
    variance, freedom = errors(cells, np.eye(num), kind_E, num_seeds_K=seeds_E, rho=rho, noisier_E=noisier_E)
    half = half_width(variance, freedom, clusters, 0.95)
    pairs = [(a, b) for a in range(num) for b in range(a + 1, num)]
    contrasts = np.array([np.eye(num)[a] - np.eye(num)[b] for a, b in pairs])
    parts = crossed(np.stack([y[:, a] - y[:, b] for a, b in pairs], 1), clusters)
    kind_K, seeds_K = np.zeros(len(pairs), dtype=int), np.full(len(pairs), num_seeds)
    variance, freedom = errors(parts, contrasts, kind_K, num_seeds_K=seeds_K, rho=rho, noisier_E=noisier_E)
    p = adjusted(tails(parts.mean, variance, freedom, clusters), all_pairs_steps(num))
    return cells.mean, half, parts.mean, p


def _equal(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    clusters = make_clusters(setting["prompts"], setting["clusters"], unequal=setting["unequal"])
    truth_E = np.full(4, setting["rate"] / 100)
    cluster = 0.1 if setting["clusters"] else 0.0
    alarms = covered = 0
    how = {"deviation": setting["deviation"], "alike": setting["alike"], "cluster": cluster}
    for y, _ in draw(num, truth_E, setting["seeds"], clusters, rng, **how):
        mean, half, _, p = compared(y, clusters)
        alarms += int((p <= 0.05).any(1).sum())
        is_held = (np.abs(mean - truth_E) <= half) & (setting["seeds"] > 1)
        for n, e in np.argwhere(~is_held):  # the table's interval is never shorter than that of one look
            look = win_rate(y[n, e].mean(0), seed=int(n), num_resamples=NUM_RESAMPLES, clusters=clusters)
            is_held[n, e] = look.low - 1e-9 <= setting["rate"] <= look.high + 1e-9
        covered += int(is_held.sum())
    return {"alarm": alarms / num, "covered": covered / num / 4}


def _planted(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    size = setting["size"]
    icc = 0.0 if size == 1 else 0.1
    planned = plan(setting["deviation"], num_entrants=4, cluster_size=size, icc=icc, most_prompts=4000)
    assert planned.num_seeds is not None and planned.num_prompts is not None
    num_clusters = 0 if size == 1 else round(planned.num_prompts / size)
    clusters = make_clusters(planned.num_prompts, num_clusters, unequal=False)
    truth_E = 0.5 + np.array([DIFFERENCE / 100, 0, 0, 0])
    found = 0
    how = {"deviation": setting["deviation"], "cluster": setting["cluster"]}
    for y, _ in draw(num, truth_E, planned.num_seeds, clusters, rng, **how):
        _, _, difference, p = compared(y, clusters)
        found += int(((p <= 0.05) & (difference > 0))[:, :3].all(1).sum())
    return {"found": found / num, "seeds": planned.num_seeds, "prompts": planned.num_prompts}


def _pick(setting: dict[str, Any], num: int, rng: np.random.Generator) -> dict[str, float]:
    clusters = make_clusters(200, 0, unequal=False)
    truth_NE = 0.5 + setting["spread"] / 100 * rng.standard_normal((num, setting["entrants"]))
    at, said, real = 0, 0.0, 0.0
    for y, _ in draw(num, truth_NE, setting["seeds"], clusters, rng, deviation=setting["deviation"], cluster=0.0):
        mean = y.mean((-1, -2))
        best = mean.argmax(-1)
        row = np.arange(len(y))
        real += 100 * float((mean[row, best] - truth_NE[at + row, best]).sum())
        said += float(optimism_of(y, clusters).sum())
        at += len(y)
    return {"said": said / num, "real": real / num, "error": (said - real) / num}


def _cell(setting: dict[str, Any], number: int, num: int, seed: int) -> dict[str, float]:
    return simulate(setting, num, np.random.default_rng([seed, number, num]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a seventh of the cells of equal entrants")
    parser.add_argument("--page", action="store_true", help="the page's figures alone")
    parser.add_argument("--overhead", action="store_true", help="run a demo tournament too")
    parser.add_argument("--sets", type=int, default=NUM_SETS, help="simulated sets a cell")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    began = time.perf_counter()
    wanted = [] if given.page else settings(quick=given.quick)
    with ProcessPoolExecutor(given.processes) as pool:
        numbers = range(len(wanted))
        cells = list(pool.map(_cell, wanted, numbers, [given.sets] * len(wanted), [given.seed] * len(wanted)))
        doubted = [n for n in numbers if is_beyond(wanted[n], cells[n])]
        again = pool.map(
            _cell,
            [wanted[n] for n in doubted],
            doubted,
            [given.sets * AGAIN] * len(doubted),
            [given.seed] * len(doubted),
        )
        for n, found in zip(doubted, again, strict=True):
            cells[n] = found | {f"first_{key}": value for key, value in cells[n].items()}
    found = figures(list(zip(wanted, cells, strict=True))) if wanted else {}
    found |= page_figures() | {"reuse_s": reuse_s()}
    found |= {"tournament_overhead": overhead()} if given.overhead else {}
    for figure, value in found.items():
        print(f"{figure:<24} {value:.4f}   ({GOALS[figure][0]} {GOALS[figure][1]})")
    print(f"{len(cells)} cells, {len(doubted)} of them run again, {time.perf_counter() - began:.0f} seconds")
    if given.json is not None:
        rows = [s | {k: round(v, 5) for k, v in c.items()} for s, c in zip(wanted, cells, strict=True)]
        content = {"figures": found, "sets": given.sets, "seed": given.seed, "quick": given.quick, "commit": commit()}
        lines = ",\n  ".join(map(json.dumps, rows))
        given.json.write_text(
            json.dumps(content, indent=1)[:-2] + f',\n "cells": [\n  {lines}\n ]\n}}\n', encoding="utf-8"
        )


if __name__ == "__main__":
    main()
