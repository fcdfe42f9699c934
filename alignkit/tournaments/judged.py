"""From answers to `Results`: each answer is scored once by one judge, and compared with every opponent's.

What the judge was asked before is in the ledger, so that a further entrant or seed costs its own scores alone. Shape
letters as in results.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.charts.curves import read_metrics
from alignkit.config.settings import JudgeSection
from alignkit.data.prepared.selection import prompt_key
from alignkit.data.reading.messages import text_of_turn
from alignkit.data.reading.rows import Row
from alignkit.errors import RunStopped
from alignkit.judging.answers import Answer, Answers
from alignkit.judging.caveats import judge_gave_reward
from alignkit.judging.clustering import find_clusters
from alignkit.judging.metrics import all_metrics
from alignkit.judging.scores import items, score_both, values
from alignkit.pretrained.names import find_model
from alignkit.pretrained.read import load_tokenizer
from alignkit.runs import read_run
from alignkit.scoring.specs import NamedJudge
from alignkit.statistics.win_rate import outcomes
from alignkit.storage import read_object
from alignkit.tournaments.entrants import Tournament
from alignkit.tournaments.prompts import OFF_TASK, TEST, Asked, whole_part
from alignkit.tournaments.results import START, Entry, Health, Results, Rung
from alignkit.tournaments.work import Place, failure, read_answers

Side = tuple[str, int]
"""An entrant or opponent, and its seed."""


class Judging:
    """The answers of a finished tournament, to be made into `Results`."""

    def __init__(self, made: Tournament, place: Place, asked: Asked, note: Callable[[str], None]) -> None:
        self.made, self.place, self.asked, self.note = made, place, asked, note
        self._entries = {entry.name: entry for entry in (*made.entrants, *made.opponents)}

    def results(self, named: NamedJudge, entrants: Sequence[Entry], part: str, *, first: int | None = None) -> Results:
        """Judge some entrants on a part of the prompts, perhaps on the first so many alone.

        Raises:
            AlignkitError: as the judge raises; what it scored before is kept.
        """
        rows = self.asked.rows(part)
        answered = self._answered(entrants, part)
        measured = self._measured(entrants, part, answered)
        seen = slice(0, first)
        score_S, outcome = self._outcomes(named, {s: a[seen] for s, a in answered.items()}, entrants, len(rows))
        stamps = {}
        for entry in entrants:
            said = [judge_gave_reward(self.place.run(entry, seed), named) for seed in self.made.seeds_of(entry)[:1]]
            if entry.method is not None and (lines := [line for one in said for line in one]):
                stamps[entry.name] = "; ".join(lines)
        grouping = find_clusters(
            [row.fields for row in rows], [prompt_key(row) for row in rows], column=self.made.settings.judge.cluster
        )
        missing = [side for side, score_P in score_S.items() if np.isnan(score_P[seen]).any()]
        caveats = [f"some answers of {name}-{seed} have no score" for name, seed in missing]
        return replace(
            measured,
            judge=named.label,
            outcome_ESVP=outcome,
            score_ESP=self._spread(entrants, score_S, len(rows)),
            cluster_P=grouping.clusters.number_P,
            cluster_words=grouping.words,
            stamps=stamps,
            caveats=tuple(caveats),
        )

    def off_task(self, entrants: Sequence[Entry]) -> Results | None:
        """Measure the answers to other prompts, without a judge."""
        if OFF_TASK not in self.asked.parts:
            return None
        rows = self.asked.parts[OFF_TASK]
        grouping = find_clusters([row.fields for row in rows], [prompt_key(row) for row in rows], column=None)
        measured = self._measured(entrants, OFF_TASK, self._answered(entrants, OFF_TASK))
        return replace(measured, cluster_P=grouping.clusters.number_P, cluster_words=grouping.words)

    def _answered(self, entrants: Sequence[Entry], part: str) -> dict[Side, list[Answer]]:
        """The answers of everybody whose answers are compared, by side."""
        sides: dict[Side, list[Answer]] = {}
        wanted = [*entrants, *(self._entries[name] for name in self._named_opponents())]
        wanted += [self._entries[entry.start] for entry in entrants if entry.start is not None]
        for entry in wanted:
            for seed in self.made.seeds_of(entry):
                file = self._file(entry, seed, part)
                if (entry.name, seed) not in sides and file.with_suffix(".json").exists():
                    sides[entry.name, seed] = read_answers(file, self.asked.rows(part))
        return sides

    def _file(self, entry: Entry, seed: int, part: str) -> Path:
        return self.place.answers(entry, seed, part if entry.sweep is not None else whole_part(part))

    def _named_opponents(self) -> list[str]:
        return [name for name in self.made.section.vs if name != START]

    def _opponent(self, entry: Entry, seed: int, name: str) -> Side | None:
        """Whose answers an entrant's are compared with; None: there are none, or they are its own."""
        found = entry.start if name == START else name
        if found is None or found == entry.name:
            return None
        return found, self._seed(self._entries[found], seed)

    def _seed(self, entry: Entry, seed: int) -> int:
        return seed if entry.method is not None else self.made.seeds[0]

    def _outcomes(
        self, named: NamedJudge, answered: Mapping[Side, Sequence[Answer]], entrants: Sequence[Entry], num: int
    ) -> tuple[dict[Side, np.ndarray], np.ndarray]:
        """Scores by side, float64 [P] (nan behind the last that was read), and outcomes, float64 [E, S, V, P]."""
        seeds, opponents = self.made.seeds, self.made.section.vs
        outcome = np.full((len(entrants), len(seeds), len(opponents), num), math.nan)
        score_S: dict[Side, np.ndarray] = {}
        as_items = {side: items(Answers(side[0], tuple(answers), math.nan)) for side, answers in answered.items()}
        if not named.judge.pairwise:
            scores = iter(named.score([item for one in as_items.values() for item in one]))  # a prompt once for all
            score_S = {side: values([next(scores) for _ in one]) for side, one in as_items.items()}
        met: dict[tuple[Side, Side], np.ndarray] = {}
        for e, entry in enumerate(entrants):
            for s, seed in enumerate(seeds):
                ours = entry.name, self._seed(entry, seed)
                for v, name in enumerate(opponents):
                    theirs = self._opponent(entry, seed, name)
                    if theirs is None or ours not in answered or theirs not in answered:
                        continue
                    if (ours, theirs) not in met:
                        if named.judge.pairwise:
                            both = score_both(named, as_items[ours], as_items[theirs])
                            met[ours, theirs] = outcomes(values(both.ours), values(both.theirs))
                        else:
                            met[ours, theirs] = outcomes(score_S[ours], score_S[theirs])
                    outcome[e, s, v, : len(met[ours, theirs])] = met[ours, theirs]
        whole = {side: np.concatenate([x, np.full(num - len(x), math.nan)]) for side, x in score_S.items()}
        return whole, outcome

    def _measured(self, entrants: Sequence[Entry], part: str, answered: Mapping[Side, list[Answer]]) -> Results:
        """Everything that needs no judge."""
        made, rows = self.made, self.asked.rows(part)
        spread = self._spread
        by_side: dict[str, dict[Side, Any]] = {
            name: {} for name in ("length", "text", "nats", "tokens", "reference_cut", "seconds", "kl", "kl_tokens")
        }
        health: dict[str, dict[Side, np.ndarray]] = {}
        for side, answers in answered.items():
            about = read_object(self._file(self._entries[side[0]], side[1], part).with_suffix(".json"))
            known = [about["by_row"].get(row.id, (math.nan, math.nan, math.nan)) for row in rows]
            columns = np.array(known, dtype=np.float64).T
            by_side["nats"][side], by_side["tokens"][side], by_side["reference_cut"][side] = columns
            if part == TEST and (file := self.place.kl(self._entries[side[0]], side[1])).exists():
                of_row = read_object(file)["by_row"]
                kl = [of_row.get(row.id, (math.nan, math.nan)) for row in rows]
                by_side["kl"][side], by_side["kl_tokens"][side] = np.array(kl, dtype=np.float64).T
            by_side["length"][side] = np.array([answer.num_tokens for answer in answers], dtype=np.float64)
            by_side["text"][side] = np.array([answer.text for answer in answers], dtype=object)
            by_side["seconds"][side] = float(about["seconds"])
            for name, value_P in _health(Answers(side[0], tuple(answers), math.nan)).items():
                health.setdefault(name, {})[side] = value_P
        metrics = {metric.name: metric for metric in all_metrics()}
        num = len(rows)
        rival = np.full((len(entrants), len(made.seeds), len(made.section.vs), num), math.nan)
        for e, entry in enumerate(entrants):
            for s, seed in enumerate(made.seeds):
                for v, name in enumerate(made.section.vs):
                    theirs = self._opponent(entry, seed, name)
                    if theirs is not None and theirs in by_side["length"]:
                        rival[e, s, v] = by_side["length"][theirs]
        ended = {
            (entry.name, seed): _end_of(self.place.run(entry, seed))
            for entry in entrants
            for seed in made.seeds_of(entry)
            if entry.method is not None and (entry.name, seed) in answered
        }
        per_run: dict[str, Callable[[Mapping[str, Any]], float]] = {
            "minutes_ES": lambda end: end["seconds"] / 60,
            "peak_mib_ES": lambda end: end["peak_mib"],
            "tokens_ES": lambda end: end["tokens"],
            "clipped_ES": _share_clipped,
            "kl_ES": lambda end: end["kl"],
        }
        trained: dict[str, Any] = {
            name: self._per_run(entrants, {side: of(end) for side, end in ended.items()})
            for name, of in per_run.items()
        }
        parents = {
            (entry.name, seed): self.place.run(self._entries[entry.start], seed).name
            for entry in entrants
            if entry.start is not None and self._entries[entry.start].method is not None
            for seed in made.seeds
        }
        reasons = {
            (entry.name, seed): failure(self.place, entry, seed) or "it has no answers"
            for entry in (*entrants, *made.opponents)
            for seed in made.seeds_of(entry)
            if (entry.name, seed) not in answered
        }
        return Results(
            entrants=tuple(replace(entry, options=_plain(entry.options)) for entry in entrants),
            seeds=made.seeds,
            opponents=tuple(made.section.vs),
            judge="",
            prompt_ids=tuple(row.id for row in rows),
            prompts=tuple(text_of_turn(row.prompt[-1]) for row in rows),
            references=tuple(row.reference for row in rows),
            cluster_P=np.arange(num, dtype=np.int64),
            cluster_words="prompts",
            outcome_ESVP=np.full(rival.shape, math.nan),
            score_ESP=np.full((len(entrants), len(made.seeds), num), math.nan),
            length_ESP=spread(entrants, by_side["length"], num),
            rival_length_ESVP=rival,
            reference_length_P=_reference_lengths(made, rows),
            nats_ESP=spread(entrants, by_side["nats"], num),
            reference_tokens_ESP=spread(entrants, by_side["tokens"], num),
            reference_cut_ESP=spread(entrants, by_side["reference_cut"], num),
            kl_nats_ESP=spread(entrants, by_side["kl"], num),
            kl_tokens_ESP=spread(entrants, by_side["kl_tokens"], num),
            text_ESP=spread(entrants, by_side["text"], num, nothing=""),
            answer_minutes_ES=self._per_run(entrants, {side: x / 60 for side, x in by_side["seconds"].items()}),
            health={
                name: Health(spread(entrants, found, num), one.label, one.digits, one.more_is_better)
                for name, found in health.items()
                for one in (metrics[name],)
            },
            failed=reasons,
            runs={side: self.place.run(self._entries[side[0]], side[1]).name for side in ended},
            parents=parents,
            drawn=_drawn(made.settings.judge),
            **trained,
        )

    def _spread(
        self, entrants: Sequence[Entry], by_side: Mapping[Side, np.ndarray], num: int, *, nothing: object = math.nan
    ) -> np.ndarray:
        """Lay numbers of sides, [P] each, into [E, S, P]; what is not trained stands under every seed."""
        kind: Any = object if nothing == "" else np.float64
        laid = np.full((len(entrants), len(self.made.seeds), num), nothing, dtype=kind)
        for e, entry in enumerate(entrants):
            for s, seed in enumerate(self.made.seeds):
                side = entry.name, self._seed(entry, seed)
                if side in by_side:
                    laid[e, s] = by_side[side]
        return laid

    def _per_run(self, entrants: Sequence[Entry], by_side: Mapping[Side, float]) -> np.ndarray:
        return np.array(
            [
                [by_side.get((entry.name, self._seed(entry, seed)), math.nan) for seed in self.made.seeds]
                for entry in entrants
            ],
            dtype=np.float64,
        ).reshape(len(entrants), len(self.made.seeds))


def _drawn(how: JudgeSection) -> str:
    """How answers are drawn, in words."""
    if how.num_beams > 1:
        way = f"beam search of width {how.num_beams}, length penalty {how.length_penalty:g}"
    elif how.temperature > 0:
        top = f", top-p {how.top_p:g}" if how.top_p < 1 else ""
        way = f"one sample a prompt at temperature {how.temperature:g}{top}"
    else:
        way = "the likeliest token at each place"
    return f"{way}, at most {how.max_new_tokens} tokens"


def pick(results: Results, sweeps: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The entrant of each sweep with the best mean outcome against the first opponent, over seeds and prompts.

    Raises:
        RunStopped: none of a sweep's entrants has an outcome for every seed.
    """
    return {sweep: names[0] for sweep, names in _standing(results, sweeps).items()}


def better_half(results: Results, sweeps: Mapping[str, Sequence[str]]) -> list[str]:
    """The better half of what is left of each sweep, rounded up. Raises as `pick`."""
    left = {sweep: sum(name in results.names for name in names) for sweep, names in sweeps.items()}
    standing = _standing(results, sweeps)
    return [name for sweep, names in standing.items() for name in names[: math.ceil(left[sweep] / 2)]]


def _standing(results: Results, sweeps: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The entrants of each sweep that have outcomes of every seed, best first; the first of equals stays first."""
    rate = {
        name: float(np.nanmean(outcome_SP))
        for name, outcome_SP in zip(results.names, results.outcome_ESVP[:, :, 0], strict=True)
        if not np.isnan(outcome_SP).all(-1).any()
    }
    found = {}
    for sweep, names in sweeps.items():
        found[sweep] = sorted((name for name in names if name in rate), key=lambda name: -rate[name])
        if not found[sweep]:
            raise RunStopped(f"sweep of {sweep}: no entrant has outcomes of every seed; go on with the same command")
    return found


def rung_of_results(results: Results, made: Tournament, rung: int) -> Rung:
    """What results on the tuning prompts say of a sweep after so many halvings."""
    parts = [made.parts(made.entrant(name)) for name in results.names]
    steps = tuple(None if part is None else sum(part[: rung + 1]) for part in parts)
    sweeps = tuple(str(entry.sweep) for entry in results.entrants)
    return Rung(results.names, sweeps, steps, results.outcome_ESVP[:, :, 0])


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them."""
    found: dict[str, Any] = json.loads(json.dumps(dict(options), default=str))
    return found


def _health(answers: Answers) -> dict[str, np.ndarray]:
    """Every metric with one number per answer, float64 [P], in its label's unit."""
    found = {}
    for metric in all_metrics():
        value = metric.values(answers)
        if value is not None:
            value_P = np.asarray(value, dtype=np.float64)
            if value_P.shape != (len(answers.answers),):
                raise RunStopped(
                    f"metric {metric.name!r} gave {value_P.shape} numbers for {len(answers.answers)} answers"
                )
            found[metric.name] = metric.scale * value_P
    return found


def _reference_lengths(made: Tournament, rows: Sequence[Row]) -> np.ndarray:
    """Tokens of each reference by the common model's tokenizer, end token included; nan without one."""
    source = find_model(made.entrants[0].model, tokenizer_is_enough=True)
    tokenizer = load_tokenizer(source.folder)
    return np.array(
        [
            math.nan
            if row.reference is None
            else len(tokenizer(row.reference, add_special_tokens=False)["input_ids"]) + 1
            for row in rows
        ],
        dtype=np.float64,
    )


def _end_of(run: Path) -> dict[str, Any]:
    """What run.json says of a finished run, and as `kl` the validation's KL of the weights that it kept."""
    end = read_run(run).finished or {}
    of_step = read_metrics(run / "metrics.jsonl").get("validation/kl", {})
    known = [step for step in of_step if step <= end.get("kept_step", math.inf)]
    return {**end, "kl": of_step[max(known)] if known else math.nan}


def _share_clipped(end: Mapping[str, Any]) -> float:
    found = end.get("tally", {}).get("grad_clipped")
    return found["steps"] / found["of"] if found else math.nan
