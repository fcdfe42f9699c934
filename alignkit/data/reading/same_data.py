"""Whether the data that a run names are still those that it read."""

from __future__ import annotations

from collections.abc import Mapping

from alignkit.data.reading.read import Source, is_data
from alignkit.runs import RunRecord


def data_hashes(
    data: str,
    *,
    columns: Mapping[str, str],
    limit: int | None = None,
    split: str | None = None,
    exclude: str | None = None,
) -> dict[str, str]:
    """Hash what rows are read from: "source", "apart" where `split` names data of its own, "excluded" where any is.

    Raises:
        InputError, UsageError: as `Source.fingerprint`.
    """
    found = {"source": Source(data, columns, limit).fingerprint()}
    if split is not None and is_data(split):
        found["apart"] = Source(split, columns).fingerprint()
    if exclude is not None:
        found["excluded"] = Source(exclude).fingerprint()
    return found


def difference(run: RunRecord) -> str | None:
    """Return None where the data are still those that the run read, else a sentence that says what is known.

    Ask before rows read again are called the run's training or validation rows.

    Raises:
        InputError, UsageError: the data are no longer there, or cannot be read.
    """
    settings = run.config.data
    if not run.data_files:
        return f"whether {settings.data} has changed since the run is not known: an older version wrote its run.json"
    now = data_hashes(
        settings.data, columns=settings.read_as, limit=settings.limit, split=settings.split, exclude=settings.exclude
    )
    names = {"source": settings.data, "apart": settings.split or "", "excluded": settings.exclude or ""}
    changed = [
        names.get(key, key)
        for key in sorted(now.keys() | run.data_files.keys())
        if now.get(key) != run.data_files.get(key)
    ]
    if not changed:
        return None
    return f"the data file has changed since the run: {' and '.join(changed)}"
