"""This machine's GPU: what it is, why torch cannot use one that is there, and which errors mean that it is lost."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia/version")
_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # dxg: Windows' subsystem for Linux
_GIB = 2**30
_MAX_LINE = 200  # characters of an error
_LOST = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", "CUDNN_STATUS_", "NVML_SUCCESS ==")
# what a library was asked wrongly: an error of the program, after which the card goes on
_ASKED_WRONGLY = ("_STATUS_NOT_SUPPORTED", "_STATUS_INVALID_VALUE", "_STATUS_BAD_PARAM", "invalid argument")
_KERNEL = ("device-side assert", "illegal memory access", "illegal instruction", "misaligned address", "launch failure")
_FAILED = "one of the kernels failed: if it happens again, run with CUDA_LAUNCH_BLOCKING=1 and report what it says"
_WHAT_TO_DO = (
    ("no kernel image", "this torch has no kernels for this card: install one that is built for it"),
    ("busy or unavailable", "another process has the card to itself, or it is switched off: look at nvidia-smi"),
    *((sign, _FAILED) for sign in _KERNEL),
)
_LOOK = "look at nvidia-smi and at the Xid lines of dmesg, and restart the card or leave it out"


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use.

    Args:
        free_gib: what no process holds.
        driver: its version; None where the system does not say.
        cuda: the version that torch is built for.
        capability: of compute, "9.0".
        bf16: whether it multiplies bf16 itself.
    """

    name: str
    total_gib: float
    free_gib: float
    driver: str | None
    cuda: str | None
    capability: str
    bf16: bool


def find_gpu() -> Gpu | None:
    """Return what torch computes on, or None where that is the CPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return Gpu(
        name=torch.cuda.get_device_name(),
        total_gib=total / _GIB,
        free_gib=free / _GIB,
        driver=driver_version(),
        cuda=torch.version.cuda,
        capability="{}.{}".format(*torch.cuda.get_device_capability()),
        bf16=torch.cuda.is_bf16_supported(including_emulation=False),
    )


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver for Linux, or None where it is not loaded."""
    try:
        found = re.search(r"Module\s+(?:for \S+\s+)?([0-9]+(?:\.[0-9]+)+)", _DRIVER.read_text())
    except OSError:
        return None
    return None if found is None else found[1]


def gpu_problem() -> str | None:
    """Say why torch cannot use a GPU that is there, and what to do; None where it can, or where none may be seen."""
    import torch

    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    if is_hidden or not any(path.exists() for path in (_DRIVER, *_DEVICES)) or torch.cuda.is_available():
        return None
    there = "a GPU is there, but torch cannot use it"
    if torch.version.cuda is None:
        return f"{there}: torch {torch.__version__} is built without CUDA; install one that is built with it"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        text = _first_line(error)
    else:
        text = "it finds no device"
    if "driver" in text and "too old" in text:
        driver = driver_version()
        return (
            f"{there}: its driver{f' {driver}' if driver else ''} is older than CUDA {torch.version.cuda}, which torch "
            f"{torch.__version__} is built for; update the driver, or install a torch that is built for an older CUDA"
        )
    return f"{there}: {text}; look at nvidia-smi, and whether this container or user may use the card"


def lost_gpu(error: BaseException) -> str | None:
    """Say what an error tells of the GPU and what to do, where this process cannot go on with it; None for others."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not any(sign in text for sign in _LOST):
        return None
    if any(sign in text for sign in _ASKED_WRONGLY):
        return None
    advice = next((advice for sign, advice in _WHAT_TO_DO if sign in text), _LOOK)
    return f"the GPU cannot go on: {_first_line(error)}; {advice}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_MAX_LINE].rstrip(" .")
