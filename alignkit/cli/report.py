"""`alignkit report`: one page of what a run was and what was found of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from alignkit.services.pages import PageServer

Run = Annotated[str, typer.Argument(metavar="RUN", help="a run's folder, or its name under runs/")]
Serve = Annotated[
    bool, typer.Option("--serve", help="show it in a browser of this machine, and what is new as the run trains")
]


def report(run: Run, serve: Serve = False) -> None:
    """Write a run's report.html again: verdicts, answers, what it was, curves; also while it trains."""
    from alignkit import api

    if not serve:
        print(api.write_report(run))
        return

    def ready(server: PageServer) -> None:
        print(f"open {server.address}", flush=True)
        print("this machine alone can open it; Ctrl-C ends it, and leaves the run alone", flush=True)

    api.serve_report(run, ready=ready)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("report")(report)
