"""Spreads work over several servers: whoever is free takes the next piece; what a dying one held goes to the others.

Each piece has one result: that of the first server that finished it. A server that fails is out until the next round.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from alignkit.services.addresses import Address, Addresses, Exhausted

Server = TypeVar("Server")
Result = TypeVar("Result")


class ServerDown(Exception):
    """A server that does not answer, or not as it should: its work goes to the others."""


class Spread(Generic[Server, Result]):
    """Runs `do(server, number)` for every number, at most `in_flight` at a time on each server.

    Args:
        down: called once for each server that failed, with the reason.
    """

    def __init__(
        self, do: Callable[[Server, int], Result], *, in_flight: int, down: Callable[[Server, ServerDown], None]
    ) -> None:
        self._do, self._in_flight, self._down = do, in_flight, down

    def run(self, servers: Sequence[Server], count: int) -> list[tuple[Server, Result]]:
        """Return (server, result) for the numbers 0 .. count - 1, in order.

        Raises:
            ServerDown: every server failed before all was done.
            Exception: as `do` raises; nothing more is begun then.
        """
        if not servers:
            raise ServerDown("no server is left")
        waiting, over = iter(range(count)), threading.Event()
        done: queue.SimpleQueue[tuple[int, Server | None, Result | BaseException]] = queue.SimpleQueue()
        addresses = Addresses([Address(str(n), max_in_flight=self._in_flight) for n in range(len(servers))])

        def work() -> None:
            """One thread: takes the next number, and asks until a server has answered it."""
            try:
                for number in waiting:
                    while (lease := addresses.lease(over)) is not None:
                        server = servers[int(lease.address.url)]
                        try:
                            result = self._do(server, number)
                        except ServerDown as error:
                            done.put((number, server, error))
                            addresses.refuse(lease, str(error))
                        else:
                            done.put((number, server, result))
                            addresses.worked(lease)
                            break
                    else:
                        return
            except BaseException as error:
                done.put((-1, None, error))

        for _ in range(min(count, self._in_flight * len(servers))):
            threading.Thread(target=work, daemon=True, name="alignkit-server").start()
        found: dict[int, tuple[Server, Result]] = {}
        down: dict[int, ServerDown] = {}
        try:
            while len(found) < count:
                number, server, result = done.get()
                if isinstance(result, Exhausted):  # every server was reported down before
                    raise list(down.values())[-1]
                if isinstance(result, ServerDown) and server is not None:
                    if id(server) not in down:
                        self._down(server, result)
                    down.setdefault(id(server), result)
                elif isinstance(result, BaseException):
                    raise result
                elif server is not None:
                    found[number] = (server, result)
        finally:
            over.set()
            addresses.wake()
        return [found[number] for number in range(count)]
