"""How much memory there is, and the peak that some work used: the GPU's where there is one, else this process's."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


KERNELS = 256  # with 128, a step of thirty segments compiles kernels again that it just dropped: 1.5 times as long
KERNEL_BYTES = 0.7 * 2**20  # of one compiled kernel, in both stores together
_FULL = (  # in the text of a RuntimeError; cuBLAS has no room for its workspace in the last two
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)


def reset_peak() -> None:
    """Forget the peak so far, on Linux and CUDA. Elsewhere the peak stays that of the whole process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


@contextlib.contextmanager
def no_search_for_cycles() -> Iterator[None]:
    """For work that makes many objects without cycles: a search among all of torch's too can take half its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def give_back() -> None:
    """Return freed memory to the system. glibc keeps what loading and preparing used, and the peak would contain it."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def bound_kernels() -> None:
    """Let oneDNN, and torch's own store above it, keep `KERNELS` compiled kernels each, unless the environment sets it.

    A CPU's products of bf16 matrices are compiled for each new shape, and a step of other rows has other shapes. By
    default both stores keep 1,024 kernels of 0.7 MiB, and a model of 3M parameters grew from 860 to 1,590 MiB. Both
    read their limit when they are first used.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))


def peak_mib() -> float:
    """Return the peak since `reset_peak`, MiB."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def device_name(device: torch.device) -> str:
    """Return the name of a GPU as its driver gives it; "cpu" elsewhere."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass(frozen=True)
class Card:
    """A GPU's memory, in bytes.

    Args:
        total: of the card.
        free: what this process may still take: other processes hold the rest, or it was given a share of the card.
        name: as its driver gives it.
    """

    total: int
    free: int
    name: str = "the GPU"


def find_card() -> Card | None:
    """Look at the GPU that this process computes on; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    own = torch.cuda.memory_allocated()  # what torch reserved beyond that is free to this process
    share = int(torch.cuda.get_per_process_memory_fraction() * total)
    free = min(free + torch.cuda.memory_reserved(), share) - own
    return Card(total, max(0, free), torch.cuda.get_device_name())


def memory_bytes() -> int:
    """Return the bytes this process may use: the GPU's that are free, else the machine's or its container's."""
    card = find_card()
    return machine_bytes() if card is None else card.free


def machine_bytes() -> int:
    """Return the bytes of the machine's memory, or of its container's where that is limited."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(name).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            return min(total, int(limit))
    return total


def free_machine_bytes() -> int:
    """Return the bytes of the machine's memory, or of its container's, that are free or hold only files' content."""
    free = machine_bytes()
    with contextlib.suppress(OSError, KeyError):
        free = 1024 * _counts(Path("/proc/meminfo"))["MemAvailable:"]
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, KeyError, ValueError):  # without a limit it says "max"
        counts = _counts(group / "memory.stat")
        used = counts["anon"] + counts["shmem"] + counts.get("kernel", 0)
        free = min(free, int((group / "memory.max").read_text()) - used)
    return max(free, 0)


def _counts(file: Path) -> dict[str, int]:
    """Numbers by name, one per line, as the kernel writes them."""
    words = (line.split() for line in file.read_text().splitlines())
    return {name: int(value) for name, value, *_ in words if value.isdigit()}


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the device or the machine had no memory left; some RuntimeErrors mean that too."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _FULL)
