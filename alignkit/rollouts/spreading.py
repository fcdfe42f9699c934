"""Spreads work over several servers: whoever is free takes the next piece; what a dying one held goes to the others.

Each piece has one result: that of the first server that finished it. A server that fails is out until the next round.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Server = TypeVar("Server")
Result = TypeVar("Result")


class ServerDown(Exception):
    """A server that does not answer, or not as it should: its work goes to the others."""


class Spread(Generic[Server, Result]):
    """Runs `do(server, number)` for every number, at most `in_flight` at a time on each server.

    Args:
        down: told of each server that failed, with the reason, once.
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
        waiting, lock = deque(range(count)), threading.Lock()
        done: queue.SimpleQueue[tuple[Server, int, Result | BaseException]] = queue.SimpleQueue()
        alive = {id(server): server for server in servers}
        over = threading.Event()

        def work(server: Server) -> None:
            while not over.is_set():
                with lock:
                    if id(server) not in alive or not waiting:
                        return
                    number = waiting.popleft()
                try:
                    done.put((server, number, self._do(server, number)))
                except BaseException as error:
                    done.put((server, number, error))
                    return

        def start(server: Server, most: int) -> None:
            for _ in range(min(self._in_flight, most)):
                threading.Thread(target=work, args=(server,), daemon=True, name="alignkit-server").start()

        share = -(-count // max(1, len(servers)))  # at first all get alike; who is faster takes more
        for server in servers:
            start(server, share)
        found: dict[int, tuple[Server, Result]] = {}
        try:
            while len(found) < count:
                server, number, result = done.get()
                if isinstance(result, ServerDown):
                    with lock:
                        waiting.append(number)
                        was_alive = alive.pop(id(server), None) is not None
                    if was_alive:
                        self._down(server, result)
                    if not alive:
                        raise result
                    for other in list(alive.values()):
                        start(other, 1)
                elif isinstance(result, BaseException):
                    raise result
                else:
                    found.setdefault(number, (server, result))
        finally:
            over.set()
        return [found[number] for number in range(count)]
