"""`alignkit generate MODEL`: completions as JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from alignkit.cli.generation import NUM_PROMPTS, ROWS, SAMPLER, SAMPLING, TEXT
from alignkit.cli.options import Config, Set, with_options

Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="a run, a model folder or a hub name")]
Prompt = Annotated[
    list[str] | None, typer.Option("--prompt", metavar="TEXT", help="answer this instead of data; repeatable")
]
Out = Annotated[str | None, typer.Option("--out", metavar="FILE", help="write here instead of standard output")]


@with_options(NUM_PROMPTS, ROWS, TEXT, SAMPLING, SAMPLER)
def generate(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    model: Model,
    prompt: Prompt = None,
    out: Out = None,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Answer prompts; one JSON object a line."""
    from alignkit import api
    from alignkit.cli.progress import RichProgress

    progress = RichProgress()
    path = Path(config) if config else None
    try:
        answers = api.generate(model, prompt=prompt or [], config=path, set=set_ or [], progress=progress, **given)
        with _opened(Path(out) if out else None) as file:
            for answer in answers:
                print(json.dumps(answer, ensure_ascii=False), file=file)
    finally:
        progress.stop()


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """Yield standard output, or a file that takes its name only when it is whole."""
    if path is None:
        yield sys.stdout
        return
    from alignkit.errors import UsageError

    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}); name another file") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def add_to(app: typer.Typer) -> None:
    app.command("generate")(generate)
