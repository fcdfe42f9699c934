"""The prompts of guards, and what both models score on them; guards.py says whether they pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.config.file import Settings
from alignkit.data.prepared.selection import prompt_key
from alignkit.data.reading.read import read_rows
from alignkit.data.reading.rows import Row
from alignkit.errors import AlignkitError, InputError, UsageError
from alignkit.judging.answers import Answer, Answering, Answers, Generation
from alignkit.judging.caveats import judge_gave_reward, seen_in_training
from alignkit.judging.clustering import find_clusters
from alignkit.judging.evidence import text_hash
from alignkit.judging.guards import JUDGE, PERPLEXITY, GuardRow, GuardScores
from alignkit.judging.prompts import MAX_PROMPTS, Prompts
from alignkit.judging.scores import items, score_both, values, why_missing
from alignkit.pretrained.names import ModelSource
from alignkit.progress import Progress
from alignkit.registry import registry
from alignkit.scoring.default import default_judges
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.statistics.resampling import Clusters

_KIND = "kind"  # the column whose values are strata
_LARGEST_JUDGE_MARGIN = 50  # points of a win rate: no model loses more


@dataclass(frozen=True)
class GuardSet:
    """The rows of one guard, what scores them, and which are drawn together, within which strata."""

    name: str
    by: str
    margin: float | None
    rows: tuple[Row, ...]
    clusters: Clusters
    strata: Clusters
    units: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Side:
    """What one model makes of a guard: answers, or the references' log-probs with their numbers of tokens."""

    answers: Answers | None = None
    logprobs: Sequence[tuple[float, int] | None] = ()


def read_guards(settings: Settings, prompts: Prompts, models: tuple[ModelSource, ModelSource]) -> list[GuardSet]:
    """Read the guards that [judge] names, and say what weakens them; no model is loaded.

    Raises:
        UsageError: no such data, a guard named twice, rows that what scores them cannot score, or a margin that no
            model exceeds.
        InputError: as `read_rows`.
    """
    section = settings.judge
    specs = [_parsed(spec) for spec in section.guard]
    found = []
    for spec, name, by in specs:
        if specs.count((spec, name, by)) > 1:
            raise UsageError(f"--guard {spec} is named twice; leave one out")
        try:
            rows = [row for row in read_rows(name) if row.prompt]
        except AlignkitError as error:
            raise type(error)(f"--guard {spec}: {error}") from error
        if not rows:
            raise InputError(f"--guard {spec}: {name} has no prompts")
        found.append(_guard_set(spec, name, by, rows, settings, prompts, models))
    if section.guard_margin is not None and not found:
        raise UsageError("--guard-margin belongs to --guard DATA: name what is guarded, as general")
    return found


def num_judged(guards: Sequence[GuardSet]) -> int:
    """How many texts the verdict's judge scores for them at most."""
    return 2 * sum(len(guard.rows) for guard in guards if guard.by == JUDGE)


def check_judge(guards: Sequence[GuardSet], named: NamedJudge) -> None:
    """Check that the verdict's judge can score what it has to of the guards.

    Raises:
        AlignkitError: as the judge raises, with the guard's name.
    """
    for guard in guards:
        if guard.by == JUDGE:
            _ready(f"{guard.name}:{JUDGE}", named, guard.rows)


def score_guards(
    guards: Sequence[GuardSet],
    models: tuple[ModelSource, ModelSource],
    generations: tuple[Generation, Generation],
    named: NamedJudge,
    settings: Settings,
    progress: Progress,
) -> tuple[GuardScores, ...]:
    """Let both models answer, or predict, all guards' prompts, each loaded once, and score that.

    Args:
        named: the verdict's judge.
    """
    if not guards:
        return ()
    sides = [
        _measured(source, guards, settings, generation, progress)
        for source, generation in zip(models, generations, strict=True)
    ]
    return tuple(
        _scores(guard, ours, theirs, named, models[0]) for guard, ours, theirs in zip(guards, *sides, strict=True)
    )


def _parsed(spec: str) -> tuple[str, str, str | None]:
    """DATA[:NAME|perplexity|judge] as itself, the data, and what scores; NAME is a judge that anyone can check."""
    name, colon, by = spec.rpartition(":")
    if not spec.strip() or (colon and not (name and by)):
        raise UsageError(f"--guard {spec!r}: give DATA, as general or FILE, or DATA:{'|'.join(_scorers())}")
    if colon and name and by in _scorers():
        return spec, name, by
    return spec, spec, None


def _scorers() -> list[str]:
    return [*_checkable(), PERPLEXITY, JUDGE]


def _checkable() -> list[str]:
    """Names of the judges whose score anyone can check."""
    return [name for name in registry().names("judge") if registry().find("judge", name).verifiable]


def _guard_set(
    spec: str,
    name: str,
    by: str | None,
    rows: list[Row],
    settings: Settings,
    prompts: Prompts,
    models: tuple[ModelSource, ModelSource],
) -> GuardSet:
    section, notes = settings.judge, []
    if len(rows) > MAX_PROMPTS:
        order = np.random.Generator(np.random.Philox(key=section.seed)).permutation(len(rows))[:MAX_PROMPTS]
        notes.append(f"{MAX_PROMPTS} of its {len(rows):,} prompts, drawn by seed {section.seed}")
        rows = [rows[n] for n in sorted(order)]
    by = _checked(spec, by, rows, settings)
    keys = [prompt_key(row) for row in rows]
    grouping = find_clusters([row.fields for row in rows], keys, column=None)
    clusters, units = grouping.clusters, grouping.words
    templates = {row.fields.get("template") for row in rows}
    if len(templates) == 1 and templates != {None}:
        clusters, units = Clusters.of([0] * len(rows)), "all prompts are of one template"
    kinds = [str(row.fields.get(_KIND) or "") for row in rows]
    first_G = np.unique(clusters.number_P, return_index=True)[1]
    strata = Clusters.of([kinds[first_G[number]] for number in clusters.number_P])  # a cluster is of one kind
    if strata.num > 1:
        units += f" within {strata.num} kinds"
        notes += _lone_kinds(kinds, clusters)
    notes += _weakened(rows, keys, prompts, models)
    return GuardSet(name, by, section.guard_margin, tuple(rows), clusters, strata, units, tuple(notes))


def _checked(spec: str, by: str | None, rows: Sequence[Row], settings: Settings) -> str:
    """What scores the rows, after a look at whether it can.

    Raises:
        UsageError, InputError: it cannot; with the guard's name.
    """
    if by is None:
        fields = [row.fields for row in rows]
        able = [judge for judge in default_judges(fields, role="judge") if judge.verifiable]
        if not able:
            named = "".join(f", or {spec}:{name} (rows that it cannot score are missing)" for name in _checkable())
            raise UsageError(
                f"--guard {spec}: no judge that anyone can check can score all its rows; say what compares the models "
                f"there: {spec}:{PERPLEXITY} (of the reference answers), {spec}:{JUDGE} (the verdict's){named}"
            )
        by = able[0].name
    if by not in (JUDGE, PERPLEXITY):
        _ready(spec, make_judge(by), rows)
    if by == PERPLEXITY and not any(row.reference and row.reference.strip() for row in rows):
        raise UsageError(f"--guard {spec}: no row has a reference answer, whose perplexity would be compared")
    margin = settings.judge.guard_margin
    if by == JUDGE and margin is not None and margin >= _LARGEST_JUDGE_MARGIN:
        raise UsageError(
            f"--guard-margin {margin:g}: no model loses more than {_LARGEST_JUDGE_MARGIN} points of a win rate, "
            f"so that --guard {spec} would always pass"
        )
    return by


def _ready(spec: str, named: NamedJudge, rows: Sequence[Row]) -> None:
    try:
        named.ready(rows)
    except AlignkitError as error:
        raise type(error)(f"--guard {spec}: {error}") from error


def _lone_kinds(kinds: Sequence[str], clusters: Clusters) -> list[str]:
    """Say which kinds have one cluster alone."""
    within: dict[str, set[int]] = {}
    for kind, number in zip(kinds, clusters.number_P.tolist(), strict=True):
        within.setdefault(kind, set()).add(number)
    lone = [kind or "rows without a kind" for kind, numbers in within.items() if len(numbers) == 1]
    if not lone:
        return []
    shown = ", ".join(lone[:3]) + (f" and {len(lone) - 3} more" if len(lone) > 3 else "")
    return [f"of one template alone, so that its spread is not known and it is taken with another kind: {shown}"]


def _weakened(
    rows: Sequence[Row], keys: Sequence[str], prompts: Prompts, models: tuple[ModelSource, ModelSource]
) -> list[str]:
    """Prompts that were trained on, or judged in this verdict: what is no evidence of elsewhere."""
    notes = [
        note.replace("judged prompts", "its prompts")
        for model in models
        if model.run is not None
        for note in seen_in_training(rows, model.run, name=model.name)
    ]
    judged = set(prompts.keys)
    if common := sum(key in judged for key in keys):
        notes.append(f"{common} of {len(keys)} of its prompts are judged in this verdict too: that is not elsewhere")
    return notes


def _measured(
    source: ModelSource, guards: Sequence[GuardSet], settings: Settings, generation: Generation, progress: Progress
) -> list[_Side]:
    """What one model makes of each guard."""
    model = Answering(source, settings.model, generation)
    answered = [row for guard in guards if guard.by != PERPLEXITY for row in guard.rows]
    try:
        answers = model.answer(answered, progress=progress) if answered else []
    finally:
        model.sampler.close()
    sides, at = [], 0
    for guard in guards:
        if guard.by == PERPLEXITY:
            by_row = model.perplexity(guard.rows).by_row
            known = [by_row.get(row.id, (math.nan, 1, True)) for row in guard.rows]
            sides.append(_Side(logprobs=[None if is_cut else (-nats, size) for nats, size, is_cut in known]))
            continue
        own: tuple[Answer, ...] = tuple(answers[at : at + len(guard.rows)])
        at += len(own)
        sides.append(_Side(Answers(source.name, own, math.nan)))
    return sides


def _scores(guard: GuardSet, ours: _Side, theirs: _Side, named: NamedJudge, source: ModelSource) -> GuardScores:
    notes, judge, texts = list(guard.notes), None, ([None] * len(guard.rows),) * 2
    if guard.by == PERPLEXITY:
        pairs = [_nats(a, b) for a, b in zip(ours.logprobs, theirs.logprobs, strict=True)]
        if left_out := sum(a is None for a, _ in pairs):
            notes.append(f"{left_out} rows have no reference that fits whole into both models' rows")
    else:
        assert ours.answers is not None and theirs.answers is not None
        scorer = named if guard.by == JUDGE else make_judge(guard.by)
        both = score_both(scorer, items(ours.answers), items(theirs.answers))
        pairs = [
            (a, b) if math.isfinite(a - b) else (None, None)
            for a, b in zip(values(both.ours).tolist(), values(both.theirs).tolist(), strict=True)
        ]
        notes += filter(None, [why_missing(both), both.flip_note])
        notes += judge_gave_reward(source.run, scorer)
        judge = f"{scorer.label} {scorer.judge.version}"
        texts = tuple([text_hash(text) for text in side.answers.texts] for side in (ours, theirs))  # type: ignore[union-attr, assignment]
    return GuardScores(
        name=guard.name,
        by=guard.by,
        judge=judge,
        margin=guard.margin,
        units=guard.units,
        notes=tuple(notes),
        rows=tuple(
            GuardRow(
                prompt=prompt_key(row),
                ours=pairs[n][0],
                theirs=pairs[n][1],
                ours_text=texts[0][n],
                theirs_text=texts[1][n],
                cluster=int(guard.clusters.number_P[n]),
                stratum=int(guard.strata.number_P[n]),
            )
            for n, row in enumerate(guard.rows)
        ),
    )


def _nats(ours: tuple[float, int] | None, theirs: tuple[float, int] | None) -> tuple[float | None, float | None]:
    """Both models' log p of a reference, a token as the other model counts them."""
    if ours is None or theirs is None or not (math.isfinite(ours[0]) and math.isfinite(theirs[0])):
        return None, None
    return ours[0] / theirs[1], theirs[0] / theirs[1]
