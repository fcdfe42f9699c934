"""The table of a tournament: a column an entrant, a row a measure (measures.py), as text, JSON, CSV and LaTeX.

Every measure without a number is a dash, never 0.
Shape letters: K entrants of a sweep, S seeds, P prompts.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.tournaments.comparison import Cell, Comparison
from alignkit.tournaments.measures import DIRECTLY, Measure, measures_of, prompts_of
from alignkit.tournaments.planning import Pick, pick
from alignkit.tournaments.results import Beside, Results

if TYPE_CHECKING:
    import polars

WIDTH = 80
_LABEL = 20
_COLUMN = 12
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}"} | {char: "\\" + char for char in "&%$#_{}"}


@dataclass(frozen=True)
class SweptRow:
    """What became of one entrant of a sweep.

    Args:
        rates: (steps so far, win rate in % on the tuning prompts) at each halving that it saw and at the end; steps
            None: nothing was halved; the rate None: it has no outcomes.
    """

    sweep: str
    entrant: str
    rates: tuple[tuple[int | None, float | None], ...]
    answer: str

    @property
    def seen(self) -> str:
        """Its rates in words."""
        said = ["no outcomes" if rate is None else f"{rate:.1f} %" for _, rate in self.rates]
        said = [
            text if steps is None else f"{text} after {steps} steps"
            for text, (steps, _) in zip(said, self.rates, strict=True)
        ]
        return ", ".join(said)

    def __str__(self) -> str:
        return f"{self.entrant}: {self.seen}; {self.answer}"


@dataclass(frozen=True)
class Table:
    """What is shown of a tournament: a headline, a measure a row, the differences of all pairs, notes.

    `report` is the page's file, where there is one.
    """

    entrants: tuple[str, ...]
    headline: str
    measures: tuple[Measure, ...]
    comparison: Comparison
    notes: tuple[str, ...]
    picks: Mapping[str, tuple[str, Pick]]
    sweeps: tuple[SweptRow, ...] = ()
    beside: Beside | None = None
    report: Path | None = None

    @property
    def best(self) -> str | None:
        """The entrant with the highest rate of the first rank; None where nothing was judged."""
        return next(iter(self.comparison.ranks), None)

    @property
    def frame(self) -> polars.DataFrame:
        """A row an entrant; of each measure its number and bounds."""
        import polars

        return polars.DataFrame(rows_of(self), infer_schema_length=None)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text())}</pre>"

    def text(self) -> str:
        """The table at 80 columns: at most five entrants beside each other."""
        lines = [*textwrap.wrap(self.headline, WIDTH), ""]
        for at in range(0, len(self.entrants), 5):
            lines += [*self._block(self.entrants[at : at + 5]), ""]
        if self.comparison.pairs:
            lines += ["Differences in points, of all pairs", *_pair_lines(self.comparison), ""]
        if self.sweeps:
            lines += ["Sweeps, win rate against the first opponent on the tuning prompts"]
            for row in self.sweeps:
                lines += textwrap.wrap(str(row), WIDTH, initial_indent="  ", subsequent_indent="    ")
            lines.append("")
        if self.beside is not None:
            lines += [line for note in self.beside.notes for line in _bullet(f"{self.beside.title}: {note}")]
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
            "sweeps": [vars(row) for row in self.sweeps],
            "picks": {name: {"entrant": entrant, **vars(found)} for name, (entrant, found) in self.picks.items()},
            "beside": self.beside and vars(self.beside),
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
            if self.beside is not None and (row := self.beside.rows.get(measure.key)) is not None:
                words = textwrap.wrap(self.beside.title, _LABEL - 3)
                lines.append(_line(f"  {words[0]}", [row.get(name, "-") for name in names]))
                lines += [_line(f"  {label}", []) for label in words[1:]]
        return lines


def make_table(results: Results) -> Table:
    """Compute the table; the first opponent is the headline's."""
    found = measures_of(results)
    picks = _picks(results)
    notes = (
        *found.notes,
        *(
            _pick_line(sweep, name, best, _as_good(results, sweep, name), is_halved=len(results.rungs) > 1)
            for sweep, (name, best) in picks.items()
        ),
    )
    first = found.by_opponent[0]
    notes += tuple(_halved_lines(results))
    headline = first.headline
    if any(note.startswith(DIRECTLY) for note in notes):
        headline += f" That is by win rates against {results.opponents[0]}; a direct comparison tells more, see below."
    return Table(results.names, headline, found.rows, first, notes, picks, _swept(results), results.beside)


def _swept(results: Results) -> tuple[SweptRow, ...]:
    """A row an entrant, each sweep's winner first and what was left behind last."""
    if not results.rungs:
        return ()
    names = list(results.rungs[0].names)
    rates: dict[str, list[tuple[int | None, float | None]]] = {name: [] for name in names}
    for rung in results.rungs:
        for name, steps, outcome_SP in zip(rung.names, rung.steps, rung.outcome_KSP, strict=True):
            is_known = not np.isnan(outcome_SP).all(-1).any()
            rates[name].append((steps, 100 * float(np.nanmean(outcome_SP)) if is_known else None))
    sweep_of = dict(zip(names, results.rungs[0].sweeps, strict=True))
    rows = []
    for name in names:
        last = len(rates[name]) == len(results.rungs)
        answer = "picked" if name in results.picked.values() else "not picked" if last else "left behind"
        rows.append(SweptRow(sweep_of[name], name, tuple(rates[name]), answer))
    order = list(results.picked)

    def place(row: SweptRow) -> tuple[int, bool, int, float]:
        return order.index(row.sweep), row.answer != "picked", -len(row.rates), -(row.rates[-1][1] or 0.0)

    return tuple(sorted(rows, key=place))


def _halved_lines(results: Results) -> list[str]:
    """Say that a halved run is not the run that the others are."""
    steps = [rung.steps[0] for rung in results.rungs if rung.steps and rung.steps[0] is not None]
    if len(steps) < 2:
        return []
    ends = ", ".join(str(end) for end in steps[:-1])
    note = (
        f"Halved sweeps were trained in {len(steps)} parts, to step {ends} and {steps[-1]}, each with a warm-up and a "
        "schedule of its own; every other run had one part of as many steps."
    )
    return [note]


def _picks(results: Results) -> dict[str, tuple[str, Pick]]:
    """Of each sweep the entrant that won on the tuning prompts, and what its win rate there promises too much.

    A halving chooses on the same prompts and runs before: the most that any of the choices promises too much counts.
    """
    found: dict[str, tuple[str, Pick]] = {}
    if results.tuning is None:
        return found
    clusters = prompts_of(results.tuning).clusters
    for sweep, winner in results.picked.items():
        picks = []
        for rung in results.rungs:
            known = ~np.isnan(rung.outcome_KSP).all(-1).any(-1)  # what failed was not chosen from
            members = [k for k in range(len(rung.names)) if known[k] and rung.sweeps[k] == sweep]
            outcome_KSP = rung.outcome_KSP[members]
            known_P = ~np.isnan(outcome_KSP).any((0, 1))
            if len(members) > 1 and known_P.sum() > 1:
                picks.append(pick(outcome_KSP[:, :, known_P], clusters.where(known_P)))
        if picks:
            most = max(picks, key=lambda one: one.optimism)
            at = results.rungs[-1].names.index(winner)
            found[sweep] = (winner, replace(most, mean=100 * float(np.nanmean(results.rungs[-1].outcome_KSP[at]))))
    return found


def _as_good(results: Results, sweep: str, winner: str) -> list[str]:
    """The other entrants of a sweep with the winner's rate on the tuning prompts: the first of equals was picked."""
    last = results.rungs[-1]
    rate = {
        name: float(np.nanmean(outcome_SP))
        for name, own, outcome_SP in zip(last.names, last.sweeps, last.outcome_KSP, strict=True)
        if own == sweep and not np.isnan(outcome_SP).all(-1).any()
    }
    return [name for name in rate if name != winner and math.isclose(rate[name], rate[winner], abs_tol=1e-9)]


def _pick_line(sweep: str, name: str, found: Pick, equals: Sequence[str], *, is_halved: bool) -> str:
    about = "at most about" if is_halved else "about"  # a halving's choice is not of the same runs' ends
    seeds = (
        "what one seed's luck adds is not known"
        if found.of_seeds is None
        else f"{found.of_seeds:.1f} of them are its runs' luck, which these runs keep on other prompts too"
    )
    won = f"was picked as the first, as good as {', '.join(equals)}," if equals else "won"
    return (
        f"Sweep {sweep}: {name} {won} on the tuning prompts with {found.mean:.1f} %, which promises {about} "
        f"{found.optimism:.1f} points too much; {seeds}."
    )


def _pair_lines(comparison: Comparison) -> list[str]:
    lines = []
    for pair in comparison.pairs:
        names = f"{pair.first} - {pair.second}"
        numbers = f"{pair.difference:+z.1f} ({pair.low:z.1f} to {pair.high:z.1f})"
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
    if x is None:
        return "-"
    text = f"{x:z.{digits}f}"
    return text if len(text) < _COLUMN else _short(x)


def _short(x: float) -> str:
    """In as few characters as a number of one digit has: 2e4."""
    mantissa, _, exponent = f"{x:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _bounds(cell: Cell, digits: int) -> str:
    """Both ends, with as many digits as leave a space before the next column."""
    if cell.low is None or cell.high is None:
        return ""
    between = "-" if cell.low >= 0 else ".."
    texts = [f"{cell.low:z.{n}f}{between}{cell.high:z.{n}f}" for n in range(digits, -1, -1)]
    texts.append(f"{_short(cell.low)}{between}{_short(cell.high)}")
    return next((text for text in texts if len(text) < _COLUMN), texts[-1])


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
