"""Who is better, by how much, and what cannot be told: cells, differences of all pairs, ranks in groups, a headline.

A cell is the mean over seeds and prompts with the interval of statistics/crossed.py; it is never shorter than the
product's interval of one look over the seeds' mean outcomes (statistics/win_rate.py). A difference of two entrants is
taken on the prompts and seeds that both have. Two trained entrants are paired by seed; what a seed moves alike in both
is then no error of their difference, so that the seeds' variance is pooled over pairs that share a run (one starts from
the other, or both from the same) apart from those that share none.

All pairs shown are one family: a false difference anywhere in the table has a probability of at most 5 %, by Shaffer's
step-down where all pairs are there and Holm's where one is missing. A pair's interval has the level of its own step, so
that it excludes 0 exactly where the pair is told apart. Where prompts are few, or nearly all of them agree, Student's t
knows too much (two prompts that agree have no variance): p and interval are then never surer than those of one look.

Two entrants share a rank exactly where they cannot be told apart. Where that holds of a and b, and of b and c, but a is
better than c, b has both ranks, "1-2" (a compact letter display: Piepho 2004, J. Comput. Graph. Stat. 13:456-466).
With one seed nothing is known of other training runs: intervals are then over prompts alone and speak
of these runs.

Shape letters: E entrants, S seeds, P prompts, K means.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import nct, t

from alignkit.statistics.crossed import (
    Crossed,
    adjusted,
    all_pairs_steps,
    caution,
    crossed,
    errors,
    half_width,
    is_noisier,
    seed_correlation,
    tails,
)
from alignkit.statistics.intervals import is_little
from alignkit.statistics.resampling import Clusters, joined_singles
from alignkit.statistics.win_rate import p_of_one_look, win_rate

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 20  # more are not named
MOST_PROMPTS = 20_000


@dataclass(frozen=True)
class Cell:
    """A mean in percent with its interval; None where nothing is known.

    `holds_seeds` says whether the interval holds other training runs. `num_missing` prompts were left out, each for a
    missing score with at least one seed. `seed_deviation` of a run's true rate in points, pooled.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    num_seeds: int = 0
    num_prompts: int = 0
    num_missing: int = 0
    holds_seeds: bool = False
    seed_deviation: float | None = None


@dataclass(frozen=True)
class Pair:
    """`first` minus `second` in points, the better one first; `level` is that of its step, `p` family-wise."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    level: float
    p: float
    is_told_apart: bool
    num_seeds: int
    num_prompts: int
    num_missing: int
    needs: str = ""


@dataclass(frozen=True)
class Rank:
    """The groups that an entrant is in, by number: two share one exactly where they cannot be told apart.

    `best` to `worst` are the places among all that the pairs leave open.
    """

    groups: tuple[int, ...]
    best: int
    worst: int

    @property
    def rank(self) -> int:
        """The best of its groups."""
        return self.groups[0]

    def __str__(self) -> str:
        return str(self.groups[0]) if len(self.groups) == 1 else f"{self.groups[0]}-{self.groups[-1]}"


@dataclass(frozen=True)
class Comparison:
    """Of one opponent: a cell by entrant, all pairs, ranks, and what is to be said; `is_of_runs` with one seed."""

    cells: dict[str, Cell]
    pairs: tuple[Pair, ...]
    ranks: dict[str, Rank]
    headline: str
    notes: tuple[str, ...]
    is_of_runs: bool


@dataclass(frozen=True)
class Design:
    """Entrants and what they share.

    Args:
        starts: the entrant that each starts from; None: a model that is no entrant.
        is_trained: whether seeds can differ.
    """

    names: tuple[str, ...]
    starts: tuple[str | None, ...]
    is_trained: tuple[bool, ...]

    def trained_roots(self, name: str) -> set[str]:
        """It and the trained entrants that it comes from."""
        start_of = dict(zip(self.names, self.starts, strict=True))
        trained = dict(zip(self.names, self.is_trained, strict=True))
        found, at = set(), name
        while at is not None and at in start_of and at not in found:
            if trained[at]:
                found.add(at)
            at = start_of[at]  # type: ignore[assignment]
        return found

    def contrast(self, first: int, second: int | None = None) -> np.ndarray:
        """Which trained entrants' runs a mean is of; float64 [E]."""
        row_E = np.zeros(len(self.names))
        row_E[first] = float(self.is_trained[first])
        if second is not None:
            row_E[second] = -float(self.is_trained[second])
        return row_E

    def kind(self, first: int, second: int) -> int:
        """0 where one of a pair alone has runs, 1 where they share a run, 2 where they share none."""
        if not (self.is_trained[first] and self.is_trained[second]):
            return 0
        return 1 if self.trained_roots(self.names[first]) & self.trained_roots(self.names[second]) else 2


@dataclass(frozen=True)
class Prompts:
    """Which prompts stand together: `clusters`, or, where these are too few to speak of others, strata and copies."""

    clusters: Clusters
    copies: Clusters
    words: str = "prompts"

    @property
    def speaks_of_others(self) -> bool:
        return not self.clusters.too_few

    def where(self, mask_P: np.ndarray) -> tuple[Clusters, Clusters | None]:
        """Units and strata of some of the prompts."""
        clusters = self.clusters.where(mask_P)
        if not clusters.too_few:
            return clusters, None
        units = self.copies.where(mask_P)
        return units, joined_singles(clusters, units)


def compare(
    outcome_ESP: np.ndarray, design: Design, prompts: Prompts, *, seed: int = 0, alone: Collection[str] = ()
) -> Comparison:
    """Compare entrants by their outcomes against one opponent.

    Args:
        outcome_ESP: float64 [E, S, P] from 0 to 1, nan where missing; all nan of a run that is not there. Of an
            entrant that is not trained the first seed that is there counts.
        seed: of the resampling.
        alone: entrants that have no such opponent: nothing of them is missing.
    """
    rows = [_rows(outcome_SP, trained) for outcome_SP, trained in zip(outcome_ESP, design.is_trained, strict=True)]
    of_cells = [_mean(row, prompts) for row in rows]
    names = design.names
    known = [(e, found) for e, found in enumerate(of_cells) if found is not None]
    correlation, noisier_E = _runs(rows, design, of_cells)
    cells = {name: Cell(None, num_missing=0 if name in alone else outcome_ESP.shape[-1]) for name in names}
    contrasts = [design.contrast(e) for e, _ in known]
    how = _errors([found for _, found in known], contrasts, [0] * len(known), correlation, noisier_E)
    for (e, found), sure in zip(known, how, strict=True):
        cells[names[e]] = _cell(found, sure, is_trained=design.is_trained[e], seed=seed)
    pairs = _pairs(rows, design, prompts, cells, correlation, noisier_E)
    is_of_runs = all(cells[n].num_seeds <= 1 for n, trained in zip(names, design.is_trained, strict=True) if trained)
    ranks = _ranks([names[e] for e, _ in known], cells, pairs)
    notes = _notes(cells, pairs, design, prompts, noisier_E, is_of_runs=is_of_runs)
    return Comparison(cells, pairs, ranks, _headline(ranks, pairs, cells, is_of_runs=is_of_runs), notes, is_of_runs)


def averages(
    x_ESP: np.ndarray, design: Design, prompts: Prompts, *, within: tuple[float, float] = (-math.inf, math.inf)
) -> dict[str, Cell]:
    """Means of any number per answer, in its own unit, with intervals over seeds and prompts as a win rate's.

    Args:
        x_ESP: float64 [E, S, P], nan where missing.
        within: what any mean lies between; no bound of an interval lies outside. Where all numbers are the same there
            is no interval.
    """
    rows = [_rows(x_SP, trained) for x_SP, trained in zip(x_ESP, design.is_trained, strict=True)]
    found = [_mean(row, prompts) for row in rows]
    correlation, noisier_E = _runs(rows, design, found)
    known = [(e, each) for e, each in enumerate(found) if each is not None]
    contrasts = [design.contrast(e) for e, _ in known]
    how = _errors([each for _, each in known], contrasts, [0] * len(known), correlation, noisier_E)
    cells = {name: Cell(None, num_missing=x_ESP.shape[-1]) for name in design.names}
    for (e, each), sure in zip(known, how, strict=True):
        mean = float(each.parts.mean)
        half = float(half_width(np.array(sure.variance), np.array(sure.freedom), each.units, LEVEL))
        is_constant = np.ptp(each.outcome_SP) == 0  # nothing is known of its spread
        cells[design.names[e]] = Cell(
            mean,
            None if is_constant else max(mean - half, within[0]),
            None if is_constant else min(mean + half, within[1]),
            num_seeds=len(each.outcome_SP),
            num_prompts=each.outcome_SP.shape[1],
            num_missing=each.num_missing,
            holds_seeds=not design.is_trained[e] or len(each.outcome_SP) > 1 or sure.seeds > 0,
        )
    return cells


@dataclass(frozen=True)
class _Found:
    """A mean's parts, and the prompts and seeds that they are of."""

    parts: Crossed
    outcome_SP: np.ndarray
    units: Clusters
    strata: Clusters | None
    num_missing: int

    @property
    def as_outcomes_P(self) -> np.ndarray:
        """A difference as outcomes from 0 to 1, means over seeds: 1/2 where both are equal."""
        result: np.ndarray = (1 + self.outcome_SP.mean(0)) / 2
        return result


@dataclass(frozen=True)
class _Sure:
    """How sure a mean is: variance and freedom, and the pooled parts of its seeds."""

    variance: float
    freedom: float
    seeds: float  # variance of a run's true mean


def _rows(outcome_SP: np.ndarray, is_trained: bool) -> dict[int, np.ndarray]:
    """The runs that are there, by seed's number; -1 for an entrant without seeds."""
    there = [s for s in range(len(outcome_SP)) if not np.isnan(outcome_SP[s]).all()]
    if not is_trained:
        return {-1: outcome_SP[there[0]]} if there else {}
    return {s: outcome_SP[s] for s in there}


def _mean(rows: dict[int, np.ndarray], prompts: Prompts, other: dict[int, np.ndarray] | None = None) -> _Found | None:
    """Parts of a mean, or of a difference, on the seeds and prompts of both sides; None on fewer than two prompts."""
    if other is None:
        stack = list(rows.values())
    elif -1 in rows or -1 in other:
        stack = [a - b for a in rows.values() for b in other.values()]
    else:
        stack = [rows[s] - other[s] for s in rows if s in other]
    if not stack:
        return None
    outcome_SP = np.stack(stack)
    known_P = ~np.isnan(outcome_SP).any(0)
    if known_P.sum() < 2:
        return None
    units, strata = prompts.where(known_P)
    present_SP = outcome_SP[:, known_P]
    return _Found(crossed(present_SP, units, strata), present_SP, units, strata, int((~known_P).sum()))


def _runs(
    rows: Sequence[dict[int, np.ndarray]], design: Design, found: Sequence[_Found | None]
) -> tuple[float, np.ndarray]:
    """What seeds share, on those that all trained entrants have, and which entrants' runs are noisier."""
    trained = [e for e, is_trained in enumerate(design.is_trained) if is_trained and found[e] is not None]
    common = set.intersection(*[set(rows[e]) for e in trained]) if trained else set()
    correlation = 0.0
    if len(common) > 1:
        run_mean_ES = np.array([[np.nanmean(rows[e][s]) for s in sorted(common)] for e in trained])
        correlation = float(seed_correlation(run_mean_ES))
    noisier_E = np.zeros(len(rows), dtype=bool)
    between = np.array([float(found[e].parts.between) for e in trained])  # type: ignore[union-attr]
    if len(trained) > 1:
        noisier_E[trained] = is_noisier(between, np.array([len(rows[e]) for e in trained]))
    return correlation, noisier_E


def _errors(
    found: Sequence[_Found],
    contrasts: Sequence[np.ndarray],
    kinds: Sequence[int],
    correlation: float,
    noisier_E: np.ndarray,
) -> list[_Sure]:
    if not found:
        return []
    names = ("mean", "prompts", "prompts_freedom", "between", "interaction")
    stacked = {name: np.array([float(getattr(each.parts, name)) for each in found]) for name in names}
    num_seeds_K = np.array([len(each.outcome_SP) for each in found])
    variance, freedom = errors(
        Crossed(**stacked, run_mean_S=np.zeros((len(found), 1))),
        np.stack(contrasts),
        np.array(kinds),
        num_seeds_K=num_seeds_K,
        rho=correlation,
        noisier_E=noisier_E,
    )
    seeds = (variance - stacked["prompts"]) * num_seeds_K
    return [_Sure(*map(float, each)) for each in zip(variance, freedom, seeds, strict=True)]


def _cell(found: _Found, sure: _Sure, *, is_trained: bool, seed: int) -> Cell:
    """In percent; never shorter than the interval of one look."""
    mean = float(found.parts.mean)
    half = float(half_width(np.array(sure.variance), np.array(sure.freedom), found.units, LEVEL))
    look = win_rate(found.outcome_SP.mean(0), seed=seed, level=LEVEL, clusters=found.units, strata=found.strata)
    holds_seeds = is_trained and (len(found.outcome_SP) > 1 or sure.seeds > 0)
    low, high = (look.low, look.high)
    if holds_seeds:
        low, high = min(low, max(0.0, 100 * (mean - half))), max(high, min(100.0, 100 * (mean + half)))
    return Cell(
        mean=100 * mean,
        low=low,
        high=high,
        num_seeds=len(found.outcome_SP),
        num_prompts=found.outcome_SP.shape[1],
        num_missing=found.num_missing,
        holds_seeds=holds_seeds or not is_trained,
        seed_deviation=100 * math.sqrt(max(sure.seeds, 0.0)) if holds_seeds else None,
    )


def _pairs(
    rows: Sequence[dict[int, np.ndarray]],
    design: Design,
    prompts: Prompts,
    cells: dict[str, Cell],
    correlation: float,
    noisier_E: np.ndarray,
) -> tuple[Pair, ...]:
    """All pairs that have prompts in common, the better entrant first, the surest difference first."""
    num = len(rows)
    order = [
        (a, b) if (cells[design.names[a]].mean or 0) >= (cells[design.names[b]].mean or 0) else (b, a)
        for a in range(num)
        for b in range(a + 1, num)
    ]
    shown = [(a, b, difference) for a, b in order if (difference := _mean(rows[a], prompts, rows[b])) is not None]
    if not shown:
        return ()
    contrasts = [design.contrast(a, b) for a, b, _ in shown]
    kinds = [design.kind(a, b) for a, b, _ in shown]
    sure = _errors([found for _, _, found in shown], contrasts, kinds, correlation, noisier_E)
    p_K = np.array([_p(found, s) for (_, _, found), s in zip(shown, sure, strict=True)])
    known = sum(cell.mean is not None for cell in cells.values())
    is_whole = len(shown) == known * (known - 1) // 2
    steps_K = all_pairs_steps(known) if is_whole else np.arange(len(shown), 0, -1)
    family_K = adjusted(p_K, steps_K)
    by_p = np.argsort(p_K, kind="stable")
    num_apart = int((family_K <= 1 - LEVEL).sum())
    pairs = []
    for place, k in enumerate(by_p):
        a, b, each = shown[k]
        step = steps_K[min(place, num_apart)] if num_apart < len(shown) else steps_K[place]
        level = 1 - (1 - LEVEL) / float(step)
        mean, (low, high) = float(each.parts.mean), _difference_within(each, sure[k], level)
        pair = Pair(
            first=design.names[a],
            second=design.names[b],
            difference=100 * mean,
            low=100 * low,
            high=100 * high,
            level=level,
            p=float(family_K[k]),
            is_told_apart=bool(family_K[k] <= 1 - LEVEL),
            num_seeds=len(each.outcome_SP),
            num_prompts=each.outcome_SP.shape[1],
            num_missing=each.num_missing,
        )
        if mean < 0:
            pair = replace(
                pair, first=pair.second, second=pair.first, difference=-pair.difference, low=-pair.high, high=-pair.low
            )
        if not pair.is_told_apart:
            pair = replace(pair, needs=_needs(each, sure[k], level))
        pairs.append(pair)
    return tuple(pairs)


def _p(found: _Found, sure: _Sure) -> float:
    """Two-sided p-value of a difference; where prompts are few, or nearly all alike, never below that of one look."""
    p = float(tails(found.parts.mean, np.array(sure.variance), np.array(sure.freedom), found.units))
    if is_little(found.as_outcomes_P):
        p = max(p, p_of_one_look(found.as_outcomes_P, clusters=found.units, strata=found.strata))
    return p


def _difference_within(found: _Found, sure: _Sure, level: float) -> tuple[float, float]:
    """The interval of a difference, from -1 to 1, as sure as `_p`."""
    mean = float(found.parts.mean)
    half = float(half_width(np.array(sure.variance), np.array(sure.freedom), found.units, level))
    low, high = max(mean - half, -1.0), min(mean + half, 1.0)
    if is_little(found.as_outcomes_P):
        look = win_rate(found.as_outcomes_P, seed=0, level=level, clusters=found.units, strata=found.strata)
        low, high = min(low, look.low / 50 - 1), max(high, look.high / 50 - 1)
    return low, high


def _needs(found: _Found, sure: _Sure, level: float) -> str:
    """What would tell a pair apart in 80 of 100 cases if its true difference were the one seen."""
    mean, seeds, num_prompts = abs(float(found.parts.mean)), len(found.outcome_SP), found.outcome_SP.shape[1]
    both_seeds = float(found.parts.interaction) / seeds
    fixed = max(float(found.parts.prompts) - both_seeds, 0.0)
    if is_little(found.as_outcomes_P):  # a spread of nearly equal numbers is a guess: that of no true difference
        fixed = max(fixed, float((found.outcome_SP.mean(0) ** 2).mean()) / num_prompts)

    def first(num_seeds: np.ndarray | int, prompts: np.ndarray | int, of: np.ndarray) -> int | None:
        variance = (fixed + both_seeds * seeds / num_seeds) * num_prompts / prompts + max(sure.seeds, 0.0) / num_seeds
        grown = np.maximum(np.asarray(num_seeds) - 1, 1) / max(seeds - 1, 1)
        freedom = sure.freedom * (grown if sure.seeds > 0 else np.ones_like(grown))
        bound = t.isf(caution(found.units) * (1 - level) / 2, freedom)
        is_enough = nct.sf(bound, freedom, mean / np.sqrt(variance)) >= POWER
        return int(of[is_enough.argmax()]) if is_enough.any() else None

    if mean == 0:
        return "no number of seeds and prompts would: the difference seen is 0"
    more = np.arange(seeds + 1, MOST_SEEDS + 1)
    prompts = np.unique(np.geomspace(num_prompts, MOST_PROMPTS, 60).astype(int))
    if seeds > 1 and len(more) and (enough := first(more, num_prompts, more)):
        return f"{enough} seeds would"
    if enough := first(seeds, prompts, prompts):
        return f"{enough:,} prompts would"
    if seeds > 1 and (enough := first(MOST_SEEDS, prompts, prompts)):
        return f"{MOST_SEEDS} seeds with {enough:,} prompts would"
    return f"neither {MOST_SEEDS} seeds nor {MOST_PROMPTS:,} prompts would"


def _ranks(names: Sequence[str], cells: dict[str, Cell], pairs: Sequence[Pair]) -> dict[str, Rank]:
    """Groups: the largest sets without a pair that is told apart, by the mean of their best and then of all."""
    apart = {frozenset((pair.first, pair.second)) for pair in pairs if pair.is_told_apart}
    ordered = sorted(names, key=lambda name: -(cells[name].mean or 0))
    groups: list[set[str]] = []
    for name in ordered:
        like = {other for other in ordered[: ordered.index(name)] if frozenset((name, other)) not in apart}
        groups += [joined for g in groups if (joined := (g & like) | {name})] + [{name}]
        groups = [g for n, g in enumerate(groups) if not any(g < h or (g == h and n > m) for m, h in enumerate(groups))]

    def place(group: set[str]) -> tuple[int, float]:
        return min(map(ordered.index, group)), -sum(cells[n].mean or 0 for n in group) / len(group)

    groups.sort(key=place)
    ranks = {}
    for name in ordered:
        better = sum(pair.is_told_apart and pair.second == name for pair in pairs)
        worse = sum(pair.is_told_apart and pair.first == name for pair in pairs)
        inside = tuple(number for number, group in enumerate(groups, start=1) if name in group)
        ranks[name] = Rank(inside, 1 + better, len(names) - worse)
    return ranks


def _headline(ranks: dict[str, Rank], pairs: Sequence[Pair], cells: dict[str, Cell], *, is_of_runs: bool) -> str:
    if not ranks:
        return "Nothing was judged."
    if len(ranks) == 1:
        return f"{next(iter(ranks))} alone has outcomes: there is nothing to compare it with."
    before = "With one seed this is about these runs, not about the methods: " if is_of_runs else ""
    groups = [
        [name for name, rank in ranks.items() if number in rank.groups]
        for number in range(1, 1 + max(rank.rank for rank in ranks.values()))
    ]
    leaders = groups[0]
    beaten = [name for name in ranks if all(_is_better(leader, name, pairs) for leader in leaders)]
    better = "is better" if len(leaders) == 1 else "are better"
    sentences = [_together(leaders, pairs, cells)] if len(leaders) > 1 else []
    if beaten:
        is_rest = len(beaten) > 1 and len(beaten) + len(leaders) == len(ranks)
        others = "every other entrant" if is_rest else _listed(beaten)
        sentences.append(f"{_listed(leaders)} {better} than {others}")
    if len(leaders) == 1 and len(groups) > 1 and len(groups[1]) > 1:
        sentences.append(_together(groups[1], pairs, cells))
    return before + ". ".join(sentences) + "."


def _is_better(first: str, second: str, pairs: Sequence[Pair]) -> bool:
    return any(pair.is_told_apart and (pair.first, pair.second) == (first, second) for pair in pairs)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _together(group: Sequence[str], pairs: Sequence[Pair], cells: dict[str, Cell]) -> str:
    ordered = sorted(group, key=lambda name: -(cells[name].mean or 0))
    inside = [p for p in pairs if p.first in group and p.second in group and not p.is_told_apart]
    pair = next((p for p in inside if {p.first, p.second} == set(ordered[:2])), inside[0] if inside else None)
    words = f"{_listed(ordered)} cannot be told apart"
    if pair is None:
        return words
    seeds = f"{pair.num_seeds} seed{'s' if pair.num_seeds != 1 else ''}"
    named = "" if len(group) == 2 else f" between {pair.first} and {pair.second}"
    return (
        f"{words} with {seeds} and {pair.num_prompts:,} prompts; for the difference seen{named}, "
        f"{pair.difference:.1f} points, {pair.needs}"
    )


def _notes(
    cells: dict[str, Cell],
    pairs: Sequence[Pair],
    design: Design,
    prompts: Prompts,
    noisier_E: np.ndarray,
    *,
    is_of_runs: bool,
) -> tuple[str, ...]:
    notes = []
    if is_of_runs:
        notes.append(
            "One seed: the intervals are over prompts alone. What another training run would give is not known; "
            "differences and ranks are of these runs."
        )
    if not prompts.speaks_of_others:
        notes.append(f"The {prompts.words} are too few to speak of others: intervals speak for these alone.")
    for name, noisier in zip(design.names, noisier_E, strict=True):
        if noisier:
            notes.append(f"{name}: its runs differ more than the others' do; its intervals have its own spread.")
    if missing := {name: cell.num_missing for name, cell in cells.items() if cell.num_missing}:
        counts = ", ".join(f"{name} {count}" for name, count in missing.items())
        notes.append(f"Prompts without a score, left out of every pair that they are in: {counts}.")
    num = len(pairs)
    if num:
        notes.append(
            f"{num} difference{'s' if num != 1 else ''} in one family: the probability of any false one is at most "
            f"{100 * (1 - LEVEL):.0f} %."
        )
    return tuple(notes)
