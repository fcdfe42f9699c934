"""How long Chromium takes to open a page."""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import time
from pathlib import Path

_REPEATS = 5


def open_s(page: Path) -> float:
    """Median seconds beyond an empty page: load, styles, layout, scripts; nan without Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return math.nan
    empty = page.with_name("empty.html")
    empty.write_text("<!DOCTYPE html><title>empty</title>", encoding="utf-8")

    def once(file: Path) -> float:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", file.as_uri()]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
        return time.perf_counter() - began

    once(empty)
    pairs = [(once(page), once(empty)) for _ in range(_REPEATS)]
    return statistics.median(full - nothing for full, nothing in pairs)
