"""Work over several servers: nothing lost, nothing doubled, whoever dies."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest

from alignkit.services.spreading import ServerDown, Spread


@pytest.mark.parametrize("seed", range(10))
def test_every_piece_has_one_result_whoever_dies_when(seed: int) -> None:
    chance = random.Random(seed)
    dies_at = {"a": chance.randint(0, 40), "b": chance.randint(0, 40), "c": 10**9}
    done: Counter[str] = Counter()
    lock = threading.Lock()

    def do(server: str, number: int) -> str:
        time.sleep(0.0005)
        with lock:
            done[server] += 1
            if done[server] > dies_at[server]:
                raise ServerDown(f"{server} is gone")
        return f"result {number}"

    down: list[str] = []
    spread = Spread(do, in_flight=4, down=lambda server, error: down.append(server))
    found = spread.run(["a", "b", "c"], 200)
    assert [result for _, result in found] == [f"result {number}" for number in range(200)]
    assert len(down) == len(set(down)) and set(down) <= {"a", "b"}
    drawn = Counter(server for server, _ in found)
    assert all(drawn[server] <= dies_at[server] for server in down)  # a dead one's failures are nobody's result


def test_all_servers_are_used_and_when_all_die_it_is_said() -> None:
    used = set()

    def do(server: str, number: int) -> int:
        used.add(server)
        time.sleep(0.001)
        return number

    assert [n for _, n in Spread(do, in_flight=2, down=lambda s, e: None).run(["a", "b"], 40)] == list(range(40))
    assert used == {"a", "b"}

    def dead(server: str, number: int) -> int:
        raise ServerDown("no answer")

    with pytest.raises(ServerDown, match="no answer"):
        Spread(dead, in_flight=2, down=lambda s, e: None).run(["a", "b"], 40)


def test_a_bug_is_raised_and_not_taken_for_a_dead_server() -> None:
    def do(server: str, number: int) -> int:
        raise KeyError(number)

    with pytest.raises(KeyError):
        Spread(do, in_flight=2, down=lambda s, e: None).run(["a"], 3)
