"""Ten thousand scores from a service that fails in every known way, by a client that is killed twenty times."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from alignkit_plugins.nemotron import Nemotron, NemotronConfig
from chaos_client import item
from chaos_server import FAULTS, ask, running, true_score
from places import HELPERS

from alignkit.scoring.ledger import Ledger, Source

NUM_ITEMS = 10_000
NUM_KILLS = 20
IN_FLIGHT = 16


def start(options: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, str(HELPERS / "chaos_client.py"), str(NUM_ITEMS), json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_score_is_lost_bought_twice_or_invented_whatever_fails_and_whoever_is_killed() -> None:
    path = Path(os.environ["ALIGNKIT_LEDGER"])
    with running(faults=0.3, endpoints=2, outage_at=9_000, outage_s=1.0, seed=7) as urls:
        options = {
            "base_url": urls,
            "requests_per_minute": 1e7,
            "max_in_flight": IN_FLIGHT,
            "timeout_s": 4.0,
            "backoff_s": 0.004,
            "max_backoff_s": 0.1,
            "max_outage_s": 60.0,
            "max_attempts": 20,
        }
        judge = Nemotron(NemotronConfig(**options))
        source = Source.of(judge.name, judge.version, judge.parameters())
        keys = {f"Answer {number}": source.key(judge.given(item(number))) for number in range(NUM_ITEMS)}
        known: list[tuple[int, set[str]]] = []  # at each kill: how many were sold, and what the ledger had
        for kill in range(1, NUM_KILLS + 1):
            client = start(options)
            while ask(urls[0], "count") < kill * 300:
                assert client.poll() is None
                time.sleep(0.02)
            client.send_signal(signal.SIGKILL)
            client.communicate()
            ledger = Ledger(path)
            known.append((ask(urls[0], "count"), set(ledger.find(list(keys.values())))))
            ledger.close()
        out, _ = start(options).communicate(timeout=500)
        delivered = ask(urls[0], "sold")
        again, _ = start(options).communicate(timeout=300)
        after = ask(urls[0], "sold")
    scores = json.loads(out)
    assert scores == [true_score(f"Answer {number}") for number in range(NUM_ITEMS)]  # none lost, none invented
    assert json.loads(again) == scores and after == delivered  # a replay asks nobody
    for num_sold, in_ledger in known:
        asked_later = {keys[text] for text in delivered["sold"][num_sold:]}
        assert not asked_later & in_ledger  # what a killed client had kept is never asked for again
    twice = sum(Counter(delivered["sold"]).values()) - NUM_ITEMS
    assert 0 <= twice <= NUM_KILLS * IN_FLIGHT  # only what was on its way when a client died
    assert delivered["num_requests"] > 1.3 * NUM_ITEMS and len(FAULTS) > 25
