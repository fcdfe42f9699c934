"""The steps of a verdict: models, prompts, judge, answers and scores; evidence.py makes the verdict of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from alignkit.config.file import Settings
from alignkit.config.settings import JudgeSection
from alignkit.data.reading.read import refuse_among_data
from alignkit.errors import UsageError
from alignkit.judging import verdict_files
from alignkit.judging.answers import Answers, Generation, answers_of
from alignkit.judging.auto import Choice, choose_judge, newest_run
from alignkit.judging.caveats import caveats_of
from alignkit.judging.clustering import Grouping, find_clusters
from alignkit.judging.decision import decide, is_free, level_of, why_free
from alignkit.judging.evidence import Evidence, judgements_of, verdict_of, write_evidence
from alignkit.judging.guard_sets import check_judge, num_judged, read_guards, score_guards
from alignkit.judging.health import measure
from alignkit.judging.judged_answers import JudgedAnswers, judged_answers, keep_answers
from alignkit.judging.metrics import figures_of
from alignkit.judging.people import People, judged_pair, people_of, said_of_voters
from alignkit.judging.planner import LEVEL, POWER, detectable
from alignkit.judging.prompts import Prompts, choose_prompts
from alignkit.judging.rounds import SHARES, Judged, expected_prompts, levels_of, rounds_of, why_whole
from alignkit.judging.scores import items, judge_noise, score_both, values, why_missing
from alignkit.judging.verdict import JudgeName, Unscored, Verdict
from alignkit.pretrained.names import ModelSource, find_model
from alignkit.pretrained.weights import check_weights, weights_fingerprint
from alignkit.progress import Progress
from alignkit.runs import read_run
from alignkit.scoring.confirm_cost import confirm_cost
from alignkit.scoring.functions.judge import FunctionJudge
from alignkit.scoring.ledger import canonical, open_ledger
from alignkit.scoring.looks import check_looks, count_look, num_looks, pair_of
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.scoring.votes import Votes, find_poll, pair_hash
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import outcomes

MUCH_MISSING = 0.1  # of the prompts: what is then said first


def judge_model(
    model: str | None,
    settings: Settings,
    *,
    data_given: bool,
    yes: bool,
    progress: Progress,
    evidence_file: Path | None = None,
    seen: Callable[[Sequence[JudgedAnswers]], None] | None = None,
) -> Verdict:
    """Judge `model` against `settings.judge.vs`; default: the newest finished run against what it started from.

    The verdict of a run is also kept in its folder, under verdicts/, with the answers that were judged.

    Args:
        evidence_file: what the verdict rests on is written there (evidence.py).
        seen: is given the judged answers, where there is a verdict.

    Raises:
        UsageError: there is nothing to judge or to compare with, no judge, or a paid judge without consent.
        Unscored: no prompt has a score on both sides; that is no look, and no verdict is kept.
    """
    section = settings.judge
    source, vs = models_of(model, section.vs, progress)
    if evidence_file is not None:
        read = settings.data if source.run is None or data_given else read_run(source.run).config.data
        refuse_among_data("--evidence", evidence_file, (read.data,))
    # what is asked, and which prompts are no independent evidence of each other
    prompts = choose_prompts(
        source, settings.data, data_given=data_given, num_prompts=section.num_prompts, seed=section.seed, vs=vs
    )
    grouping = find_clusters([row.fields for row in prompts.rows], prompts.keys, column=section.cluster)
    # who decides; its cost is agreed to before anything is drawn
    guards = read_guards(settings, prompts, (source, vs))
    named = _agreed_judge(prompts, settings, num_guarding=num_judged(guards), yes=yes, note=progress.note)
    weights = (weights_fingerprint(source.folder), weights_fingerprint(vs.folder))
    progress.note(_power(grouping.clusters, _looks_so_far((source, vs), weights)))
    with closing(named.judge):
        check_judge(guards, named)
        judging = _Judging(source, vs, weights, prompts, grouping, named, settings, progress)
        evidence = judging.evidence()
        if not evidence.is_unscored:
            how = generations_of(source, vs, settings)
            found = score_guards(guards, (source, vs), how, named, settings, progress)
            evidence = evidence.model_copy(update={"guards": found})
    verdict = verdict_of(evidence)
    if evidence.is_unscored:
        what = f"{source.name} against {vs.name}: {evidence.caveats[0]}"
        raise Unscored(
            f"{what}; no prompt has both, so there is no verdict: mend what is missing, judge again", verdict
        )
    if evidence_file is not None:
        write_evidence(evidence, verdict, evidence_file)
    if source.run is not None:
        file = verdict_files.keep(source.run, verdict)
        if file is not None:
            keep_answers(file, judging.answers)
    if seen is not None:
        seen(judging.answers)
    return verdict


class _Judging:
    """Answers and scores of two models on prompts, in one round or several."""

    def __init__(
        self,
        source: ModelSource,
        vs: ModelSource,
        weights: tuple[str, str],
        prompts: Prompts,
        grouping: Grouping,
        named: NamedJudge,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.source, self.vs, self.prompts, self.grouping = source, vs, prompts, grouping
        self.named, self.settings, self.section, self.progress = named, settings, settings.judge, progress
        self.weights = weights
        self.num_distinct = len(set(prompts.keys))
        self.is_free = is_free(self.num_distinct, self.section.difference)
        self.parts = _parts(self.section, named, grouping, is_free=self.is_free, note=progress.note)
        self.look: int | None = None
        self.look_id: str | None = None
        self.answers: list[JudgedAnswers] = []

    def evidence(self) -> Evidence:
        """Judge, and put together what was found."""
        self.named.ready(self.prompts.rows)
        judged, level, number = self._rounds()
        ours, theirs = judged.ours, judged.theirs
        self.answers = judged_answers(judged)
        again = [
            score_both(self.named, items(ours), items(theirs), repeat=k) for k in range(1, 1 + self.section.rejudge)
        ]
        seen = replace(self.prompts, rows=tuple(self.prompts.rows[n] for n in judged.number_P))
        grouping = self.grouping.where(judged.number_P)
        caveats = caveats_of(self.source, self.vs, seen, self.named, ours, theirs)
        no_interval = None
        if self.is_free and self.look_id is not None:
            no_interval = why_free(self.num_distinct, self.section.difference, self.grouping.clusters.too_few)
            caveats.insert(0, f"no verdict, and no look at this pair: {no_interval}")
        here, judge = grouping.alone, self.named.judge
        scorings = [(values(one.ours), values(one.theirs)) for one in (judged.scored, *again)]
        noise = judge_noise([outcomes(a_P, b_P) for a_P, b_P in scorings])
        if noise is not None and noise.changed > 0:
            caveats.append(f"the judge is not sure of itself: {100 * noise.changed:.0f} % of its outcomes change")
        caveats += filter(None, [judged.scored.flip_note])
        if judge.name == "votes":
            texts = zip(seen.rows, ours.texts, theirs.texts, strict=True)
            caveats += said_of_voters([pair_hash(row.prompt, *both) for row, *both in texts], Votes.read())
        people = self._people(judged)
        if judge.name == "function" and people is None:
            caveats.append("the judge is a function of your own: whether people agree with it is not known")
        known_P = judged.outcome_P[~np.isnan(judged.outcome_P)]
        if len(known_P) and (known_P == 0.5).all():
            caveats.insert(int(no_interval is not None), "every prompt ties: the judge tells no answers apart")
        if (missing := why_missing(judged.scored)) is not None:
            is_much = np.isnan(judged.outcome_P).mean() > MUCH_MISSING
            caveats.insert(0 if is_much else len(caveats), missing)
        return Evidence(
            run=self.source.name,
            vs=self.vs.name,
            weights=self.weights,
            judge=_name_of(self.named),
            judge_parameters=hashlib.sha256(canonical(judge.parameters()).encode("ascii")).hexdigest(),
            prompts=self.prompts.source,
            fingerprint=self.prompts.fingerprint,
            seed=self.section.seed,
            margin=self.section.margin,
            level=level,
            look=self.look,
            look_id=self.look_id,
            pair=pair_of(self.weights),
            units=grouping.words,
            only=grouping.only,
            here_units=here and here.words,
            rounds=self._said_of_rounds(number, len(seen.rows)),
            no_interval=no_interval,
            caveats=tuple(caveats),
            ours=figures_of(ours),
            theirs=figures_of(theirs),
            health=measure(ours, theirs, seed=self.section.seed, clusters=(here or grouping).clusters),
            people=people,
            created=datetime.now(UTC).replace(microsecond=0),
            judgements=judgements_of(
                prompts=seen.keys, scorings=scorings, texts=(ours.texts, theirs.texts), grouping=grouping
            ),
        )

    def _rounds(self) -> tuple[Judged, float, int]:
        """What was judged until it was settled, the level of the interval then, and the number of the round."""
        judged: Judged | None = None
        for number, part in enumerate(self.parts, start=1):
            found = self._judge(part)
            judged = found if judged is None else judged.with_more(found)
            if self.look_id is None and not np.isnan(judged.outcome_P).all():
                self._count(judged)
            level = level_of(self.look)  # each further look at the same pair is judged at a stricter level
            if len(self.parts) > 1:
                level = levels_of(level)[number - 1]
            rate = self.grouping.where(judged.number_P).rate(judged.outcome_P, seed=self.section.seed, level=level)
            if number == len(self.parts) or decide(rate, margin=self.section.margin) != "not enough evidence":
                return judged, level, number
        raise AssertionError("there is a round")

    def _judge(self, part: np.ndarray) -> Judged:
        rows = [self.prompts.rows[n] for n in part]
        ours, theirs = (
            answers_of(one, rows, section=self.settings.model, generation=how, progress=self.progress)
            for one, how in zip(
                (self.source, self.vs), generations_of(self.source, self.vs, self.settings), strict=True
            )
        )
        return Judged(part, ours, theirs, score_both(self.named, items(ours), items(theirs)))

    def _count(self, judged: Judged) -> None:
        """Count this look; one that could find nothing is none."""
        sides, in_rounds = (judged.ours, judged.theirs), len(self.parts) > 1
        self.look_id = _look_id(self.prompts, self.settings, self.named, sides, in_rounds=in_rounds)
        self.look = _count_look((self.source, self.vs), self.weights, self.look_id, is_free=self.is_free)

    def _people(self, judged: Judged) -> People | None:
        """What people's votes on these answers say, where there are any and they are not the judge."""
        votes = Votes.read()
        if self.named.judge.name == "votes" or not votes.all:
            return None
        grouping = self.grouping.where(judged.number_P)
        grouping = grouping.alone or grouping
        at = zip(judged.number_P, grouping.clusters.number_P, strict=True)
        rows = [(self.prompts.rows[n], int(cluster)) for n, cluster in at]
        answers = zip(rows, judged.ours.texts, judged.theirs.texts, judged.outcome_P, strict=True)
        pairs = [
            judged_pair(
                pair_hash(row.prompt, ours, theirs),
                ours,
                theirs,
                float(outcome),
                cluster=cluster,
                source=None if (source := row.fields.get("source")) in (None, "") else str(source),
            )
            for (row, cluster), ours, theirs, outcome in answers
        ]
        find = functools.partial(find_poll, open_ledger())
        return people_of(pairs, votes, find, seed=self.section.seed, units=grouping.words)

    def _said_of_rounds(self, number: int, num_judged: int) -> str | None:
        num_planned = len(self.prompts.rows)
        left = num_planned - num_judged
        if len(self.parts) == 1:
            return None
        if not left:
            return f"all {len(SHARES)} rounds, {num_planned:,} prompts"
        saved = f"{2 * left:,} texts were not scored"
        if self.named.judge.paid:
            saved += f" ({self.named.judge.cost(2 * left).price})"
        return f"settled after round {number} of {len(SHARES)}, {num_judged:,} of {num_planned:,} prompts; {saved}"


def models_of(model: str | None, vs: str | None, progress: Progress) -> tuple[ModelSource, ModelSource]:
    source = find_model(model) if model is not None else _newest(progress)
    other = find_model(vs) if vs is not None else _start_of(source, progress)
    check_looks(open_ledger())
    for one in (source, other):
        check_weights(one.folder)  # or the first model's answers would be lost with the second
    return source, other


def _agreed_judge(
    prompts: Prompts, settings: Settings, *, num_guarding: int, yes: bool, note: Callable[[str], None]
) -> NamedJudge:
    """Make the judge that is named, or choose one, with consent where it is paid."""
    section = settings.judge
    num_items = 2 * len(prompts.rows) * (1 + section.rejudge) + num_guarding
    chosen = Choice(section.judge, "it was named")
    if section.judge == "auto":
        chosen = choose_judge(prompts.rows, settings, num_items=num_items, yes=yes)
    note(f"judge: {chosen.spec}, because {chosen.why}; {len(prompts.rows)} prompts: {prompts.source}")
    named = make_judge(chosen.spec, settings, named_at=("judge", "judge"))
    confirm_cost([named] if not chosen.is_agreed else [], num_items, yes=yes)
    return named


def _name_of(named: NamedJudge) -> JudgeName:
    judge, said = named.judge, ""
    if isinstance(judge, FunctionJudge):
        said = f"your function {judge.function_name} in {judge.path.name}"
    elif judge.name == "function":
        said = f"your function {named.label}"
    return JudgeName(name=named.label, version=judge.version, verifiable=judge.verifiable, said=said)


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
    progress.note(f"comparing with {record.start}, which the run started from; another is named by --vs")
    return replace(find_model(record.parent or record.model), name=record.start)


def generations_of(source: ModelSource, vs: ModelSource, settings: Settings) -> tuple[Generation, Generation]:
    """How each side is drawn: alike, but a model against itself under another seed, or every prompt would tie."""
    ours = Generation.of(settings)
    if source.folder.resolve() != vs.folder.resolve() or ours.temperature == 0:
        return ours, ours
    return ours, replace(ours, seed=ours.seed + 1)


def _power(clusters: Clusters, num_looks: int) -> str:
    """Say, before anything is judged, which difference so many prompts find at the next look at this pair."""
    n, level = len(clusters.number_P), level_of(num_looks + 1)
    found = detectable(n, cluster_size=n / clusters.effective, level=level)
    where = f"{n} prompts" if clusters.num == n else f"{n} prompts in {clusters.num} clusters"
    looks = f" (at the {100 * level:.4g} % of a further look, if this is one)" if num_looks else ""
    if found is None:
        return f"{where} are too few to find any difference, however large, in {100 * POWER:.0f} of 100 cases{looks}"
    return f"{where} find a difference of {found:.1f} points from 50 % in {100 * POWER:.0f} of 100 cases{looks}"


def _looks_so_far(models: tuple[ModelSource, ModelSource], weights: tuple[str, str]) -> int:
    """How many looks at this pair are on record, in the ledger or in the runs' verdicts."""
    known = verdict_files.looks_at([model.run for model in models], pair_of(weights))
    return max(num_looks(open_ledger(), weights), max(known.values(), default=0))


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


def _look_id(
    prompts: Prompts, settings: Settings, named: NamedJudge, sides: tuple[Answers, Answers], *, in_rounds: bool
) -> str:
    """Hash what makes a look: prompts, how answers are drawn and spoken, what decides a score, the rule's options."""
    judge = [named.judge.name, named.judge.version, named.judge.parameters()]
    tie_rule = getattr(named.judge.config, "tie_rule", None)
    model = settings.model.model_dump(mode="json", exclude={"model"})
    spoken_by = sorted(canonical(side.spoken_by) for side in sides)
    rule = [settings.judge.cluster, settings.judge.margin, in_rounds]
    parts = [prompts.content, repr(Generation.of(settings)), model, spoken_by, judge, tie_rule, rule]
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
