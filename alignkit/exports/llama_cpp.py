"""Reads a GGUF file by llama.cpp itself, through the package `xllamacpp`, where that is installed.

It is llama.cpp's own server in this process. Its template and tokens are asked for at a port of this machine that only
its key opens, its answers by a call.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

PACKAGE = "xllamacpp"
_NUM_LIKELIEST = 40  # tokens asked for at each place; an answer's token that is not among them is asked for again


def version() -> str | None:
    """The package's version, None where it is not installed."""
    return None if importlib.util.find_spec(PACKAGE) is None else importlib.metadata.version(PACKAGE)


class LlamaCpp:
    """A GGUF file that llama.cpp has loaded, on the CPU.

    Args:
        longest: tokens of the longest text that it will be asked about.
        vocab_size: tokens of the model.

    Raises:
        ValueError: llama.cpp cannot load it; it says why on stderr.
    """

    def __init__(self, path: Path, *, longest: int, vocab_size: int) -> None:
        import xllamacpp

        key = secrets.token_hex(16)
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx = longest
        settings.n_parallel = 1
        settings.n_gpu_layers = 0
        settings.api_keys = [key]
        settings.ui = settings.warmup = False
        settings.verbosity = 0  # errors alone
        for threads in (settings.cpuparams, settings.cpuparams_batch):
            threads.n_threads = 1  # more wait for each other in a busy loop where other work is on the machine
        try:
            self._server: Any = xllamacpp.Server(settings)
        except RuntimeError as error:
            raise ValueError(f"llama.cpp cannot load it: {error}") from error
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=self._server.listening_address, headers=headers, trust_env=False)
        self._vocab_size = vocab_size
        self._letter = self._ids("a")[-1]

    def prompt_ids(self, messages: Sequence[Mapping[str, Any]], template_kwargs: Mapping[str, object]) -> list[int]:
        """Token ids of a conversation as the file's own template renders it for an answer."""
        body = {"messages": list(messages), "chat_template_kwargs": dict(template_kwargs)}
        return self._ids(self._ask("/apply-template", body)["prompt"])

    def logprobs(self, prompt: Sequence[int], answer: Sequence[int]) -> tuple[np.ndarray, bool]:
        """float64 [len(answer)] log-probs of an answer's tokens, and whether each is the likeliest one."""
        found, same = [], True
        for n, wanted in enumerate(answer):
            likeliest = self._next([*prompt, *answer[:n]], _NUM_LIKELIEST)
            same &= likeliest[0]["id"] == wanted
            known = {one["id"]: one["logprob"] for one in likeliest}
            if wanted not in known:
                known = {one["id"]: one["logprob"] for one in self._next([*prompt, *answer[:n]], self._vocab_size)}
            found.append(known[wanted])
        return np.array(found), same

    def close(self) -> None:
        """Give its memory back."""
        self._http.close()
        self._server = None

    def _next(self, ids: Sequence[int], num_likeliest: int) -> list[dict[str, Any]]:
        """The likeliest next tokens, likeliest first, with log-probs over the whole vocabulary."""
        answered = self._server.handle_completions(
            {
                "prompt": list(ids),
                "n_predict": 1,
                "n_probs": num_likeliest,
                # The server leaves out a token that is part of a character. What it draws does not change log-probs.
                "logit_bias": [[self._letter, 1e6]],
            }
        )
        (place,) = answered["choices"][0]["logprobs"]["content"]
        likeliest: list[dict[str, Any]] = place["top_logprobs"]
        return likeliest

    def _ids(self, text: str) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": True}
        return list(self._ask("/tokenize", body)["tokens"])

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        return self._http.post(path, json=body, timeout=60).raise_for_status().json()
