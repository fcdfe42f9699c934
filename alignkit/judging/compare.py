"""Judging one model against another: prompts, answers, scores, verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alignkit.config_file import Settings
from alignkit.errors import UsageError
from alignkit.judging.answers import Answers, Generation, answers_of
from alignkit.judging.auto import choose_judge, newest_run
from alignkit.judging.bleu import corpus_bleu
from alignkit.judging.prompts import choose_prompts
from alignkit.judging.statistics import outcomes, win_rate
from alignkit.judging.text_health import cut_share, repetition
from alignkit.judging.verdict import JudgeName, Side, Verdict, reach
from alignkit.policy.names import ModelSource, find_model
from alignkit.progress import Progress
from alignkit.scoring.judge import Item
from alignkit.scoring.pairs import score_both
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.scoring.spending import agree
from alignkit.training.run_folder import write_atomically


def judge_model(model: str | None, settings: Settings, *, data_given: bool, yes: bool, progress: Progress) -> Verdict:
    """Judge `model` against `settings.judge.vs`; default: the newest finished run against what it started from.

    The verdict of a run is also kept in its folder, under verdicts/.

    Raises:
        UsageError: there is nothing to judge or to compare with, no judge, or a paid judge without consent.
    """
    section = settings.judge
    source = find_model(model) if model is not None else _newest(progress)
    vs = find_model(section.vs) if section.vs is not None else _start_of(source, progress)
    prompts = choose_prompts(
        source, settings.data, data_given=data_given, num_prompts=section.num_prompts, seed=section.seed
    )
    spec, why = (section.judge, "it was named") if section.judge != "auto" else choose_judge(prompts.rows)
    progress.note(f"judge: {spec}, because {why}; {len(prompts.rows)} prompts: {prompts.source}")
    named = make_judge(spec, settings.judges)
    agree([named], 2 * len(prompts.rows), yes=yes)
    named.judge.ready([row.fields for row in prompts.rows])
    ours, theirs = (
        answers_of(one, prompts.rows, section=settings.model, generation=Generation.of(settings), progress=progress)
        for one in (source, vs)
    )
    scores = score_both(named, items(ours), items(theirs))
    named.judge.close()
    verdict = reach(
        win_rate(outcomes(scores.ours, scores.theirs), seed=section.seed),
        run=source.name, vs=vs.name,
        judge=JudgeName(name=named.label, version=named.judge.version, verifiable=named.judge.verifiable),
        margin=section.margin, ours=side(ours), theirs=side(theirs), prompts=prompts.source, seed=section.seed,
        stamps=(*prompts.stamps, *_reward_stamp(source, named), *([scores.flip_note] if scores.flip_note else [])),
    )  # fmt: skip
    if source.run is not None:
        _keep(source.run, verdict)
    return verdict


def items(answers: Answers) -> list[Item]:
    """What a judge sees of one model's answers."""
    return [Item(a.row.prompt, a.text, {**a.row.fields, "id": a.row.id}) for a in answers.answers]


def side(answers: Answers) -> Side:
    """What is known of one model's answers beside their scores."""
    known = [answer for answer in answers.answers if answer.row.reference]
    return Side(
        bleu=corpus_bleu([a.text for a in known], [a.row.reference for a in known]),
        perplexity=answers.perplexity,
        mean_length_tokens=float(np.mean([a.num_tokens for a in answers.answers])),
        repetition=repetition(answers.texts),
        cut_share=cut_share([a.cut for a in answers.answers]),
    )


def _newest(progress: Progress) -> ModelSource:
    run = newest_run()
    if run is None:
        raise UsageError("nothing to judge: there is no finished run under runs/; name a run or a model")
    progress.note(f"judging {run}, the newest finished run")
    return find_model(str(run))


def _start_of(source: ModelSource, progress: Progress) -> ModelSource:
    if source.run is None:
        raise UsageError(f"name what {source.name} is compared with: --vs MODEL")
    content = json.loads((source.run / "run.json").read_text(encoding="utf-8"))
    start = content["parent"] or content["model"]
    progress.note(f"comparing with {start}, which the run started from; another is named by --vs")
    return find_model(start)


def _reward_stamp(source: ModelSource, named: NamedJudge) -> Sequence[str]:
    """A model whose training reward was a learned or remote judge needs another one to decide."""
    if source.run is None:
        return ()
    rewards = json.loads((source.run / "run.json").read_text(encoding="utf-8"))["rewards"]
    same = [r for r in rewards if r["name"] == named.label or r["judge"] == named.judge.name != "function"]
    if not same:
        return ()
    if named.judge.verifiable:
        return (f"the judge {named.label!r} was also the training reward; it is a rule that can be checked",)
    return (f"the judge {named.label!r} was also the training reward: this is no evidence; let another judge decide",)


def _keep(run: Path, verdict: Verdict) -> None:
    folder = run / "verdicts"
    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob("*.json"))) + 1
    write_atomically(folder / f"{number:03d}.json", verdict.model_dump_json(indent=1) + "\n")
