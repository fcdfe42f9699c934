"""Answers as the policy's tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_models import tiny_model, tiny_tokenizer

from alignkit.audit.embeddings import embedding_table, read_tokens
from alignkit.audit.flips import VIEWS, flips, suspect
from alignkit.audit.pairs import PairSet, read_pairs
from alignkit.audit.surface import compare
from alignkit.data.reading.rows import to_row

ANSWERS = [("A stone.", "No"), ("é", "Well, well."), ("bb", "a")]


def pair_set(answers: list[tuple[str, str]]) -> PairSet:
    return read_pairs(
        to_row({"prompt": f"{number}?", "chosen": chosen, "rejected": rejected}, where=f"rows.jsonl, line {number}")
        for number, (chosen, rejected) in enumerate(answers)
    )


def test_means_of_embeddings_are_those_of_the_answers_bytes(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    pairs = pair_set(ANSWERS)
    lengths_P2, compared = read_tokens(pairs, compare(pairs), tmp_path)
    assert lengths_P2.tolist() == [[8, 2], [2, 11], [2, 1]]  # one token a byte
    (table_VD,) = [tensor for name, tensor in load_file(tmp_path / "model.safetensors").items() if "embed" in name]
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tmp_path)
    expected = np.stack([table_VD[ids(a).input_ids].mean(0) - table_VD[ids(b).input_ids].mean(0) for a, b in ANSWERS])
    means_PE = compared.means_PE
    assert means_PE is not None
    # 48 of at most 64 components are all there are: a rotation, which keeps every product
    np.testing.assert_allclose(means_PE @ means_PE.T, expected @ expected.T, atol=1e-6)
    assert np.abs(expected @ expected.T).min() > 1e-5


def test_a_folder_with_a_tokenizer_alone_counts_tokens(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    pairs = pair_set(ANSWERS)
    lengths_P2, compared = read_tokens(pairs, compare(pairs), tmp_path)
    assert lengths_P2[0].tolist() == [8, 2]
    assert compared.means_PE is None
    assert embedding_table(tmp_path) is None


def test_embeddings_are_a_view_of_their_own(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    pairs = pair_set([(f"good {number:04}", f"bad! {number:04}") for number in range(120)])
    _, compared = read_tokens(pairs, compare(pairs), tmp_path)
    suspicion = suspect(compared)
    assert suspicion is not None
    assert flips(pairs, compared, suspicion).views == VIEWS
    assert (suspicion.labels.added_PV[:, 3] > 0).all()
    some = compared.where(np.arange(120) < 110)
    assert some.means_PE is not None
    assert len(some.means_PE) == 110


def test_more_rows_than_are_sampled_are_projected_alike(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    spread = torch.cat((torch.full((3,), 5.0), torch.full((93,), 0.01)))
    table = torch.randn(9000, 96, generator=generator) * spread
    save_file({"model.embed_tokens.weight": table.to(torch.bfloat16)}, tmp_path / "model.safetensors")
    projected = embedding_table(tmp_path)
    assert projected is not None
    assert projected.shape == (9000, 64)
    kept = np.square(projected).sum() / float(((table - table.mean(0)) ** 2).sum())
    assert kept == pytest.approx(1, abs=0.01)  # three components carry nearly all
