"""Runs one side of a benchmark in a fresh process: python -m MODULE SIDE '{"argument": ...}' prints a JSON object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from bench.texts import ROOT


def run_side(module: str, which: str, /, **arguments: Any) -> dict[str, Any]:
    """Run it and return what it printed last.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", module, which, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{which} {arguments} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
