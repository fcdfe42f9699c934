"""Ledgers, verdicts, files of answers and of judgements that were cut, flipped, emptied or never ours."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from verdicts import rated, verdict_on

from alignkit.cli.main import main
from alignkit.errors import InputError, RunStopped
from alignkit.judging import verdict_files
from alignkit.judging.caveats import judged_other_runs
from alignkit.judging.external_judgements import judge_file
from alignkit.judging.verdict import Unscored
from alignkit.judging.verdict_text import as_json
from alignkit.scoring.judge import Missing, Scored
from alignkit.scoring.ledger import Ledger, Source
from alignkit.scoring.looks import check_looks, count_look

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
        count_look(ledger, ("a", "b"), f"look {number}")
    ledger.close()
    return path.read_bytes()


def test_no_damage_to_a_ledger_changes_a_score_or_takes_a_look_back(ledger_bytes: bytes, tmp_path: Path) -> None:
    """300 damages: each is refused in a line, or a score is missing (and is asked for again), none is another."""
    rng = random.Random(0)
    outcomes = {"refused": 0, "skipped": 0, "no difference": 0}
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
            check_looks(ledger)
            look = count_look(ledger, ("a", "b"), "another")
            assert look >= NUM_LOOKS + 1 or path.stat().st_size < len(ledger_bytes)
            outcomes["no difference" if len(found) == len(SCORES) else "skipped"] += 1
        except (InputError, RunStopped) as error:
            outcomes["refused"] += is_one_line(error, path)
        finally:
            ledger.close()
    assert min(outcomes.values()) > 10, outcomes


CSV = "row,preference,baseline_chars,model_chars,template\n" + "".join(
    f"{n},{1 + n % 3 / 2},{90 + n},{100 - n},t{n % 4}\n" for n in range(24)
)
JSONL = "".join(
    json.dumps({"row": n, "score_model": n / 7, "score_baseline": None if n == 3 else 1.5, "source": f"s{n % 3}"})
    + "\n"
    for n in range(24)
)
HEAD = "row,preference\n"
STRANGE = [
    "",
    "[]",
    "null",
    "{}",
    "{",
    "3",
    '"text"',
    "\0",
    "\ufeff",
    "\n\n",
    "[" * 100_000,
    '{"a":' * 100_000,
    "row\n",
    HEAD,
    f"{HEAD}1e300,1\n",
    f"{HEAD}1e18,1\n",
    f"{HEAD}9223372036854775808,2\n",
    f"{HEAD}0x1,1\n",
    f"{HEAD}1,1\n1,2\n",
    f"{HEAD}-1,1\n",
    f"{HEAD}0,1e999\n",
    f"{HEAD}0,nan\n",
    f"{HEAD}0,\n",
    f'{HEAD}"1,1\n',
    f"{HEAD}1,1,1\n",
    "row,preference\r1,1\r",
    "row,row\n1,1\n",
    '[{"row": 0, "preference": 1}]',
    '{"row": 0, "preference": []}',
    '{"row": {}, "preference": 1}',
    '{"row": true, "preference": 1}',
    '{"row": 0, "preference": 1, "template": {}}',
    '{"row": 0, "preference": 1, "template": "\\ud800"}',
    '{"row": 0, "preference": 1, "template": [1]}\n{"row": 1, "preference": 2, "template": null}',
    '{"row": 0, "preference": 1, "baseline_chars": 1e300, "model_chars": 1}',
    '{"row": 0, "preference": 1, "baseline_chars": 1e308, "model_chars": 1e308}',
    '{"row": 0, "score_model": 1e308, "score_baseline": -1e308}',
    '{"row": 1' + "0" * 5000 + ', "preference": 1}',
]


@pytest.mark.parametrize("content", STRANGE)
def test_a_strange_file_of_judgements_is_a_verdict_or_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "from"
    path.write_text(content, encoding="utf-8")
    try:
        verdict = judge_file(path)
    except (InputError, Unscored) as error:
        is_one_line(error, path)
    else:
        json.loads(as_json(verdict))
        assert str(verdict)


def test_no_damage_to_a_file_of_judgements_is_a_traceback(tmp_path: Path) -> None:
    rng, path, refused = random.Random(1), tmp_path / "from", 0
    for number in range(150):
        content = (CSV if number % 2 else JSONL).encode()
        for _ in range(rng.choice([1, 1, 3])):
            content = rng.choice(DAMAGES)(content, rng) or b"\0"
        path.write_bytes(content)
        try:
            judge_file(path)
        except (InputError, Unscored) as error:
            refused += is_one_line(error, path)
    assert refused > 30
    with pytest.raises(InputError, match="cannot be read"):
        judge_file(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        judge_file(tmp_path / "none")


def test_no_damage_to_a_verdict_is_a_traceback_or_hides_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(2)
    good = verdict_on(rated(60.0, 55.0, 65.0))
    content = good.model_dump_json(indent=1).encode()
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts" / "000.json").write_bytes(content)
    file = tmp_path / "verdicts" / "001.json"
    for damaged in [*STRANGE, *(rng.choice(DAMAGES)(content, rng) for _ in range(100))]:
        file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode("utf-8"))
        caplog.clear()
        found = verdict_files.read(tmp_path)
        assert found[0] == good and len(found) + len(caplog.records) == 2
        assert "\n" not in caplog.text.rstrip("\n")
        for verdict in found:
            assert str(verdict) and json.loads(as_json(verdict))
        judged_other_runs(tmp_path.parent / "another", fingerprint="x")


@pytest.mark.parametrize(
    "content", [None, b"", b"[]", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(4096), b"\xff" * 5000]
)
def test_a_ledger_that_is_none_is_one_line_in_every_command(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger"
    path.mkdir() if content is None else path.write_bytes(content)
    monkeypatch.setenv("ALIGNKIT_LEDGER", str(path))
    for command in (["ledger", "stats"], ["ledger", "export"]):
        code = main(command)
        err = capsys.readouterr().err
        assert code == (0 if content == b"" else 2) and "Traceback" not in err and err.count("\n") == bool(code)
