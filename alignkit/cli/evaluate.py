"""`alignkit evaluate MODEL`: BLEU, perplexity, length and text health, without a judge."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.options import (
    NUM_PROMPTS,
    ROWS,
    SAMPLER,
    SAMPLING,
    TEXT,
    THINKING,
    Command,
    Config,
    Group,
    Json,
    Set,
    with_options,
)
from alignkit.config.settings import JudgeSection
from alignkit.display import shown

Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="a run, a model folder or a hub name")]


@with_options(Group("Measuring", JudgeSection, ("cluster",)), NUM_PROMPTS, ROWS, TEXT, SAMPLING, THINKING, SAMPLER)
def evaluate(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    model: Model,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Measure BLEU and perplexity on reference answers, mean length, and repetition, boilerplate and format."""
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api
    from alignkit.judging.evaluation import lines

    try:
        figures = api.evaluate(
            model, config=Path(config) if config else None, set=set_ or [], progress=progress, **given
        )
    finally:
        progress.stop()
    print(json_module.dumps(figures) if json else shown("\n".join(lines(figures))))


def add_to(app: typer.Typer) -> None:
    app.command("evaluate", cls=Command)(evaluate)
