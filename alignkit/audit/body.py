"""Answers as the policy's body sees them: the mean of the last layer's states over each answer, behind its prompt.

It takes the place of the mean of input embeddings (embeddings.py) and costs a forward pass of every answer: how long is
said as soon as the first batches are done. Prompt and answer are read as plain text, without a chat template: what is
compared is two answers to one prompt, and both are read alike. Of a long prompt the end is read, of a long answer the
beginning. Shape letters: P pairs, N answers, T tokens, D the model's width, E components.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.audit.pairs import PairSet
from alignkit.audit.surface import Compared
from alignkit.data.encoding.encoder import Encoder
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer, names_model, read_model
from alignkit.progress import Progress

MAX_PROMPT, MAX_ANSWER = 256, 256  # tokens that are read
_BATCH_TOKENS = 8192
_COMPONENTS = 64
_NOTHING = re.compile("(?!)")  # no text is kept from being read as a special token
_FIRST = 4  # batches, after one to warm up, from which the time is told


def read_body(pairs: PairSet, compared: Compared, folder: Path, progress: Progress) -> Compared:
    """Average the last layer's states over both answers of each pair, on the GPU where there is one.

    Returns:
        The pairs, with `means_PE`: the differences' first 64 principal components, not centred.

    Raises:
        InputError: the folder has no model, or it cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if not names_model(folder):
        raise InputError(
            f"{folder}: no model in it, which --thorough reads the answers with; name one that has weights"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    body = read_model(AutoModelForCausalLM, folder, what="a causal model", dtype=dtype).base_model.to(device).eval()
    prompts, answers = _ids(pairs, compared, Encoder(load_tokenizer(folder), _NOTHING))
    lengths_N = np.array([len(prompts[n // 2]) + len(answer) for n, answer in enumerate(answers)])
    means_ND: np.ndarray | None = None
    batches = list(_batches(lengths_N))
    done = began = 0.0
    progress.start("audit: the model's body reads every answer", int(lengths_N.sum()))
    for number, batch in enumerate(batches):
        with torch.no_grad():
            means_BD = _means(body, [prompts[n // 2] for n in batch], [answers[n] for n in batch], device)
        if means_ND is None:
            means_ND = np.zeros((len(answers), means_BD.shape[1]), np.float32)
        means_ND[batch] = means_BD
        progress.advance(int(lengths_N[batch].sum()))
        if number == 0:
            began = time.monotonic()
            continue
        done += lengths_N[batch].sum()
        if number == _FIRST:
            left = (lengths_N.sum() - done) * (time.monotonic() - began) / done
            progress.note(f"--thorough: {lengths_N.sum():,} tokens through the model; about {left / 60:.0f} min more")
    assert means_ND is not None
    return replace(compared, means_PE=_components(means_ND[0::2] - means_ND[1::2]))


def _ids(pairs: PairSet, compared: Compared, encoder: Encoder) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids of each pair's prompt, and of its answers, chosen and rejected in turn."""
    prompts, answers = [], []
    for row in compared.rows.tolist():
        prompts.append(encoder.ids(TextWithSpans(pairs.prompts[row] + "\n\n"))[-MAX_PROMPT:])
        for texts in (pairs.chosen, pairs.rejected):
            answers.append(encoder.ids(TextWithSpans(texts[row] or ""))[:MAX_ANSWER])
    return prompts, answers


def _batches(lengths_N: np.ndarray) -> Iterator[np.ndarray]:
    """Answers of like lengths, the longest first, so that memory is known at once."""
    order_N = np.argsort(-lengths_N, kind="stable")
    at = 0
    while at < len(order_N):
        size = max(1, _BATCH_TOKENS // max(1, int(lengths_N[order_N[at]])))
        yield order_N[at : at + size]
        at += size


def _means(body: Any, prompts: list[np.ndarray], answers: list[np.ndarray], device: str) -> np.ndarray:
    """Mean state of each answer, float32 [answers, D]; 0 for one without tokens."""
    import torch

    longest = max(1, *(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)))
    ids_NT = torch.zeros((len(answers), longest), dtype=torch.long)
    is_text_NT, is_answer_NT = torch.zeros_like(ids_NT), torch.zeros_like(ids_NT)
    for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids_NT[n, :end] = torch.from_numpy(np.concatenate((prompt, answer)).astype(np.int64))
        is_text_NT[n, :end], is_answer_NT[n, len(prompt) : end] = 1, 1
    states_NTD = body(input_ids=ids_NT.to(device), attention_mask=is_text_NT.to(device), use_cache=False)[0]
    weight_NT = is_answer_NT / is_answer_NT.sum(1, keepdim=True).clamp(min=1)
    means_ND: np.ndarray = torch.einsum("ntd,nt->nd", states_NTD.float(), weight_NT.to(device)).cpu().numpy()
    return means_ND


def _components(difference_PD: np.ndarray) -> np.ndarray:
    _, vectors_DD = np.linalg.eigh(difference_PD.T @ difference_PD)
    components_PE: np.ndarray = difference_PD @ vectors_DD[:, -_COMPONENTS:]
    return components_PE
