"""The clock of MFU: a GPU's own stamps, read where they are past, and the update of the step before."""

from __future__ import annotations

import time
from typing import ClassVar

import pytest
import torch

from alignkit.training.gradient.speed import GpuClock


class Stamp:
    """An event of a GPU that reaches its stamps at given times, in ms."""

    times_ms: ClassVar[list[float]] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.is_past = False

    def record(self) -> None:
        self.at_ms = self.times_ms.pop(0)

    def synchronize(self) -> None:
        self.is_past = True

    def elapsed_time(self, end: Stamp) -> float:
        return end.at_ms - self.at_ms


def test_a_step_takes_its_passes_and_the_update_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Stamp)
    Stamp.times_ms = [0.0, 100.0, 107.0, 120.0, 230.0, 239.0, 300.0, 420.0, 431.0]  # start, turn and stop of each step
    clock, found = GpuClock(), []
    for _ in range(3):
        clock.start()
        clock.turn()
        clock.stop()
        found.append(clock.seconds)
    assert found == pytest.approx([0.100, 0.110 + 0.007, 0.120 + 0.009])


@pytest.mark.gpu
def test_a_gpus_clock_agrees_with_one_that_waits() -> None:
    matrix = torch.randn(4096, 4096, device="cuda")
    clock, seconds = GpuClock(), []
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.monotonic()
        clock.start()
        for _ in range(40):
            matrix @ matrix
        float(matrix[0, 0])
        clock.turn()
        for _ in range(10):
            matrix @ matrix
        clock.stop()
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
        found = clock.seconds
    assert found == pytest.approx(seconds[-1], rel=0.15)
