"""An upload, against a server on this machine that speaks the hub's protocol as far as huggingface_hub needs it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import RunStopped
from alignkit.exports.push import push

TOKEN = "hf_" + "k" * 34  # nobody's
CARD = '---\nlibrary_name: "transformers"\n---\n# m\n'


class Hub(ThreadingHTTPServer):
    """Keeps what was made and uploaded; `refuses` is the status that a commit is answered with."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.keys: set[str | None] = set()
        self.refuses = 0
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/me/mine"):
            return self._answer({"id": "me/mine", "sha": "0" * 40, "siblings": [], "private": True})
        return self._answer({"error": "nothing here"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.keys.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return self._answer({"url": f"{self.server.address}/me/mine", "id": "me/mine"})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.path == "/api/models/me/mine/preupload/main":
            asked = json.loads(body)["files"]
            return self._answer(
                {"files": [{"path": a["path"], "uploadMode": "regular", "shouldIgnore": False} for a in asked]}
            )
        if self.path == "/api/models/me/mine/commit/main":
            if self.server.refuses:
                return self._answer({"error": "you may not write here"}, self.server.refuses)
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._answer(
                {"commitUrl": f"{self.server.address}/me/mine/commit/1", "commitOid": "1", "success": True}
            )
        return self._answer({"error": "nothing here"}, 404)

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def exported(folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "out" / "README.md").write_text(CARD)
    (folder / "out" / "model.safetensors").write_bytes(bytes(range(256)))
    return folder / "out"


def test_a_folder_arrives_whole_in_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    folder = exported(tmp_path)
    assert push(folder, "me/mine") == f"{hub.address}/me/mine"
    assert hub.made == [{"name": "mine", "organization": "me", "visibility": "private"}]
    assert hub.files == {"README.md": CARD.encode(), "model.safetensors": bytes(range(256))}
    assert hub.keys == {f"Bearer {TOKEN}"}


def test_a_refusal_keeps_the_folder_and_shows_no_key(hub: Hub, tmp_path: Path) -> None:
    folder, hub.refuses = exported(tmp_path), 403
    with pytest.raises(RunStopped, match=r"^--push me/mine: the hub refused \(403\): .*is whole") as caught:
        push(folder, "me/mine")
    assert TOKEN not in str(caught.value) and not hub.files
    assert (folder / "README.md").read_text() == CARD
