"""Judge a run, a file of judgements or a judge, and look into the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.api.runs import write_report
from alignkit.config import file as config_file
from alignkit.errors import AlignkitError, InputError, UsageError
from alignkit.progress import Progress, Silent
from alignkit.runs import find_run
from alignkit.scoring.functions.given import give

if TYPE_CHECKING:
    from alignkit.judging.judged_answers import JudgedAnswers
    from alignkit.judging.probes import Accuracy
    from alignkit.judging.verdict import Verdict
    from alignkit.scoring.ledger import Ledger

_logger = logging.getLogger(__name__)


def judge(
    run: str | Path | None = None,
    *,
    vs: str | None = None,
    config: Path | None = None,
    set: Sequence[str] = (),
    yes: bool = False,
    progress: Progress | None = None,
    evidence: str | Path | None = None,
    seen: Callable[[Sequence[JudgedAnswers]], None] | None = None,
    **options: object,
) -> Verdict:
    """Judge a run or model against another; default: the newest finished run against its own start.

    Args:
        vs: the model to compare with.
        yes: agree to a judge that costs money.
        evidence: a file to write what the verdict rests on to; `judge_file` derives the same verdict from it.
        seen: is given the judged answers.
        options: judge (also a function, as `alignkit.train` takes for `reward`), data, num_prompts, margin, guard (a
            list of DATA[:rules|perplexity|judge]; the results are `Verdict.guards`), guard_margin, temperature,
            top_p, max_new_tokens, seed, sampler, ...
    """
    from alignkit.judging.compare import judge_model

    given = dict(options) | ({"vs": vs} if vs is not None else {})
    if callable(given.get("judge")):
        given["judge"] = give(given["judge"])  # type: ignore[arg-type]
    settings = config_file.judge_settings(given, config, settings=set)
    verdict = judge_model(
        None if run is None else str(run),
        settings,
        data_given="data" in given,
        yes=yes,
        progress=progress or Silent(),
        evidence_file=None if evidence is None else Path(evidence),
        seen=seen,
    )
    _renew_report(verdict)
    return verdict


def _renew_report(verdict: Verdict) -> None:
    """Put the verdict into the report of the run it is on; the verdict holds where that cannot be done."""
    run = find_run(verdict.run)
    if run is None:
        return
    try:
        write_report(run)
    except AlignkitError as error:
        _logger.warning("the report of %s was not renewed: %s", run, error)


def judge_file(path: str | Path, *, config: Path | None = None, set: Sequence[str] = (), **options: object) -> Verdict:
    """Reach the verdict on judgements made elsewhere, without a model.

    Args:
        path: evidence that `judge` wrote, which takes no options; or CSV or JSONL with the columns row, preference
            (or score_model, score_baseline), and where known baseline_chars, model_chars.
        options: difficulties, regularisation (AlpacaEval's tables), margin, seed, cluster.
    """
    from alignkit.judging.evidence import is_evidence, read_evidence, verdict_of
    from alignkit.judging.external_judgements import judge_file as read_and_judge

    if is_evidence(Path(path)):
        if given := sorted(name for name, value in options.items() if value is not None):
            raise UsageError(f"{path} is evidence of a verdict, which has its options in it: leave out {given[0]}")
        return verdict_of(read_evidence(Path(path)))

    tables = {name: options.pop(name, None) for name in ("difficulties", "regularisation")}
    section = config_file.judge_settings(options, config, settings=set).judge
    files = {name: None if file is None else Path(str(file)) for name, file in tables.items()}
    return read_and_judge(Path(path), **files, margin=section.margin, seed=section.seed, cluster=section.cluster)


def probe(
    judge: str, *, data: Path | None = None, config: Path | None = None, set: Sequence[str] = (), yes: bool = False
) -> list[Accuracy]:
    """Measure a judge on rows with a right and a wrong answer, and on tricks: `Accuracy` by subset.

    Args:
        judge: a judge's name, a reward run or folder, or FILE.py:function.
        data: JSONL rows of prompt, chosen, rejected and subset, as RewardBench's; default: twelve of alignkit's own.
        yes: agree to a judge that costs money.
    """
    from alignkit.judging import probes
    from alignkit.judging.probe_rows import ROWS
    from alignkit.scoring.confirm_cost import confirm_cost
    from alignkit.scoring.specs import make_judge

    settings = config_file.judge_settings({}, config, settings=set)
    rows = ROWS if data is None else probes.read_probe_rows(data)
    named = make_judge(judge, settings)
    rows = [*rows, *probes.adversarial_rows(rows)]
    ours, theirs = probes.probe_items(rows)
    confirm_cost([named], len(ours) + len(theirs), yes=yes)
    with closing(named.judge):
        named.judge.ready([row.model_dump() for row in rows])
        return probes.probe(named, rows)


def ledger_stats() -> list[dict[str, Any]]:
    """Scores in the ledger by judge, version and parameters.

    Raises:
        InputError: there is no ledger yet.
    """
    return _ledger().stats()


def ledger_export() -> Iterator[dict[str, Any]]:
    """Every score in the ledger, then everything missing with its reason. Raises as `ledger_stats`."""
    return _ledger().export()


def _ledger() -> Ledger:
    from alignkit.scoring import ledger

    opened = ledger.open_ledger()
    if not opened.exists:
        raise InputError(
            f"{ledger.ledger_path()}: no ledger yet; the first score makes it ({ledger.VARIABLE} moves it)"
        )
    return opened
