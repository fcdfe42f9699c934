"""`alignkit judge`: is this model better than that one?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alignkit.cli.generation import NUM_PROMPTS, ROWS, SAMPLER, SAMPLING, TEXT
from alignkit.cli.options import Config, Group, Json, Set, with_options
from alignkit.config import JudgeSection

Models = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN|MODEL]...", help="what is judged; default: the newest finished run")
]
Require = Annotated[
    Literal["better"] | None, typer.Option("--require", help="exit with 1 unless every verdict is this one")
]
Yes = Annotated[bool, typer.Option("--yes", help="send paid requests without asking")]


@with_options(Group("Judging", JudgeSection, ("vs", "judge", "margin")), NUM_PROMPTS, ROWS, TEXT, SAMPLING, SAMPLER)
def judge(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    models: Models = None,
    require: Require = None,
    yes: Yes = False,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Compare models' answers on the same prompts: better, worse, or not enough evidence."""
    from alignkit import api
    from alignkit.cli.progress import RichProgress

    progress = RichProgress()
    met = True
    for model in models or (None,):
        try:
            verdict = api.judge(
                model, config=Path(config) if config else None, set=set_ or [], yes=yes, progress=progress, **given
            )
        finally:
            progress.stop()
        print(verdict.model_dump_json() if json else verdict)
        met = met and verdict.answer == "better"
    if require and not met:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    app.command("judge")(judge)
