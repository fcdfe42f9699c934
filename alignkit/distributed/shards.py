"""Tensors in safetensors files, whole or one shard per rank, which any number of ranks can read.

    NAME.safetensors            of one process
    NAME-2-of-4.safetensors     of rank 1 of 4: its rows of each tensor, as FSDP shards them along the first dimension

The rows of a tensor are those of all files in order of ranks; what is not sharded (a count of steps) is in the first.
A rank reads only its own rows. Nothing is gathered, neither to write nor to read. The file format is that of
https://huggingface.co/docs/safetensors: safetensors' own writer neither hashes nor lets other threads run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from alignkit.distributed.ranks import World
from alignkit.storage import open_private

_PART_BYTES = 16 << 20  # hashed and written at once
_NAMES = {  # of types in the file format
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Piece:
    """A safetensors file that is not written yet.

    Args:
        file: its name.
        header: its first bytes: how long what follows is, and where each tensor lies.
        content: the tensors' bytes in order, uint8 [bytes], on any device.
    """

    file: str
    header: bytes
    content: Sequence[Tensor]

    def write(self, folder: Path) -> str:
        """Write the file and bring it to disk; returns its SHA-256, computed on the way. Raises OSError."""
        digest = hashlib.sha256(self.header)
        with open(folder / self.file, "wb", opener=open_private) as file:
            file.write(self.header)
            for part in (part for tensor in self.content for part in tensor.split(_PART_BYTES)):
                own = memoryview(part.cpu().numpy())
                digest.update(own)  # this and the next let other threads run
                file.write(own)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()


def make_piece(name: str, tensors: Mapping[str, Tensor], world: World) -> Piece:
    """Lay out this rank's piece of each tensor as a safetensors file; its content is views of them."""
    part = "" if world.size == 1 else f"-{world.rank + 1}-of-{world.size}"
    pieces = {key: _local(tensor) for key, tensor in tensors.items() if _is_sharded(tensor) or world.is_first}
    # the wider types first, so that each number lies at a multiple of its size
    keys = sorted((key for key in pieces if pieces[key].numel()), key=lambda key: (-pieces[key].element_size(), key))
    about: dict[str, Any] = {}
    end = 0
    for key in keys:
        start, end = end, end + pieces[key].nbytes
        about[key] = {
            "dtype": _NAMES[pieces[key].dtype],
            "shape": list(pieces[key].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 8)
    content = tuple(pieces[key].detach().contiguous().reshape(-1).view(torch.uint8) for key in keys)
    return Piece(f"{name}{part}.safetensors", len(text).to_bytes(8, "little") + text, content)


@contextmanager
def read_pieces(folder: Path, name: str) -> Iterator[Pieces]:
    """Open the pieces of a name, however many there are."""
    files = sorted(folder.glob(f"{name}-*-of-*.safetensors"), key=lambda file: int(file.stem.split("-")[-3]))
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(f, "pt")) for f in files or [folder / f"{name}.safetensors"]]
        yield Pieces(opened)


class Pieces:
    """Tensors of one or several open safetensors files."""

    def __init__(self, opened: list[Any]) -> None:
        self._opened = [(file, set(file.keys())) for file in opened]

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for _, names in self._opened for name in sorted(names)))

    def read(self, name: str, like: Tensor | None = None) -> Tensor:
        """Return a tensor whole; or, where `like` is sharded, this rank's rows of it, sharded as `like` is."""
        if like is None or not _is_sharded(like):
            return self._rows(name, 0, None)
        from torch.distributed.tensor import DTensor

        own: Any = like
        first, last = _own_rows(own)
        local = self._rows(name, first, last).to(own.to_local().device)
        if not local.ndim:
            return local
        return DTensor.from_local(
            local, own.device_mesh, own.placements, run_check=False, shape=own.shape, stride=own.stride()
        )

    def _rows(self, name: str, first: int, last: int | None) -> Tensor:
        parts: list[Tensor] = []
        start = 0
        for file, names in self._opened:
            if name not in names:
                continue
            piece = file.get_slice(name)
            shape = piece.get_shape()
            if not shape:
                scalar: Tensor = file.get_tensor(name)
                return scalar
            low, high = max(first - start, 0), shape[0] if last is None else min(last - start, shape[0])
            if low < high or not parts:
                parts.append(piece[low : max(low, high)])
            start += shape[0]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def global_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor over all ranks."""
    return tensor.numel() * tensor.element_size()


def _is_sharded(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def _own_rows(tensor: Any) -> tuple[int, int]:
    """First and last row of this rank's shard: as many to each rank as `torch.chunk` gives."""
    mesh = tensor.device_mesh
    rows = tensor.shape[0]
    each = -(-rows // mesh.size())
    first = min(each * mesh.get_local_rank(), rows)
    return first, min(first + each, rows)
