"""Runs a tournament: every piece of work in the order of its needs, then the judge, then the results.

    OUT/tournament.json   what was asked for, as the last call understood it
    OUT/prompts.jsonl     the prompts that judge (prompts.py)
    OUT/results.json      what was found (results.py)
    OUT/table.txt, .json, .csv, .tex    the table of it (table.py)

A piece is one entrant with one seed. Pieces run one after the other, each in a process of its own: its memory is freed
whatever happens in it, and a piece that dies ends no other. With `jobs` there are so many at once, on a GPU so many
GPUs. A child dies with the process that began it, and everything is gone on with by the same command. From Python,
where a reward may be a function, pieces run in the calling process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignkit.display import on_one_line
from alignkit.errors import AlignkitError, Interrupted, RunStopped, UsageError
from alignkit.pretrained.names import find_model
from alignkit.progress import Progress
from alignkit.registry import registry
from alignkit.runs import FILE as RUN_FILE
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.storage import PRIVATE_FOLDER, check_path, read_object, write_atomically
from alignkit.tournaments import work
from alignkit.tournaments.entrants import Tournament, is_reward
from alignkit.tournaments.judges import agree, make_one, reward_models, with_judge
from alignkit.tournaments.price import disk_needed, disk_warning, measured, steps_in_budget
from alignkit.tournaments.prompts import OFF_TASK, TEST, TUNING, Asked, choose, hold_back
from alignkit.tournaments.results import Entry, Results
from alignkit.tournaments.work import Place
from alignkit.training.checkpoints.folder_lock import FolderLock

FILE, RESULTS, DONE, STEPS = "tournament.json", "results.json", "done.json", "steps.json"
TABLES = ("table.txt", "table.json", "table.csv", "table.tex")
_LOCK, _MARK = ".lock", "alignkit: a process runs this tournament\n"
_POLL_S = 0.1
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """One entrant with one seed, and the parts of the prompts that it answers."""

    entry: Entry
    seed: int
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.entry.name}/{self.seed}"


def run_tournament(
    made: Tournament,
    folder: Path,
    *,
    progress: Progress,
    child: Sequence[str] | None = None,
    jobs: int = 1,
    fresh: Sequence[str] = (),
    yes: bool = False,
) -> Results:
    """Run what is left of a tournament and return what was found.

    Args:
        folder: everything of it lies there; one that holds a tournament goes on.
        child: the words behind `alignkit` that make this tournament, for the processes of its pieces; None: the pieces
            run in this one.
        jobs: pieces at once.
        fresh: entrants to be trained anew; what is there is put aside.
        yes: agree to judges that cost money.

    Raises:
        UsageError: the folder holds something else, another process runs it, an entrant was trained with other options
            or the cost was not agreed to.
        InputError: a model is not there, or the data cannot be read.
        RunStopped: no entrant came to anything.
        Interrupted: by a signal; the same call goes on.
    """
    place = Place(folder)
    with claimed(folder):
        for name in fresh:
            work.set_entrant_aside(made, place, name)
        done = folder / DONE
        is_whole = all((folder / name).exists() for name in (DONE, RESULTS, *TABLES))
        if is_whole and read_object(done).get("signature") == signature(made, place):
            return Results.read(folder / RESULTS)
        done.unlink(missing_ok=True)
        from alignkit.training.lifecycle.signals import terminated_as_interrupted  # torch: nothing above needs it

        try:
            with terminated_as_interrupted():
                return _run(made, place, progress, child=child, jobs=jobs, yes=yes)
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted; what is done is kept in {folder}: go on with the same command") from error


def run_piece(made: Tournament, folder: Path, name: str, *, progress: Progress, parent: int | None = None) -> None:
    """Do one piece of a tournament, NAME/SEED, in this process: what a child of `run_tournament`, or a job of a
    cluster's scheduler, does.

    Args:
        parent: the process to die with.

    Raises:
        UsageError: there is no such piece.
        AlignkitError: as training and answering raise; the reason is kept for the table.
    """
    if parent is not None:
        _die_with(parent)
    place, asked = Place(folder), choose(made)
    found = {piece.name: piece for piece in [*_pieces(made, asked), *_pieces(made, asked, picked=_all_picked(made))]}
    if name not in found:
        raise UsageError(f"--only {name}: there is no such piece; there are: {', '.join(found)}")
    piece = found[name]
    lock = FolderLock(folder / f".{piece.entry.name.replace('/', '_')}-{piece.seed}.lock", _MARK)
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    if not lock.acquire():
        raise UsageError(f"--only {name}: another process does this piece; wait for it")
    try:
        steps = _steps(place).get(piece.entry.name)
        if steps is None and piece.entry.method is not None and (made.section.tokens or made.section.minutes):
            raise UsageError(f"--only {name}: the steps in the budget are not measured yet: type --plan once before")
        exclude = hold_back(asked, folder) if (folder / FILE).exists() else describe(made, asked, folder)
        _do(made, place, piece, asked, exclude, steps, progress)
    finally:
        lock.release()


def signature(made: Tournament, place: Place) -> str:
    """Hash what was asked for, and the look of the files that the results came from; nothing heavy is read."""
    from alignkit import __version__

    settings = made.settings
    sections = [getattr(settings, name).model_dump(mode="json") for name in ("model", "data", "rollouts", "judge")]
    content = [__version__, _described(made), sections, settings.judges, sorted(made.common.items()), made.sets]
    files = [Path(name) for name in (settings.data.data, settings.data.split, made.section.test) if name]
    for entry in (*made.entrants, *made.opponents):
        for seed in made.seeds_of(entry):
            files.append(place.run(entry, seed) / RUN_FILE)
            files += [place.answers(entry, seed, part).with_suffix(".json") for part in (TEST, TUNING, OFF_TASK)]
            files.append(place.failed(entry, seed))
    looks = [(str(file), s.st_size, s.st_mtime_ns) for file in files if (s := _stat(file)) is not None]
    text = json.dumps([content, looks], sort_keys=True, default=lambda one: getattr(one, "__qualname__", str(one)))
    return hashlib.sha256(text.encode()).hexdigest()


def _described(made: Tournament) -> dict[str, Any]:
    return {
        "entrants": {entry.name: {**vars(entry), "options": dict(entry.options)} for entry in made.entrants},
        "seeds": list(made.seeds),
        "tournament": made.section.model_dump(mode="json"),
    }


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except (OSError, ValueError):
        return None


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a tournament's folder.

    Raises:
        UsageError: it holds something else, or another process runs it.
        RunStopped: it cannot be written.
    """
    check_path(str(folder), "--out")
    try:
        if folder.exists() and not (folder / FILE).exists() and {f.name for f in folder.iterdir()} - {_LOCK}:
            raise UsageError(f"{folder} exists and is no tournament; give another --out")
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        lock = FolderLock(folder / _LOCK, _MARK)
        is_locked = lock.acquire()
    except OSError as error:
        raise RunStopped(f"{folder}: cannot be written: {error.strerror or error}; give another --out") from error
    if not is_locked:
        raise UsageError(f"another process runs the tournament in {folder}; wait for it, or give another --out")
    try:
        yield
    finally:
        lock.release()


def _run(
    made: Tournament, place: Place, progress: Progress, *, child: Sequence[str] | None, jobs: int, yes: bool
) -> Results:
    for entry in (*made.entrants, *made.opponents):  # before anything is trained
        if entry.start is None:
            find_model(entry.model)
    from alignkit.tournaments.page import write_live_page, write_page
    from alignkit.tournaments.table import make_table

    refuse_own_data(made, place.folder)
    given, asked = made, choose(made)
    exclude = describe(made, asked, place.folder)
    made = with_judge(made, asked, yes=yes)
    steps = budget(made, place, exclude, progress)
    for entry in made.entrants:
        for seed in made.seeds_of(entry):
            work.refuse_changes(made, place, entry, seed, steps=steps.get(entry.name))
    money = agree(made, asked, steps, yes=yes)
    made = replace(made, common={**made.common, "yes": True})  # rewards that cost were agreed to as well
    words = None if child is None else [*child, "--out", str(place.folder)]
    if (warning := disk_warning(place, disk_needed(made, place))) is not None:
        progress.note(warning)

    def do(pieces: Sequence[Piece]) -> None:
        def show(running: Sequence[Piece]) -> None:
            write_live_page(place.folder, {p.name: _state(made, place, p, asked, running) for p in pieces})

        if words is None:
            _in_turn(made, place, pieces, asked, exclude, steps, progress, show)
        else:
            paid = [] if "--yes" in words or not money else ["--yes"]
            _in_children(made, place, pieces, asked, [*words, *paid], jobs, progress.note, show)

    for entry in (*made.entrants, *made.opponents):
        for seed in made.seeds_of(entry):
            work.forget_failure(place, entry, seed)
    do(_pieces(made, asked))
    results = replace(_judged(made, place, asked, do, progress), money=money)
    results.write(place.folder / RESULTS)
    table = make_table(results)
    for name, text in zip(TABLES, (table.text(), table.json(), table.csv(), table.latex()), strict=True):
        write_atomically(place.folder / name, text, private=True)
    commands = [] if words is None else _commands(words, made)
    progress.note(f"report: {write_page(place.folder, results, table, commands=commands)}")
    if not results.failed:
        write_atomically(place.folder / DONE, json.dumps({"signature": signature(given, place)}) + "\n", private=True)
    return results


def _commands(words: Sequence[str], made: Tournament) -> list[tuple[str, str]]:
    """What makes the table, and each run with its answers, again."""
    whole = shlex.join(["alignkit", "tournament", *words])
    runs = [f"{entry.name}/{seed}" for entry in made.entrants for seed in made.seeds_of(entry)]
    return [("the table", whole), *((name, f"{whole} --only {shlex.quote(name)}") for name in runs)]


def refuse_own_data(made: Tournament, folder: Path) -> None:
    """Refuse a folder that has the name of the data: a folder of that name would be read in their place.

    Raises:
        UsageError: names another option.
    """
    for data in (made.settings.data.data, made.section.test, made.section.off_task):
        if data and any(Path(name).absolute() == folder.absolute() for name in (data, data.partition(":")[0])):
            raise UsageError(f"--out {folder}: the data have that name too ({data}); give another --out")


def describe(made: Tournament, asked: Asked, folder: Path) -> Path:
    """Write what is asked for, and the prompts that no run may train on; returns the file of these.

    Raises:
        UsageError: the folder's tournament was judged on other prompts.
    """
    exclude = hold_back(asked, folder)
    text = json.dumps(_described(made), indent=1, ensure_ascii=False, default=str) + "\n"
    write_atomically(folder / FILE, text, private=True)
    return exclude


def _pieces(made: Tournament, asked: Asked, picked: Sequence[str] | None = None) -> list[Piece]:
    """All pieces, seed by seed; of a sweep's entrants those that tune, or, once some are picked, those that are shown.

    A sweep's entrants answer the tuning prompts; the others answer these too where they are somebody's opponents.
    """
    extra = (OFF_TASK,) if OFF_TASK in asked.parts else ()
    whole = (TEST, *((TUNING,) if TUNING in asked.parts else ()), *extra)
    pieces = []
    for seed in made.seeds:
        for entry in (*made.opponents, *made.entrants):
            if seed not in made.seeds_of(entry):
                continue
            if entry.sweep is None:
                pieces.append(Piece(entry, seed, () if is_reward(entry) else whole))
            elif picked is None:
                pieces.append(Piece(entry, seed, (TUNING,)))
            elif entry.name in picked:
                pieces.append(Piece(entry, seed, whole))
    return pieces


def _all_picked(made: Tournament) -> list[str]:
    return [name for names in made.sweeps.values() for name in names]


def _is_done(made: Tournament, place: Place, piece: Piece, asked: Asked) -> bool:
    return work.is_trained(place, piece.entry, piece.seed) and all(
        work.is_answered(made, place, piece.entry, piece.seed, part, asked.parts[part]) for part in piece.parts
    )


def _state(made: Tournament, place: Place, piece: Piece, asked: Asked, running: Sequence[Piece]) -> str:
    """How far a piece is, in a word or with the reason why it came to nothing."""
    if piece in running:
        return "running"
    if (reason := work.failure(place, piece.entry, piece.seed)) is not None:
        return f"failed: {reason}"
    return "done" if _is_done(made, place, piece, asked) else "waiting"


def _needed(made: Tournament, piece: Piece) -> list[tuple[str, int]]:
    """The pieces that must be done before."""
    entries = [made.entrant(name) for name in made.needs(piece.entry)]
    return [(entry.name, piece.seed) for entry in entries if entry.method is not None]


def _do(
    made: Tournament, place: Place, piece: Piece, asked: Asked, exclude: Path, steps: int | None, progress: Progress
) -> None:
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
            steps=steps,
            progress=progress,
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


def _in_turn(
    made: Tournament,
    place: Place,
    pieces: Sequence[Piece],
    asked: Asked,
    exclude: Path,
    steps: Mapping[str, int],
    progress: Progress,
    show: Callable[[Sequence[Piece]], None],
) -> None:
    """Do all pieces in this process; one that fails ends those alone that need it."""
    failed = _failed(place, pieces)
    for number, piece in enumerate(pieces, start=1):
        if _is_done(made, place, piece, asked) or _lacks(made, place, piece, failed):
            continue
        progress.note(f"tournament: {piece.name}, {number} of {len(pieces)}")
        show([piece])
        try:
            _do(made, place, piece, asked, exclude, steps.get(piece.entry.name), progress)
        except Interrupted as error:
            raise KeyboardInterrupt from error
        except AlignkitError as error:
            failed.add((piece.entry.name, piece.seed))
            _logger.warning("%s failed: %s; the others go on", piece.name, error.line)


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


def _in_children(
    made: Tournament,
    place: Place,
    pieces: Sequence[Piece],
    asked: Asked,
    words: Sequence[str],
    jobs: int,
    note: Callable[[str], None],
    show: Callable[[Sequence[Piece]], None],
) -> None:
    """Do all pieces in processes of their own, `jobs` at once, each as soon as what it needs is done."""
    left = [piece for piece in pieces if not _is_done(made, place, piece, asked)]
    total, failed = len(left), _failed(place, pieces)
    running: dict[int, tuple[Piece, subprocess.Popen[bytes]]] = {}
    try:
        while left or running:
            for slot, (piece, process) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[slot]
                if code == Interrupted.exit_code:
                    raise KeyboardInterrupt
                if code != 0:
                    failed.add((piece.entry.name, piece.seed))
                    if work.failure(place, piece.entry, piece.seed) is None:
                        why = f"its process was killed by signal {-code}" if code < 0 else f"it ended with {code}"
                        work.note_failure(place, piece.entry, piece.seed, f"{why}; it may have had no memory")
                    _logger.warning("%s failed; the others go on", piece.name)
            left = [piece for piece in left if not _lacks(made, place, piece, failed)]
            waiting = {(p.entry.name, p.seed) for p in (*left, *(piece for piece, _ in running.values()))}
            for slot in range(jobs):
                ready = next((p for p in left if not waiting & set(_needed(made, p))), None)
                if slot in running or ready is None:
                    continue
                left.remove(ready)
                note(f"tournament: {ready.name}, {total - len(left)} of {total}")
                running[slot] = ready, _start(place, ready, words, slot, jobs)
                show([piece for piece, _ in running.values()])
            time.sleep(_POLL_S)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()  # it saves what it has


def _start(place: Place, piece: Piece, words: Sequence[str], slot: int, jobs: int) -> subprocess.Popen[bytes]:
    """Begin a piece's process, on a GPU or a share of the cores of its own; of several, its words go into a file.

    It has a session of its own: a terminal's Ctrl-C reaches this process alone, which hands it on once.
    """
    environment = dict(os.environ)
    command = [
        sys.executable,
        "-m",
        "alignkit",
        "tournament",
        *words,
        "--only",
        piece.name,
        "--parent",
        str(os.getpid()),
    ]
    if jobs == 1:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
    devices = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    environment["CUDA_VISIBLE_DEVICES"] = devices[slot] if slot < len(devices) else str(slot)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // jobs)))
    log = place.folder / "logs"
    log.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    with open(log / f"{place.run(piece.entry, piece.seed).name}.txt", "ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
        )


def _die_with(parent: int) -> None:
    """Let this process end when its parent does: nobody else would end it, and it holds its run's folder."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _judged(
    made: Tournament, place: Place, asked: Asked, do: Callable[[Sequence[Piece]], None], progress: Progress
) -> Results:
    """Judge; where there are sweeps first on the tuning prompts, then what was picked on the test prompts."""
    from alignkit.tournaments.judged import Judging, pick

    judging = Judging(made, place, asked, progress.note)
    progress.note("tournament: judging")
    with closing(_entrant_or_judge(made, place, made.settings.judge.judge)) as judge:
        shown, tuning, picked = made.judged, None, dict[str, str]()
        if made.sweeps:
            swept = [entry for entry in made.judged if entry.sweep is not None]
            tuning = judging.results(judge.named, swept, TUNING)
            picked = pick(tuning, made.sweeps)
            do(_pieces(made, asked, picked=list(picked.values())))
            shown = tuple(e for e in made.judged if e.sweep is None or e.name in picked.values())
        found = judging.results(judge.named, shown, TEST)
    if not any((entry.name, seed) not in found.failed for entry in shown if entry.method for seed in made.seeds):
        reasons = "; ".join(f"{name}/{seed}: {reason}" for (name, seed), reason in found.failed.items())
        raise RunStopped(f"no entrant came to anything: {reasons}")
    second = None
    if made.section.second is not None:
        with closing(_entrant_or_judge(made, place, made.section.second)) as judge:
            second = judging.results(judge.named, shown, TEST, first=made.section.second_prompts)
    return replace(
        found,
        tuning=tuning,
        picked=picked,
        second=second,
        off_task=judging.off_task(shown),
        caveats=(*made.notes, *found.caveats),
        beside=made.beside,
    )


@dataclass(frozen=True)
class _Opened:
    named: NamedJudge

    def close(self) -> None:
        self.named.judge.close()


def _entrant_or_judge(made: Tournament, place: Place, spec: str) -> _Opened:
    """A judge by its name, or the reward model that an entrant of that name is, of the first seed."""
    rewards = reward_models(made)
    if spec not in rewards:
        return _Opened(make_one(made, spec))
    run = place.run(rewards[spec], made.seeds[0])
    return _Opened(replace(make_judge(str(run), made.settings), label=spec))


def _steps(place: Place) -> dict[str, int]:
    """The steps of each entrant where the budget is in tokens or minutes; they are chosen once."""
    file = place.folder / STEPS
    return {str(name): int(steps) for name, steps in read_object(file).items()} if file.exists() else {}


def budget(made: Tournament, place: Place, exclude: Path, progress: Progress) -> dict[str, int]:
    """Steps by entrant for a budget in tokens or minutes, measured where they are not known yet."""
    section = made.section
    if section.tokens is None and section.minutes is None:
        return {}
    steps = _steps(place)
    for entry in made.entrants:
        if entry.method is None or entry.name in steps:
            continue
        step = measured(made, place, entry, exclude=exclude, progress=progress)
        steps[entry.name] = steps_in_budget(section, step)
        write_atomically(place.folder / STEPS, json.dumps(steps) + "\n", private=True)
        progress.note(f"{entry.name}: {steps[entry.name]} steps in the budget")
    return steps
