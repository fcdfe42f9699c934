"""The campaign of attacks in its quick form: what it prints is held here, kind by kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.mark.slow
def test_quick_attacks_hold(tmp_path: Path) -> None:
    kinds = "rows,settings,silent"
    done = subprocess.run(
        [sys.executable, "-m", "bench.attacks", "--quick", "--only", kinds, "--json", str(tmp_path / "found.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert {kind: figures[f"{kind}_tried"] for kind in kinds.split(",")} == {"rows": 200, "settings": 50, "silent": 63}
    assert figures["cases_silent"] == 0
