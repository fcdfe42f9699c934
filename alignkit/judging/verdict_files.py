"""The verdicts on a run, in its folder: RUN/verdicts/001.json, 002.json, ... None is ever overwritten.

What looks at a pair of models a run has had stands in them too, so that another ledger, or an emptied one, does not set
them back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from alignkit.errors import RunStopped
from alignkit.judging.verdict import Verdict
from alignkit.runs import VERDICTS
from alignkit.storage import write_numbered

_logger = logging.getLogger(__name__)


def keep(run: Path, verdict: Verdict) -> Path | None:
    """Write a verdict under the next free number; None, and a warning, where the run's folder cannot be written."""
    try:
        return write_numbered(run / VERDICTS, verdict.model_dump_json(indent=1) + "\n")
    except RunStopped as error:
        _logger.warning("the verdict was not kept: %s", error)
        return None


def read(run: Path) -> list[Verdict]:
    """The verdicts on a run by their numbers; an unreadable one is skipped with a warning."""
    return [verdict for _, verdict in read_with_files(run)]


def read_with_files(run: Path) -> list[tuple[Path, Verdict]]:
    """As `read`, each behind its file."""
    verdicts = []
    for file in sorted((run / VERDICTS).glob("*.json"), key=lambda file: (len(file.name), file.name)):
        try:
            verdicts.append((file, Verdict.model_validate_json(file.read_bytes())))
        except OSError as error:
            _logger.warning("%s: cannot be read (%s); skipped", file, error.strerror or error)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = "".join(f"{part}: " for part in first["loc"][:1])
            _logger.warning("%s: no verdict of this alignkit (%s%s); skipped", file, where, first["msg"])
    return verdicts


def looks_at(runs: Iterable[Path | None], pair: str) -> dict[str, int]:
    """The looks at a pair of models that stand in these runs' verdicts, with their numbers, first looks first; 0: free.

    Args:
        pair: as `looks.pair_of` names it.
    """
    found: dict[str, int] = {}
    for run in {run.resolve() for run in runs if run is not None}:
        for verdict in read(run):
            if verdict.pair == pair and verdict.look_id is not None:
                found[verdict.look_id] = max(verdict.look or 0, found.get(verdict.look_id, 0))
    return dict(sorted(found.items(), key=lambda entry: entry[1]))
