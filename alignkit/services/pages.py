"""A web page of this machine: for nobody without its token, and for this machine alone unless told otherwise.

The token, drawn at each start, is the first part of every address. A request without it, or one whose Host header is
not the address served (as when another site's name is made to point here), gets 403 and nothing else.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from alignkit.errors import AlignkitError, RunStopped, UsageError

LOOPBACK = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SHOWN = 60  # characters of an address
Handler = Callable[[Request], Awaitable[Response]]


def _why(error: Exception) -> str:
    """Why an address or port cannot be listened on, and what to do."""
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return "the port is in use; name another, or 0 for a free one"
    if code in (errno.EACCES, errno.EPERM):
        return "the port is the system's; name one from 1024, or 0 for a free one"
    if isinstance(error, OverflowError):
        return "no such port; name one up to 65535, or 0 for a free one"
    return (
        "no address of this machine; `ip address` (Linux) or `ifconfig` (macOS) lists them, and without --listen the "
        "page is for this machine alone"
    )


class PageServer:
    """Serves pages until it is interrupted.

    Args:
        pages: what answers, by the last part of the address ("" is the page itself) and the HTTP method.
        command: what prints the address, for whoever is refused.
        listen: an address of this machine; another than the loopback one opens the page to its network.
        port: 0 takes a free one.

    Raises:
        UsageError: the address or port cannot be listened on.
    """

    def __init__(
        self, pages: Mapping[tuple[str, str], Handler], *, command: str, listen: str = LOOPBACK, port: int = 0
    ) -> None:
        self.listen, self._command = listen, command
        self.token = secrets.token_urlsafe(24)
        family = socket.AF_INET6 if ":" in listen else socket.AF_INET
        try:
            if not listen.strip():
                raise ValueError("an empty address would be all of them")
            self._socket = socket.create_server((listen, port), family=family)
        except (OSError, OverflowError, ValueError) as error:
            raise UsageError(f"--listen {listen[:_SHOWN]} --port {port}: cannot be served: {_why(error)}") from None
        self.port: int = self._socket.getsockname()[1]
        routes = [
            Route(f"/{{token}}/{part}", self._guarded(page), methods=[verb]) for (part, verb), page in pages.items()
        ]
        app = Starlette(routes=[*routes, Route("/{path:path}", self._refuse, methods=["GET", "POST"])])
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
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
        """Serve until Ctrl-C."""
        with suppress(KeyboardInterrupt), self._socket:
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._server.should_exit = True

    def _guarded(self, page: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            token = request.path_params["token"].encode("utf-8", "replace")
            if not hmac.compare_digest(token, self.token.encode()) or not self._is_ours(request):
                return await self._refuse(request)
            try:
                response = await page(request)
            except RunStopped as error:
                response = JSONResponse({"error": f"not saved: {error}"}, status_code=507)
            except AlignkitError as error:
                response = JSONResponse({"error": str(error)}, status_code=422)
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
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

    async def _refuse(self, request: Request) -> Response:
        text = f"refused: open the address that `{self._command}` printed\n"
        return PlainTextResponse(text, 403, headers=_HEADERS)
