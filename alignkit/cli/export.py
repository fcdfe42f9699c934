"""`alignkit export RUN --to DIR`: the model as transformers, vLLM, llama.cpp and Ollama load it."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from alignkit.cli.options import Command, Json
from alignkit.display import fitted
from alignkit.errors import UsageError
from alignkit.storage import check_path

Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="a run, a model folder or a hub name")]
To = Annotated[str, typer.Option("--to", metavar="DIR", help="a folder that is not there yet")]
Dtype = Annotated[
    Literal["fp32", "bf16", "fp16"] | None, typer.Option("--dtype", help="of the weights; default: as the model came")
]
Adapter = Annotated[
    bool,
    typer.Option(
        "--adapter/--merge", help="the run's LoRA adapter alone, for PEFT; or merged into the model (default)"
    ),
]
Gguf = Annotated[
    Literal["q8_0", "f16"] | None,
    typer.Option("--gguf", help="also write a file for llama.cpp; of Llama and Qwen2 models"),
]
Ollama = Annotated[
    bool, typer.Option("--ollama", help="also write a Modelfile, and --gguf q8_0 where no kind is named")
]
Push = Annotated[str | None, typer.Option("--push", metavar="OWNER/NAME", help="upload the folder to the hub")]


def export(
    *,
    model: Model,
    to: To,
    dtype: Dtype = None,
    adapter: Adapter = False,
    gguf: Gguf = None,
    ollama: Ollama = False,
    push: Push = None,
    as_json: Json = False,
) -> None:
    """Write a trained model into a folder, load it again, and say how far it is from what was trained."""
    from alignkit.cli.progress import starting
    from alignkit.cli.terminal import say

    progress = starting()
    from alignkit import api

    check_path(to, "--to")
    if not model.strip():
        raise UsageError("RUN|MODEL: an empty name; name a run or a model")
    try:
        found = api.export(
            model, to, dtype=dtype, adapter=adapter, gguf=gguf, ollama=ollama, push=push, progress=progress
        )
    finally:
        progress.stop()
    if as_json:
        content = {"folder": str(found.folder), "notes": found.notes, "address": found.address}
        print(json.dumps(content | {"differences": [one.as_json() for one in found.differences]}))
        return
    for line in (*found.notes, *(one.line() for one in found.differences)):
        say(fitted(line, sys.stdout))
    say(f"written: {found.folder}" + (f", and {found.address}" if found.address else ""))


def add_to(app: typer.Typer) -> None:
    app.command("export", cls=Command)(export)
