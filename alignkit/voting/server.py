"""The vote page's web server, a `PageServer` (alignkit/services/pages.py).

Model text goes to the page as JSON and is set as text, never as markup; the page's content policy forbids whatever is
not its own.
"""

from __future__ import annotations

import json
import secrets

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from alignkit.errors import InputError
from alignkit.services.pages import LOOPBACK, PageServer
from alignkit.voting.ballots import Ballots

_MAX_BODY = 4096  # bytes of a vote


class VoteServer(PageServer):
    """Serves one poll's page until it is interrupted; what was confirmed is on disk.

    Args:
        name: the voter's name that the page begins with, where this machine alone can open it: two people of one name
            lose votes.
        listen, port: as of `PageServer`.

    Raises:
        UsageError: the address or port cannot be listened on.
    """

    def __init__(self, ballots: Ballots, *, name: str = "", listen: str = LOOPBACK, port: int = 0) -> None:
        self.ballots, self.name = ballots, name
        loader = jinja2.PackageLoader("alignkit.voting", "templates")
        self._page = jinja2.Environment(loader=loader, autoescape=True).get_template("vote.html.jinja")
        pages = {
            ("", "GET"): self._index,
            ("next", "POST"): self._next,
            ("vote", "POST"): self._vote,
            ("undo", "POST"): self._undo,
        }
        super().__init__(pages, command="alignkit vote", listen=listen, port=port)

    async def _index(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        page = self._page.render(nonce=nonce, name="" if self.is_open else self.name)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def _next(self, request: Request) -> Response:
        sent = await _sent(request)
        return JSONResponse(await run_in_threadpool(self.ballots.next, sent.get("voter", "")))

    async def _vote(self, request: Request) -> Response:
        sent = await _sent(request)
        voter = sent.get("voter", "")
        is_kept = await run_in_threadpool(self.ballots.vote, voter, sent.get("pair", ""), sent.get("choice", ""))
        shown = await run_in_threadpool(self.ballots.next, voter)
        if is_kept:
            return JSONResponse(shown)
        said = (
            f"not kept: {shown['voter']} has voted on this pair; if that was somebody else, load the page again and "
            "give another name"
        )
        return JSONResponse(shown | {"error": said}, status_code=409)

    async def _undo(self, request: Request) -> Response:
        voter = (await _sent(request)).get("voter", "")
        await run_in_threadpool(self.ballots.undo, voter)
        return JSONResponse(await run_in_threadpool(self.ballots.next, voter))


async def _sent(request: Request) -> dict[str, str]:
    """The fields of a JSON body, texts."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InputError("a vote is sent as JSON")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise InputError("a vote is no longer than 4 KiB")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        raise InputError("a vote is an object of texts")
    return fields
