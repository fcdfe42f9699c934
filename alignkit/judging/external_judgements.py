"""A verdict on judgements made elsewhere: no model, no judge, the same rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alignkit.errors import InputError, UsageError
from alignkit.judging.clustering import find_clusters
from alignkit.judging.judgements import Judgements, read_judgements, read_tables
from alignkit.judging.length import LengthFacts, Pairs, length_facts
from alignkit.judging.metrics import unmeasured
from alignkit.judging.planner import LEVEL
from alignkit.judging.verdict import JudgeName, Unscored, Verdict, make_verdict

_UNKNOWN = JudgeName(
    name="unknown judge", version="unknown", verifiable=False, said="an unknown judge, whose judgements the file holds"
)


def judge_file(
    path: Path,
    *,
    difficulties: Path | None = None,
    regularisation: Path | None = None,
    margin: float = 3.0,
    seed: int = 0,
    cluster: str | None = None,
) -> Verdict:
    """Read a file of judgements (judgements.py) and reach the verdict on it.

    Args:
        difficulties, regularisation: AlpacaEval's tables: its length-controlled win rate in place of the adjusted one.
        margin: in points.
        cluster: a column of the file, or "none"; default: template or source where the file names one.

    Raises:
        UsageError: one table without the other.
        InputError: a file that cannot be used.
        Unscored: no row has a preference, or both scores.
    """
    if (difficulties is None) != (regularisation is None):
        raise UsageError(
            "--difficulties and --regularisation belong together: AlpacaEval's estimator needs both tables; without "
            "them the length-adjusted win rate is shown"
        )
    given = read_judgements(path)
    grouping = find_clusters(given.fields, given.row_P.tolist(), column=cluster)
    here = grouping.alone
    units = here.clusters if here else grouping.clusters
    length = None
    if given.model_chars_P is not None and given.baseline_chars_P is not None:
        pairs = Pairs(given.outcome_P, given.model_chars_P, given.baseline_chars_P, given.difference_P, units)
        length = _length(path, given, pairs, difficulties, regularisation, seed)
    elif difficulties is not None:
        raise InputError(f"{path}: AlpacaEval's estimator needs the columns baseline_chars and model_chars")
    num_missing = int(np.isnan(given.outcome_P).sum())
    missing = [f"{num_missing} of {len(given.outcome_P)} rows are left out: a score is missing"] if num_missing else []
    verdict = make_verdict(
        grouping.rate(given.outcome_P, seed=seed, level=LEVEL),
        run="the model",
        vs="the baseline",
        judge=_UNKNOWN,
        margin=margin,
        ours=unmeasured(),
        theirs=unmeasured(),
        prompts=f"the rows of {path}",
        seed=seed,
        caveats=[*missing, *given.notes],
        length=length,
        units=grouping.words,
        only=grouping.only,
        here=None if here is None else (here.rate(given.outcome_P, seed=seed, level=LEVEL), here.words),
    )
    if np.isnan(given.outcome_P).all():
        text = f"{path}: none of its {len(given.outcome_P)} rows has a preference, or both scores: no verdict"
        raise Unscored(f"{text}; give a file that has them", verdict)
    return verdict


def _length(
    path: Path, given: Judgements, pairs: Pairs, difficulties: Path | None, regularisation: Path | None, seed: int
) -> LengthFacts | None:
    if difficulties is None or regularisation is None:
        return length_facts(pairs, seed=seed, level=LEVEL)
    tables = read_tables(difficulties, regularisation)
    beyond = given.row_P[given.row_P >= len(tables.difficulty)]
    if len(beyond):
        raise InputError(
            f"{path}: row {int(beyond[0])} has no difficulty: {difficulties} has {len(tables.difficulty)} rows"
        )
    return length_facts(pairs, seed=seed, level=LEVEL, tables=tables, row_P=np.asarray(given.row_P))
