"""`--judge auto`: which judge decides, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignkit import runs
from alignkit.config.file import Settings
from alignkit.data.reading.read import Source, is_data
from alignkit.data.reading.rows import Row
from alignkit.errors import AlignkitError, InputError, UsageError
from alignkit.runs import read_run
from alignkit.scoring.confirm_cost import confirm_cost
from alignkit.scoring.default import default_judges, why_none
from alignkit.scoring.judge import Item, Scored
from alignkit.scoring.specs import make_judge

_TOLD_BY = 20  # rows


@dataclass(frozen=True)
class Choice:
    """A judge's SPEC, why it decides, and whether its cost was agreed to already."""

    spec: str
    why: str
    is_agreed: bool = False


def choose_judge(rows: Sequence[Row], settings: Settings, *, num_items: int, yes: bool) -> Choice:
    """Choose the first judge that can score these rows, in the order of scoring/default.py.

    A judge that costs money is asked for one score to know whether it answers: that is agreed to first, with the rest.

    Args:
        settings: options of judges are in its [judge.NAME] tables.
        num_items: how many scores the verdict takes at most.
        yes: agreed to beforehand.

    Raises:
        UsageError: none of them is there, with the commands that would work; or a cost was not agreed to.
    """
    fields, tried = [row.fields for row in rows], []
    for judge in default_judges(fields, role="judge"):
        spec = judge.default_spec()
        if not judge.paid:
            return Choice(spec, judge.why_default)
        problem = _probe(spec, rows[0], settings, num_items=num_items, yes=yes)
        if problem is None:
            return Choice(spec, f"{judge.why_default} and a one-row probe answered", is_agreed=True)
        tried.append(f"{spec} does not answer ({problem})")
    reasons = [*why_none(fields, role="judge"), *tried] or ["none is installed that is taken by itself"]
    raise UsageError(
        f"no judge: {', '.join(reasons)}; what would work: `--judge FILE.py:FUNCTION`, a function of yours; "
        "`alignkit train reward --data PAIRS`, then judge again; `--judge FOLDER`, a sequence-classification model"
    )


def choosable(run: Path) -> bool:
    """Whether a judge could be taken by itself for a run's validation rows; told by the first of them."""
    settings = read_run(run).config.data
    apart = settings.split is not None and is_data(settings.split)
    try:
        rows = list(Source(str(settings.split) if apart else settings.data, settings.read_as, _TOLD_BY).rows())
    except InputError:  # gone, or changed
        return True
    return bool(default_judges([row.fields for row in rows], role="judge"))


def newest_run(*, method: str | None = None) -> Path | None:
    """Return the newest finished run under runs/, of a method or of any that makes a policy."""

    def is_wanted(folder: Path, record: runs.RunRecord) -> bool:
        is_method = record.method == method if method else record.method != "reward"
        return is_method and runs.is_finished(folder, record)

    return runs.newest_run(is_wanted)


def _probe(spec: str, row: Row, settings: Settings, *, num_items: int, yes: bool) -> str | None:
    """Ask for one score, through the ledger; why there is none, or None.

    Raises:
        UsageError: it costs money, and that was not agreed to.
    """
    named = make_judge(spec, settings)
    try:
        confirm_cost([named], num_items + 1, yes=yes)  # before anything is sent: asking for models sends the key
        try:
            named.judge.ready([row.fields])
            answer = named.score([Item(row.prompt, row.reference or "Hello.", row.fields)])[0]
        except AlignkitError as error:
            return str(error)
    finally:
        named.judge.close()
    return None if isinstance(answer, Scored) else answer.reason
