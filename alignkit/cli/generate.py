"""`alignkit generate MODEL`: completions as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.options import NUM_PROMPTS, ROWS, SAMPLER, SAMPLING, TEXT, Command, Config, Set, with_options
from alignkit.display import json_shown
from alignkit.errors import Interrupted, UsageError

Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="a run, a model folder or a hub name")]
Prompt = Annotated[
    list[str] | None, typer.Option("--prompt", metavar="TEXT", help="answer this instead of data; repeatable")
]
Out = Annotated[str | None, typer.Option("--out", metavar="FILE", help="write here instead of standard output")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with an unfinished --out FILE")]


@with_options(NUM_PROMPTS, ROWS, TEXT, SAMPLING, SAMPLER)
def generate(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    model: Model,
    prompt: Prompt = None,
    out: Out = None,
    resume: Resume = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Answer prompts; one JSON object per line, with token counts and the reason each answer ended."""
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api

    options: dict[str, Any] = {
        "prompt": prompt or [],
        "config": Path(config) if config else None,
        "set": set_ or [],
        "progress": progress,
    }
    if resume and out is None:
        raise UsageError("--resume goes on with a file: name it with --out FILE")
    try:
        if out is not None:
            file = api.generate_file(model, out, resume=resume, **options, **given)
            with file.open("rb") as lines:
                progress.note(f"{sum(1 for _ in lines):,} answers in {file}")
            return
        for answer in api.generate(model, **options, **given):
            print(json_shown(json.dumps(answer, ensure_ascii=False)))
    except KeyboardInterrupt:
        kept = "without --out nothing is kept" if out is None else "what was answered is kept; go on with --resume"
        raise Interrupted(f"interrupted: {kept}") from None
    finally:
        progress.stop()


def add_to(app: typer.Typer) -> None:
    app.command("generate", cls=Command)(generate)
