"""How many seeds and prompts a table needs, before anything is trained; and what the pick of a sweep's best promises.

The plan asks that an entrant that is better than all others by so many points, all others equal, is told apart from
every one of them in 80 of 100 tables. It simulates tables with the table's own tests (statistics/crossed.py): runs
differ by the assumed seed deviation, prompts by

    variance of a prompt's outcome, both seeds and entrants given    1/4
    correlation of two entrants' outcomes on one prompt              0.3   what they share is no error of a difference
    correlation of two seeds' outcomes of one entrant                0.65  what they share stays with more seeds

and clusters by the design effect 1 + (m - 1) icc (Kish 1965). The correlations are assumptions that are printed; a
finished table says what it needs from its own.

The pick: of K entrants the one with the highest mean on the tuning prompts is expected to be worse than that mean. How
much worse is simulated: normal errors of the variance v that prompts and seeds give the means, about true means that
are the seen ones pulled together until their variance is s^2 - v, s^2 being that of the means seen (never below 0). In
each simulation the best is picked anew, and its lead over its own true mean is averaged. The seen means themselves, as
in a plain bootstrap, would be too far apart and the optimism too small (Efron and Tibshirani 1993, ch. 17, for the
bootstrap's; the pulled means as in Louis 1984, JASA 79:393-398). Other prompts take the prompts' part away. The seeds'
part stays with the runs that were picked: only new runs take it away.

Shape letters: E or K entrants, S seeds, P prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alignkit.statistics.crossed import Crossed, adjusted, all_pairs_steps, crossed, errors, is_noisier, tails
from alignkit.statistics.resampling import Clusters
from alignkit.tournaments.comparison import MOST_SEEDS, POWER

DIFFERENCE = 6.0  # points
DEVIATIONS = (0.0, 1.0, 3.0)  # points
ENTRANT_CORRELATION = 0.3
SEED_CORRELATION = 0.65
MOST_AFFORDED = 2000  # prompts; more seeds are planned before more prompts
_NUM_TABLES = 2000
_NUM_PICKS = 500


@dataclass(frozen=True)
class Plan:
    """Seeds and prompts that find a difference at an assumed deviation of runs, both in points; None: none would."""

    deviation: float
    difference: float
    num_seeds: int | None
    num_prompts: int | None

    def __str__(self) -> str:
        about = f"{self.difference:g} points, runs that differ by {self.deviation:g}"
        if self.num_seeds is None or self.num_prompts is None:
            return f"{about}: not with {MOST_SEEDS} seeds"
        return f"{about}: {self.num_seeds} seeds and {self.num_prompts:,} prompts"


def plan(
    deviation: float,
    *,
    difference: float = DIFFERENCE,
    num_entrants: int = 4,
    most_prompts: int = MOST_AFFORDED,
    cluster_size: float = 1.0,
    icc: float = 0.0,
) -> Plan:
    """The fewest seeds, at least two, with which `most_prompts` are enough, and the fewest prompts then.

    Args:
        deviation: of runs with other seeds, in points.
        difference: of the best entrant from every other, in points.
        cluster_size, icc: prompts per cluster and the correlation of two outcomes in one.
    """
    for num_seeds in range(2, MOST_SEEDS + 1):
        tables = _Tables(deviation, difference, num_entrants, num_seeds, cluster_size, icc)
        if tables.power(most_prompts) >= POWER:
            low, high = 10, most_prompts
            while high - low > max(1, low // 50):
                middle = (low + high) // 2
                low, high = (low, middle) if tables.power(middle) >= POWER else (middle, high)
            return Plan(deviation, difference, num_seeds, high)
    return Plan(deviation, difference, None, None)


def power(
    deviation: float,
    num_seeds: int,
    num_prompts: int,
    *,
    difference: float = DIFFERENCE,
    num_entrants: int = 4,
    cluster_size: float = 1.0,
    icc: float = 0.0,
) -> float:
    """Share of tables in which the best entrant is told apart from every other; arguments as for `plan`."""
    return _Tables(deviation, difference, num_entrants, num_seeds, cluster_size, icc).power(num_prompts)


def plan_lines(
    *, num_entrants: int, num_seeds: int, num_prompts: int, cluster_size: float = 1.0, icc: float = 0.0
) -> list[str]:
    """What --plan prints: seeds and prompts for 6 points, and the power of what is asked for."""
    design = {"num_entrants": num_entrants, "cluster_size": cluster_size, "icc": icc}
    lines = [f"To tell the best of {num_entrants} entrants from every other in {100 * POWER:.0f} of 100 tables:"]
    for deviation in DEVIATIONS:
        line = f"  {plan(deviation, **design)}"  # type: ignore[arg-type]
        if num_seeds > 1:
            found = power(deviation, num_seeds, num_prompts, **design)  # type: ignore[arg-type]
            line += f" ({num_seeds} seeds and {num_prompts:,} prompts find it in {100 * found:.0f} of 100)"
        lines.append(line)
    if num_seeds == 1:
        lines.append("  one seed says nothing of other runs: the table will speak of these runs alone")
    lines.append(
        f"  assumed: outcomes on one prompt correlate by {ENTRANT_CORRELATION:g} between entrants and "
        f"{SEED_CORRELATION:g} between seeds"
    )
    return lines


class _Tables:
    """Simulated tables of one best entrant; the same random numbers for every number of prompts."""

    def __init__(
        self, deviation: float, difference: float, num: int, num_seeds: int, cluster_size: float, icc: float
    ) -> None:
        rng = np.random.default_rng([num, num_seeds])
        self.runs_NES = deviation / 100 * rng.standard_normal((_NUM_TABLES, num, num_seeds))
        self.prompts_NE1 = rng.standard_normal((_NUM_TABLES, num, 1))
        self.both_NES = rng.standard_normal((_NUM_TABLES, num, num_seeds))
        self.pairs = [(a, b) for a in range(num) for b in range(a + 1, num)]
        self.contrasts = np.array([np.eye(num)[a] - np.eye(num)[b] for a, b in self.pairs])
        self.steps = all_pairs_steps(num)
        self.truth_E = np.where(np.arange(num) == 0, difference / 100, 0.0)
        self.size, self.icc, self.num_seeds = cluster_size, icc, num_seeds

    def power(self, num_prompts: int) -> float:
        effect = (1 + (self.size - 1) * self.icc) / num_prompts / 4
        fixed = effect * (SEED_CORRELATION - ENTRANT_CORRELATION)
        both = effect * (1 - SEED_CORRELATION)
        units = Clusters.single(max(2, round(num_prompts / self.size)))
        run_NES = self.truth_E[:, None] + self.runs_NES + math.sqrt(both) * self.both_NES
        noisier_NE = is_noisier(run_NES.var(-1, ddof=1), np.full(len(self.truth_E), self.num_seeds))
        run_NES = run_NES + math.sqrt(fixed) * self.prompts_NE1
        run_NKS = np.stack([run_NES[:, a] - run_NES[:, b] for a, b in self.pairs], 1)
        mean_NK = run_NKS.mean(-1)
        parts = Crossed(
            mean=mean_NK,
            prompts=np.full_like(mean_NK, 2 * (fixed + both / self.num_seeds)),
            prompts_freedom=np.full_like(mean_NK, units.num - 1),
            between=run_NKS.var(-1, ddof=1),
            interaction=np.full_like(mean_NK, 2 * both),
            run_mean_S=run_NKS,
        )
        num = len(self.pairs)
        variance, freedom = errors(
            parts,
            self.contrasts,
            np.full(num, 2),
            num_seeds_K=np.full(num, self.num_seeds),
            rho=0.0,
            noisier_E=noisier_NE,
        )
        apart = adjusted(tails(mean_NK, variance, freedom, units), self.steps) <= 0.05
        of_best = self.contrasts[:, 0] == 1
        return float((apart & (mean_NK > 0))[:, of_best].all(1).mean())


@dataclass(frozen=True)
class Pick:
    """The entrant with the highest mean on the tuning prompts, in percent, and what that mean promises too much.

    `optimism` in points: `of_prompts` goes with other prompts, `of_seeds` with new runs alone (None: one seed, which
    does not know it).
    """

    number: int
    mean: float
    optimism: float
    of_prompts: float
    of_seeds: float | None


def pick(outcome_KSP: np.ndarray, units: Clusters) -> Pick:
    """Pick the best of K entrants; arguments as for `crossed`, prompts with a missing score left out by the caller."""
    cells = crossed(outcome_KSP, units)
    best, spread = _optimism(outcome_KSP[None], units)
    number = int(best[0])
    prompts, seeds = (100 * float(part[0]) for part in spread)
    known = outcome_KSP.shape[1] > 1
    return Pick(number, 100 * float(cells.mean[number]), prompts + seeds, prompts, seeds if known else None)


def _optimism(outcome_NKSP: np.ndarray, units: Clusters) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The pick of each of N sweeps, int [N], with its optimism by prompts and by seeds, float64 [N] each, as shares."""
    num, num_seeds = outcome_NKSP.shape[1:3]
    mean_NK = outcome_NKSP.mean((-1, -2))
    best_N = mean_NK.argmax(-1)
    if num < 2:
        return best_N, (np.zeros(len(best_N)), np.zeros(len(best_N)))
    centred = crossed(outcome_NKSP - outcome_NKSP.mean(1, keepdims=True), units)
    prompts_N = centred.prompts.sum(-1) / (num - 1)
    seeds_N = np.maximum((centred.between - centred.interaction).sum(-1), 0.0) / (num - 1) / num_seeds
    error_N = prompts_N + seeds_N
    seen_N = np.maximum(mean_NK.var(-1, ddof=1), 1e-300)
    pull_N = np.sqrt(np.maximum(1 - error_N / seen_N, 0.0))
    true_NK = pull_N[:, None] * (mean_NK - mean_NK.mean(-1, keepdims=True))
    total_N = np.zeros(len(best_N))
    for error_K in np.random.default_rng(num).standard_normal((_NUM_PICKS, num)):
        lead_NK = np.sqrt(error_N)[:, None] * error_K
        total_N += np.take_along_axis(lead_NK, (true_NK + lead_NK).argmax(-1)[:, None], -1)[:, 0]
    total_N = np.maximum(total_N / _NUM_PICKS, 0.0)
    share_N = prompts_N / np.maximum(error_N, 1e-300)
    return best_N, (total_N * share_N, total_N * (1 - share_N))


def optimism_of(outcome_NKSP: np.ndarray, units: Clusters) -> np.ndarray:
    """`pick`'s optimism of N sweeps at once, in points; float64 [N]."""
    _, (prompts_N, seeds_N) = _optimism(outcome_NKSP, units)
    return 100 * (prompts_N + seeds_N)
