"""TRL's side of the training step: its trainers (tests/helpers/trl_trainers.py) timed, one optimizer step an epoch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from tests.helpers.trl_trainers import make_trainer


def trl(variant: str, name: str, case: str, model: str, steps: int) -> dict[str, Any]:
    """Train with TRL; see `train_step_sides.result` for what comes back."""
    from bench.train_step_sides import LEARNING_RATE, read, resident_mib, result

    rows = read(case)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            name, rows, model, folder, steps=steps, variant=variant, options={"learning_rate": LEARNING_RATE}
        )
        clock = StepEnds()
        trainer.add_callback(clock.callback())
        before = resident_mib()
        clock.ends.append(time.perf_counter())
        trainer.train()
    steps_logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses, norms = ([entry[name] for entry in steps_logged] for name in ("loss", "grad_norm"))
    return result(losses, norms, clock.ends[1:] if steps > 1 else clock.ends, before)


class StepEnds:
    """When each optimizer step ended, by a callback of transformers' trainer; `sync` waits for a device before."""

    def __init__(self, sync: Callable[[], None] = lambda: None) -> None:
        self._sync = sync
        self.ends: list[float] = []

    def callback(self) -> Any:
        from transformers import TrainerCallback

        ends, sync = self.ends, self._sync

        class Callback(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                sync()
                ends.append(time.perf_counter())

        return Callback()


def trl_head(states_TH: torch.Tensor, weight_VH: torch.Tensor, target_T: torch.Tensor) -> torch.Tensor:
    """TRL's fused head as its SFT trainer calls it on a CPU: every position is scored."""
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction

    outputs = ("log_probs", "entropy", "is_top1")
    return _ChunkedLogProbFunction.apply(
        states_TH, weight_VH, None, target_T, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, outputs
    )[0]
