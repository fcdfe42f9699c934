"""A transfer backend for vLLM over TCP: what NCCL does between GPUs, for servers on the CPU.

Imported by the tests, and by the servers that they start (an entry point of `vllm.general_plugins`).
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch.distributed import TCPStore
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory


@dataclass
class Meeting(WeightTransferInitInfo):
    master_address: str
    master_port: int
    world_size: int


@dataclass
class TrainerMeeting(TrainerInitInfo):
    backend: ClassVar[str] = "tcp"
    master_address: str
    master_port: int
    world_size: int


@dataclass
class Announced(WeightTransferUpdateInfo):
    round: int
    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]


class Receiver(WeightTransferEngine[Meeting, Announced]):
    init_info_cls = Meeting
    update_info_cls = Announced

    def init_transfer_engine(self, init_info: Meeting) -> None:
        self.store = TCPStore(init_info.master_address, init_info.master_port, init_info.world_size, False)

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # there is no accelerator to wait for

    def receive_weights(self, update_info: Announced) -> None:
        for name, dtype, shape in zip(update_info.names, update_info.dtypes, update_info.shapes, strict=True):
            content = bytearray(self.store.get(f"{update_info.round}/{name}"))
            self.model.load_weights([(name, torch.frombuffer(content, dtype=getattr(torch, dtype)).view(shape))])

    def shutdown(self) -> None:
        self.store = None


class Sender(TrainerWeightTransferEngine[TrainerMeeting]):
    init_info_cls = TrainerMeeting

    @classmethod
    def trainer_init(cls, init_info: TrainerMeeting, *, client: Any, source: Any = None) -> Sender:
        made = cls(client=client, source=source)
        place = init_info.master_address, init_info.master_port, init_info.world_size
        made.store = TCPStore(*place, True, wait_for_workers=False)
        made.rounds = itertools.count()
        client.init_weight_transfer_engine(asdict(Meeting(*place)))
        return made

    def send_weights(self) -> None:
        round_, meta = next(self.rounds), self.source.metadata()
        self.client.start_weight_update()
        for name, tensor in self.source:
            self.store.set(f"{round_}/{name}", tensor.contiguous().numpy().tobytes())
        dtypes = [str(one.dtype).removeprefix("torch.") for one in meta]
        shapes = [list(one.shape) for one in meta]
        self.client.update_weights(asdict(Announced(round_, [one.name for one in meta], dtypes, shapes)))
        self.client.finish_weight_update()


def register() -> None:
    if "tcp" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("tcp", Receiver)
        WeightTransferTrainerFactory.register_engine("tcp", Sender)
