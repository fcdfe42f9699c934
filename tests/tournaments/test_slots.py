"""A slot: pieces in processes of their own, forked from one that has imported and computed nothing."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import slot_pieces
from places import ROOT

from alignkit.tournaments.slots import NEEDED, Slot

_HELPERS = ROOT / "tests" / "helpers"


def until(found: Callable[[], int | None]) -> int:
    """Wait for a value."""
    deadline = time.monotonic() + 30
    while (value := found()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def ids(file: Path) -> list[int]:
    """The ids of a piece and its slot, once it has written them."""
    until(lambda: file.exists() or None)
    return [int(word) for word in file.read_text().split()]


def is_gone(process: int) -> bool | None:
    """True where a process is no more, or is dead and nobody has asked for it yet."""
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z" or None
    except OSError:
        return True


@pytest.fixture
def slot() -> Iterator[Slot]:
    opened = Slot({"PYTHONPATH": f"{_HELPERS}:{os.environ.get('PYTHONPATH', '')}", "OF_THE_SLOT": "its own"}, ())
    yield opened
    opened.close()


def test_each_piece_has_a_process_with_the_slots_environment_and_no_input(slot: Slot, tmp_path: Path) -> None:
    for _ in range(2):
        slot.start(partial(slot_pieces.say, "OF_THE_SLOT"), tmp_path / "log.txt")
        assert slot.wait() == 3
    said = [line.split(maxsplit=2) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert said[0][0] != said[1][0] and said[0][1] == said[1][1]  # one session, two processes
    assert int(said[0][1]) != os.getsid(0)  # a terminal's Ctrl-C does not reach it
    assert [rest for _, _, rest in said] == ["'' its own"] * 2


def test_a_piece_looks_for_no_garbage_among_what_its_slot_imported(slot: Slot) -> None:
    slot.start(slot_pieces.count_kept, None)
    assert until(slot.poll) == 3


def test_a_piece_ends_behind_its_threads_and_exit_functions(slot: Slot, tmp_path: Path) -> None:
    slot.start(partial(slot_pieces.leave, tmp_path), tmp_path / "log.txt")
    assert slot.wait() == 3
    assert [(tmp_path / name).read_text() for name in ("thread", "exit", "log.txt")] == ["done", "done", "not flushed"]


def test_a_piece_that_dies_says_by_what_and_the_next_one_runs(slot: Slot, tmp_path: Path) -> None:
    slot.start(slot_pieces.die, None)
    assert until(slot.poll) == -signal.SIGKILL
    slot.start(slot_pieces.say, tmp_path / "log.txt")
    assert until(slot.poll) == 3


def test_a_piece_that_is_asked_to_end_saves_what_it_has(slot: Slot, tmp_path: Path) -> None:
    slot.start(partial(slot_pieces.wait, tmp_path / "ids"), None)
    piece, _ = ids(tmp_path / "ids")
    assert slot.poll() is None
    slot.ask_to_end()
    assert slot.wait() == 130 and is_gone(piece)
    slot.start(slot_pieces.say, tmp_path / "log.txt")
    assert slot.wait() == 3


def test_a_killed_slot_takes_its_piece_along_and_is_begun_anew(slot: Slot, tmp_path: Path) -> None:
    slot.start(partial(slot_pieces.wait, tmp_path / "ids"), None)
    piece, own = ids(tmp_path / "ids")
    os.kill(own, signal.SIGKILL)
    assert until(slot.poll) == -signal.SIGKILL
    assert until(partial(is_gone, piece))
    slot.start(slot_pieces.say, tmp_path / "log.txt")
    assert slot.wait() == 3


def test_no_piece_outlives_a_tournament_that_was_killed(tmp_path: Path) -> None:
    tournament = subprocess.Popen([sys.executable, str(_HELPERS / "slot_pieces.py"), str(tmp_path / "ids")])
    try:
        piece, own = ids(tmp_path / "ids")
    finally:
        tournament.kill()
        tournament.wait()
    assert until(partial(is_gone, piece)) and until(partial(is_gone, own))


def test_what_a_slot_imports_is_there_and_touches_no_gpu() -> None:
    code = "import sys, torch; torch._C._cuda_getDeviceCount = sys.exit\nimport importlib\n"
    code += f"for name in {NEEDED}: importlib.import_module(name)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert not [name for name in NEEDED if importlib.util.find_spec(name) is None]
