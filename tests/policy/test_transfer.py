"""Arrays of a step lie side by side on the way to the device, and come apart as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignkit.policy.transfer import side_by_side, taken_apart, to_device


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 1000, 5),
        rng.normal(size=(3, 7)).astype(np.float32),
        rng.integers(0, 9, (4, 2, 2)).astype(np.int32).transpose(2, 1, 0),  # not contiguous
        np.zeros(0, np.float32),
        rng.random(3) < 0.5,
    ]


def test_arrays_laid_side_by_side_come_apart_as_they_were_and_begin_at_whole_vectors() -> None:
    given = arrays()
    flat = torch.from_numpy(side_by_side(given))
    for x, part in zip(given, taken_apart(flat, given), strict=True):
        assert part.numpy().dtype == x.dtype and np.array_equal(part.numpy(), x)
        assert (part.data_ptr() - flat.data_ptr()) % 16 == 0 or not len(x)


def test_on_a_cpu_nothing_is_copied() -> None:
    given = arrays()
    first, second = to_device([{"a": given[0], "b": given[1]}, {"a": given[4]}], torch.device("cpu"))
    given[0][0] = given[1][0, 0] = -1
    assert first["a"][0] == first["b"][0, 0] == -1 and second["a"].tolist() == given[4].tolist()


@pytest.mark.gpu
def test_a_gpu_gets_all_arrays_in_one_copy_without_a_wait() -> None:
    given = arrays()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows = [dict(zip("abc", given, strict=False)), {"host_b": given[0], "a": given[4]}]
        first, second = to_device(rows, torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert second["host_b"].tolist() == given[0].tolist() and not second["host_b"].is_cuda
    for x, part in zip([*given[:3], given[4]], [*first.values(), second["a"]], strict=True):
        assert part.is_cuda and np.array_equal(part.cpu().numpy(), x)
