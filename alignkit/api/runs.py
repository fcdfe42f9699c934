"""A run's folder, to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import InputError
from alignkit.runs import find_run, read_run
from alignkit.tracking import split_lines

if TYPE_CHECKING:
    import polars

    from alignkit.judging.verdict import Verdict


class Run:
    """A run's folder, to look at.

    Args:
        path: the folder, or the run's name under runs/.

    Raises:
        InputError: it is no run.
    """

    def __init__(self, path: str | Path) -> None:
        found = find_run(path)
        if found is None:
            raise InputError(f"{path}: no run (no run.json there)")
        self.path = found

    @property
    def info(self) -> dict[str, Any]:
        """run.json. Raises InputError where it is damaged."""
        return read_run(self.path).content

    @property
    def metrics(self) -> polars.DataFrame:
        """metrics.jsonl with columns step, name, value, tokens. Raises InputError where it is damaged."""
        import polars

        try:
            return polars.read_ndjson(self.path / "metrics.jsonl")
        except (OSError, polars.exceptions.PolarsError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"{self.path / 'metrics.jsonl'}: cannot be read: {reason}") from error

    @property
    def samples(self) -> list[dict[str, Any]]:
        """samples.jsonl, one dict per line. Raises InputError where it is damaged."""
        return _json_lines(self.path / "samples.jsonl")

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on this run, oldest first; a damaged one is skipped with a warning."""
        from alignkit.judging import verdict_files

        return verdict_files.read(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    try:
        for text in split_lines(path.read_text(encoding="utf-8")) if path.exists() else []:
            lines.append(json.loads(text))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {len(lines) + 1}: cannot be read: {error}") from error
    return lines
