"""A run's folder, to look at."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.api.tables import html_table
from alignkit.errors import InputError, UsageError, nearest
from alignkit.runs import find_run, is_finished, nearest_run, read_run
from alignkit.tracking import split_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars

    from alignkit.charts.plots import NotebookFigure
    from alignkit.judging.verdict import Verdict
    from alignkit.services.pages import PageServer


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
            raise InputError(f"{path}: no run (no run.json there){nearest_run(path)}")
        self.path = found

    @property
    def model(self) -> Path:
        """The trained model's Hugging Face folder. Raises InputError where the run is unfinished."""
        if not is_finished(self.path, read_run(self.path)):
            raise InputError(f"{self.path}: no model yet: the run is unfinished; go on with resume=True")
        return self.path / "model"

    @property
    def report(self) -> Path:
        """report.html, to open in a browser."""
        return self.path / "report.html"

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

    def plot(self, *names: str) -> NotebookFigure:
        """Draw metrics over the steps, one below the other.

        Args:
            names: as `metrics` has them; default: those that the method's report draws, as far as they are there.

        Raises:
            UsageError: there is no metric of that name.
        """
        from alignkit.charts.curves import MAIN_METRICS, read_curves, read_metrics
        from alignkit.charts.plots import curves_figure
        from alignkit.registry import registry

        known = list(read_metrics(self.path / "metrics.jsonl"))
        for name in names:
            if name not in known:
                raise UsageError(f"plot: no metric {name!r} in this run{nearest(name, known)}")
        method = read_run(self.path).method
        usual = registry().find("method", method).curves if method in registry().names("method") else ()
        drawn = [name for name in names or usual or MAIN_METRICS if name in known] or known
        curves = read_curves(self.path / "metrics.jsonl", group=method, metrics=drawn)
        return curves_figure(curves)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: where it is, what it trained, its state and its last verdict."""
        from alignkit.judging.verdict_text import headline

        record = read_run(self.path)
        end = record.finished
        rows = [
            ("method", record.method),
            ("model", record.model),
            ("data", record.config.data.data),
            ("rows", f"{len(record.rows.training.ids):,} for training, {len(record.rows.validation.ids):,} held out"),
            ("state", "unfinished" if end is None else f"finished after {end.get('steps', '?')} steps"),
            *(("verdict", headline(verdict)) for verdict in self.verdicts[-1:]),
        ]
        return f"<p><b>run {html.escape(str(self.path))}</b></p>{html_table(['', ''], rows)}"


def write_report(run: str | Path) -> Path:
    """Write a run's report.html again, from what lies in its folder, and return its path.

    Args:
        run: the folder, or the run's name under runs/; it may still be training.

    Raises:
        InputError: it is no run, or its files cannot be read.
        RunStopped: the disk refuses.
    """
    from alignkit.registry import registry
    from alignkit.reports.run_report import write_run_report

    folder = Run(run).path
    method = read_run(folder).method
    curves = registry().find("method", method).curves if method in registry().names("method") else ()
    return write_run_report(folder, curves=curves)


def serve_report(run: str | Path, *, ready: Callable[[PageServer], None] = lambda server: None) -> None:
    """Serve a run's report to this machine's browsers until it is interrupted; it is written again as the run trains.

    Args:
        ready: called with the server, whose `address` is to be opened, before it serves.

    Raises:
        InputError: it is no run, or its files cannot be read.
    """
    from alignkit.reports.live import ReportServer

    folder = Run(run).path
    if not (folder / "metrics.jsonl").exists() and not (folder / "report.html").exists():
        write_report(folder)  # says what is missing, before anything is served
    server = ReportServer(folder, write_report)
    ready(server)
    server.run()


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    try:
        for text in split_lines(path.read_text(encoding="utf-8")) if path.exists() else []:
            lines.append(json.loads(text))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {len(lines) + 1}: cannot be read: {error}") from error
    return lines
