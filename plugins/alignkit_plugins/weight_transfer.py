"""Weights to a vLLM server by vLLM's own transfer protocol, from device to device, without a folder.

The trainer's half of a vLLM backend opens a group with the server's workers and sends every tensor. The server's routes
(init, start, update, finish) say when. This file has the control plane over HTTP, the policy's weights in the form that
a backend takes, and the place where the two sides meet. The backend itself sends the bytes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from alignkit.plugin import UsageError
from alignkit_plugins.vllm_engine import require_vllm

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PREFIX = "vllm:"  # in --set server_weights=vllm:BACKEND

Ask = Callable[[str, object], Any]
Weights = Callable[[], Iterable[tuple[str, "Tensor"]]]


def _nccl() -> type:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo


BACKENDS: dict[str, Callable[[], type]] = {"nccl": _nccl}
"""The settings that start the trainer's half of each backend: master_address, master_port, world_size and rank."""


class Control:
    """The control plane of one server, as vLLM's `VLLMWeightSyncClient` asks for it.

    Args:
        ask: posts a body to a path of the server and returns the answer, or raises.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._ask("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._ask("/start_weight_update", None)

    def update_weights(self, update_info: object) -> None:
        self._ask("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._ask("/finish_weight_update", None)


def backend_of(shared: str | None, device: torch.device) -> str | None:
    """Return the backend that `--set server_weights=vllm:BACKEND` names, or None for a folder.

    Raises:
        UsageError: vLLM is not installed, the policy is not on a GPU, or the backend is unknown.
    """
    if shared is None or not shared.startswith(PREFIX):
        return None
    backend = shared.removeprefix(PREFIX)
    if backend not in BACKENDS:
        known = ", ".join(PREFIX + name for name in BACKENDS)
        raise UsageError(f"--set server_weights={shared}: no such transfer; take {known}, or a folder")
    if backend == "nccl" and device.type != "cuda":
        raise UsageError(
            f"--set server_weights={shared} needs the policy on a GPU, and it is on {device}; name a folder"
        )
    require_vllm(f"--set server_weights={shared}", otherwise="a folder that the servers see needs nothing here")
    return backend


def connect(backend: str, *, ask: Ask, weights: Weights, address: tuple[str, int], num_workers: int) -> Any:
    """Open a group of this process and one server's workers. Its `send_weights()` renews the server's weights.

    Args:
        weights: returns the policy's present tensors by their names in the checkpoint format.
        address: host and port of the server; its workers call this machine at the address it calls from.
        num_workers: how many workers the server has.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    here, port = _meeting_place(address)
    info = BACKENDS[backend]()(master_address=here, master_port=port, world_size=1 + num_workers, rank=0)
    return WeightTransferTrainerFactory.trainer_init(info, client=Control(ask), source=_source(weights))


def _meeting_place(server: tuple[str, int]) -> tuple[str, int]:
    """Return this machine's address as the server sees it, and a port that is free here."""
    with socket.create_connection(server, timeout=10) as connection:
        here = str(connection.getsockname()[0])
    with socket.socket(socket.AF_INET6 if ":" in here else socket.AF_INET) as free:
        free.bind((here, 0))
        return here, int(free.getsockname()[1])


def _source(weights: Weights) -> Any:
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Policy(WeightSource):  # type: ignore[misc]
        """The policy's weights, read again in each pass."""

        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights()]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            yield from ((name, tensor.detach()) for name, tensor in weights())

    return Policy()
