"""The table of a tournament: a column an entrant, a row a measure, as text, JSON, CSV and LaTeX.

    win rate against each opponent  comparison.py: interval over prompts and seeds
    length-adjusted                 judging/length_adjusted.py on all seeds' answers, the seeds of a prompt together
    length, excess length           tokens of the answer; 100 (sum of lengths / sum of the references' - 1)
    BLEU-1, -2, -4                  judging/bleu.py, the mean over seeds
    perplexity                      exp(sum of nats / sum of tokens) of the references; its interval is that of the
                                    logarithm's linear part per prompt (nats - r tokens) / mean tokens, r the ratio
    health                          the mean of each metric of the answers

Every measure without a number is a dash, never 0.
Shape letters: E entrants, S seeds, V opponents, P prompts.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.judging.bleu import ORDERS, corpus_bleu
from alignkit.judging.length_adjusted import length_adjusted
from alignkit.statistics.resampling import Clusters
from alignkit.tournaments.comparison import Cell, Comparison, Design, Prompts, averages, compare
from alignkit.tournaments.planning import Pick, pick
from alignkit.tournaments.results import START, Results

WIDTH = 80
_LABEL = 20
_COLUMN = 12
_ADJUSTED_RESAMPLES = 2000
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}"} | {char: "\\" + char for char in "&%$#_{}"}


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
class Beside:
    """Another table of the same entrants, shown beside ours as it was published: never compared by a test."""

    title: str
    rows: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """What is shown of a tournament: a headline, a measure a row, the differences of all pairs, notes."""

    entrants: tuple[str, ...]
    headline: str
    measures: tuple[Measure, ...]
    comparison: Comparison
    notes: tuple[str, ...]
    picks: Mapping[str, tuple[str, Pick]]
    beside: Beside | None = None

    def text(self) -> str:
        """The table at 80 columns: at most five entrants beside each other."""
        lines = [*textwrap.wrap(self.headline, WIDTH), ""]
        for at in range(0, len(self.entrants), 5):
            lines += [*self._block(self.entrants[at : at + 5]), ""]
        if self.comparison.pairs:
            lines += ["Differences in points, of all pairs", *_pair_lines(self.comparison), ""]
        if self.beside is not None:
            lines += [self.beside.title]
            for name, numbers in self.beside.rows.items():
                lines += textwrap.wrap(
                    f"{name}: " + ", ".join(f"{k} {v}" for k, v in numbers.items()), WIDTH, subsequent_indent="  "
                )
            lines += [line for note in self.beside.notes for line in _bullet(note)] + [""]
        lines += [line for note in self.notes for line in _bullet(note)]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def json(self) -> str:
        """Everything that `text` shows, as numbers."""
        content = {
            "headline": self.headline,
            "measures": [
                {"key": m.key, "label": m.label, "cells": {n: c and vars(c) for n, c in m.cells.items()}}
                for m in self.measures
            ],
            "ranks": {name: vars(rank) for name, rank in self.comparison.ranks.items()},
            "pairs": [vars(pair) for pair in self.comparison.pairs],
            "picks": {name: {"entrant": entrant, **vars(found)} for name, (entrant, found) in self.picks.items()},
            "notes": list(self.notes),
        }
        return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def csv(self) -> str:
        """A row an entrant; of each measure the mean and its bounds, empty where there is none."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        ends = ("", "_low", "_high")
        writer.writerow(["entrant", "rank", *(m.key + end for m in self.measures for end in ends)])
        for name in self.entrants:
            rank = self.comparison.ranks.get(name)
            cells = [m.cells.get(name) or Cell(None) for m in self.measures]
            numbers = [x for cell in cells for x in (cell.mean, cell.low, cell.high)]
            writer.writerow([name, rank or "", *("" if x is None else repr(x) for x in numbers)])
        return out.getvalue()

    def latex(self) -> str:
        """A tabular with a row an entrant; bounds are small, under the number's own line."""
        shown = [m for m in self.measures if any(m.cells.get(name) for name in self.entrants)]
        head = " & ".join(["", "rank", *(_latex(m.label) for m in shown)])
        rows = []
        for name in self.entrants:
            rank = self.comparison.ranks.get(name)
            cells = [_latex_cell(m.cells.get(name), m.digits) for m in shown]
            rows.append(" & ".join([_latex(name), str(rank) if rank else "--", *cells]) + r" \\")
        notes = [f"% {note}" for note in (self.headline, *self.notes)]
        columns = "l" + "r" * (len(shown) + 1)
        body = [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            head + r" \\",
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
        ]
        return "\n".join([*(note.replace("\n", " ") for note in notes), *body]) + "\n"

    def _block(self, names: Sequence[str]) -> list[str]:
        heads = [textwrap.wrap(name, _COLUMN - 1) or [""] for name in names]
        depth = max(map(len, heads))
        lines = [_line("", [([""] * (depth - len(h)) + h)[n] for h in heads]) for n in range(depth)]
        ranks = [self.comparison.ranks.get(name) for name in names]
        lines.append(_line("rank", ["-" if rank is None else str(rank) for rank in ranks]))
        for measure in self.measures:
            cells = [measure.cells.get(name) for name in names]
            labels = textwrap.wrap(measure.label, _LABEL - 1)
            under = ["" if c is None or c.low is None else _bounds(c, measure.digits) for c in cells]
            lines.append(_line(labels[0], [_number(None if c is None else c.mean, measure.digits) for c in cells]))
            rest = [*labels[1:]]
            if any(under) or rest:
                lines.append(_line(rest[0] if rest else "", under))
            lines += [_line(label, []) for label in rest[1:]]
        return lines


def make_table(results: Results, *, beside: Beside | None = None) -> Table:
    """Compute the table; the first opponent is the headline's."""
    design = Design(
        results.names,
        tuple(entry.start for entry in results.entrants),
        tuple(entry.method is not None for entry in results.entrants),
    )
    prompts = prompts_of(results)
    by_opponent = [compare(results.outcome_ESVP[:, :, v], design, prompts) for v in range(len(results.opponents))]
    measures = [
        Measure(f"win_rate_{number}" if number else "win_rate", _against(opponent), found.cells, line=50.0)
        for number, (opponent, found) in enumerate(zip(results.opponents, by_opponent, strict=True))
    ]
    notes = [*by_opponent[0].notes, *results.caveats]
    adjusted, reasons = _adjusted(results, prompts)
    measures.append(Measure("length_adjusted", "length-adjusted win rate %", adjusted, line=50.0))
    notes += [f"No length-adjusted win rate of {name}: {reason}." for name, reason in reasons.items()]
    measures += [*_lengths(results, design, prompts), *_bleu(results), *_perplexity(results, design, prompts, notes)]
    measures += [
        Measure(name, name.replace("_", " "), averages(x_ESP, design, prompts), digits=3)
        for name, x_ESP in results.health.items()
    ]
    measures += [
        Measure("cut", "answers cut %", averages(100 * results.cut_ESP, design, prompts)),
        Measure("minutes", "minutes of training", _of_runs(results, results.minutes_ES)),
        Measure("tokens", "tokens trained on, k", _of_runs(results, results.tokens_ES / 1000)),
        Measure("peak_mib", "peak memory, MiB", _of_runs(results, results.peak_mib_ES), digits=0),
    ]
    notes += [f"{name}: {stamp}" for name, stamp in results.stamps.items()]
    notes += [f"{name}, seed {seed}: {reason}" for (name, seed), reason in results.failed.items()]
    if results.money:
        notes.append(f"The judge's requests: {results.money}.")
    notes.append(f"{results.cluster_words}; judge: {results.judge}.")
    picks = _picks(results)
    notes += [_pick_line(sweep, name, found) for sweep, (name, found) in picks.items()]
    shown = [m for m in measures if any(cell is not None and cell.mean is not None for cell in m.cells.values())]
    return Table(results.names, by_opponent[0].headline, tuple(shown), by_opponent[0], tuple(notes), picks, beside)


def prompts_of(results: Results) -> Prompts:
    """Which prompts are no independent evidence of each other."""
    clusters = Clusters.of(np.asarray(results.cluster_P).tolist())
    return Prompts(clusters, Clusters.of(results.prompts), results.cluster_words)


def _against(opponent: str) -> str:
    return "win rate % vs own start" if opponent == START else f"win rate % vs {opponent}"


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
    excess = _ratio(
        results.length_ESP, np.broadcast_to(results.reference_length_P, results.length_ESP.shape), design, prompts
    )
    return [
        Measure("length", "length, tokens", averages(results.length_ESP, design, prompts), digits=0),
        Measure(
            "excess_length",
            "longer than references by %",
            {name: _mapped(cell, lambda x: 100 * (x - 1)) for name, cell in excess.items()},
            line=0.0,
        ),
    ]


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
    """sum over / sum under of each run, averaged over runs, with the interval of its linear part."""
    over_ESP, under_ESP = np.asarray(over_ESP, dtype=np.float64), np.array(under_ESP, dtype=np.float64)
    missing = np.isnan(over_ESP) | np.isnan(under_ESP)
    over, under = np.where(missing, 0.0, over_ESP), np.where(missing, 0.0, under_ESP)
    total = np.maximum(under.sum(-1, keepdims=True), 1e-300)
    ratio = over.sum(-1, keepdims=True) / total
    count = np.maximum((~missing).sum(-1, keepdims=True), 1)
    linear_ESP = ratio + (over - ratio * under) * count / total
    return averages(np.where(missing, math.nan, linear_ESP), design, prompts)


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


def _picks(results: Results) -> dict[str, tuple[str, Pick]]:
    """Of each sweep the entrant that won on the tuning prompts, and what its win rate there promises too much."""
    found: dict[str, tuple[str, Pick]] = {}
    tuning = results.tuning
    if tuning is None:
        return found
    for sweep in results.picked:
        members = [e for e, entry in enumerate(tuning.entrants) if entry.sweep == sweep]
        outcome_KSP = tuning.outcome_ESVP[members, :, 0]
        seeds = ~np.isnan(outcome_KSP).all((0, 2))
        outcome_KSP = outcome_KSP[:, seeds]
        known_P = ~np.isnan(outcome_KSP).any((0, 1))
        if len(members) < 2 or known_P.sum() < 2:
            continue
        best = pick(outcome_KSP[:, :, known_P], prompts_of(tuning).clusters.where(known_P))
        found[sweep] = (tuning.names[members[best.number]], best)
    return found


def _pick_line(sweep: str, name: str, found: Pick) -> str:
    seeds = (
        "what one seed's luck adds is not known"
        if found.of_seeds is None
        else f"{found.of_seeds:.1f} of them are its runs' luck, which these runs keep on other prompts too"
    )
    return (
        f"Sweep {sweep}: {name} won on the tuning prompts with {found.mean:.1f} %, which promises about "
        f"{found.optimism:.1f} points too much; {seeds}."
    )


def _pair_lines(comparison: Comparison) -> list[str]:
    lines = []
    for pair in comparison.pairs:
        names = f"{pair.first} - {pair.second}"
        numbers = f"{pair.difference:+.1f} ({pair.low:.1f} to {pair.high:.1f})"
        answer = "told apart" if pair.is_told_apart else pair.needs or "not told apart"
        left = f"; {pair.num_missing} prompts left out" if pair.num_missing else ""
        lines += textwrap.wrap(
            f"{names}: {numbers}, {answer}{left}", WIDTH, initial_indent="  ", subsequent_indent="    "
        )
    return lines


def _bullet(note: str) -> list[str]:
    return textwrap.wrap(note, WIDTH, initial_indent="- ", subsequent_indent="  ")


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:<{_LABEL}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _number(x: float | None, digits: int) -> str:
    return "-" if x is None else f"{x:.{digits}f}"


def _bounds(cell: Cell, digits: int) -> str:
    if cell.low is None or cell.high is None:
        return ""
    text = (
        f"{cell.low:.{digits}f}-{cell.high:.{digits}f}"
        if cell.low >= 0
        else f"{cell.low:.{digits}f}..{cell.high:.{digits}f}"
    )
    return text if len(text) < _COLUMN else f"{cell.low:.3g}..{cell.high:.3g}"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))


def _latex_cell(cell: Cell | None, digits: int) -> str:
    if cell is None or cell.mean is None:
        return "--"
    number = _number(cell.mean, digits).replace("-", "$-$")
    if cell.low is None or cell.high is None:
        return number
    low, high = (_number(x, digits).replace("-", "$-$") for x in (cell.low, cell.high))
    return rf"{number} {{\small [{low}, {high}]}}"


def rows_of(table: Table) -> list[dict[str, Any]]:
    """A row an entrant for a report: every measure's number and bounds by key."""
    rows = []
    for name in table.entrants:
        rank = table.comparison.ranks.get(name)
        row: dict[str, Any] = {"entrant": name, "rank": None if rank is None else str(rank)}
        for measure in table.measures:
            cell = measure.cells.get(name) or Cell(None)
            row |= {measure.key: cell.mean, f"{measure.key}_low": cell.low, f"{measure.key}_high": cell.high}
        rows.append(row)
    return rows
