"""`alignkit probe JUDGE`: can this judge be trusted?"""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.options import Config, Json, Set

Spec = Annotated[str, typer.Argument(metavar="JUDGE", help="a judge's name, a reward run or folder, FILE.py:function")]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE", help="JSONL rows of prompt, chosen, rejected, subset; default: twelve own"),
]
Yes = Annotated[bool, typer.Option("--yes", help="send paid requests without asking")]


def probe(
    *, spec: Spec, data: Data = None, yes: Yes = False, json: Json = False, config: Config = None, set_: Set = None
) -> None:
    """Measure how often a judge prefers the right answer, and a plain one over empty, copied or padded ones."""
    from alignkit import api

    results = api.probe(spec, data=data, config=Path(config) if config else None, set=set_ or [], yes=yes)
    if json:
        print(json_module.dumps([asdict(result) for result in results]))
        return
    from alignkit.cli.terminal import print_table

    rows = [
        (
            r.subset,
            "no scores" if r.accuracy is None else f"{r.accuracy:.1f}",
            f"{r.low:.1f} to {r.high:.1f}",
            str(r.num_rows),
            str(r.num_missing),
        )
        for r in results
    ]
    titles = ("rows", "accuracy, %", "95 % interval", "scored", "missing")
    print_table(titles, [(row, "") for row in rows], right=titles[1:])


def add_to(app: typer.Typer) -> None:
    app.command("probe")(probe)
