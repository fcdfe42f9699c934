"""Processes that share a ledger buy each score once, whoever is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from chaos_client import item
from chaos_server import ask, running, true_score
from places import HELPERS

from alignkit.errors import RunStopped
from alignkit.scoring import claims
from alignkit.scoring.judge import Item, Judge, Missing, Scored
from alignkit.scoring.ledger import Ledger, Source
from alignkit.scoring.score_cache import cached_scores, claiming

NUM_ITEMS = 300
IN_FLIGHT = 8
PLACE = claims.new_owner().split()[0]
SOURCE = Source.of("judge", "1", {})


class Paid(Judge):
    """Costs money; one answer after another."""

    name, version, paid = "paid", "1", True

    def __init__(self, *, fails: Sequence[str] = (), dies: bool = False) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fails, self.dies = fails, dies

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        self.asked += [item.completion for item in items]
        return [Missing("no answer") if i.completion in self.fails else Scored(float(len(i.completion))) for i in items]

    def stream(self, items: Sequence[Item]) -> Iterator[Mapping[int, Scored | Missing]]:
        for number, one in enumerate(items):
            if self.dies:
                raise RunStopped("the service is gone")
            yield {number: self.score([one])[0]}


def options(urls: list[str]) -> dict[str, Any]:
    return {"base_url": urls, "requests_per_minute": 1e7, "max_in_flight": IN_FLIGHT, "timeout_s": 8.0}


def start(urls: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(HELPERS / "chaos_client.py"), str(NUM_ITEMS), json.dumps(options(urls))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


EXPECTED = [true_score(f"Answer {number}") for number in range(NUM_ITEMS)]


def test_three_judges_on_one_new_ledger_buy_each_score_once() -> None:
    with running(seed=1) as urls:
        found = [json.loads(client.communicate(timeout=120)[0]) for client in [start(urls) for _ in range(3)]]
        sold = ask(urls[0], "sold")["sold"]
    assert found == [EXPECTED] * 3
    assert len(sold) == NUM_ITEMS and set(Counter(sold).values()) == {1}


def test_what_a_killed_judge_was_asking_for_is_taken_over_at_once() -> None:
    """Of three, two are killed; the third has all scores, and only what was on its way is bought twice."""
    with running(seed=2) as urls:
        clients = [start(urls) for _ in range(3)]
        for number, client in enumerate(clients[:2]):
            while ask(urls[0], "count") < 60 * (number + 1):
                time.sleep(0.01)
            client.send_signal(signal.SIGKILL)
            client.communicate()
        began = time.monotonic()
        assert json.loads(clients[2].communicate(timeout=120)[0]) == EXPECTED
        assert time.monotonic() - began < claims.STALE_S / 4
        sold = ask(urls[0], "sold")["sold"]
    assert NUM_ITEMS <= len(sold) <= NUM_ITEMS + 2 * IN_FLIGHT


def _wait(path: Path, ready: Any) -> None:
    with claiming(ledger := Ledger(path)) as name:
        ledger.claim(["a"], name)
        ready.set()
        time.sleep(600)


def test_a_claim_holds_while_its_process_lives_and_not_a_moment_longer(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_wait, args=(tmp_path / "l.sqlite", ready))
    other.start()
    assert ready.wait(60)
    ledger = Ledger(tmp_path / "l.sqlite")
    with claiming(ledger) as name:
        claimed = ledger.claim(["a", "b"], name)
        assert (claimed.mine, claimed.others) == (["b"], ["a"])
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)  # not waited for: a dead process that is still listed
        deadline = time.monotonic() + 10
        while ledger.claim(["a"], name).others and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ledger.claim(["a", "b"], name).mine == ["a", "b"]
    other.join()


def test_a_claim_of_another_machine_holds_until_it_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    far, mine = "0123456789abcdef 1 17 x", claims.new_owner()
    assert ledger.claim(["a"], far).mine == ["a"]
    assert ledger.claim(["a"], mine).others == ["a"]
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + claims.STALE_S / 2)
    ledger.renew(far)
    monkeypatch.setattr("time.time", lambda: now + 1.2 * claims.STALE_S)
    assert ledger.claim(["a"], mine).others == ["a"]
    monkeypatch.setattr("time.time", lambda: now + 2 * claims.STALE_S)
    assert ledger.claim(["a"], mine).mine == ["a"]


@pytest.mark.parametrize("name", ["", "x", "x y z", f"{PLACE} {10**30} 1 x", f"{PLACE} -1 1 x", 3, None])
def test_a_claim_that_names_no_process_here_holds_nothing(name: object) -> None:
    if isinstance(name, str) and not name.startswith(PLACE):
        assert not claims.is_held(name, time.time() - 1e9)
    else:
        assert not claims.is_held(name, time.time())
    assert not claims.is_held(name, "now") and not claims.is_held(name, None)


def test_two_threads_of_one_process_buy_once_and_a_missing_score_is_asked_for_by_whoever_waited(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    items = [item(number) for number in range(20)]
    judges = [Paid(), Paid()]
    found: list[Any] = [None, None]

    def work(number: int) -> None:
        found[number] = cached_scores(judges[number], items, label="p", ledger=Ledger(path))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0] == found[1] and len(judges[0].asked) + len(judges[1].asked) == 20
    more = [item(99)]
    assert cached_scores(Paid(fails=["Answer 99"]), more, label="p", ledger=Ledger(path)) == [Missing("no answer")]
    assert cached_scores(Paid(), more, label="p", ledger=Ledger(path)) == [Scored(9.0)]


def test_a_judge_that_fails_leaves_no_claim_behind(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    with pytest.raises(RunStopped, match="the service is gone"):
        cached_scores(Paid(dies=True), [item(1), item(2)], label="p", ledger=ledger)
    with ledger.connection() as db:
        assert db.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    judge = Paid()
    cached_scores(judge, [item(1), item(2)], label="p", ledger=ledger)
    assert judge.asked == ["Answer 1", "Answer 2"]
