"""Answers as the policy's own tokens: how many, and the mean of their input embeddings. No layer is computed.

Of the embedding table its 64 principal components are kept: the mean over an answer's tokens of more of them tells
better and worse answers apart no better (tried on real pairs), and costs more. Shape letters: P pairs, E components, D
the model's width.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from alignkit.audit.pairs import PairSet
from alignkit.audit.surface import Compared
from alignkit.data.encoding.encoder import Encoder
from alignkit.data.encoding.texts import FlatTexts, TextWithSpans
from alignkit.pretrained.read import load_tokenizer
from alignkit.pretrained.weights import weight_files

_TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")
_COMPONENTS = 64
_SAMPLE = 4096  # rows of the table that its components are computed from
_AT_ONCE = 2048
_NOTHING = re.compile("(?!)")  # no text is kept from being read as a special token


def read_tokens(pairs: PairSet, compared: Compared, folder: Path) -> tuple[np.ndarray, Compared]:
    """Count the tokens of both answers of each pair, and where the model's embeddings are there, average them.

    Args:
        folder: a model's, or one with a tokenizer alone.

    Returns:
        int64 [P, 2], at least 1; and the pairs, with `means_PE` where there are embeddings.

    Raises:
        InputError: the tokenizer or the weights cannot be read.
    """
    encoder = Encoder(load_tokenizer(folder), _NOTHING)
    table_VE = embedding_table(folder)
    lengths_P2 = np.empty((len(compared), 2), np.int64)
    means = []
    for at in range(0, len(compared), _AT_ONCE):
        rows = compared.rows[at : at + _AT_ONCE].tolist()
        sides = []
        for side, texts in enumerate((pairs.chosen, pairs.rejected)):
            ids, offsets = encoder.plain_ids(FlatTexts.of([TextWithSpans(texts[row] or "") for row in rows]))
            lengths_P2[at : at + len(rows), side] = np.maximum(np.diff(offsets), 1)
            if table_VE is not None:
                sides.append(_means(ids, offsets, table_VE))
        if sides:
            means.append(sides[0] - sides[1])
    return lengths_P2, replace(compared, means_PE=np.concatenate(means)) if means else compared


def embedding_table(folder: Path) -> np.ndarray | None:
    """Read a model's input embeddings and reduce them to their principal components, float32 [V, E].

    None without weights, or where they have no table of a known name and of plain numbers.

    Raises:
        InputError: the weights are damaged.
    """
    if not any(folder.glob("*.safetensors")):
        return None
    import torch
    from safetensors import safe_open

    for file in weight_files(folder).values():
        with safe_open(file, framework="pt") as tensors:
            named = [name for name in list(tensors.keys()) if name.endswith(_TABLES)]
            if named:
                table_VD = tensors.get_tensor(named[0])
                return _components(table_VD) if torch.is_floating_point(table_VD) and table_VD.dim() == 2 else None
    return None


def _components(table_VD: Any) -> np.ndarray:
    """Project a table, a tensor, on its first components."""
    import torch

    step = -(-len(table_VD) // _SAMPLE)
    some = table_VD[::step].to(torch.float32)
    middle_D = some.mean(0)
    centred = some - middle_D
    _, vectors_DD = torch.linalg.eigh(centred.T @ centred)
    kept_DE = vectors_DD[:, -_COMPONENTS:]
    parts = [(part.to(torch.float32) - middle_D) @ kept_DE for part in table_VD.split(1 << 14)]
    projected: np.ndarray = torch.cat(parts).numpy()
    return projected


def _means(ids: np.ndarray, offsets: np.ndarray, table_VE: np.ndarray) -> np.ndarray:
    """Mean of the rows of each text's ids, float32 [texts, E]; 0 without ids, and for an id without a row."""
    lengths = np.diff(offsets)
    weight = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    has_row = ids < len(table_VE)
    counted = sparse.csr_array((weight * has_row, np.where(has_row, ids, 0), offsets), (len(lengths), len(table_VE)))
    means: np.ndarray = counted @ table_VE
    return means
