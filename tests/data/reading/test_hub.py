"""Hub data sets by name, from a small server that answers as the hub does, through a real process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars
import pytest
from tiny_models import tiny_tokenizer

pytestmark = pytest.mark.slow
NAME, COMMIT = "owner/pairs", "0" * 39 + "1"


class Hub(BaseHTTPRequestHandler):
    """The two questions that reading a data set asks: which files, and a file."""

    def __init__(self, files: dict[str, bytes], *args: object) -> None:
        self.files = files
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        start = f"/datasets/{NAME}/resolve/main/"
        if path.startswith(f"/api/datasets/{NAME}/tree/"):
            body = json.dumps(
                [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in self.files.items()]
            ).encode()
        elif path.startswith(f"/api/datasets/{NAME}"):
            body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": p} for p in self.files]}).encode()
        elif path.startswith(start) and path.removeprefix(start) in self.files:
            body = self.files[path.removeprefix(start)]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    frame = polars.DataFrame({"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"]})
    frame.write_parquet(tmp_path / "part.parquet")
    files = {
        "README.md": b"not data",
        "data/train-00000-of-00001.parquet": (tmp_path / "part.parquet").read_bytes(),
        "test.jsonl": b'{"prompt": "x", "chosen": "y"}\n',
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, files))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def show(tmp_path: Path, endpoint: str, data: str) -> subprocess.CompletedProcess[str]:
    tiny_tokenizer(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "alignkit", "data", "show", "--json", "--model", "model", "--data", data]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_a_split_of_a_hub_data_set_is_read_by_its_name(tmp_path: Path, endpoint: str) -> None:
    train = show(tmp_path, endpoint, NAME)
    assert train.returncode == 0, train.stderr
    assert [len(json.loads(line)["completions"]) for line in train.stdout.splitlines()] == [2, 2]
    test = show(tmp_path, endpoint, f"{NAME}:test")
    assert [len(json.loads(line)["completions"]) for line in test.stdout.splitlines()] == [1], test.stderr


def test_an_unknown_split_or_data_set_of_the_hub_is_refused(tmp_path: Path, endpoint: str) -> None:
    split = show(tmp_path, endpoint, f"{NAME}:dev")
    assert split.returncode == 2
    assert "no data file of 'dev'; it has data/train-00000-of-00001.parquet, test" in split.stderr
    name = show(tmp_path, endpoint, "owner/other")
    assert name.returncode == 2 and "owner/other: not found, or private without a token" in name.stderr
