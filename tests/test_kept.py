"""Chunks for what the backward pass needs: laid out densely, taken again only when nothing lies in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from alignkit_plugins.sft import SFT, SFTConfig
from tiny_models import tiny_model

from alignkit.data.packs import lay_out
from alignkit.data.trees import tree
from alignkit.policy import kept
from alignkit.policy.kept import CHUNK_BYTES, Chunks
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.step import Micro, accumulate


def test_tensors_lie_apart_in_one_chunk_and_hold_what_is_written() -> None:
    chunks = Chunks()
    made = [
        chunks.empty((3, 5), torch.bfloat16),
        chunks.empty((7,), torch.float64),
        chunks.empty((2, 1, 4), torch.int8),
    ]
    for number, tensor in enumerate(made):
        assert tensor.is_contiguous() and tensor.data_ptr() % 64 == 0
        tensor.fill_(number)
    assert [float(tensor.sum()) for tensor in made] == [0, 7, 16]
    assert len({tensor.untyped_storage().data_ptr() for tensor in made}) == 1


def test_a_chunk_is_taken_again_only_when_no_tensor_lies_in_it() -> None:
    chunks = Chunks()
    first = chunks.empty((CHUNK_BYTES,), torch.uint8)
    view = chunks.empty((CHUNK_BYTES,), torch.uint8)[5:9]
    places = {x.untyped_storage().data_ptr() for x in (first, view)}
    free = first.untyped_storage().data_ptr()
    del first
    chunks.reclaim()
    again, other = (chunks.empty((CHUNK_BYTES,), torch.uint8).untyped_storage().data_ptr() for _ in range(2))
    assert again == free and other not in places and view.fill_(1).sum() == 4


def test_what_is_larger_than_a_chunk_has_memory_of_its_own() -> None:
    chunks = Chunks()
    large = chunks.empty((CHUNK_BYTES + 1,), torch.uint8)
    assert large.untyped_storage().nbytes() == CHUNK_BYTES + 1 and chunks.empty((0, 3), torch.float32).shape == (0, 3)


def test_nothing_is_kept_where_nothing_needs_a_gradient() -> None:
    assert kept.current() is None
    with kept.in_chunks() as chunks:
        assert kept.current() is chunks
        with torch.no_grad():
            assert kept.current() is None
    with kept.in_chunks(False):
        assert kept.current() is None
    assert kept.current() is None


def test_a_steps_gradient_is_the_same_in_chunks_and_micro_batches_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(tiny_model(tmp_path), precision="fp32")
    rng = np.random.default_rng(0)
    trees = [tree("r", rng.integers(0, 256, 9), [(rng.integers(0, 256, 12), np.ones(12, bool))]) for _ in range(3)]
    micros = [Micro(lay_out([one])) for one in trees]
    counts: list[int] = []
    reclaim = Chunks.reclaim

    def counted(self: Chunks) -> None:
        reclaim(self)
        counts.append(len(self._spare))

    def gradient() -> list[torch.Tensor]:
        policy.zero_grad(set_to_none=True)
        accumulate(policy, SFT(), SFTConfig(), micros)
        return [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "reclaim", counted)
        found = gradient()
    assert counts == [1, 1, 1]  # the graph of a micro-batch is gone before the next begins
    monkeypatch.setattr(Policy, "computes_again", True)  # then no chunks are used
    assert all(torch.equal(a, b) for a, b in zip(found, gradient(), strict=True))
