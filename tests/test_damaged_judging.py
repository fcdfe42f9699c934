"""Ledgers, verdicts, files of answers and of judgements that were cut, flipped, emptied or never ours."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from alignkit.errors import InputError, RunStopped
from alignkit.scoring.judge import Missing, Scored
from alignkit.scoring.ledger import Ledger, Source

SOURCE = Source.of("judge", "1", {"model": "m"})
SCORES = {f"{n:064x}": Scored(n / 8 - 3, f'{{"reward": {n / 8 - 3}}}') for n in range(60)}
NUM_LOOKS = 5


def flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def zero(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    length = rng.choice([1, 16, 512, 4096])
    return content[:at] + bytes(min(length, len(content) - at)) + content[at + length :]


def swap(content: bytes, rng: random.Random) -> bytes:
    size = rng.choice([1, 8, 512])
    one = rng.randrange(0, len(content) - 2 * size) if len(content) > 2 * size else 0
    two = rng.randrange(one + size, len(content) - size + 1) if len(content) > 2 * size else 0
    if two == 0:
        return flip(content, rng)
    first, second = content[one : one + size], content[two : two + size]
    return content[:one] + second + content[one + size : two] + first + content[two + size :]


DAMAGES = [flip, flip, flip, cut, zero, swap]


def is_one_line(error: Exception, path: Path) -> bool:
    assert "\n" not in str(error) and str(path) in str(error)
    return True


@pytest.fixture(scope="module")
def ledger_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ledger") / "l.sqlite"
    ledger = Ledger(path)
    ledger.keep(SOURCE, SCORES | {"m": Missing("no answer")})
    for number in range(NUM_LOOKS):
        ledger.count_look(("a", "b"), f"look {number}")
    ledger.close()
    return path.read_bytes()


def test_no_damage_to_a_ledger_changes_a_score_or_takes_a_look_back(ledger_bytes: bytes, tmp_path: Path) -> None:
    """300 damages: each is refused in a line, or a score is missing (and is asked for again), none is another."""
    rng = random.Random(0)
    outcomes = {"refused": 0, "passed over": 0, "no difference": 0}
    for number in range(300):
        path = tmp_path / f"{number}.sqlite"
        path.write_bytes(rng.choice(DAMAGES)(ledger_bytes, rng))
        ledger = Ledger(path)
        try:
            found = ledger.find(list(SCORES))
            assert all(SCORES[key] == score and SCORES[key].raw == score.raw for key, score in found.items())
            assert sum(row["num_scores"] for row in ledger.stats()) <= len(SCORES)
            assert all(SCORES[e["key"]].value == e["value"] for e in ledger.export() if "value" in e)
            assert ledger.keep(SOURCE, SCORES) == SCORES
            assert ledger.find(list(SCORES)).items() <= SCORES.items()
            ledger.check_looks()
            look = ledger.count_look(("a", "b"), "another")
            assert look >= NUM_LOOKS + 1 or path.stat().st_size < len(ledger_bytes)
            outcomes["no difference" if len(found) == len(SCORES) else "passed over"] += 1
        except (InputError, RunStopped) as error:
            outcomes["refused"] += is_one_line(error, path)
        finally:
            ledger.close()
    assert min(outcomes.values()) > 10, outcomes
