"""The commit of the code that is measured."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str:
    """The commit of the code that is measured, for files of results; empty where git does not know."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
