"""Take a trained model home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alignkit.progress import Progress, Silent

if TYPE_CHECKING:
    from alignkit.exports.export import Export


def export(
    model: str,
    to: str | Path,
    *,
    dtype: Literal["fp32", "bf16", "fp16"] | None = None,
    adapter: bool = False,
    gguf: Literal["q8_0", "f16"] | None = None,
    ollama: bool = False,
    push: str | None = None,
    progress: Progress | None = None,
) -> Export:
    """Write a model into a new folder, load it again, and compare it with what was trained.

    Args:
        model: a run, a folder or a hub name.
        to: the folder, which is not there yet.
        dtype: of the weights; default: as the model came.
        adapter: write the run's LoRA adapter alone, as PEFT reads it; default: merged into the model.
        gguf: also write a file for llama.cpp.
        ollama: also write a Modelfile, and GGUF in q8_0 where `gguf` names no kind.
        push: OWNER/NAME on the hub, to upload the folder to.

    Raises:
        UsageError, InputError: it cannot be written so, or the folder is there already.
        RunStopped: what was written is not what was trained, the disk refuses, or the hub.
    """
    from alignkit.exports.export import Wanted, export_model

    wanted = Wanted(dtype, adapter, gguf, ollama, push)
    return export_model(model, Path(to), wanted, progress=progress or Silent())
