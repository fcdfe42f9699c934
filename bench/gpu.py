"""What alignkit does on one CUDA card, in at most eight minutes: steps, numbers, memory, runs, and peers beside.

    python -m bench.gpu [--sections NAME,...] [--seconds N] [--json FILE]
    python -m bench.gpu --list           the sections, in the order they run: the most important first
    python -m bench.gpu --rehearse       every section with tiny shapes on the CPU (`make gpu-rehearsal`); no figures

    sft_mfu, dpo_mfu, grpo_mfu, reward_mfu     of the Qwen2.5-0.5B shape, rows packed (0.50, 0.50, 0.50 on an H100)
    NAME_vs_plain                              sequence tokens a second over the best of 40 lines of PyTorch
    NAME_vs_trl_liger                          over TRL with Liger, where both are installed (sft 1.1, dpo 1.5)
    fits_24gb                                  how many of the cases of gpu_memory.py fit where 22 GiB may be allocated

Every section is a process of its own with a limit: one that fails, hangs or runs out of memory costs only itself, and
what it had found stays. FILE is written after each part. Timed sections have the card to themselves; the others run
three at once, so their seconds are not to be quoted. A section that no time is left for is named.

On a machine without a network, what `make gpu-pack` put into .gpu/ is installed first, into a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import gpu_pack
from bench.commit import commit
from bench.texts import ROOT

AT_ONCE = 3  # sections that are not timed
LEAST_S = 15.0  # no section is begun with less


@dataclass(frozen=True)
class Section:
    """A part of the benchmark.

    Args:
        place: "module:function" of `section(ground) -> Iterator[(part, value)]`.
        limit_s: what it may take on a card.
        is_timed: it has the card to itself.
    """

    place: str
    limit_s: float
    is_timed: bool = False


SECTIONS = {
    "card": Section("bench.gpu_card:card", 45, is_timed=True),
    "steps": Section("bench.gpu_steps:steps", 240, is_timed=True),
    "head": Section("bench.gpu_steps:head", 60, is_timed=True),
    "profile": Section("bench.gpu_steps:profile", 80, is_timed=True),
    "paths": Section("bench.gpu_numbers:paths", 120),
    "attention": Section("bench.gpu_numbers:attention", 120),
    "tests": Section("bench.gpu_card:tests", 150),
    "resume_sft": Section("bench.gpu_runs:resume_sft", 200),
    "resume_dpo": Section("bench.gpu_runs:resume_dpo", 200),
    "memory": Section("bench.gpu_memory:memory", 200),
    "train_sft": Section("bench.gpu_runs:train_sft", 150),
    "train_dpo": Section("bench.gpu_runs:train_dpo", 150),
    "train_reward": Section("bench.gpu_runs:train_reward", 150),
    "train_grpo": Section("bench.gpu_runs:train_grpo", 240, is_timed=True),
    "sampler": Section("bench.gpu_runs:sampler", 90, is_timed=True),
    "plain": Section("bench.gpu_peers:plain", 120, is_timed=True),
    "trl": Section("bench.gpu_peers:trl", 150, is_timed=True),
}
SLOWER = 4  # how much longer a rehearsal may take than a card
Results = dict[str, dict[str, Any]]


class Driver:
    """Runs sections within a budget and writes what they found after each part.

    Args:
        command: the command of a section's process, by name and seconds; it prints a JSON object per line,
            {"part": name, "value": anything}.
        keep: called with all results after each part.
    """

    def __init__(
        self,
        sections: Mapping[str, Section],
        command: Callable[[str, float], Sequence[str]],
        *,
        seconds: float,
        keep: Callable[[Results], None],
        slower: float = 1.0,
        least_s: float = LEAST_S,
    ) -> None:
        self._sections, self._command, self._keep, self._slower = sections, command, keep, slower
        self._least_s, self._deadline = least_s, time.monotonic() + seconds
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[str]] = []
        self.results: Results = {}

    def run(self, names: Iterable[str]) -> Results:
        """Run sections in this order: the timed ones alone, the others that follow each other a few at once."""
        for turn in _turns(names, self._sections):
            left: queue.SimpleQueue[str] = queue.SimpleQueue()
            for name in turn:
                left.put(name)

            def work(left: queue.SimpleQueue[str] = left) -> None:
                with contextlib.suppress(queue.Empty):
                    while True:
                        self._section(left.get_nowait())

            threads = [threading.Thread(target=work) for _ in turn[:AT_ONCE]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return self.results

    def stop(self) -> None:
        """End the sections that run."""
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def _section(self, name: str) -> None:
        began, left = time.monotonic(), self._deadline - time.monotonic()
        found: dict[str, Any] = {"took_s": 0.0, "failed": None, "parts": {}}
        with self._lock:
            self.results[name] = found
        limit = min(self._slower * self._sections[name].limit_s, left)
        failed = "no time left" if left < self._least_s else self._read(name, limit, found["parts"])
        found |= {"failed": failed, "took_s": round(time.monotonic() - began, 1)}
        self._show(name, f"{found['took_s']} s" + (f"  FAILED: {found['failed']}" if found["failed"] else ""))

    def _read(self, name: str, limit: float, parts: dict[str, Any]) -> str | None:
        """Take a section's parts as they come; returns why it failed, or None."""
        command, is_late = self._command(name, limit), threading.Event()
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            ) as process,
        ):
            self._running.append(process)

            def late() -> None:
                is_late.set()
                os.killpg(process.pid, signal.SIGKILL)

            timer = threading.Timer(limit, late)
            timer.start()
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"part"'):
                    one = json.loads(line)
                    with self._lock:
                        parts[one["part"]] = one["value"]
                    self._show(name, f"{one['part']}: {_short(one['value'])}")
            code = process.wait()
            timer.cancel()
            if is_late.is_set():
                return f"stopped after {limit:.0f} s"
            errors.seek(0)
            return f"exit code {code}: {errors.read().strip()[-600:]}" if code else None

    def _show(self, name: str, text: str) -> None:
        with self._lock:
            print(f"[{name}] {text}", flush=True)
            self._keep(self.results)


def _turns(names: Iterable[str], sections: Mapping[str, Section]) -> Iterator[list[str]]:
    """What runs at once: each timed section alone, and the others between two of them together."""
    together: list[str] = []
    for name in names:
        if not sections[name].is_timed:
            together.append(name)
            continue
        if together:
            yield together
        together = []
        yield [name]
    if together:
        yield together


def _short(value: Any) -> str:
    """A part on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(x)}" for name, x in value.items())[:700]
    if isinstance(value, list):
        return (
            "".join(f"\n    {_short(x)}" for x in value) if value and isinstance(value[0], list) else str(value)[:200]
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:300]


def figures(results: Results) -> dict[str, float]:
    """The figures that the results give; what was not measured is missing."""

    def parts(section: str) -> dict[str, Any]:
        return {name: x for name, x in results.get(section, {}).get("parts", {}).items() if "error" not in _dict(x)}

    steps = parts("steps")
    found = {f"{case}_mfu": steps[case]["mfu"] for case in ("sft", "dpo", "grpo", "reward") if case in steps}
    for section, peer in (("plain", "plain"), ("trl", "trl_liger")):
        for case in steps:
            beside = [x["sequence_tokens_per_s"] for name, x in parts(section).items() if name.split(", ")[0] == case]
            if beside:
                found[f"{case}_vs_{peer}"] = steps[case]["sequence_tokens_per_s"] / max(beside)
    if "memory" in results:
        found["fits_24gb"] = sum(bool(_dict(x).get("fits")) for x in parts("memory").values())
    return found


def _dict(x: Any) -> dict[str, Any]:
    return x if isinstance(x, dict) else {}


def run_section(name: str, work: Path, rehearse: bool, seconds: float) -> None:
    """Run a section in this process and print each part as a JSON line."""
    from bench.gpu_ground import Ground

    module, function = SECTIONS[name].place.split(":")
    section = getattr(importlib.import_module(module), function)
    for part, value in section(Ground(work, rehearse, seconds)):
        print(json.dumps({"part": part, "value": value}, default=str), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS), metavar="NAME,...", help="default: all")
    parser.add_argument("--seconds", type=float, default=None, help="whole budget (480; unlimited in a rehearsal)")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU; no figures")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--work", type=Path, help="folder of models and runs (a temporary one, kept between calls)")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.list:
        for name, section in SECTIONS.items():
            print(f"{name:<14} at most {section.limit_s:3.0f} s{'  timed' if section.is_timed else ''}")
        return 0
    folder = "alignkit-gpu-rehearsal" if given.rehearse else "alignkit-gpu"
    work = given.work or Path(tempfile.gettempdir()) / folder
    work.mkdir(parents=True, exist_ok=True)
    if given.section:
        run_section(given.section, work, given.rehearse, given.seconds)
        return 0
    names = given.sections.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    os.environ |= _environment(work, given.rehearse)

    def keep(results: Results) -> None:
        if given.json is not None:
            content = {
                "figures": {} if given.rehearse else figures(results),
                "rehearsed": given.rehearse,
                "results": results,
                "commit": commit() or gpu_pack.packed_commit(),
                "machine": machine,
                "versions": versions,
            }
            part = given.json.with_name(f".{given.json.name}")
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            part.replace(given.json)

    def command(name: str, limit: float) -> list[str]:
        own = [sys.executable, "-m", "bench.gpu", "--section", name, "--seconds", str(limit), "--work", str(work)]
        return [*own, "--rehearse"] if given.rehearse else own

    versions, machine = _versions(), {"machine": platform.machine(), "cpus": os.cpu_count(), "gpu": _card()}
    seconds = given.seconds or (1e6 if given.rehearse else 480.0)
    driver = Driver(SECTIONS, command, seconds=seconds, keep=keep, slower=SLOWER if given.rehearse else 1.0)

    def stop(*_: Any) -> None:
        driver.stop()
        raise SystemExit(130)

    signal.signal(signal.SIGTERM, stop)
    began = time.monotonic()
    results = driver.run(names)
    for figure, value in ({} if given.rehearse else figures(results)).items():
        print(f"{figure:<28}{value:>8.3f}   on {machine['gpu']}")
    failed = [name for name, found in results.items() if found["failed"]]
    print(f"{time.monotonic() - began:.0f} s; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _environment(work: Path, rehearse: bool) -> dict[str, str]:
    """What sections, and the commands they start, need."""
    site = gpu_pack.installed()
    paths = [ROOT, ROOT / "plugins", *([site] if site else [])]
    if os.environ.get("PYTHONPATH"):
        paths.append(Path(os.environ["PYTHONPATH"]))
    found = {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "ALIGNKIT_CACHE": str(work / "cache"),
    }
    return found | ({"CUDA_VISIBLE_DEVICES": ""} if rehearse else {})


def _card() -> str:
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("alignkit", "torch", "triton", "transformers", "vllm", "trl", "liger-kernel"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    raise SystemExit(main())
