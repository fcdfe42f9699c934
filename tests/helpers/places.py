"""Where tests find what is not code of theirs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
TESTS = ROOT / "tests"
HELPERS = TESTS / "helpers"
BESIDE = ROOT.parent / "shared"
"""Real rows that are no part of the repository; tests that read them skip where they are not."""
OWN_ROWS = TESTS / "rows" / "preferences.jsonl"
"""Twenty pairs of the project's own making: two ties, one whose scores say the opposite, many turns, six scripts."""
REAL_ROWS = BESIDE / "data" / "preference-dev.jsonl.gz"


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a file, or skip the test where it is not there."""
    if not file.exists():
        pytest.skip(f"{file.name} is not beside the repository")
    content = file.read_bytes()
    text = gzip.decompress(content) if file.suffix == ".gz" else content
    return [json.loads(line) for line in text.decode().split("\n") if line]
