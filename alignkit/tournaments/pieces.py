"""The pieces of a tournament: one entrant with one seed each, which are there, and all of them done in order.

Pieces run one after the other, each in a process of its own (slots.py); with `jobs` there are so many at once, on so
many GPUs. From Python, where a reward may be a function, pieces run in the calling process.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alignkit.display import on_one_line
from alignkit.errors import AlignkitError, Interrupted, RunStopped, UsageError
from alignkit.progress import Progress
from alignkit.registry import registry
from alignkit.storage import PRIVATE_FOLDER
from alignkit.tournaments import work
from alignkit.tournaments.entrants import Tournament, is_reward
from alignkit.tournaments.prompts import OFF_TASK, TEST, TUNING, Asked, rung_part
from alignkit.tournaments.results import Entry
from alignkit.tournaments.slots import Slot
from alignkit.tournaments.work import Place
from alignkit.training.checkpoints.folder_lock import FolderLock

MARK = "alignkit: a process runs this tournament\n"
_POLL_S = 0.1
_logger = logging.getLogger(__name__)

Show = Callable[[Sequence["Piece"]], None]
"""Is told which pieces run now."""
Child = Callable[[Callable[[Progress], None]], int]
"""What a piece's own process calls with its work: sets up what it prints, and returns its exit code."""


@dataclass(frozen=True)
class Piece:
    """One entrant with one seed, and the parts of the prompts that it answers.

    `rung`: of a run in parts the last one that is trained; None: all.
    """

    entry: Entry
    seed: int
    parts: tuple[str, ...]
    rung: int | None = None

    @property
    def name(self) -> str:
        """What --only names."""
        return f"{self.entry.name}/{self.seed}" + ("" if self.rung is None else f"/{self.rung + 1}")


def first_pieces(made: Tournament, asked: Asked) -> list[Piece]:
    """All pieces before a sweep's winner is picked or halved for the first time, seed by seed.

    A sweep's entrants answer the tuning prompts; the others answer these too where they are somebody's opponents.
    """
    pieces = []
    for seed in made.seeds:
        for entry in (*made.opponents, *made.entrants):
            if seed in made.seeds_of(entry):
                if entry.sweep is not None:
                    pieces += tuning_pieces(made, [entry], 0, seeds=[seed])
                else:
                    pieces.append(Piece(entry, seed, () if is_reward(entry) else _whole(asked)))
    return pieces


def tuning_pieces(
    made: Tournament, entries: Sequence[Entry], rung: int, *, seeds: Sequence[int] | None = None
) -> list[Piece]:
    """What is left of a sweep after so many halvings, trained that far, with its answers to the tuning prompts."""
    is_last = rung == made.halvings
    part, last = (TUNING, None) if is_last else (rung_part(rung), rung)
    return [Piece(entry, seed, (part,), last) for seed in seeds or made.seeds for entry in entries]


def picked_pieces(made: Tournament, asked: Asked, names: Sequence[str]) -> list[Piece]:
    """The winners of sweeps, which answer the test prompts."""
    return [Piece(made.entrant(name), seed, _whole(asked)) for seed in made.seeds for name in names]


def all_pieces(made: Tournament, asked: Asked) -> dict[str, Piece]:
    """Every piece that may be done alone, by its name."""
    swept = [entry for entry in made.entrants if entry.sweep is not None]
    pieces = first_pieces(made, asked)
    for rung in range(made.halvings + 1):
        pieces += tuning_pieces(made, swept, rung)
    pieces += picked_pieces(made, asked, [entry.name for entry in swept])
    return {piece.name: piece for piece in pieces}


def _whole(asked: Asked) -> tuple[str, ...]:
    return (TEST, *(part for part in (TUNING, OFF_TASK) if part in asked.parts))


def state(made: Tournament, place: Place, piece: Piece, asked: Asked, running: Sequence[Piece]) -> str:
    """How far a piece is, in a word or with the reason why it came to nothing."""
    if piece in running:
        return "running"
    if (reason := work.failure(place, piece.entry, piece.seed)) is not None:
        return f"failed: {reason}"
    return "done" if _is_done(made, place, piece, asked) else "waiting"


def _is_done(made: Tournament, place: Place, piece: Piece, asked: Asked) -> bool:
    return (
        work.is_trained(made, place, piece.entry, piece.seed, piece.rung)
        and all(work.is_answered(made, place, piece.entry, piece.seed, part, asked.rows(part)) for part in piece.parts)
        and work.has_kl(made, place, piece.entry, piece.seed, piece.parts, asked)
    )


def _needed(made: Tournament, piece: Piece) -> list[tuple[str, int]]:
    """The pieces that must be done before."""
    entries = [made.entrant(name) for name in made.needs(piece.entry)]
    return [(entry.name, piece.seed) for entry in entries if entry.method is not None]


def do(made: Tournament, place: Place, piece: Piece, asked: Asked, exclude: Path, progress: Progress) -> None:
    """Do one piece here; why it came to nothing is kept."""
    try:
        work.do_work(
            made,
            place,
            piece.entry,
            piece.seed,
            asked=asked,
            parts=piece.parts,
            exclude=exclude,
            progress=progress,
            rung=piece.rung,
        )
    except Interrupted:
        raise
    except AlignkitError as error:
        work.note_failure(place, piece.entry, piece.seed, on_one_line(error.line))
        raise
    except Exception as error:
        if (fault := registry().fault_of(error)) is None:
            raise
        work.note_failure(place, piece.entry, piece.seed, on_one_line(fault))
        raise RunStopped(fault) from error


def do_alone(
    made: Tournament,
    place: Place,
    piece: Piece,
    asked: Asked,
    exclude: Path,
    progress: Progress,
    *,
    waits: bool = False,
) -> None:
    """Do one piece here, unless another process does it.

    Args:
        waits: until another process that does it has ended; what that one leaves is done here.

    Raises:
        UsageError: another does, and this one does not wait.
        AlignkitError: as training and answering raise; the reason is kept.
    """
    lock = FolderLock(place.folder / f".{piece.entry.name.replace('/', '_')}-{piece.seed}.lock", MARK)
    if not lock.acquire():
        if not waits:
            raise UsageError(f"{piece.name}: another process does this piece; wait for it")
        progress.note(f"{piece.name}: another process does this piece; waiting for it")
        while not lock.acquire():
            time.sleep(_POLL_S)
    try:
        do(made, place, piece, asked, exclude, progress)
    finally:
        lock.release()


def in_turn(
    made: Tournament, place: Place, pieces: Sequence[Piece], asked: Asked, exclude: Path, progress: Progress, show: Show
) -> None:
    """Do all pieces in this process; one that fails ends those alone that need it."""
    failed = _failed(place, pieces)
    for number, piece in enumerate(pieces, start=1):
        if _is_done(made, place, piece, asked) or _lacks(made, place, piece, failed):
            report(place, piece)
            continue
        progress.note(f"tournament: {piece.name}, {number} of {len(pieces)}")
        show([piece])
        try:
            do(made, place, piece, asked, exclude, progress)
        except Interrupted as error:
            raise KeyboardInterrupt from error
        except AlignkitError as error:
            failed.add((piece.entry.name, piece.seed))
            _logger.warning("%s failed: %s; the others go on", piece.name, error.line)
        report(place, piece)


def report(place: Place, piece: Piece) -> None:
    """Write the report of a piece's run where it lacks one; where that cannot be done it is said, and no more."""
    try:
        work.report(place, piece.entry, piece.seed)
    except AlignkitError as error:
        _logger.warning("%s: no report: %s", piece.name, error.line)


def _failed(place: Place, pieces: Sequence[Piece]) -> set[tuple[str, int]]:
    """What this call tried before: it is not tried twice."""
    return {(p.entry.name, p.seed) for p in pieces if work.failure(place, p.entry, p.seed) is not None}


def _lacks(made: Tournament, place: Place, piece: Piece, failed: set[tuple[str, int]]) -> bool:
    """Whether a piece failed before, or cannot be done because what it needs failed: it has failed itself then."""
    if (piece.entry.name, piece.seed) in failed:
        return True
    lacking = [f"{name}/{seed}" for name, seed in _needed(made, piece) if (name, seed) in failed]
    if lacking:
        failed.add((piece.entry.name, piece.seed))
        work.note_failure(place, piece.entry, piece.seed, f"{lacking[0]}, which it needs, failed")
    return bool(lacking)


def in_slots(
    made: Tournament,
    place: Place,
    pieces: Sequence[Piece],
    asked: Asked,
    exclude: Path,
    slots: Sequence[Slot],
    child: Child,
    note: Callable[[str], None],
    show: Show,
) -> None:
    """Do all pieces in processes of their own, one a slot at a time, each as soon as what it needs is done.

    Of several at once, each one's words go into a file.
    """
    left = [piece for piece in pieces if not _is_done(made, place, piece, asked)]
    total, failed = len(left), _failed(place, pieces)
    ended = [piece for piece in pieces if piece not in left]
    running: dict[Slot, Piece] = {}
    try:
        while left or running or ended:
            for slot, piece in list(running.items()):
                if (code := slot.poll()) is None:
                    continue
                del running[slot]
                ended.append(piece)
                if code == Interrupted.exit_code:
                    raise KeyboardInterrupt
                if code != 0:
                    failed.add((piece.entry.name, piece.seed))
                    if work.failure(place, piece.entry, piece.seed) is None:
                        killed = f"its process was killed by signal {-code}; it may have had no memory"
                        why = killed if code < 0 else f"its process ended with {code}; what it said is above"
                        work.note_failure(place, piece.entry, piece.seed, why)
                    _logger.warning("%s failed; the others go on", piece.name)
            left = [piece for piece in left if not _lacks(made, place, piece, failed)]
            waiting = {(p.entry.name, p.seed) for p in (*left, *running.values())}
            for slot in slots:
                ready = next((p for p in left if not waiting & set(_needed(made, p))), None)
                if slot in running or ready is None:
                    continue
                left.remove(ready)
                note(f"tournament: {ready.name}, {total - len(left)} of {total}")
                task = partial(do_alone, made, place, ready, asked, exclude, waits=True)
                slot.start(partial(child, task), None if len(slots) == 1 else _log(place, ready))
                running[slot] = ready
                show(list(running.values()))
            while ended:  # while the next ones run
                report(place, ended.pop())
            time.sleep(_POLL_S)
    finally:
        for slot in running:
            slot.ask_to_end()
        for slot in running:
            slot.wait()  # it saves what it has


def _log(place: Place, piece: Piece) -> Path:
    log = place.folder / "logs"
    log.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return log / f"{place.run(piece.entry, piece.seed).name}.txt"


@contextmanager
def opened_slots(jobs: int) -> Iterator[list[Slot]]:
    """So many slots, ended behind the block; of several each has a GPU or a share of the cores."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Slot(_environment(n, jobs)))) for n in range(jobs)]


def _environment(number: int, jobs: int) -> dict[str, str]:
    if jobs == 1:
        return {}
    devices = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    device = devices[number] if number < len(devices) else str(number)
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    return {"CUDA_VISIBLE_DEVICES": device, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
