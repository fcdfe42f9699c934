"""What a tournament's table shows: every measure's cell by entrant, and what has to be said beside.

    win rate against each opponent  comparison.py: interval over prompts and seeds
    length-adjusted                 judging/length_adjusted.py on all seeds' answers, the seeds of a prompt together
    length                          tokens of the answer; 100 (sum of lengths / sum of the references' - 1)
    excess                          the mean of max(0, length - reference's length), and what it is less an opponent's
    BLEU-1, -2, -4                  judging/bleu.py, the mean over seeds
    perplexity                      exp(sum of nats / sum of tokens) of the references; its interval is that of the
                                    logarithm's linear part per prompt (nats - r tokens) / mean tokens, r the ratio
    health                          the mean of each metric of the answers
    second opinion                  the win rate by the second judge, on the prompts that it read
    off-task                        length, perplexity and health of answers to other prompts; judging/guards.py says
                                    whether an entrant lost there against the base
    KL from the base                on the entrant's own answers (answer_kl.py): sum of nats / sum of tokens
    KL from the start               of the run's last validation that measured it

Shape letters: E entrants, S seeds, V opponents, P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alignkit.judging.bleu import ORDERS, corpus_bleu
from alignkit.judging.guards import Guard, GuardRow, GuardScores, guard_of
from alignkit.judging.guards import shown as guard_line
from alignkit.judging.length_adjusted import length_adjusted
from alignkit.statistics.resampling import Clusters
from alignkit.tournaments.comparison import Cell, Comparison, Design, Prompts, averages, compare
from alignkit.tournaments.results import BASE, START, Results

_NOT_NEGATIVE = (0.0, math.inf)
DIRECTLY = "Ranks and differences are by win rates against"
_ADJUSTED_RESAMPLES = 2000


@dataclass(frozen=True)
class Measure:
    """One row: a cell by entrant, None where there is none; `line` is where neither side is better."""

    key: str
    label: str
    cells: Mapping[str, Cell | None]
    digits: int = 1
    note: str = ""
    line: float | None = None


@dataclass(frozen=True)
class Measures:
    """All rows of a table with what has to be said beside, and the comparison by each opponent's outcomes."""

    rows: tuple[Measure, ...]
    by_opponent: tuple[Comparison, ...]
    notes: tuple[str, ...]


def measures_of(results: Results) -> Measures:
    """Compute every measure; the first opponent is the headline's."""
    design = design_of(results)
    prompts = prompts_of(results)
    by_opponent = [
        compare(results.outcome_ESVP[:, :, v], design, prompts, alone=_alone(results, opponent))
        for v, opponent in enumerate(results.opponents)
    ]
    rows = [
        Measure(f"win_rate_{number}" if number else "win_rate", against(opponent), found.cells, line=50.0)
        for number, (opponent, found) in enumerate(zip(results.opponents, by_opponent, strict=True))
    ]
    notes = [*_directly(results, by_opponent), *by_opponent[0].notes, *results.caveats]
    if empty := _without_words(results):
        notes.append(f"All answers of {', '.join(empty)} are empty: a win of theirs is none of words.")
    adjusted, reasons = _adjusted(results, prompts)
    rows.append(Measure("length_adjusted", "length-adjusted win rate %", adjusted, line=50.0))
    for reason in dict.fromkeys(reasons.values()):
        names = ", ".join(name for name, own in reasons.items() if own == reason)
        notes.append(f"No length-adjusted win rate of {names}: {reason}.")
    rows += _second(results, notes)
    rows += [*_lengths(results, design, prompts), *_bleu(results), *_perplexity(results, design, prompts, notes)]
    rows += _health(results, design, prompts)
    rows += _off_task(results, notes)
    rows += _kl(results, design, prompts, notes)
    rows += _of_training(results, notes)
    notes += [f"{name}: {stamp}" for name, stamp in results.stamps.items()]
    notes += [f"{name}, seed {seed}: {reason}" for (name, seed), reason in results.failed.items()]
    if results.money:
        notes.append(f"Money: {results.money}.")
    if results.drawn:
        notes.append(f"Answers: {results.drawn}.")
    notes.append(f"Judge: {results.judge}; the units of all intervals: {results.cluster_words}.")
    known = [row for row in rows if any(cell is not None and cell.mean is not None for cell in row.cells.values())]
    return Measures(tuple(known), tuple(by_opponent), tuple(notes))


def _directly(results: Results, by_opponent: Sequence[Comparison]) -> list[str]:
    """Say where two answer so differently that their own row shows it, and the first opponent cannot tell them apart.

    All pairs are compared by their rates against the first opponent; against a weak one both may be near 100 %.
    """
    alike = {frozenset((pair.first, pair.second)) for pair in by_opponent[0].pairs if not pair.is_told_apart}
    found: dict[frozenset[str], str] = {}
    for opponent, comparison in zip(results.opponents[1:], by_opponent[1:], strict=True):
        for entry in results.entrants:
            other = str(entry.start) if opponent == START else opponent
            cell, pair = comparison.cells[entry.name], frozenset((entry.name, other))
            if pair not in alike or cell.mean is None or cell.low is None or cell.high is None:
                continue
            if not cell.low <= 50 <= cell.high:
                between = f"{cell.mean:.1f} % ({cell.low:.1f} to {cell.high:.1f})"
                found.setdefault(pair, f"{entry.name} wins {between} against {other}")
    if not found:
        return []
    note = (
        f"{DIRECTLY} {results.opponents[0]}, which cannot tell apart what a direct comparison can: "
        f"{'; '.join(found.values())}. Each of these intervals stands by itself."
    )
    return [note]


def _without_words(results: Results) -> list[str]:
    """Entrants with answers, all of them empty."""
    found = []
    for name, length_SP, text_SP in zip(results.names, results.length_ESP, results.text_ESP, strict=True):
        texts = text_SP[~np.isnan(length_SP)]
        if len(texts) and not any(str(text).strip() for text in texts):
            found.append(name)
    return found


def design_of(results: Results) -> Design:
    """What entrants share."""
    return Design(
        results.names,
        tuple(entry.start for entry in results.entrants),
        tuple(entry.method is not None for entry in results.entrants),
    )


def prompts_of(results: Results) -> Prompts:
    """Which prompts are no independent evidence of each other."""
    clusters = Clusters.of(np.asarray(results.cluster_P).tolist())
    return Prompts(clusters, Clusters.of(results.prompts), results.cluster_words)


def against(opponent: str) -> str:
    return "win rate % vs own start" if opponent == START else f"win rate % vs {opponent}"


def _alone(results: Results, opponent: str) -> list[str]:
    """Entrants with nothing to compare: the opponent itself, with START what started from no entrant, what failed."""
    return [
        e.name
        for e in results.entrants
        if e.name == opponent
        or (opponent == START and e.start is None)
        or all((e.name, seed) in results.failed for seed in results.seeds)
    ]


def _of_runs(results: Results, x_ES: np.ndarray) -> dict[str, Cell | None]:
    """Means over runs alone, without an interval."""
    found: dict[str, Cell | None] = {}
    for name, x_S in zip(results.names, x_ES, strict=True):
        known = x_S[~np.isnan(x_S)]
        found[name] = Cell(float(known.mean()), num_seeds=len(known)) if len(known) else None
    return found


def _adjusted(results: Results, prompts: Prompts) -> tuple[dict[str, Cell | None], dict[str, str]]:
    cells: dict[str, Cell | None] = {}
    reasons: dict[str, str] = {}
    for e, name in enumerate(results.names):
        num_seeds = results.outcome_ESVP.shape[1] if results.entrants[e].method is not None else 1
        outcome = results.outcome_ESVP[e, :num_seeds, 0].ravel()
        delta = (results.rival_length_ESVP[e, :num_seeds, 0] - results.length_ESP[e, :num_seeds]).ravel()
        known = ~np.isnan(outcome) & ~np.isnan(delta)
        cells[name] = None
        if not known.any():
            continue
        clusters = Clusters(np.tile(prompts.clusters.number_P, num_seeds), prompts.clusters.num).where(known)
        found = length_adjusted(outcome[known], delta[known], clusters, seed=0, num_resamples=_ADJUSTED_RESAMPLES)
        if found.rate is None:
            reasons[name] = found.reason
        else:
            cells[name] = Cell(found.rate, found.low, found.high, num_seeds, int(known.sum()))
    return cells, reasons


def _lengths(results: Results, design: Design, prompts: Prompts) -> list[Measure]:
    reference_ESP = np.broadcast_to(results.reference_length_P, results.length_ESP.shape)
    ratio = _ratio(results.length_ESP, reference_ESP, design, prompts)
    excess_ESP = np.maximum(0, results.length_ESP - reference_ESP)
    rows = [
        Measure(
            "length", "length, tokens", averages(results.length_ESP, design, prompts, within=_NOT_NEGATIVE), digits=0
        ),
        Measure(
            "excess_length",
            "longer than references by %",
            {name: _mapped(cell, lambda x: 100 * (x - 1)) for name, cell in ratio.items()},
            line=0.0,
        ),
        Measure("excess", "tokens over the reference", averages(excess_ESP, design, prompts, within=_NOT_NEGATIVE)),
    ]
    for v, opponent in enumerate(results.opponents):
        less_ESP = excess_ESP - np.maximum(0, results.rival_length_ESVP[:, :, v] - reference_ESP)
        whose = "own start's" if opponent == START else f"{opponent}'s"
        key = f"excess_vs_{v}" if v else "excess_vs"
        label = f"tokens over the reference, less {whose}"
        rows.append(Measure(key, label, averages(less_ESP, design, prompts), line=0.0))
    return rows


def _perplexity(results: Results, design: Design, prompts: Prompts, notes: list[str]) -> list[Measure]:
    ratio = _ratio(results.nats_ESP, results.reference_tokens_ESP, design, prompts)
    cells = {name: _mapped(cell, math.exp) for name, cell in ratio.items()}
    has_answer = ~np.isnan(results.length_ESP)
    left_out = int((np.isnan(results.reference_tokens_ESP) & has_answer).sum())
    cut = int(np.nansum(results.reference_cut_ESP))
    if any(cell.mean is not None for cell in cells.values()) and (left_out or cut):
        notes.append(f"Perplexity: {left_out} references were left out and {cut} were cut at the end of their row.")
    return [Measure("perplexity", "perplexity of the references", cells, digits=2)]


def _ratio(over_ESP: np.ndarray, under_ESP: np.ndarray, design: Design, prompts: Prompts) -> dict[str, Cell]:
    """sum over / sum under of each run, averaged over runs, with the interval of its linear part; none is negative."""
    over_ESP, under_ESP = np.asarray(over_ESP, dtype=np.float64), np.array(under_ESP, dtype=np.float64)
    missing = np.isnan(over_ESP) | np.isnan(under_ESP)
    over, under = np.where(missing, 0.0, over_ESP), np.where(missing, 0.0, under_ESP)
    total = np.maximum(under.sum(-1, keepdims=True), 1e-300)
    ratio = over.sum(-1, keepdims=True) / total
    count = np.maximum((~missing).sum(-1, keepdims=True), 1)
    linear_ESP = ratio + (over - ratio * under) * count / total
    return averages(np.where(missing, math.nan, linear_ESP), design, prompts, within=_NOT_NEGATIVE)


def _mapped(cell: Cell, to: Callable[[float], float]) -> Cell:
    ends = [None if x is None else to(x) for x in (cell.mean, cell.low, cell.high)]
    return replace(cell, mean=ends[0], low=ends[1], high=ends[2])


def _bleu(results: Results) -> list[Measure]:
    found: dict[int, dict[str, Cell | None]] = {order: {} for order in ORDERS}
    for e, name in enumerate(results.names):
        scores = []
        for s in range(len(results.seeds) if results.entrants[e].method is not None else 1):
            there = [p for p in range(len(results.prompts)) if not np.isnan(results.length_ESP[e, s, p])]
            bleu = corpus_bleu([results.text_ESP[e, s, p] for p in there], [results.references[p] for p in there])
            if bleu is not None:
                scores.append((bleu.bleu1, bleu.bleu2, bleu.bleu4))
        for number, order in enumerate(ORDERS):
            mean = float(np.mean([score[number] for score in scores])) if scores else None
            found[order][name] = None if mean is None else Cell(mean, num_seeds=len(scores))
    return [Measure(f"bleu{order}", f"BLEU-{order}", cells) for order, cells in found.items()]


def _health(results: Results, design: Design, prompts: Prompts, *, key: str = "", label: str = "") -> list[Measure]:
    return [
        Measure(
            key + name,
            label + one.label,
            averages(one.x_ESP, design, prompts, within=_within(one.label)),
            digits=one.digits,
        )
        for name, one in results.health.items()
    ]


def _within(label: str) -> tuple[float, float]:
    """What a metric's mean lies between, by its unit."""
    return (0.0, 100.0) if "%" in label else (-math.inf, math.inf)


def _second(results: Results, notes: list[str]) -> list[Measure]:
    """The second judge's win rate against the first opponent."""
    second = results.second
    if second is None:
        return []
    cells = compare(second.outcome_ESVP[:, :, 0], design_of(second), prompts_of(second)).cells
    num = max((cell.num_prompts for cell in cells.values()), default=0)
    notes.append(f"The second judge, {second.judge}, read the first {num:,} prompts.")
    notes += [f"{name}, second judge: {stamp}" for name, stamp in second.stamps.items()]
    return [Measure("second", f"second judge: {against(results.opponents[0])}", cells, line=50.0)]


def _off_task(results: Results, notes: list[str]) -> list[Measure]:
    """What training did elsewhere, and whether an entrant lost there."""
    off = results.off_task
    if off is None:
        return []
    design, prompts, label = design_of(off), prompts_of(off), "off-task: "
    rows = [
        Measure(
            "off_task_length",
            f"{label}length, tokens",
            averages(off.length_ESP, design, prompts, within=_NOT_NEGATIVE),
            digits=0,
        )
    ]
    rows += [replace(m, key=f"off_task_{m.key}", label=label + m.label) for m in _perplexity(off, design, prompts, [])]
    rows += [m for m in _health(off, design, prompts, key="off_task_", label=label) if m.key == "off_task_repetition"]
    guards = guards_of(results)
    notes += [f"Off-task guard against base, {names}: {line}." for line, names in _alike(guards)]
    return rows


def _alike(guards: Mapping[str, Guard]) -> list[tuple[str, str]]:
    """What is said of each guard, with the names that it is said of; those that pass are said together."""
    passed = {name: guard for name, guard in guards.items() if guard.answer == "passes"}
    found = [(guard_line(guard), name) for name, guard in guards.items() if name not in passed]
    if len(passed) < 2:
        return [(guard_line(guard), name) for name, guard in passed.items()] + found
    nearest = min(passed, key=lambda name: (passed[name].low or 0.0) + (passed[name].margin or 0.0))
    return [
        (f"pass; nearest to its margin is {nearest}, which {guard_line(passed[nearest])}", ", ".join(passed)),
        *found,
    ]


def guards_of(results: Results) -> dict[str, Guard]:
    """Whether each trained entrant predicts the off-task references as well as the base does, within a margin.

    A prompt's difference is the mean over the entrant's runs, so that a guard speaks of these runs.
    """
    off = results.off_task
    if off is None or BASE not in off.names:
        return {}
    base = off.names.index(BASE)
    tokens_P = off.reference_tokens_ESP[base, 0]
    theirs_P = -off.nats_ESP[base, 0] / tokens_P
    found = {}
    for e, entry in enumerate(off.entrants):
        runs = [s for s in range(len(off.seeds)) if not np.isnan(off.nats_ESP[e, s]).all()]
        if entry.method is None or not runs or np.isnan(theirs_P).all():
            continue
        ours_P = -off.nats_ESP[e, runs].mean(0) / tokens_P
        rows = [
            GuardRow(prompt=row, ours=_known(ours), theirs=_known(theirs), cluster=int(cluster), stratum=0)
            for row, ours, theirs, cluster in zip(off.prompt_ids, ours_P, theirs_P, off.cluster_P, strict=True)
        ]
        scores = GuardScores(name="off-task", by="perplexity", units=off.cluster_words, rows=tuple(rows))
        found[entry.name] = guard_of(scores)
    return found


def _known(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _kl(results: Results, design: Design, prompts: Prompts, notes: list[str]) -> list[Measure]:
    """How far each entrant is from the base, and by its own validation from its start; why where it is not known."""
    from_base: dict[str, Cell | None] = dict(_ratio(results.kl_nats_ESP, results.kl_tokens_ESP, design, prompts))
    from_start = _of_runs(results, results.kl_ES)
    trained = [entry.name for entry in results.entrants if entry.method is not None]
    answered = [name for name in trained if (~np.isnan(results.length_ESP[results.names.index(name)])).any()]
    unknown = [name for name in answered if (cell := from_base[name]) is None or cell.mean is None]
    empty = [name for name in unknown if name in _without_words(results)]
    if empty:
        notes.append(f"No KL from the base of {', '.join(empty)}: all answers are empty.")
    if other := [name for name in unknown if name not in empty]:
        notes.append(f"No KL from the base of {', '.join(other)}: not begun with the base, or no answer fits.")
    if unknown := [name for name in answered if from_start[name] is None]:
        notes.append(f"No KL from the start of {', '.join(unknown)}: no validation measured it, without a reference.")
    return [
        Measure("kl_base", "KL from the base on own answers, nats a token", from_base, digits=3),
        Measure("kl", "KL from the start, nats a token", from_start, digits=3),
    ]


def _of_training(results: Results, notes: list[str]) -> list[Measure]:
    """What the runs took and say of themselves."""
    clipped = _of_runs(results, 100 * results.clipped_ES)
    whole = [name for name, cell in clipped.items() if cell is not None and cell.mean == 100]
    if whole:
        notes.append(
            f"Every step of {', '.join(whole)} was clipped to max_grad_norm: there the gradient's direction counted "
            "and its length did not."
        )
    paid = {name: results.paid.get(name) for name in results.names}
    return [
        Measure("clipped", "steps clipped %", clipped, digits=0),
        Measure("minutes", "minutes of training", _of_runs(results, results.minutes_ES)),
        Measure("answer_minutes", "minutes of answering", _of_runs(results, results.answer_minutes_ES)),
        Measure("tokens", "tokens trained on, k", _of_runs(results, results.tokens_ES / 1000)),
        Measure("peak_mib", "peak memory, MiB", _of_runs(results, results.peak_mib_ES), digits=0),
        Measure("requests", "paid requests at most", {n: one and Cell(one[0]) for n, one in paid.items()}, digits=0),
        Measure("money", "money at most", {n: one and Cell(one[1]) for n, one in paid.items()}, digits=2),
    ]
