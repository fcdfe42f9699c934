"""`alignkit ledger`: every score that was ever obtained."""

from __future__ import annotations

import json as json_module
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.commands import Commands
from alignkit.cli.options import Json

ledger = typer.Typer(cls=Commands, help="Look at the scores that judges and rewards gave; none is asked for twice.")
_HASH = re.compile("[0-9a-f]{64}")
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="write there; default: standard output")]


@ledger.command("stats")
def stats(json: Json = False) -> None:
    """Show how many scores each judge gave, and how many are missing."""
    from alignkit import api

    rows = api.ledger_stats()
    if json:
        print(json_module.dumps(rows))
        return
    from alignkit.cli.terminal import print_table

    titles = ("judge", "with", "scores", "missing", "range", "last")
    cells = [
        (
            f"{row['judge']} {row['version']}",
            _shown(row["parameters"]),
            f"{row['num_scores']:,}",
            f"{row['num_missing']:,}",
            "-" if row["lowest"] is None else f"{row['lowest']:.4g} to {row['highest']:.4g}",
            row["last"][:10],
        )
        for row in rows
    ]
    print_table(titles, [(row, "") for row in cells], right=("scores", "missing"))


@ledger.command("export")
def export(out: Out = None) -> None:
    """Write every score, and what is missing with its reason, as JSON lines."""
    from alignkit import api

    lines = (json_module.dumps(entry) + "\n" for entry in api.ledger_export())
    if out is None:
        sys.stdout.writelines(lines)
        return
    from alignkit.errors import UsageError
    from alignkit.storage import open_private

    try:
        with open(out, "x", encoding="utf-8", opener=open_private) as opened:
            try:
                opened.writelines(lines)
            except BaseException:
                out.unlink()  # half an export is none
                raise
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); name another file") from error


def _shown(parameters: Any) -> str:
    """Parameters in a narrow column: of a hash its beginning, which `--json` has whole."""
    if not isinstance(parameters, dict):
        return str(parameters)
    return ", ".join(f"{key} {_HASH.sub(lambda found: found[0][:8], str(value))}" for key, value in parameters.items())


def add_to(app: typer.Typer) -> None:
    app.add_typer(ledger, name="ledger")
