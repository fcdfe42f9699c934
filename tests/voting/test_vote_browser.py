"""The vote page in a real Chromium: keyboard alone, a phone's width, texts that would like to run."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from alignkit.scoring.ledger import Ledger
from alignkit.scoring.votes import keep_poll, pair_hash, read_votes
from alignkit.voting.ballots import Ballots
from alignkit.voting.poll import Pair, Poll
from alignkit.voting.server import VoteServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = ["<script>document.title = 'run'</script>", "<img src=x onerror=\"document.title = 'run'\">", "x" * 400]
WAIT_S = 30.0


class Page:
    """A browser's page, driven by its own protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.ids, self.complaints = socket, itertools.count(1), list[str]()

    def call(self, method: str, **given: Any) -> Any:
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": given}))
        while (answer := json.loads(self.socket.recv(timeout=WAIT_S))).get("id") != number:
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer))
        return answer["result"]

    def read(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key: str, *, then: str) -> None:
        text = "\r" if key == "Enter" else key
        code = 13 if key == "Enter" else 0
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.wait_for("document.getElementById('progress').textContent", then)

    def wait_for(self, expression: str, value: Any) -> None:
        end = time.monotonic() + WAIT_S
        while (found := self.read(expression)) != value:
            assert time.monotonic() < end, (expression, found, value)
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_voting_by_keyboard_alone_on_a_narrow_page_runs_no_text(tmp_path: Path) -> None:
    client = pytest.importorskip("websockets.sync.client", reason="drives the browser")
    asked = []
    for n, text in enumerate(HOSTILE):
        prompt = [{"role": "user", "content": text}]
        ours, theirs = f"ours {text}", f"theirs {text}"
        asked.append(Pair(pair_hash(prompt, ours, theirs), prompt, ours, theirs, float(n), 1.0))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    keep_poll(ledger, "poll", {"run": "one", "vs": "other", "pairs": []})
    server = VoteServer(Ballots(Poll("poll", "one", "other", tuple(asked)), ledger), name="Ann")
    thread = threading.Thread(target=server.run)
    thread.start()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--remote-allow-origins=*"]
    profile = tmp_path / "profile"
    browser = subprocess.Popen(
        [str(CHROMIUM), *options, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + WAIT_S
        while not (written := profile / "DevToolsActivePort").exists() or not written.read_text():
            assert time.monotonic() < end
            time.sleep(0.1)
        port = written.read_text().split()[0]
        pages = httpx.get(f"http://127.0.0.1:{port}/json").json()
        target = next(page for page in pages if page["type"] == "page")
        with client.connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            page = Page(socket)
            for domain in ("Runtime", "Log", "Page"):
                page.call(f"{domain}.enable")
            page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
            page.call("Page.navigate", url=server.address)
            page.wait_for("document.getElementById('voter')?.value", "Ann")
            page.read("document.getElementById('voter').focus()")
            page.press("Enter", then="0 of 3, as Ann")
            for key, then in [("1", 1), ("u", 0), ("2", 1), ("t", 2), ("s", 3)]:
                page.press(key, then=f"{then} of 3, as Ann")
                assert page.read("document.documentElement.scrollWidth") == 390
                assert page.read("document.images.length") == 0 and page.read("document.scripts.length") == 1
            assert page.read("document.title") == "Which answer is better?"
            assert page.read("document.getElementById('end').hidden") is False
            assert page.complaints == []
    finally:
        browser.terminate()
        browser.wait()
        server.stop()
        thread.join(10)
    assert [vote.choice for vote in read_votes(ledger)] == ["second", "tie", "skip"]
