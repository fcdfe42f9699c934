"""What this machine has: device, memory, disk, and what can be reached. No secret is ever read out."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from alignkit.memory import machine_bytes

_GIB = 2**30
_PROBE_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Machine:
    """The device that trains, and the room there is.

    Args:
        device: "cuda" or "cpu".
        device_name: the GPU's name, or the number of CPU cores this process may use.
        device_gib: memory of the device in GiB (the machine's own without a GPU).
        memory_gib: memory of the machine in GiB.
        disk_gib: free disk below the working folder in GiB.
    """

    device: str
    device_name: str
    device_gib: float
    memory_gib: float
    disk_gib: float


def look() -> Machine:
    """Ask torch and the operating system."""
    import torch

    memory_gib = machine_bytes() / _GIB
    disk_gib = shutil.disk_usage(Path()).free / _GIB
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return Machine("cuda", found.name, found.total_memory / _GIB, memory_gib, disk_gib)
    return Machine("cpu", f"{len(os.sched_getaffinity(0))} CPU cores", memory_gib, memory_gib, disk_gib)


def hub_problem() -> str | None:
    """Return why the Hugging Face hub cannot be used, or None where it answers within 3 seconds."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        httpx.head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    return None


def has_nvidia_key() -> bool:
    """Whether NVIDIA_API_KEY, which the judge `nemotron` needs, is set."""
    return bool(os.environ.get("NVIDIA_API_KEY"))
