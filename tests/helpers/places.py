"""Where tests find what is not code of theirs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
TESTS = ROOT / "tests"
HELPERS = TESTS / "helpers"
BESIDE = ROOT.parent / "shared"
"""Real rows that are no part of the repository; tests that read them skip where they are not."""
