"""The steps of a verdict: models, prompts, judge, answers, scores, win rate, length, caveats, verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np

from alignkit.config.file import Settings
from alignkit.config.settings import JudgeSection
from alignkit.errors import UsageError
from alignkit.judging import verdict_files
from alignkit.judging.answers import Answers, Generation, answers_of
from alignkit.judging.auto import Choice, choose_judge, newest_run
from alignkit.judging.caveats import caveats_of
from alignkit.judging.clustering import Grouping, find_clusters
from alignkit.judging.decision import decide, is_free, level_of, why_free
from alignkit.judging.health import measure
from alignkit.judging.length import Pairs, length_facts
from alignkit.judging.metrics import figures_of
from alignkit.judging.planner import LEVEL, POWER, detectable
from alignkit.judging.prompts import Prompts, choose_prompts
from alignkit.judging.rounds import SHARES, Judged, expected_prompts, levels_of, rounds_of, why_whole
from alignkit.judging.scores import differences, items, judge_noise, score_both, values, why_missing
from alignkit.judging.verdict import JudgeName, Unscored, Verdict, make_verdict
from alignkit.pretrained.names import ModelSource, find_model
from alignkit.pretrained.weights import check_weights, weights_fingerprint
from alignkit.progress import Progress
from alignkit.runs import read_run
from alignkit.scoring.confirm_cost import confirm_cost
from alignkit.scoring.ledger import canonical, open_ledger
from alignkit.scoring.looks import check_looks, count_look, pair_of
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import outcomes, without_interval


def judge_model(model: str | None, settings: Settings, *, data_given: bool, yes: bool, progress: Progress) -> Verdict:
    """Judge `model` against `settings.judge.vs`; default: the newest finished run against what it started from.

    The verdict of a run is also kept in its folder, under verdicts/.

    Raises:
        UsageError: there is nothing to judge or to compare with, no judge, or a paid judge without consent.
        Unscored: no prompt has a score on both sides; that is no look, and no verdict is kept.
    """
    section = settings.judge
    source, vs = _models(model, section.vs, progress)
    # what is asked, and which prompts are no independent evidence of each other
    prompts = choose_prompts(
        source, settings.data, data_given=data_given, num_prompts=section.num_prompts, seed=section.seed, vs=vs
    )
    weights = (weights_fingerprint(source.folder), weights_fingerprint(vs.folder))
    grouping = find_clusters([row.fields for row in prompts.rows], prompts.keys, column=section.cluster)
    # who decides; its cost is agreed to before anything is drawn
    named = _agreed_judge(prompts, settings, yes=yes, note=progress.note)
    progress.note(_power(grouping.clusters))
    num_distinct = len(set(prompts.keys))
    free = is_free(num_distinct, section.difference)
    parts = _parts(section, named, grouping, is_free=free, note=progress.note)
    judged, look, look_id, level = None, None, "", LEVEL
    with closing(named.judge):
        named.judge.ready([row.fields for row in prompts.rows])
        for number, part in enumerate(parts):
            rows = [prompts.rows[n] for n in part]
            ours, theirs = (
                answers_of(one, rows, section=settings.model, generation=how, progress=progress)
                for one, how in zip((source, vs), _generations(source, vs, settings), strict=True)
            )
            found = Judged(part, ours, theirs, score_both(named, items(ours), items(theirs)))
            judged = found if judged is None else judged.with_more(found)
            if look is None and not np.isnan(judged.outcome_P).all():
                # each further look at the same pair is judged at a stricter level; one that could find nothing is none
                look_id = _look_id(prompts, settings, named, (ours, theirs), in_rounds=len(parts) > 1)
                look = _count_look((source, vs), weights, look_id, is_free=free)
                level = level_of(look)
            at = levels_of(level)[number] if len(parts) > 1 else level
            grouped = grouping.where(judged.number_P)
            rate = grouped.rate(judged.outcome_P, seed=section.seed, level=at)
            if number < len(parts) - 1 and decide(rate, margin=section.margin) != "not enough evidence":
                break
        assert judged is not None
        ours, theirs = judged.ours, judged.theirs
        again = [score_both(named, items(ours), items(theirs), repeat=k) for k in range(1, 1 + section.rejudge)]
    # of several scorings the first decides, the others measure the judge's noise
    scorings = [(values(one.ours), values(one.theirs)) for one in (judged.scored, *again)]
    results = [outcomes(a_P, b_P) for a_P, b_P in scorings]
    missing, is_unscored = why_missing(judged.scored), bool(np.isnan(results[0]).all())
    here = grouping.alone
    # what is measured beside the rate speaks of the sources at hand, where these are too few to speak of others
    units = here.clusters if here else grouped.clusters
    pairs = Pairs(results[0], _chars(ours), _chars(theirs), differences(*scorings[0]), units)
    seen = replace(prompts, rows=tuple(prompts.rows[n] for n in judged.number_P))
    caveats = caveats_of(source, vs, seen, named, ours, theirs)
    if free and not is_unscored:
        rate = without_interval(rate, why := why_free(num_distinct, section.difference))
        caveats.append(f"no verdict, and no look at this pair: {why}")
    verdict = make_verdict(
        rate,
        run=source.name,
        vs=vs.name,
        judge=JudgeName(name=named.label, version=named.judge.version, verifiable=named.judge.verifiable),
        margin=section.margin,
        ours=figures_of(ours),
        theirs=figures_of(theirs),
        prompts=prompts.source,
        seed=section.seed,
        caveats=[*caveats, *filter(None, [judged.scored.flip_note, missing])],
        length=length_facts(pairs, seed=section.seed, level=at),
        look=look,
        pair=pair_of(weights),
        look_id=look_id or None,
        units=grouped.words,
        here=None
        if here is None or look is None
        else (here.rate(results[0], seed=section.seed, level=level), here.words),
        rounds=_said_of_rounds(number + 1, len(seen.rows), len(prompts.rows), named) if len(parts) > 1 else None,
        noise=judge_noise(results),
        health=measure(ours, theirs, seed=section.seed, clusters=units),
        fingerprint=prompts.fingerprint,
    )
    if is_unscored:
        what = f"{source.name} against {vs.name}: {missing}"
        raise Unscored(
            f"{what}; no prompt has both, so there is no verdict: mend what is missing, judge again", verdict
        )
    if source.run is not None:
        verdict_files.keep(source.run, verdict)
    return verdict


def _models(model: str | None, vs: str | None, progress: Progress) -> tuple[ModelSource, ModelSource]:
    source = find_model(model) if model is not None else _newest(progress)
    other = find_model(vs) if vs is not None else _start_of(source, progress)
    check_looks(open_ledger())
    for one in (source, other):
        check_weights(one.folder)  # or the first model's answers would be lost with the second
    return source, other


def _agreed_judge(prompts: Prompts, settings: Settings, *, yes: bool, note: Callable[[str], None]) -> NamedJudge:
    """Make the judge that is named, or choose one, with consent where it is paid."""
    section = settings.judge
    num_items = 2 * len(prompts.rows) * (1 + section.rejudge)
    chosen = Choice(section.judge, "it was named")
    if section.judge == "auto":
        chosen = choose_judge(prompts.rows, settings, num_items=num_items, yes=yes)
    note(f"judge: {chosen.spec}, because {chosen.why}; {len(prompts.rows)} prompts: {prompts.source}")
    named = make_judge(chosen.spec, settings, named_at=("judge", "judge"))
    confirm_cost([named] if not chosen.is_agreed else [], num_items, yes=yes)
    return named


def _newest(progress: Progress) -> ModelSource:
    run = newest_run()
    if run is None:
        raise UsageError("nothing to judge: there is no finished run under runs/; name a run or a model")
    progress.note(f"judging {run}, the newest finished run")
    return find_model(str(run))


def _start_of(source: ModelSource, progress: Progress) -> ModelSource:
    if source.run is None:
        raise UsageError(f"name what {source.name} is compared with: --vs MODEL")
    record = read_run(source.run)
    start = record.parent or record.model
    progress.note(f"comparing with {start}, which the run started from; another is named by --vs")
    return find_model(start)


def _generations(source: ModelSource, vs: ModelSource, settings: Settings) -> tuple[Generation, Generation]:
    """How each side is drawn: alike, but a model against itself under another seed, or every prompt would tie."""
    ours = Generation.of(settings)
    if source.folder.resolve() != vs.folder.resolve() or ours.temperature == 0:
        return ours, ours
    return ours, replace(ours, seed=ours.seed + 1)


def _power(clusters: Clusters) -> str:
    """Say, before anything is judged, which difference so many prompts find."""
    n = len(clusters.number_P)
    found = detectable(n, cluster_size=n / clusters.effective)
    what = "no difference" if found is None else f"a difference of {found:.1f} points from 50 %"
    return f"{n} prompts find {what} in {100 * POWER:.0f} of 100 cases"


def _parts(
    section: JudgeSection, named: NamedJudge, grouping: Grouping, *, is_free: bool, note: Callable[[str], None]
) -> list[np.ndarray]:
    """The numbers of the prompts of each round; of a single one where nothing is to be stopped early."""
    n = len(grouping.clusters.number_P)
    wanted = named.judge.paid if section.early is None else section.early
    reason = why_whole(grouping.clusters)
    if wanted and not is_free and not reason:
        expected = expected_prompts(grouping.clusters, section.difference, LEVEL)
        note(
            f"judging in {len(SHARES)} rounds, until it is settled: about {expected} of {n} prompts on average if the "
            f"difference is {section.difference:g} points; --no-early judges all"
        )
        return rounds_of(n, seed=section.seed)
    if wanted and reason:
        note(f"no early stop: {reason}")
    return [np.arange(n)]


def _said_of_rounds(number: int, num_judged: int, num_planned: int, named: NamedJudge) -> str:
    left = num_planned - num_judged
    if not left:
        return f"all {len(SHARES)} rounds, {num_planned:,} prompts"
    saved = f"; {2 * left:,} texts were not scored"
    if named.judge.paid:
        saved += f" ({named.judge.cost(2 * left).price})"
    return f"settled after round {number} of {len(SHARES)}, {num_judged:,} of {num_planned:,} prompts{saved}"


def _chars(answers: Answers) -> np.ndarray:
    return np.array([len(text) for text in answers.texts], dtype=np.float64)


def _look_id(
    prompts: Prompts, settings: Settings, named: NamedJudge, sides: tuple[Answers, Answers], *, in_rounds: bool
) -> str:
    """Hash what makes a look: prompts, how answers are drawn and spoken, what decides a score, the rule's options."""
    judge = [named.judge.name, named.judge.version, named.judge.parameters()]
    tie_rule = getattr(named.judge.config, "tie_rule", None)
    model = settings.model.model_dump(mode="json", exclude={"model"})
    spoken_by = sorted(canonical(side.spoken_by) for side in sides)
    rule = [settings.judge.cluster, settings.judge.margin, in_rounds]
    parts = [prompts.fingerprint, repr(Generation.of(settings)), model, spoken_by, judge, tie_rule, rule]
    return hashlib.sha256(canonical(parts).encode("ascii")).hexdigest()[:16]


def _count_look(
    models: tuple[ModelSource, ModelSource], weights: tuple[str, str], look_id: str, *, is_free: bool
) -> int | None:
    """The number of this look at the pair, by the ledger and by the verdicts in the runs of both, whichever is more.

    None where it is free.
    """
    known = verdict_files.looks_at([model.run for model in models], pair_of(weights))
    counted = {name: number for name, number in known.items() if number}
    look = count_look(
        open_ledger(),
        weights,
        look_id,
        known=list(counted),
        known_free=[name for name in known if name not in counted],
        is_free=is_free,
    )
    if look is None:
        return None
    return max(look, counted.get(look_id, 1 + max(counted.values(), default=0)))
