"""Peak memory of a stretch of work, MiB: the GPU's where there is one, else this process's resident set."""

from __future__ import annotations

import resource
from pathlib import Path


def reset_peak() -> None:
    """Forget the peak so far (on Linux and CUDA; elsewhere the peak stays the process's)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


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
