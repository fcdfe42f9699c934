"""`alignkit report`: one page of what a run was and what was found of it."""

from __future__ import annotations

from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(metavar="RUN", help="a run's folder, or its name under runs/")]


def report(run: Run) -> None:
    """Write a run's report.html again: verdicts, answers, what it was, curves; also while it trains."""
    from alignkit import api

    print(api.write_report(run))


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("report")(report)
