"""What comes from outside: folders that want to run code, projects that want a key, services that never end."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.attacks_ground import REWARDS, Ended, Ground, Tried, training

KEY = "CANARY-7f3a9c-key"
_VARIABLES = ("NVIDIA_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "VLLM_API_KEY", "OPENAI_API_KEY")
_SMALL = ("--max-new-tokens", "2", "--num-prompts", "4")
_TIMEOUT_S = 2
_MAX_S = 25.0  # of a command that meets a service which never ends: its start, the timeout, and what is tried again
_Handler = Callable[[socket.socket, str], None]


def code(ground: Ground) -> Tried:
    """Folders and files that name code: none of it runs, and no question is asked, whatever comes from the input."""
    tried = Tried("code")
    for name, command in _code_cases():
        place = ground.place("model", "other", "rows.jsonl", "done", "stopped")
        canary = place / "canary"
        evil = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"
        arguments = command(place, evil)
        ended = ground.alignkit(arguments, place, typed="y\n" * 20) if arguments else _as_module(place, ground)
        problem = ended.problem(name)
        if canary.exists():
            problem = f"{name}: the code ran (exit {ended.code})"
        elif "custom code" in ended.text and "[y/N]" in ended.text:
            problem = f"{name}: a question was asked"
        tried.note(problem)
        shutil.rmtree(place)
    return tried


def keys(ground: Ground) -> Tried:
    """Projects whose alignkit.toml names addresses and variables, proxies, and services that repeat the key."""
    tried = Tried("keys")
    with _served(_recorder := _Recorder()) as url:
        for name, toml, more in _key_cases(url):
            for command in _paid_commands(ground):
                place = ground.place("rows.jsonl")
                (place / "alignkit.toml").write_text(toml, encoding="utf-8")
                _recorder.heads.clear()
                environment = dict.fromkeys(_VARIABLES, KEY) | {"HOME": f"/{KEY}"} | more
                ended = ground.alignkit([*command, "--yes"], place, environment=environment)
                came = any(KEY in head or _hidden(KEY) in head for head in _recorder.heads)
                problem = ended.problem(f"{name}: {command[0]}")
                if came or (_recorder.heads and "proxy" not in name):
                    what = "the key arrived" if came else "a request arrived"
                    problem = f"{name}: {' '.join(command[:2])}: {what} before the project was trusted"
                tried.note(problem)
                shutil.rmtree(place)
    for name, repeated in _REPEATED.items():
        with _served(_repeats(repeated)) as url:
            place = ground.place("rows.jsonl")
            settings = [f"judge.nemotron.base_url={json.dumps([url])}", f"judge.nemotron.timeout_s={_TIMEOUT_S}"]
            settings += ["judge.nemotron.max_attempts=1", "judge.nemotron.requests_per_minute=60000"]
            typed = [text for setting in settings for text in ("--set", setting)]
            command = ["judge", str(ground.model), "--vs", str(ground.other), "--data", str(ground.rows), *_SMALL]
            ended = ground.alignkit(
                [*command, "--judge", "nemotron", "--yes", *typed], place, environment={"NVIDIA_API_KEY": KEY}
            )
            kept = [str(f.relative_to(place)) for f in place.rglob("*") if f.is_file() and _holds(f.read_bytes())]
            problem = ended.problem(f"a service repeats the key {name}")
            tried.note(f"the key, repeated {name}, stands in {', '.join(kept)}" if kept else problem)
            shutil.rmtree(place)
    return tried


def services(ground: Ground) -> Tried:
    """Services that drip, never end, or answer what is expensive to read; and rewards that do not come back."""
    tried = Tried("services")
    for name, handler in _SERVICES.items():
        with _served(handler) as url:
            place = ground.place("rows.jsonl")
            settings = {"base_url": json.dumps([url]), "timeout_s": _TIMEOUT_S, "max_attempts": 1, "max_outage_s": 2}
            settings["requests_per_minute"] = 60000
            typed = [text for key, x in settings.items() for text in ("--set", f"judge.nemotron.{key}={x}")]
            command = ["judge", str(ground.model), "--vs", str(ground.other), "--data", str(ground.rows), *_SMALL]
            ended = ground.alignkit(
                [*command, "--judge", "nemotron", "--yes", *typed],
                place,
                limit_s=_MAX_S,
                environment={"NVIDIA_API_KEY": KEY},
            )
            tried.note(ended.problem(name))
            shutil.rmtree(place)
    for name, body in _BAD_REWARDS.items():
        place = ground.place()
        (place / "bad.py").write_text(f"import os, sys, time\ndef score(completion, row):\n{body}", encoding="utf-8")
        command = [*training("grpo", ground, "out", steps=3), "--set", "score_timeout_s=2"]
        command[command.index("--reward") + 1] = "bad.py:score"
        ended = ground.alignkit(command, place, limit_s=60)
        problem = ended.problem(f"a reward that {name}", codes=(2, 3), raises=True)
        if problem is None and (place / "out" / "model").exists():
            problem = f"a reward that {name}: a model was written as finished"
        tried.note(problem)
        shutil.rmtree(place)
    return tried


def _code_cases() -> Iterator[tuple[str, Callable[[Path, str], list[str]]]]:
    def remote(file: str, key: str, *command: str) -> Callable[[Path, str], list[str]]:
        def write(place: Path, evil: str) -> list[str]:
            settings = json.loads((place / "model" / file).read_text())
            if file == "config.json":
                settings |= {
                    "model_type": "mine",
                    "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
                }
            else:
                settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
            (place / "model" / file).write_text(json.dumps(settings))
            (place / "model" / "own.py").write_text(f"{evil}class Own: pass\n")
            return list(command)

        return write

    def project(toml: str, *command: str) -> Callable[[Path, str], list[str]]:
        def write(place: Path, evil: str) -> list[str]:
            (place / "evil.py").write_text(f"{evil}def score(completion, row): return 1.0\n")
            (place / "alignkit.toml").write_text(toml)
            return list(command)

        return write

    def copied_run(*command: str) -> Callable[[Path, str], list[str]]:
        def write(place: Path, evil: str) -> list[str]:
            (place / "evil.py").write_text(f"{evil}{REWARDS}")
            for run in ("done", "stopped"):
                file = place / run / "run.json"
                text = file.read_text().replace("rewards.py:letters", "evil.py:letters")
                about = json.loads(text)
                about["config"]["rollouts"]["reward"] = [str(place / "evil.py") + ":letters"]
                file.write_text(json.dumps(about))
            return list(command)

        return write

    data = ("--data", "rows.jsonl")
    judging = ("judge", "model", "--vs", "other", *data, *_SMALL)
    sft = ("train", "sft", "--model", "model", *data, "--out", "out", "--max-steps", "1")
    grpo = ("train", "grpo", "--model", "model", *data, "--out", "out", "--max-steps", "1", "--max-new-tokens", "2")
    for file in ("config.json", "tokenizer_config.json"):
        for command in (
            ("data", "show", "--model", "model", *data),
            sft,
            judging,
            ("generate", "model", *data, *_SMALL),
        ):
            yield f"{file} with auto_map: {command[0]}", remote(file, "auto_map", *command)
    yield "a project's judge", project('[judge]\njudge = "evil.py:score"\n', *judging)
    yield "a project's reward", project('[rollouts]\nreward = ["evil.py:score"]\n', *grpo)
    yield "a project's reward, agreed by --yes", project('[rollouts]\nreward = ["evil.py:score"]\n', *grpo, "--yes")
    yield "a copied run by --like", copied_run(*grpo, "--like", "done")
    yield "a copied run by --resume", copied_run("train", "grpo", "--resume", "--out", "stopped")
    for name in ("rich", "typing", "json", "torch", "alignkit_plugins", "sitecustomize", "evil-1.0.dist-info"):
        yield f"python -m alignkit beside {name}", _beside(name)


def _beside(name: str) -> Callable[[Path, str], list[str]]:
    def write(place: Path, evil: str) -> list[str]:
        if name.endswith(".dist-info"):
            (place / name).mkdir()
            (place / name / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
            (place / name / "entry_points.txt").write_text("[alignkit]\nevil = evil_plugin\n")
            (place / "evil_plugin.py").write_text(evil)
        else:
            (place / f"{name}.py").write_text(evil)
        return []

    return write


def _as_module(place: Path, ground: Ground) -> Ended:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "alignkit", "plugins", "list"],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "ALIGNKIT_CACHE": str(ground.folder / "cache")},
    )
    return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


def _paid_commands(ground: Ground) -> list[list[str]]:
    rows = ["--data", str(ground.rows)]
    judging = ["judge", str(ground.model), "--vs", str(ground.other), *rows, *_SMALL]
    training_ = ["train", "grpo", "--model", str(ground.model), *rows, "--out", "out", "--max-steps", "1"]
    return [judging, [*training_, "--max-new-tokens", "2"]]


def _key_cases(url: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    quick = "requests_per_minute = 60000\nmax_attempts = 1\ntimeout_s = 2\nmax_outage_s = 2\n"
    nemotron = f'[judge.nemotron]\nbase_url = ["{url}"]\n{quick}'
    yield "a project moves nemotron", nemotron, {}
    yield "a project takes nemotron", f'[judge]\njudge = "nemotron"\n[rollouts]\nreward = ["nemotron"]\n{nemotron}', {}
    for variable in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HOME"):
        llm = f'[judge.llm]\nbase_url = ["{url}"]\nmodel = "x"\nkey_variable = "{variable}"\n{quick}'
        yield f"a project names {variable}", f'[judge]\njudge = "llm"\n[rollouts]\nreward = ["llm"]\n{llm}', {}
    vllm = f'[judge.vllm-reward]\nbase_url = ["{url}"]\nmodel = "x"\nrequests_per_minute = 60000\n'
    yield (
        "a project moves vllm-reward",
        f'[judge]\njudge = "vllm-reward"\n[rollouts]\nreward = ["vllm-reward"]\n{vllm}',
        {},
    )
    proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), url.removesuffix("/v1"))
    own = f'[judge]\njudge = "llm"\n[judge.llm]\nbase_url = ["http://127.0.0.1:1/v1"]\nmodel = "x"\n{quick}'
    own += 'key_variable = "HF_TOKEN"\n'
    yield "a proxy for this machine", own, proxy


def _hidden(key: str) -> str:
    return base64.b64encode(key.encode()).decode().rstrip("=")


def _holds(content: bytes) -> bool:
    return any(form.encode() in content for form in (KEY, _ESCAPED, _PERCENT))


_ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
_PERCENT = "".join(f"%{ord(letter):02x}" for letter in KEY)
_REPEATED: dict[str, tuple[int, str]] = {
    "in a 403": (403, json.dumps({"error": f"wrong key {KEY}"})),
    "in an answer": (200, json.dumps({"choices": [{"message": {"content": f"your key is {KEY}"}}]})),
    "escaped": (200, f'{{"choices": [{{"message": {{"content": "{_ESCAPED}"}}}}]}}'),
    "escaped in a 400": (400, f'{{"error": {{"message": "{_ESCAPED}"}}}}'),
    "escaped twice": (400, json.dumps({"error": _ESCAPED})),
    "by percent": (400, json.dumps({"error": _PERCENT})),
}


class _Recorder:
    """Notes the head of every request, and answers as a judge would."""

    def __init__(self) -> None:
        self.heads: list[str] = []

    def __call__(self, connection: socket.socket, head: str) -> None:
        self.heads.append(head)
        _reply(connection, json.dumps({"choices": [{"message": {"content": "reward:1.0"}}], "data": []}).encode())


def _repeats(repeated: tuple[int, str]) -> _Handler:
    status, body = repeated

    def handle(connection: socket.socket, head: str) -> None:
        if head.startswith("GET"):
            _reply(connection, b'{"data": []}')
        else:
            _reply(connection, body.encode(), status=status)

    return handle


def _reply(connection: socket.socket, body: bytes, *, status: int = 200, headers: str = "") -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    connection.sendall(head.encode() + body)


def _drips(first: bytes, unit: bytes, every_s: float, *, models: bool = False) -> _Handler:
    def handle(connection: socket.socket, head: str) -> None:
        if head.startswith("GET") and not models:
            _reply(connection, b'{"data": []}')
            return
        connection.sendall(first)
        while True:
            connection.sendall(unit)
            time.sleep(every_s)

    return handle


def _answers(content: bytes, headers: str = "") -> _Handler:
    def handle(connection: socket.socket, head: str) -> None:
        _reply(
            connection,
            b'{"data": []}' if head.startswith("GET") else content,
            headers="" if head.startswith("GET") else headers,
        )

    return handle


def _said(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_BOMB = gzip.compress(bytes(1 << 27), 9)
_SERVICES: dict[str, _Handler] = {
    "a header byte now and then": _drips(_OK + b"X-A: ", b"a", 0.3),
    "a body byte now and then": _drips(_OK + b"Content-Length: 100000\r\n\r\n", b" ", 0.3),
    "100 Continue without end": _drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.3),
    "nothing at all": _drips(b"", b"", 0.3),
    "/models: a body byte now and then": _drips(_OK + b"Content-Length: 100000\r\n\r\n", b" ", 0.3, models=True),
    "/models: a header byte now and then": _drips(_OK + b"X-A: ", b"a", 0.3, models=True),
    "/models: chunks without end": _drips(
        _OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 0x10000 + b"\r\n", 0.0, models=True
    ),
    "headers without end": _drips(_OK, b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", 0.0),
    "a bomb": _answers(_BOMB, "Content-Encoding: gzip\r\n"),
    "a bomb in a bomb": _answers(gzip.compress(_BOMB, 9), "Content-Encoding: gzip, gzip\r\n"),
    "a million spaces": _answers(_said("a" + " " * 1_000_000)),
    "a million colons": _answers(_said("reward:" * 140_000)),
    "a million brackets": _answers(_said("[[" * 500_000)),
    "a million digits": _answers(_said("reward:" + "9" * 1_000_000)),
    "deep JSON": _answers(b"[" * 1_000_000),
}
_BAD_REWARDS = {
    "sleeps and swallows everything": (
        "    while True:\n        try:\n            time.sleep(1)\n        except BaseException:\n            pass\n"
    ),
    "ends the process": "    sys.exit(0)\n",
    "ends it at once": "    os._exit(0)\n",
    "raises GeneratorExit": "    raise GeneratorExit\n",
    "raises KeyboardInterrupt": "    raise KeyboardInterrupt\n",
    "returns a number too large": "    return 10**400\n",
    "returns nan": "    return float('nan')\n",
    "is always the same": "    return 1.0\n",
    "never applies": "    return None\n",
    "crashes": "    import ctypes; ctypes.string_at(0)\n",
    "closes its output": "    os.close(1); os.close(2); sys.stdout.close(); raise ValueError('x')\n",
    "takes all recursion": "    return score(completion, row)\n",
}


@contextlib.contextmanager
def _served(handler: _Handler) -> Iterator[str]:
    """Serve on the loopback address until the block ends; yields the address up to /v1."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while head := _request(connection):
                handler(connection, head)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        listening.close()


def _request(connection: socket.socket) -> str:
    """Read one request whole; returns its head."""
    read = b""
    while b"\r\n\r\n" not in read:
        part = connection.recv(65536)
        if not part:
            return ""
        read += part
    head, _, body = read.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while len(body) < int(lengths[0] if lengths else 0):
        body += connection.recv(65536)
    return head.decode("latin-1")
