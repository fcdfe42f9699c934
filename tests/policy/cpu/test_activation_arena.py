"""Memory for what the backward pass needs: laid out densely in chunks, each freed with its last tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.sft import SFT, SFTConfig
from tiny_models import tiny_model
from torch.multiprocessing.reductions import StorageWeakRef

from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.policy.cpu.activation_arena import CHUNK_BYTES, Arena, current, use_arena
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.gradient.step import MicroBatch, accumulate


def test_tensors_lie_apart_in_one_chunk_and_hold_what_is_written() -> None:
    arena = Arena()
    made = [arena.empty((3, 5), torch.bfloat16), arena.empty((7,), torch.float64), arena.empty((2, 1, 4), torch.int8)]
    for number, tensor in enumerate(made):
        assert tensor.is_contiguous() and tensor.data_ptr() % 64 == 0
        tensor.fill_(number)
    assert [float(tensor.sum()) for tensor in made] == [0, 7, 16]
    assert len({tensor.untyped_storage().data_ptr() for tensor in made}) == 1


def test_a_chunk_goes_with_its_last_tensor() -> None:
    arena = Arena()
    view = arena.empty((CHUNK_BYTES - 64,), torch.uint8)[5:9]
    beside = arena.empty((64,), torch.uint8)
    first, later = StorageWeakRef(view.untyped_storage()), arena.empty((64,), torch.uint8)
    assert later.data_ptr() != beside.data_ptr() + 64  # the first chunk is full
    del beside
    assert not first.expired() and view.fill_(1).sum() == 4
    del view
    assert first.expired()
    last = StorageWeakRef(later.untyped_storage())
    del later
    assert not last.expired()  # there is room in it
    arena.close()
    assert last.expired()


def test_what_is_larger_than_a_chunk_has_memory_of_its_own() -> None:
    arena = Arena()
    large = arena.empty((CHUNK_BYTES + 1,), torch.uint8)
    assert large.untyped_storage().nbytes() == CHUNK_BYTES + 1 and arena.empty((0, 3), torch.float32).shape == (0, 3)


def test_nothing_is_saved_where_nothing_needs_a_gradient() -> None:
    assert current() is None
    with use_arena() as arena:
        assert current() is arena
        with torch.no_grad():
            assert current() is None
        with use_arena() as inner:
            assert current() is inner
        assert current() is arena
    assert current() is None


def test_a_steps_gradient_is_the_same_in_an_arena_and_a_micro_batchs_is_gone_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(tiny_model(tmp_path), precision="fp32")
    rng = np.random.default_rng(0)
    trees = [tree("r", rng.integers(0, 256, 9), [(rng.integers(0, 256, 12), np.ones(12, bool))]) for _ in range(3)]
    micro_batches = [MicroBatch(lay_out([one])) for one in trees]
    made: list[StorageWeakRef] = []
    gone: list[bool] = []
    empty, close = Arena.empty, Arena.close

    def noted_empty(self: Arena, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        tensor = empty(self, shape, dtype)
        made.append(StorageWeakRef(tensor.untyped_storage()))
        return tensor

    def noted_close(self: Arena) -> None:
        close(self)
        gone.append(bool(made) and all(chunk.expired() for chunk in made))

    def gradient() -> list[torch.Tensor]:
        policy.zero_grad(set_to_none=True)
        accumulate(policy, SFT(), SFTConfig(), micro_batches)
        return [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    with monkeypatch.context() as patch:
        patch.setattr(Arena, "empty", noted_empty)
        patch.setattr(Arena, "close", noted_close)
        found = gradient()
    assert gone == [True] * 3
    monkeypatch.setattr(Policy, "computes_again", True)  # then no arena is used
    assert all(torch.equal(a, b) for a, b in zip(found, gradient(), strict=True))
