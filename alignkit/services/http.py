"""Requests that end: one deadline for all of a request, one limit for all of an answer, and a stop that works at once.

httpx knows a time limit for each read alone, and a service that sends a byte now and then never meets it: not in its
headers, not by "100 Continue", not in its body. So requests run in an event loop of their own, in one thread, where a
deadline or a stop cancels whatever they wait for: a name's address, a connection, a header, a body.

An answer is unpacked here, one layer of gzip or deflate, and never further than the limit.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
import zlib
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alignkit.errors import UsageError
from alignkit.services.addresses import is_this_machine

if TYPE_CHECKING:
    import httpx

_GRACE_S = 2.0  # beyond a request's deadline, for its connection to be closed
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's names of these forms


class NotAnswered(Exception):
    """There is no answer: what went wrong, on one line."""


class Stopped(Exception):
    """The work was stopped while the answer was awaited."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; `headers` by lower-case name, `body` unpacked."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Requests:
    """Sends requests from any thread.

    Args:
        addresses: of the services; those of this machine are reached without the environment's proxy, which would see
            the key in clear text.
        max_connections: at once.
        connect_s: longest wait for a connection.
    """

    def __init__(self, addresses: Sequence[str], *, max_connections: int, connect_s: float) -> None:
        import httpx

        hosts = {urlsplit(url).hostname or "" for url in addresses if is_this_machine(url)}
        try:
            self._client = httpx.AsyncClient(
                verify=any(url.startswith("https") for url in addresses),  # certificates take 0.1 s to load
                timeout=httpx.Timeout(None, connect=connect_s),
                limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
                mounts={f"all://[{host}]" if ":" in host else f"all://{host}": None for host in hosts},
                headers={"Accept-Encoding": "gzip"},
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise UsageError(f"a proxy of the environment cannot be used: {error}; correct it, or unset it") from error
        self._loop = asyncio.new_event_loop()
        self._under_way: set[Future[Answer]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        thread = threading.Thread(target=_run, args=(self._loop,), daemon=True)
        thread.start()
        self._close = weakref.finalize(self, _shut, self._loop, thread, self._client)

    def send(
        self,
        verb: str,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        max_body: int | None,
        content: bytes | None = None,
    ) -> Answer:
        """Send a request and return its answer.

        Args:
            timeout_s: longest that all of it may take.
            max_body: bytes of the unpacked body that are taken; None reads none of it.

        Raises:
            NotAnswered: no whole answer came in time, or it is too large, or packed in a way that was not asked for.
            Stopped: `stop` was called.
        """
        import httpx

        with self._lock:
            if self._stopped:
                raise Stopped
            future = self._submit(self._exchange(verb, url, dict(headers), content, timeout_s, max_body))
            self._under_way.add(future)
        try:
            return future.result(timeout_s + _GRACE_S)
        except CancelledError:
            raise Stopped from None
        except httpx.ConnectTimeout:
            raise NotAnswered("no connection in time") from None
        except TimeoutError:
            raise NotAnswered(f"no whole answer within {timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, zlib.error) as error:
            raise NotAnswered(f"{type(error).__name__}: {error}".removesuffix(": ")) from error
        finally:
            future.cancel()
            with self._lock:
                self._under_way.discard(future)

    def stop(self) -> None:
        """End every request that is under way; the next `send` needs `go_on`."""
        with self._lock:
            self._stopped = True
            for future in self._under_way:
                future.cancel()

    def go_on(self) -> None:
        """Take requests again after a stop."""
        self._stopped = False

    def close(self) -> None:
        """End every request, and close the connections."""
        self.stop()
        self._close()

    def _submit(self, work: Coroutine[Any, Any, Answer]) -> Future[Answer]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # closed
            work.close()
            raise Stopped from None

    async def _exchange(
        self,
        verb: str,
        url: str,
        headers: dict[str, str],
        content: bytes | None,
        timeout_s: float,
        max_body: int | None,
    ) -> Answer:
        async with (
            asyncio.timeout(timeout_s),
            self._client.stream(verb, url, content=content, headers=headers) as response,
        ):
            known = {name.lower(): value for name, value in response.headers.items()}
            if max_body is None:
                return Answer(response.status_code, known, b"")
            body = _Body(known.get("content-encoding", ""), max_body)
            async for chunk in response.aiter_raw():
                body.add(chunk)
            return Answer(response.status_code, known, bytes(body.unpacked))


class _Body:
    """An answer's body, unpacked as it comes and no further than `limit` bytes."""

    def __init__(self, encoding: str, limit: int) -> None:
        packed = encoding.strip().lower()
        if packed not in ("", "identity", *_WINDOW):
            raise NotAnswered(f"an answer packed as {encoding!r}, one layer of gzip is taken")
        self._unpack = zlib.decompressobj(_WINDOW[packed]) if packed in _WINDOW else None
        self._limit = limit
        self.unpacked = bytearray()

    def add(self, chunk: bytes) -> None:
        room = self._limit + 1 - len(self.unpacked)
        self.unpacked += chunk[:room] if self._unpack is None else self._unpack.decompress(chunk, room)
        if len(self.unpacked) > self._limit:
            raise NotAnswered(f"an answer of more than {self._limit:,} bytes")


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _shut(loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: httpx.AsyncClient) -> None:
    """End the loop with all that runs in it; a thread that hangs is left, it does not keep the process alive."""

    async def end() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()

    if loop.is_closed():
        return
    with suppress(TimeoutError, RuntimeError):
        asyncio.run_coroutine_threadsafe(end(), loop).result(_GRACE_S)
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
    if threading.current_thread() is not thread:
        thread.join(_GRACE_S)
    if not thread.is_alive():
        loop.close()
