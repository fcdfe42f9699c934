"""What this machine has: device, memory, disk, and what can be reached. No secret is ever read out."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alignkit.memory import machine_bytes
from alignkit.presets import Machine

_GIB = 2**30
_PROBE_TIMEOUT_S = 3.0


def look(*, hub: bool = False) -> Machine:
    """Ask torch and the operating system; and with `hub` whether the Hugging Face hub answers."""
    with ThreadPoolExecutor(1) as beside:  # torch is imported while the hub is waited for
        asked = beside.submit(hub_problem) if hub else None
        import torch

    problem = None if asked is None else asked.result()
    memory_gib = machine_bytes() / _GIB
    disk_gib = shutil.disk_usage(Path()).free / _GIB
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return Machine("cuda", found.name, found.total_memory / _GIB, memory_gib, disk_gib, problem)
    return Machine("cpu", f"{len(os.sched_getaffinity(0))} CPU cores", memory_gib, memory_gib, disk_gib, problem)


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
