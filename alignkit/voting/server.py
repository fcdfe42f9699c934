"""The vote page's web server: this machine alone unless told otherwise, and nobody without the token.

The token, drawn at each start, is the first part of every address. A request without it, or one whose Host header is
not the address served (as when another site's name is made to point here), gets 403 and nothing else. Model text goes
to the page as JSON and is set as text, never as markup; the page's content policy forbids whatever is not its own.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from alignkit.errors import AlignkitError, InputError, RunStopped, UsageError
from alignkit.voting.ballots import Ballots

LOOPBACK = "127.0.0.1"
_MAX_BODY = 4096  # bytes of a vote
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class VoteServer:
    """Serves one poll's page until it is interrupted.

    Args:
        name: the voter's name that the page begins with.
        listen: an address of this machine; another than the loopback one opens the page to its network.
        port: 0 takes a free one.

    Raises:
        UsageError: the address or port cannot be listened on.
    """

    def __init__(self, ballots: Ballots, *, name: str = "", listen: str = LOOPBACK, port: int = 0) -> None:
        self.ballots, self.name, self.listen = ballots, name, listen
        self.token = secrets.token_urlsafe(24)
        family = socket.AF_INET6 if ":" in listen else socket.AF_INET
        try:
            self._socket = socket.create_server((listen, port), family=family)
        except (OSError, OverflowError) as error:
            raise UsageError(f"--listen {listen} --port {port}: cannot be served ({error}); name another") from None
        self.port: int = self._socket.getsockname()[1]
        loader = jinja2.PackageLoader("alignkit.voting", "templates")
        self._page = jinja2.Environment(loader=loader, autoescape=True).get_template("vote.html.jinja")
        config = uvicorn.Config(
            self._app(), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)

    @property
    def address(self) -> str:
        """What to open in a browser, the token included."""
        host = f"[{self.listen}]" if ":" in self.listen else self.listen
        return f"http://{host}:{self.port}/{self.token}/"

    @property
    def is_open(self) -> bool:
        """Whether another machine may reach it."""
        return not ipaddress.ip_address(self._socket.getsockname()[0]).is_loopback

    def run(self) -> None:
        """Serve until Ctrl-C; what was confirmed is on disk."""
        with suppress(KeyboardInterrupt), self._socket:
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._server.should_exit = True

    def _app(self) -> Starlette:
        routes = [
            Route("/{token}/", self._guarded(self._index)),
            Route("/{token}/next", self._guarded(self._next), methods=["POST"]),
            Route("/{token}/vote", self._guarded(self._vote), methods=["POST"]),
            Route("/{token}/undo", self._guarded(self._undo), methods=["POST"]),
            Route("/{path:path}", _refuse, methods=["GET", "POST"]),
        ]
        return Starlette(routes=routes)

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            token = request.path_params["token"].encode("utf-8", "replace")
            if not hmac.compare_digest(token, self.token.encode()) or not self._is_ours(request):
                return await _refuse(request)
            try:
                response = await handler(request)
            except RunStopped as error:
                response = JSONResponse({"error": f"not saved: {error}"}, status_code=507)
            except AlignkitError as error:
                response = JSONResponse({"error": str(error)}, status_code=422)
            response.headers.update(_HEADERS)
            return response

        return guarded

    def _is_ours(self, request: Request) -> bool:
        """Whether Host names what is served, and the page that asks, where the browser names it, is ours."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return False
        name, _, port = host.rpartition(":")
        if port != str(self.port):
            return False
        if name in ("localhost", LOOPBACK, "[::1]"):
            return True
        if name.strip("[]") == self.listen:
            return True
        if not self.is_open:
            return False
        with suppress(ValueError):  # an address in figures cannot be made to point elsewhere, as a name can
            return ipaddress.ip_address(name.strip("[]")) is not None
        return False

    async def _index(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        page = self._page.render(nonce=nonce, name=self.name)
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
        await run_in_threadpool(self.ballots.vote, voter, sent.get("pair", ""), sent.get("choice", ""))
        return JSONResponse(await run_in_threadpool(self.ballots.next, voter))

    async def _undo(self, request: Request) -> Response:
        voter = (await _sent(request)).get("voter", "")
        await run_in_threadpool(self.ballots.undo, voter)
        return JSONResponse(await run_in_threadpool(self.ballots.next, voter))


async def _refuse(request: Request) -> Response:
    return PlainTextResponse("refused: open the address that `alignkit vote` printed\n", 403, headers=_HEADERS)


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
