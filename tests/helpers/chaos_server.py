"""A reward service over real HTTP that answers as NVIDIA's does, on its bad days: every fault that was seen, and more.

    python chaos_server.py '{"faults": 0.3, "endpoints": 2}'      prints {"ports": [...]} and serves until it is killed

POST /v1/chat/completions scores the last turn with `true_score`; GET /sold gives the texts whose score was delivered
whole, in order, and how many requests came, GET /count how many were sold. No framework: half of the faults are ways to
break HTTP itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.request import ProxyHandler, build_opener

ATTRIBUTES = {"helpfulness": 1.5, "correctness": 1.25, "coherence": 3.0, "complexity": 0.5, "verbosity": 0.75}


def true_score(text: str) -> float:
    """The score of a text: a number of eighths, as a bf16 model gives it."""
    return zlib.crc32(text.encode()) % 321 / 8 - 30


@dataclass
class Settings:
    """What goes wrong: a share of `faults`, from `outage_at` requests on nobody for `outage_s`, half for twice that."""

    faults: float = 0.0
    endpoints: int = 1
    seed: int = 0
    stall_s: float = 30.0
    outage_at: int = 10**9
    outage_s: float = 0.0
    key: str | None = None
    always: str | None = None


@dataclass
class Chaos:
    settings: Settings
    num_requests: int = 0
    sold: list[str] = field(default_factory=list)
    outage_began: float | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.settings.seed)

    async def serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while await self._one(number, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _one(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if head.startswith("GET /sold"):
            return await send(writer, 200, {"sold": self.sold, "num_requests": self.num_requests})
        if head.startswith("GET /count"):
            return await send(writer, 200, len(self.sold))
        if head.startswith("GET /v1/models"):
            if self.settings.always == "html-page":
                return await send(writer, 200, "<html>Welcome</html>", kind="text/html")
            return await send(writer, 200, {"object": "list", "data": []})
        self.num_requests += 1
        if self._is_out(number):
            return await send(writer, 503, {"status": 503, "title": "Service Unavailable"})
        if self.settings.key and headers.get("authorization") != f"bearer {self.settings.key.lower()}":
            # a gateway that repeats what it was sent
            said = f"Authorization failed for {head.partition('Bearer ')[2].partition(chr(13))[0]}"
            return await send(writer, 403, {"status": 403, "title": "Forbidden", "detail": said})
        request = json.loads(body)
        text = request["messages"][-1]["content"]
        fault = self.settings.always or (
            self.random.choice(FAULTS) if self.random.random() < self.settings.faults else None
        )
        if fault == "stall" and self.settings.always is None and self.random.random() < 0.9:
            fault = "500"  # few of them: each costs the client its whole patience
        if fault is not None:
            return await self._break(fault, writer)
        whole = await send(writer, 200, answer(true_score(text), self.random.randrange(6)))
        if not writer.is_closing():
            self.sold.append(text)
        return whole

    def _is_out(self, number: int) -> bool:
        if self.num_requests < self.settings.outage_at:
            return False
        if self.outage_began is None:
            self.outage_began = time.monotonic()
        since = time.monotonic() - self.outage_began
        return since < self.settings.outage_s or (number % 2 == 1 and since < 2 * self.settings.outage_s)

    async def _break(self, fault: str, writer: asyncio.StreamWriter) -> bool:
        if fault == "stall":
            await asyncio.sleep(self.settings.stall_s)
            return False
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "cut":  # promises more than it sends
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n")
            writer.write(b'{"choices":[{"message":{"content":"reward:-3.2')
            await writer.drain()
            return False
        if fault == "not-http":
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            await writer.drain()
            return False
        status, content, extra = ANSWERS[fault]()
        return await send(writer, status, content, **extra)


def answer(score: float, shape: int) -> dict[str, Any]:
    """One of the forms in which a score has been seen to come."""
    content = f"reward:{score!r}"
    nulls = {"id": "x", "created": None, "model": None, "object": None}
    if shape == 0:
        return {"choices": [{"message": {"role": "assistant", "content": content}}]} | nulls
    if shape == 1:
        return {"choices": [{"message": [{"role": "assistant", "content": content}], "logprobs": None}]} | nulls
    if shape == 2:
        return {"choices": [{"message": {"content": [{"type": "text", "text": content}]}}], "usage": None}
    if shape == 3:
        logprobs = {"content": [{"token": "reward", "logprob": score, "bytes": None, "top_logprobs": []}]}
        return {"choices": [{"message": {"content": None}, "logprobs": logprobs, "finish_reason": "length"}]}
    if shape == 4:
        return {"choices": [{"message": {"content": f" rating: {score!r} "}}]} | nulls
    return {"choices": [{"message": [{"content": content}], "logprobs": {"content": None}}]} | nulls


async def send(
    writer: asyncio.StreamWriter, status: int, content: Any, *, kind: str = "application/json", **headers: str
) -> bool:
    """Send a whole answer; the connection stays."""
    body = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else None
    body = json.dumps(content).encode() if body is None else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()
    return True


def _said(content: object) -> Any:
    return lambda: (200, {"choices": [{"message": {"content": content}}]}, {})


_LATE = {"status": 429, "title": "Too Many Requests"}
ANSWERS: dict[str, Any] = {
    "degraded": lambda: (
        400,
        {"status": 400, "title": "Bad Request", "detail": "Function id 'f': DEGRADED function cannot be invoked"},
        {},
    ),
    "429": lambda: (429, _LATE, {}),
    "429-seconds": lambda: (429, _LATE, {"Retry_After": "0.02"}),
    "429-date": lambda: (429, _LATE, {"Retry_After": formatdate(time.time(), usegmt=True)}),
    "429-nonsense": lambda: (429, _LATE, {"Retry_After": "soon"}),
    "500": lambda: (500, {"error": {"message": "boom"}}, {}),
    "502": lambda: (502, "<html>Bad Gateway</html>", {"kind": "text/html"}),
    "504": lambda: (504, "", {}),
    "408": lambda: (408, "", {}),
    "html": lambda: (200, "<html>Please log in</html>", {"kind": "text/html"}),
    "empty": lambda: (200, "", {}),
    "half-json": lambda: (200, '{"choices": [{"message": {"content": "reward:-1', {}),
    "list": lambda: (200, [1, 2], {}),
    "number": lambda: (200, "7.5", {}),
    "bad-utf8": lambda: (200, b'{"choices": "\xff\xfe', {}),
    "deep": lambda: (200, "[" * 60_000, {}),
    "no-choices": lambda: (200, {"choices": []}, {}),
    "null-message": lambda: (200, {"choices": [{"message": None}]}, {}),
    "error-in-200": lambda: (200, {"error": {"message": "overloaded", "code": 500}}, {}),
    "prose": _said("I would say 5 out of 10."),
    "nan": _said("reward:nan"),
    "infinite": _said("reward:1e999"),
    "half-number": _said("reward:-3."),
    "no-number": _said("reward:"),
    "twice": _said("reward:1.0,reward:2.0"),
    "bad-gzip": lambda: (200, b"\x1f\x8b\x08\x00garbage", {"Content_Encoding": "gzip"}),
}
FAULTS = (*ANSWERS, "reset", "cut", "not-http", "stall")


@contextmanager
def running(**settings: Any) -> Iterator[list[str]]:
    """Run a server in its own process; yields its addresses."""
    command = [sys.executable, __file__, json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ports = json.loads(server.stdout.readline())["ports"]
            yield [f"http://127.0.0.1:{port}/v1" for port in ports]
        finally:
            server.kill()


def ask(url: str, what: str) -> Any:
    """GET /sold: what the server delivered, in order, and how often it was asked; GET /count: how many that are."""
    with build_opener(ProxyHandler({})).open(f"{url.removesuffix('/v1')}/{what}", timeout=60) as answer:
        return json.load(answer)


async def main(settings: Settings) -> None:
    chaos = Chaos(settings)
    servers = [
        await asyncio.start_server(lambda r, w, n=number: chaos.serve(n, r, w), "127.0.0.1", 0)
        for number in range(settings.endpoints)
    ]
    print(json.dumps({"ports": [server.sockets[0].getsockname()[1] for server in servers]}), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(Settings(**json.loads(sys.argv[1]))))
