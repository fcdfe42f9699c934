"""`alignkit judge`: is this model better than that one?"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alignkit.cli.options import (
    NUM_PROMPTS,
    ROWS,
    SAMPLER,
    SAMPLING,
    TEXT,
    THINKING,
    Command,
    Config,
    Group,
    Json,
    Set,
    with_options,
)
from alignkit.config.settings import JudgeSection
from alignkit.display import fitted, json_shown, on_one_line, shown
from alignkit.errors import Interrupted, UsageError
from alignkit.runs import find_run

if TYPE_CHECKING:
    from alignkit.judging.judged_answers import JudgedAnswers
    from alignkit.judging.verdict import Verdict

Models = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN|MODEL]...", help="what is judged; default: the newest finished run")
]
Require = Annotated[
    Literal["better", "not-worse", "better-and-guards"] | None,
    typer.Option(
        "--require",
        help="exit with 1 unless every verdict is better; or not-worse: neither the win rate nor a guard loses more "
        "than its margin; or better-and-guards: better, and every guard passes",
    ),
]
Details = Annotated[
    bool, typer.Option("--details", help="print all that is known of the verdict: rule, figures, text health")
]
Yes = Annotated[bool, typer.Option("--yes", help="send paid requests without asking")]
_PANEL = "Judgements made elsewhere"
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        rich_help_panel=_PANEL,
        help="what --evidence wrote; or CSV or JSONL: row, baseline_chars, model_chars, preference in 1 to 2 (or "
        "score_model, score_baseline)",
    ),
]
Evidence = Annotated[
    str | None,
    typer.Option(
        "--evidence", metavar="FILE", help="write what the verdict rests on; --from FILE derives it elsewhere"
    ),
]
Difficulties = Annotated[
    str | None,
    typer.Option(
        "--difficulties", metavar="FILE", rich_help_panel=_PANEL, help="AlpacaEval 2's instruction difficulties"
    ),
]
Regularisation = Annotated[
    str | None,
    typer.Option("--regularisation", metavar="FILE", rich_help_panel=_PANEL, help="AlpacaEval 2's gamed baseline rows"),
]
_MAX_WIDTH = 100  # columns of an example's text
_WITH_FILE = {"margin", "seed", "cluster"}


@with_options(
    Group("Judging", JudgeSection, ("vs", "judge", "margin", "difference", "cluster", "early", "rejudge")),
    Group("Not worse elsewhere", JudgeSection, ("guard", "guard_margin")),
    NUM_PROMPTS,
    ROWS,
    TEXT,
    SAMPLING,
    THINKING,
    SAMPLER,
)
def judge(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    models: Models = None,
    from_: From = None,
    difficulties: Difficulties = None,
    regularisation: Regularisation = None,
    require: Require = None,
    evidence: Evidence = None,
    details: Details = False,
    yes: Yes = False,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Compare models' answers on the same prompts: better, worse, no difference that matters, not enough evidence."""
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api
    from alignkit.cli.terminal import print_to_end
    from alignkit.config import file as config_file
    from alignkit.judging.verdict import Unscored
    from alignkit.judging.verdict_text import as_json

    file = Path(config) if config else None
    if from_ is None and (difficulties or regularisation):
        raise UsageError("--difficulties and --regularisation belong to --from FILE; own prompts have no such tables")
    answers: list[JudgedAnswers] = []

    def judged(model: str | None) -> Verdict:
        if from_ is None:
            try:
                answers.clear()
                return api.judge(
                    model,
                    config=file,
                    set=set_ or [],
                    yes=yes,
                    progress=progress,
                    evidence=evidence,
                    seen=answers.extend,
                    **given,
                )
            except KeyboardInterrupt:
                raise Interrupted(
                    "interrupted: no verdict; scores that are in the ledger are kept, and the same command goes on "
                    "with them (answers are drawn again, the same ones)"
                ) from None
            finally:
                progress.stop()
        tables = {"difficulties": difficulties, "regularisation": regularisation}
        try:
            return api.judge_file(from_, config=file, set=set_ or [], **tables, **given)
        finally:
            progress.stop()

    def where(verdict: Verdict) -> list[str]:
        run = None if from_ is not None else find_run(verdict.run)
        report = [] if run is None or not (run / "report.html").exists() else [f"report {run / 'report.html'}"]
        return ["--details", *report, *([] if evidence is None else [f"evidence {evidence}"])]

    if from_ is not None:
        _refuse_with_file(models, given | ({} if evidence is None else {"evidence": evidence}))
    if from_ is None and require == "better-and-guards":
        _need_guard(config_file.judge_settings(given, file, settings=set_ or []).judge.guard)
    if evidence is not None and len(models or []) > 1:
        raise UsageError(f"--evidence {evidence}: one file holds one verdict; judge one model at a time")
    missed = False
    unscored: list[Unscored] = []
    for number, model in enumerate(models or (None,)):
        try:
            verdict = judged(model)
        except Unscored as error:
            unscored.append(error)
            if json and error.verdict is not None:
                print_to_end(json_shown(as_json(error.verdict)))
            continue
        if json:
            print_to_end(json_shown(as_json(verdict)))
        else:
            print_to_end("\n" * (number > 0) + _text(verdict, answers, details=details, where=where(verdict)))
        missed |= require is not None and _misses(verdict, require)
    if unscored:
        raise Unscored("; ".join(map(str, unscored)))
    if missed:
        raise typer.Exit(1)


def _text(verdict: Verdict, answers: Sequence[JudgedAnswers], *, details: bool, where: Sequence[str]) -> str:
    """The verdict and three pairs of answers, as they are printed."""
    from alignkit.judging.summary import summary

    if details:
        return "\n".join([shown(verdict), *_pairs(answers)])
    lines = [fitted(on_one_line(line), sys.stdout) for line in [*summary(verdict), f"details: {', '.join(where)}"]]
    return "\n".join([*lines, *_pairs(answers)])


def _pairs(answers: Sequence[JudgedAnswers]) -> list[str]:
    """Three pairs to read, each text in at most two lines."""
    from alignkit.cli.terminal import console
    from alignkit.judging.judged_answers import examples_of

    width = min(console().width, _MAX_WIDTH)
    lines = []
    for name, one in examples_of(answers):
        scores = (
            "" if one.our_score is None or one.their_score is None else f": {one.our_score:g} to {one.their_score:g}"
        )
        lines += ["", on_one_line(f"{name}{scores}, row {one.id}")]
        asked = one.prompt.rpartition("\n\nuser: ")[2].removeprefix("user: ")
        for side, text in (("asked", asked), ("ours", one.ours), ("theirs", one.theirs)):
            words = on_one_line(" ".join(text.split())) or "(empty)"
            wrapped = textwrap.wrap(
                words,
                width,
                initial_indent=f"  {side:<6}  ",
                subsequent_indent=" " * 10,
                max_lines=2,
                placeholder=" ...",
            )
            lines += wrapped
    return lines


def _need_guard(guards: Sequence[object]) -> None:
    if not guards:
        raise UsageError("--require better-and-guards: there is no guard; name one, as --guard general")


def _misses(verdict: Verdict, require: str) -> bool:
    """Whether a verdict does not meet what is required; says why."""
    from alignkit.judging.requirements import unmet

    if require == "better-and-guards":
        _need_guard(verdict.guards)
    if reason := unmet(verdict, require):
        said = f"--require {require} is not met by {verdict.run} against {verdict.vs}: {reason}"
        print(fitted(on_one_line(said), sys.stderr), file=sys.stderr)
    return bool(reason)


def _refuse_with_file(models: list[str] | None, given: dict[str, Any]) -> None:
    """Nothing that only a model needs is silently ignored."""
    if models:
        raise UsageError(f"--from judges a file, not a model: leave out {models[0]!r}, or --from")
    unread = sorted(given.keys() - _WITH_FILE)
    if unread:
        raise UsageError(f"--{unread[0].replace('_', '-')} has no meaning with --from: the judgements are made already")


def add_to(app: typer.Typer) -> None:
    app.command("judge", cls=Command)(judge)
