"""Reads a GGUF file by llama.cpp itself, through the binding `llama-cpp-python`, where that is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGE = "llama_cpp"


def version() -> str | None:
    """The binding's version, None where it is not installed."""
    if importlib.util.find_spec(_PACKAGE) is None:
        return None
    return importlib.metadata.version("llama-cpp-python")


class LlamaCpp:
    """A GGUF file that llama.cpp has loaded, on the CPU.

    Args:
        longest: tokens of the longest text that it will be asked about.
    """

    def __init__(self, path: Path, *, longest: int) -> None:
        from llama_cpp import Llama

        self._model: Any = Llama(
            str(path), n_ctx=longest, n_batch=longest, logits_all=True, n_gpu_layers=0, verbose=False
        )

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered text: names of special tokens in it are those tokens, and no BOS is added."""
        return [int(token) for token in self._model.tokenize(text.encode(), add_bos=False, special=True)]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 [len(ids), V], what is predicted behind each token."""
        self._model.reset()
        self._model.eval(list(ids))
        return np.array(self._model.scores[: len(ids)], dtype=np.float32)

    def close(self) -> None:
        """Give its memory back."""
        self._model.close()
