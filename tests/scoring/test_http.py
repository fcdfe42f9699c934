"""Services that misbehave: every request ends by its deadline, takes bounded memory, and is stopped at once."""

from __future__ import annotations

import gzip
import json
import resource
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from alignkit_plugins.nemotron import Nemotron, NemotronConfig

from alignkit.errors import UsageError
from alignkit.scoring.judge import Item, Missing, Scored

Handler = Callable[[socket.socket, str], None]
MIB = 1 << 20
TIMEOUT_S = 0.7


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """A raw server on this machine: `handler` gets each connection with the head of each request."""
    listening = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def one(connection: socket.socket) -> None:
        with suppress(OSError):
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (received := connection.recv(65536)):
                        return
                    head += received
                text, _, rest = head.partition(b"\r\n\r\n")
                lengths = [line for line in text.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                while lengths and len(rest) < int(lengths[0].partition(b":")[2]):
                    rest += connection.recv(65536)
                handler(connection, text.decode("latin-1"))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                opened.append(connection)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for connection in opened:
            connection.close()


def reply(connection: socket.socket, body: object, **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(content)}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)


def says(content: str, **more: object) -> Handler:
    return posted(lambda connection: reply(connection, {"choices": [{"message": {"content": content}}]} | more))


def posted(answer: Callable[[socket.socket], None]) -> Handler:
    """Answer a request for the models as it should be, and others by `answer`."""

    def handle(connection: socket.socket, head: str) -> None:
        reply(connection, {"data": []}) if head.startswith("GET") else answer(connection)

    return handle


def forever(first: bytes, unit: bytes, every_s: float) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(unit)
            time.sleep(every_s)

    return answer


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = {
    "headers": forever(b"HTTP/1.1 200 OK\r\nX-A: ", b"a", 0.1),
    "body": forever(HEAD + b"Content-Length: 100000\r\n\r\n", b" ", 0.1),
    "100 Continue": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "100 Continue at full speed": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.0),
    "nothing": lambda connection: time.sleep(30),
}


def nemotron(url: str, **more: float) -> Nemotron:
    options = {"timeout_s": TIMEOUT_S, "max_attempts": 1, "backoff_s": 0.02, "max_outage_s": 1.0, **more}
    return Nemotron(NemotronConfig(base_url=[url], requests_per_minute=1e6, **options))  # type: ignore[arg-type]


def item(text: str = "Hello") -> Item:
    return Item([{"role": "user", "content": "Hi"}], text)


def ask(handler: Handler, **more: float) -> tuple[Scored | Missing, float]:
    """One score, and the seconds it took."""
    with serving(handler) as url:
        judge = nemotron(url, **more)
        begun = time.monotonic()
        try:
            return judge.score([item()])[0], time.monotonic() - begun
        finally:
            judge.close()


def test_a_sound_service_is_understood() -> None:
    assert ask(says("reward:1.5"))[0] == Scored(1.5)
    packed = gzip.compress(json.dumps({"choices": [{"message": {"content": "reward:2"}}]}).encode())
    assert ask(posted(lambda c: reply(c, packed, Content_Encoding="gzip")))[0] == Scored(2.0)
    assert ask(posted(lambda c: reply(c, zlib.compress(gzip.decompress(packed)), Content_Encoding="deflate")))[0] == (
        Scored(2.0)
    )


@pytest.mark.parametrize("name", DRIPS)
def test_a_drip_ends_by_the_deadline(name: str) -> None:
    answer, seconds = ask(posted(DRIPS[name]))
    assert isinstance(answer, Missing) and "no whole answer within 0.7 s" in answer.reason
    assert seconds < TIMEOUT_S + 3


@pytest.mark.parametrize("name", DRIPS)
def test_so_does_the_list_of_models(name: str) -> None:
    with serving(lambda connection, _: DRIPS[name](connection)) as url:
        judge = nemotron(url)
        begun = time.monotonic()
        with suppress(UsageError):  # a body that drips is not read
            judge.ready([])
        judge.close()
    assert time.monotonic() - begun < TIMEOUT_S + 3


def test_an_endless_list_of_models_takes_no_memory() -> None:
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(lambda c, _: forever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, 0.0)(c)) as url:
        judge = nemotron(url)
        judge.ready([])
        judge.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize(
    ("layers", "said"), [(1, "more than 1,048,576 bytes"), (2, "packed as 'gzip, gzip'"), (4, "packed as 'gzip, gzip,")]
)
def test_a_packed_answer_is_unpacked_no_further_than_the_limit(layers: int, said: str) -> None:
    body = b"\0" * (64 * MIB)
    for _ in range(layers):
        body = gzip.compress(body, 6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer, _ = ask(posted(lambda c: reply(c, body, Content_Encoding=", ".join(["gzip"] * layers))), timeout_s=20.0)
    assert isinstance(answer, Missing) and said in answer.reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


@pytest.mark.parametrize("encoding", ["br", "zstd", "x", "gzip, identity"])
def test_what_was_not_asked_for_is_no_answer(encoding: str) -> None:
    answer, _ = ask(posted(lambda c: reply(c, b"abc", Content_Encoding=encoding)))
    assert isinstance(answer, Missing) and "one layer of gzip is taken" in answer.reason


@pytest.mark.parametrize(
    "content",
    [
        "a" + " " * 1_000_000,
        " " * 1_000_000 + "a",
        "a:" + " " * 1_000_000,
        "a" * 1_000_000,
        "-." * 500_000,
        "a:1" + " " * 1_000_000 + "x",
        ("a" + " " * 100) * 10_000,
        "a:" + "1" * 500_000 + "x",
        "," * 1_000_000,
        "reward" + " " * 500_000 + ":" + " " * 500_000 + "1" + "e" * 9,
    ],
    ids=range(10),
)
def test_an_expensive_text_is_read_in_linear_time(content: str) -> None:
    answer, seconds = ask(says(content), timeout_s=20.0)
    assert isinstance(answer, Missing)
    assert seconds < 3


def interrupt(after_s: float) -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(after_s, lambda: signal.pthread_kill(main, signal.SIGINT)).start()


def test_ctrl_c_waits_for_no_answer() -> None:
    with serving(posted(DRIPS["headers"])) as url:
        judge = nemotron(url, timeout_s=60.0, max_outage_s=60.0)
        interrupt(0.4)
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            judge.score([item(f"{n}") for n in range(20)])
        assert time.monotonic() - begun < 4
        judge.close()


def test_what_arrived_before_ctrl_c_is_kept() -> None:
    asked: list[int] = []

    def answer(connection: socket.socket) -> None:
        asked.append(1)
        if len(asked) > 5:
            time.sleep(30)
        reply(connection, {"choices": [{"message": {"content": "reward:1"}}]})

    with serving(posted(answer)) as url:
        judge = nemotron(url, timeout_s=60.0, max_outage_s=60.0)
        interrupt(0.6)
        kept: dict[int, Scored | Missing] = {}

        def take_all() -> None:
            for part in judge.stream([item(f"{n}") for n in range(20)]):
                kept.update(part)

        with pytest.raises(KeyboardInterrupt):
            take_all()
        judge.close()
    assert len(kept) == 5


KEY = "nvapi-CANARY-a/b+c0123456789xyz"
WRITINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda key: key,
    "JSON": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "JSON in JSON": lambda key: json.dumps("".join(f"\\u{ord(letter):04x}" for letter in key))[1:-1],
    "hex escapes": lambda key: "".join(f"\\\\x{ord(letter):02x}" for letter in key),
    "percent": lambda key: "".join(f"%{ord(letter):02X}" for letter in key),
    "percent twice": lambda key: "".join(f"%25{ord(letter):02x}" for letter in key),
    "entities": lambda key: "".join(f"&#{ord(letter)};" for letter in key),
    "hex entities": lambda key: "".join(f"&#x{ord(letter):x};" for letter in key),
    "base64": lambda key: __import__("base64").b64encode(key.encode()).decode(),
    "basic": lambda key: __import__("base64").b64encode(b"me:" + key.encode()).decode(),
    "url-safe base64": lambda key: __import__("base64").urlsafe_b64encode(b"u:" + key.encode()).decode(),
    "hex": lambda key: key.encode().hex().upper(),
    "one letter": lambda key: f"\\u{ord(key[0]):04x}{key[1:]}",
}


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("status", [200, 400, 403, 500])
def test_a_key_that_is_repeated_in_another_writing_is_cut_out(
    writing: str, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    written = WRITINGS[writing](KEY)
    bodies = [f'{{"detail": "no {written} here", "choices": [{{"message": {{"content": "no {written}"}}}}]}}']
    bodies.append(f"<html>{written}</html>")
    bodies.append(f'{{"choices": [{{"message": {{"content": "reward:1"}}}}], "you sent": "{written}"}}')
    for body in bodies:

        def handle(connection: socket.socket, body: str = body) -> None:
            head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body.encode())

        with serving(posted(handle)) as url:
            judge = nemotron(url)
            try:
                (answer,) = judge.score([item()])
                said = f"{answer!r} {answer.raw if isinstance(answer, Scored) else ''}"
            except Exception as error:
                said = str(error)
            judge.close()
        for form in (KEY, written, KEY[8:]):
            assert form not in said + caplog.text
    assert "Scored(value=1.0)" in said or status != 200


def test_no_proxy_stands_between_a_key_and_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def proxy(connection: socket.socket, head: str) -> None:
        seen.append(head)
        reply(connection, {})

    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    with serving(proxy) as through, serving(says("reward:1")) as url:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, through.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        judge = nemotron(url.replace("127.0.0.1", "localhost"))
        judge.ready([])
        assert judge.score([item()]) == [Scored(1.0)]
        judge.close()
        assert not seen
        judge = nemotron("http://192.0.2.1/v1")  # without a key, by the proxy
        judge.ready([])
        judge.close()
    assert len(seen) == 1 and "authorization" not in seen[0].lower()


@pytest.mark.parametrize("name", ["headers", "body"])
def test_a_vllm_server_that_drips_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignkit_plugins import vllm_server

    monkeypatch.setattr(vllm_server, "_LOOK_S", 0.5)
    sampler = vllm_server.VLLMServerSampler(PretendedPolicy(), end_ids=frozenset())  # type: ignore[arg-type]
    begun = time.monotonic()
    with serving(lambda connection, _: DRIPS[name](connection)) as url:
        with pytest.raises(UsageError, match=r"takes weights \(cannot be reached \(no whole answer"):
            sampler.connect([url], None)
        sampler.close()
    assert time.monotonic() - begun < 4


class PretendedPolicy:
    """What a sampler asks of its policy before it draws."""

    device = "cpu"
