"""A run's report in a browser while the run trains: the page is written again, and shows what is new by itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from alignkit.errors import InputError
from alignkit.runs import FILE as RUN_FILE
from alignkit.runs import VERDICTS
from alignkit.services.pages import PageServer

_LEAST_S = 5.0  # between two writings
_SHARE = 0.05  # of the time that writing may take from a training on the same cores
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Report, live</title>
<style nonce="{nonce}">html, body, iframe {{ margin: 0; border: 0; width: 100%; height: 100%; display: block }}</style>
</head><body><iframe src="page" title="Report of the run"></iframe>
<script nonce="{nonce}">
const frame = document.querySelector("iframe");
let shown = null;
async function look() {{
  try {{
    const version = await (await fetch("version")).text();
    if (shown !== null && version !== shown) frame.contentWindow.location.reload();
    shown = version;
  }} catch (error) {{ /* the server ended: what is shown stays */ }}
}}
look();
setInterval(look, 2000);
</script></body></html>
"""


class ReportServer(PageServer):
    """Serves RUN/report.html to this machine alone, and writes it again as the run goes on.

    Args:
        write: writes the report of a run's folder again.

    Raises:
        UsageError: no port can be listened on.
    """

    def __init__(self, run: Path, write: Callable[[Path], Path]) -> None:
        self.run_folder, self._write = run, write
        self.next_s = 0.0  # by the monotonic clock, before which nothing is written again
        pages = {("", "GET"): self._index, ("page", "GET"): self._report, ("version", "GET"): self._version}
        super().__init__(pages, command="alignkit report RUN --serve")

    async def _index(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(_PAGE.format(nonce=nonce), headers={"Content-Security-Policy": policy})

    async def _report(self, request: Request) -> Response:
        text = await run_in_threadpool(self._text)
        return HTMLResponse(text, headers={"X-Frame-Options": "SAMEORIGIN"})

    async def _version(self, request: Request) -> Response:
        return PlainTextResponse(await run_in_threadpool(self._newest))

    def _text(self) -> str:
        self._newest()
        return self._file.read_text(encoding="utf-8")

    @property
    def _file(self) -> Path:
        return self.run_folder / "report.html"

    def _newest(self) -> str:
        """Write the report again where the run has more to say; returns what names this state of it."""
        began = time.monotonic()
        parts = [self.run_folder / name for name in (RUN_FILE, "metrics.jsonl", "samples.jsonl", VERDICTS)]
        newest = max((part.stat().st_mtime_ns for part in parts if part.exists()), default=0)
        is_old = not self._file.exists() or self._file.stat().st_mtime_ns < newest
        if is_old and (began >= self.next_s or not self._file.exists()):
            try:
                self._write(self.run_folder)
            except InputError:
                if not self._file.exists():  # else a line is half written: the next look reads it whole
                    raise
            took = time.monotonic() - began
            self.next_s = began + max(_LEAST_S, took / _SHARE)
        return str(self._file.stat().st_mtime_ns)
