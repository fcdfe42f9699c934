"""The page of a tournament: headline, table, forest plots, frontier, curves of every seed, answers, commands.

    frontier  win rate by mean length of the answers, one point per run: what is won by longer answers lies to the right
    curves    of each trained entrant the paper's Figures 3 to 5, seeds over one another with their mean, and the reward
              by length and by KL: where the reward rises while the win rate does not, the reward is over-optimised

Shape letters: E entrants, S seeds, P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from alignkit.charts.curves import Curve, read_metrics
from alignkit.reports.page import Column, Example, Section, write_report
from alignkit.tournaments.results import Results
from alignkit.tournaments.table import Table, rows_of

NAME = "report.html"
_CURVES = {
    "loss": ("Training loss", "nats"),
    "validation/loss": ("Validation loss", "nats"),
    "validation/accuracy": ("Validation accuracy", "share, ties half"),
    "validation/reward": ("Validation reward", "reward"),
    "reward": ("Reward of the samples", "reward"),
    "validation/kl": ("KL to the reference, validation", "nats per token"),
    "kl": ("KL to the reference, samples", "nats per completion"),
}
_AGAINST = {
    "samples_length": ("Reward by length of the samples", "tokens"),
    "kl": ("Reward by KL to the reference", "nats per completion"),
}
_MOST_POINTS = 150  # of a line: fifteen runs are on the page
_MOST_EXAMPLES = 400
_EXCERPT = 200  # characters of a worst answer: its end, where loops and cuts show
_REFRESH_S = 20


def write_page(folder: Path, results: Results, table: Table, *, commands: Sequence[tuple[str, str]] = ()) -> Path:
    """Write FOLDER/report.html, whole or not at all, and return its path.

    Args:
        folder: of the tournament; the runs' metrics are read from there, one that has none yet has no curve.
        commands: (what it makes, the command) for each number on the page.

    Raises:
        InputError: a run's metrics cannot be read.
        RunStopped: the disk refuses.
    """
    columns = [Column("entrant", "entrant"), Column("rank", "rank", note="shared where two cannot be told apart")]
    columns += [
        Column(m.key, m.label, digits=m.digits, low=f"{m.key}_low", high=f"{m.key}_high", line=m.line)
        for m in table.measures
    ]
    num_seeds = len(results.seeds)
    best = next(iter(table.comparison.ranks), results.names[0])
    notes = [*table.notes, *_left_out(results)]
    write_report(
        folder / NAME,
        title=f"Tournament: {', '.join(results.names)}",
        note=(
            f"{len(results.entrants)} entrants, {num_seeds} seed{'s' if num_seeds != 1 else ''}, "
            f"{len(results.prompts):,} prompts, judge {results.judge}. Under each number stands its 95 % interval."
        ),
        points=[("Result", table.headline), *(("Note", note) for note in notes)],
        table=columns,
        rows=rows_of(table),
        curves=[*_frontier(results), *_curves(folder, results)],
        examples=_examples(results, best),
        answers_title=f"Answers: {best} against {results.opponents[0]}",
        sections=[*_sections(table, commands), *_health(results)],
        private=True,
    )
    return folder / NAME


def write_live_page(folder: Path, states: Mapping[str, str], *, stopped: str = "") -> None:
    """Write FOLDER/report.html of a tournament that runs: which pieces are done, and how far the others are.

    Args:
        states: "done", "running", "waiting" or "failed: REASON" by the piece's name.
        stopped: why it runs no more; "": it does.
    """
    done = sum(state == "done" for state in states.values())
    write_report(
        folder / NAME,
        title=f"Tournament: {done} of {len(states)} pieces done",
        note=f"It stopped: {stopped}. The same command goes on, in {folder}."
        if stopped
        else f"It runs in {folder}. This page loads itself again; the table stands here once all have been judged.",
        points=[("Runs", "A finished run has its own page, report.html in its folder NAME-SEED.")],
        table=[Column("piece", "entrant/seed"), Column("state", "state")],
        rows=[{"piece": name, "state": state} for name, state in states.items()],
        refresh_s=None if stopped else _REFRESH_S,
        private=True,
    )


def _left_out(results: Results) -> list[str]:
    notes = []
    if more := max(0, len(results.prompts) - _MOST_EXAMPLES):
        notes.append(f"Answers to {more:,} more prompts are in the tournament's folder, not on this page.")
    if len(results.seeds) > 1:
        notes.append("Answers are shown of one seed, the first that an entrant has.")
    return notes


def _sections(table: Table, commands: Sequence[tuple[str, str]]) -> Iterator[Section]:
    pairs = table.comparison.pairs
    if pairs:
        rows = [
            vars(pair)
            | {"names": f"{pair.first} - {pair.second}", "answer": "told apart" if pair.is_told_apart else pair.needs}
            for pair in pairs
        ]
        yield Section(
            "Differences",
            "All pairs are one family: the probability of any false difference is at most 5 %. An interval has the "
            "level at which its pair was tested, and excludes 0 where the two are told apart.",
            (
                Column("names", "pair"),
                Column("difference", "difference, points", low="low", high="high"),
                Column("p", "family-wise p", digits=3),
                Column("answer", "what is known"),
                Column("num_prompts", "prompts", digits=0),
                Column("num_missing", "left out", digits=0),
                Column("num_seeds", "seeds", digits=0),
            ),
            rows,
        )
    if table.sweeps:
        yield Section(
            "Sweeps",
            "Win rate in % against the first opponent, on the tuning prompts, which the table does not share; at each "
            "halving and at the end.",
            (Column("entrant", "entrant"), Column("answer", "what became of it"), Column("seen", "win rate")),
            [vars(row) | {"seen": row.seen} for row in table.sweeps],
        )
    if table.beside is not None:
        shown = [m for m in table.measures if m.key in table.beside.rows]
        columns = [Column("name", "entrant")]
        for m in shown:
            columns += [
                Column(m.key, f"{m.label}, here", digits=m.digits, low=f"{m.key}_low", high=f"{m.key}_high"),
                Column(f"printed_{m.key}", "printed"),
            ]
        rows = [
            row
            | {"name": row["entrant"]}
            | {f"printed_{m.key}": table.beside.rows[m.key].get(row["entrant"]) for m in shown}
            for row in rows_of(table)
        ]
        yield Section(f"Beside {table.beside.title}", " ".join(table.beside.notes), columns, rows)
    if commands:
        rows = [{"what": what, "command": command} for what, command in commands]
        yield Section("Commands", "", (Column("what", "what"), Column("command", "command")), rows)


def _health(results: Results) -> Iterator[Section]:
    """Every entrant's worst answer by each metric that has a better end, where answers differ."""
    rows = []
    for one in results.health.values():
        if one.more_is_better is None or np.isnan(one.x_ESP).all():
            continue
        worse_ESP = np.where(np.isnan(one.x_ESP), -math.inf, one.x_ESP * (-1 if one.more_is_better else 1))
        for e, entry in enumerate(results.entrants):
            s, p = np.unravel_index(worse_ESP[e].argmax(), worse_ESP[e].shape)
            if not math.isfinite(worse_ESP[e, s, p]) or np.nanmin(worse_ESP) == worse_ESP[e, s, p]:
                continue
            text = " ".join(str(results.text_ESP[e, s, p]).split())
            rows.append(
                {
                    "metric": one.label,
                    "entrant": entry.name if entry.method is None else f"{entry.name}, seed {results.seeds[s]}",
                    "mean": float(np.nanmean(one.x_ESP[e])),
                    "worst": float(one.x_ESP[e, s, p]),
                    "prompt": results.prompts[p][:_EXCERPT],
                    "text": text if len(text) <= _EXCERPT else "..." + text[-_EXCERPT:],
                }
            )
    if rows:
        columns = (
            Column("metric", "metric"),
            Column("entrant", "entrant"),
            Column("mean", "mean"),
            Column("worst", "worst"),
            Column("prompt", "prompt"),
            Column("text", "the end of the worst answer"),
        )
        yield Section("Health", "The worst answer of each entrant by each metric.", columns, rows)


def _frontier(results: Results) -> Iterator[Curve]:
    """One point per run: mean length and win rate against the first opponent."""
    series = {}
    for e, entry in enumerate(results.entrants):
        num_seeds = 1 if entry.method is None else len(results.seeds)
        runs = zip(results.length_ESP[e, :num_seeds], results.outcome_ESVP[e, :num_seeds, 0], strict=True)
        points = [
            (float(np.nanmean(length_P)), 100 * float(np.nanmean(outcome_P)))
            for length_P, outcome_P in runs
            if not np.isnan(length_P).all() and not np.isnan(outcome_P).all()
        ]
        if points:
            series[entry.name] = ([x for x, _ in points], [y for _, y in points])
    if series:
        title = f"Win rate against {results.opponents[0]} by length, one point per run"
        yield Curve(title, "mean length, tokens", "win rate, %", series, "Length and quality", is_scatter=True)


def _curves(folder: Path, results: Results) -> Iterator[Curve]:
    for entry in results.entrants:
        files = {
            f"seed {seed}": folder / results.runs[entry.name, seed] / "metrics.jsonl"
            for seed in results.seeds
            if (entry.name, seed) in results.runs
        }
        found = {name: read_metrics(file) for name, file in files.items() if file.exists()}
        for metric, (title, unit) in _CURVES.items():
            lines = {name: metrics[metric] for name, metrics in found.items() if metric in metrics}
            if lines:
                yield Curve(title, "optimizer step", unit, _with_mean(lines), entry.name)
        for metric, (title, unit) in _AGAINST.items():
            paths = {name: _path(m[metric], m["reward"]) for name, m in found.items() if metric in m and "reward" in m}
            if any(x for x, _ in paths.values()):
                yield Curve(title, unit, "reward", paths, entry.name, is_scatter=True)


def _with_mean(lines: Mapping[str, Mapping[int, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """Each seed's line and, of several, their mean at the steps that all have."""
    series = {name: _thinned(sorted(points.items())) for name, points in lines.items()}
    common = sorted(set.intersection(*(set(points) for points in lines.values())))
    if len(lines) > 1 and common:
        series["mean"] = _thinned([(s, sum(points[s] for points in lines.values()) / len(lines)) for s in common])
    return series


def _path(x_by_step: Mapping[int, float], y_by_step: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """(x, y) of the steps that have both."""
    return _thinned([(x_by_step[step], y_by_step[step]) for step in sorted(set(x_by_step) & set(y_by_step))])


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Means of neighbours, so that at most _MOST_POINTS are left."""
    known = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = max(1, math.ceil(len(known) / _MOST_POINTS))
    parts = [known[at : at + size] for at in range(0, len(known), size)]
    return [sum(x for x, _ in part) / len(part) for part in parts], [
        sum(y for _, y in part) / len(part) for part in parts
    ]


def _examples(results: Results, best: str) -> list[Example]:
    """One seed's answers to each prompt, the best entrant's first: its outcome is what the page filters by."""
    shown = []
    order = sorted(range(len(results.names)), key=lambda e: results.names[e] != best)
    for p in range(min(len(results.prompts), _MOST_EXAMPLES)):
        completions: dict[str, str] = {}
        scores: dict[str, float | None] = {}
        tokens: dict[str, int] = {}
        outcome = "missing"
        for e in order:
            entry = results.entrants[e]
            s = next((s for s in range(len(results.seeds)) if not math.isnan(results.length_ESP[e, s, p])), None)
            if s is None:
                continue
            label = entry.name if entry.method is None else f"{entry.name}, seed {results.seeds[s]}"
            completions[label] = str(results.text_ESP[e, s, p])
            score, length = float(results.score_ESP[e, s, p]), float(results.length_ESP[e, s, p])
            scores[label] = None if math.isnan(score) else score
            if not math.isnan(length):
                tokens[label] = int(length)
            if entry.name == best:
                outcome = _outcome(float(results.outcome_ESVP[e, s, 0, p]))
        if completions:
            shown.append(Example(results.prompts[p], completions, results.references[p], scores, tokens, outcome))
    return shown


def _outcome(x: float) -> str:
    if math.isnan(x):
        return "missing"
    return "win" if x > 0.5 else "loss" if x < 0.5 else "tie"
