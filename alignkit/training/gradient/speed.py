"""Model FLOPs utilisation: the share of a GPU's dense bf16 peak that a step's own arithmetic reaches.

    FLOP = 6 B computed tokens + 6 V H scored tokens + 12 L A pairs          (4, 4 and 12 with a frozen base under LoRA)
    MFU  = FLOP / seconds of forward, backward and update / (GPUs x peak)

B parameters of the layers, V x H of the head, L layers, A heads x head size, pairs (query, key) that see each other;
two FLOP a multiplication, forward once and backward twice. What is computed again going backward does not count, nor
does what prompts shared among completions save, nor a pass that only estimates a KL (kto). As in Chowdhery et al.,
2022 (PaLM), appendix B, with the attention that is really there. Peaks are the maker's figures without sparsity, from
data sheets (GB200 and GB300 NVL72, HGX B200 and B300, H100, A100, L40S, L4, A10; RTX 6000 Ada: FP8 with sparsity / 4)
and white papers (Ampere GA102, Ada, RTX Blackwell). GeForce cards sum in fp32 at half their speed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alignkit.data.trees.packs import Pack
from alignkit.distributed.ranks import World
from alignkit.memory import device_name, peak_mib
from alignkit.policy.architecture import head_size
from alignkit.policy.policy import Policy
from alignkit.training.gradient.step import MicroBatch

PEAKS = {  # TFLOP/s in bf16, summed in fp32; the first whose words stand in the device's name
    "GB300": 2500.0,
    "GB200": 2500.0,
    "B300": 2250.0,
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "A100": 311.9,
    "A800": 311.9,
    "L40S": 362.1,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A40": 149.7,
    "RTX PRO 6000 Blackwell Workstation": 503.8,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
    "RTX A5000": 111.1,
    "RTX 5090": 209.5,
    "RTX 5080": 112.6,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
_OTHER_CARD = {"Ti", "SUPER", "D", "Laptop"}  # a word after the name of one card makes it another
_PART = "MIG"  # of a card


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak of a GPU, FLOP/s, or None where it is not known, or the GPU has no bf16 (V100, T4)."""
    words = re.split(r"[\s-]+", device_name)
    if _PART in words:
        return None
    for name, peak in PEAKS.items():
        own = name.split()
        for at in range(len(words)):
            if words[at : at + len(own)] == own:
                return None if _OTHER_CARD.intersection(words[at + len(own) :]) else peak * 1e12
    return None


@dataclass(frozen=True)
class Arithmetic:
    """What a policy computes.

    Args:
        layers: parameters of the layers (B).
        head: parameters of the head (V x H); 0 with a scalar head.
        attention: layers x heads x head size (L A).
        is_adapter: the base is frozen.
    """

    layers: int
    head: int
    attention: int
    is_adapter: bool = False

    @classmethod
    def of(cls, policy: Policy) -> Arithmetic:
        config = policy.config.get_text_config()
        vocab = policy.base.get_input_embeddings().weight.numel()
        layers = sum(p.numel() for p in policy.body.parameters()) - vocab
        attention = config.num_hidden_layers * config.num_attention_heads * head_size(config)
        return cls(layers, 0 if policy.scalar_head else vocab, attention, policy.has_adapter)

    def flops(self, packs: Sequence[Pack]) -> float:
        """FLOP of forward and backward passes over these rows."""
        each = 4 if self.is_adapter else 6
        computed, scored = sum(len(pack.ids_S) for pack in packs), sum(len(pack.target_T) for pack in packs)
        pairs = sum(_pairs(pack) for pack in packs)
        return each * (self.layers * computed + self.head * scored) + 12.0 * self.attention * pairs


def _pairs(pack: Pack) -> float:
    """Queries times the keys that they see."""
    total = 0.0
    for span in pack.spans:
        prompt = span.prompt_end - span.start
        total += prompt * (prompt + 1) / 2
        total += sum((end - start) * (prompt + (end - start + 1) / 2) for start, end in span.completions)
    return total


def packs_of(micro_batches: Sequence[MicroBatch]) -> list[Pack]:
    """All rows of a step, those of samples beside rows too."""
    return [
        part.pack for micro_batch in micro_batches for part in (micro_batch, micro_batch.samples) if part is not None
    ]


class StepClock:
    """The seconds of a step's forward and backward passes and its update."""

    def __init__(self) -> None:
        self._began = self._ended = 0.0

    def start(self) -> None:
        """The first forward pass begins."""
        self._began = time.monotonic()

    def turn(self) -> None:
        """The gradient is there and was read; the update begins."""

    def stop(self) -> None:
        """The update is done, or on its way."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._ended - self._began


class GpuClock(StepClock):
    """The same on a GPU, without waiting for it: from stamps that it writes itself.

    When a step's numbers are asked for, its update is still under way: that of the step before counts in its place,
    and none in the first step. It has ended, as this step's gradient was read after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stamps: list[torch.cuda.Event] = []  # start, turn and stop of this step, after those of the one before

    def start(self) -> None:
        self._stamps = [*self._stamps[-3:], _stamped()]

    def turn(self) -> None:
        self._stamps.append(_stamped())

    def stop(self) -> None:
        self._stamps.append(_stamped())

    @property
    def seconds(self) -> float:
        *before, began, turned, _ = self._stamps
        turned.synchronize()  # nothing was given to the GPU between the read and this stamp
        update_ms = before[1].elapsed_time(before[2]) if before else 0.0
        return (began.elapsed_time(turned) + update_ms) / 1000


def _stamped() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Utilisation:
    """What a step used of the device: peak memory so far (MiB), and MFU where the GPU's peak is known."""

    def __init__(self, policy: Policy, world: World) -> None:
        self._arithmetic, self._peak, self._world = Arithmetic.of(policy), peak_flops(device_name(policy.device)), world
        self.clock = GpuClock() if policy.device.type == "cuda" else StepClock()

    def of(self, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """Return {"memory_mib", "mfu"} of the step that `clock` ran in."""
        found = {"memory_mib": peak_mib()}
        if self._peak is not None and micro_batches:
            seconds = self.clock.seconds
            flops = self._world.all_reduce_sums({"flops": self._arithmetic.flops(packs_of(micro_batches))})["flops"]
            found["mfu"] = flops / seconds / (self._world.size * self._peak)
        return found
