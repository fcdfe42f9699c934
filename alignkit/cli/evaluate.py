"""`alignkit evaluate MODEL`: BLEU, perplexity and length, without a judge."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.generation import NUM_PROMPTS, ROWS, SAMPLER, SAMPLING, TEXT
from alignkit.cli.options import Config, Json, Set, with_options

Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="a run, a model folder or a hub name")]
_LABELS = {
    "num_prompts": "prompts",
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu4": "BLEU-4",
    "perplexity": "perplexity",
    "mean_length": "mean length, tokens",
    "signature": "BLEU signature",
}


@with_options(NUM_PROMPTS, ROWS, TEXT, SAMPLING, SAMPLER)
def evaluate(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    model: Model,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Measure BLEU-1, 2 and 4 against reference answers, perplexity on scored tokens, and mean length."""
    from alignkit import api
    from alignkit.cli.progress import RichProgress

    progress = RichProgress()
    try:
        figures = api.evaluate(
            model, config=Path(config) if config else None, set=set_ or [], progress=progress, **given
        )
    finally:
        progress.stop()
    if json:
        print(json_module.dumps(figures))
        return
    for key, label in _LABELS.items():
        value = figures[key]
        text = "no reference answers" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
        print(f"{label:<20} {text}")


def add_to(app: typer.Typer) -> None:
    app.command("evaluate")(evaluate)
