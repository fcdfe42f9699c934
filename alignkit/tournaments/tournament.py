"""Runs a tournament: every piece of work in the order of its needs, then the judge, then the results.

    OUT/tournament.json   what was asked for, as the last call understood it
    OUT/prompts.jsonl     the prompts that judge (prompts.py)
    OUT/results.json      what was found (results.py)
    OUT/table.txt, .json, .csv, .tex    the table of it (table.py)
    OUT/times.json        what the last call that did something took, and how much of it was nobody's work

A piece is one entrant with one seed (pieces.py). Everything is gone on with by the same command.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignkit.data.reading.read import refuse_among_data
from alignkit.errors import AlignkitError, Interrupted, RunStopped, UsageError
from alignkit.pretrained.names import find_model
from alignkit.progress import Progress
from alignkit.runs import FILE as RUN_FILE
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.storage import PRIVATE_FOLDER, check_path, read_object, write_atomically
from alignkit.tournaments import work
from alignkit.tournaments.entrants import Tournament
from alignkit.tournaments.judges import agree, make_one, reward_models, with_judge
from alignkit.tournaments.pieces import (
    MARK,
    Child,
    Piece,
    all_pieces,
    do_alone,
    first_pieces,
    in_slots,
    in_turn,
    opened_slots,
    picked_pieces,
    report,
    state,
    tuning_pieces,
)
from alignkit.tournaments.price import disk_needed, disk_warning, measured, steps_in_budget
from alignkit.tournaments.prompts import OFF_TASK, TEST, TUNING, Asked, choose, hold_back, rung_part
from alignkit.tournaments.results import Entry, Results, Rung
from alignkit.tournaments.slots import Slot
from alignkit.tournaments.times import Clock
from alignkit.tournaments.work import Place
from alignkit.training.checkpoints.folder_lock import FolderLock

FILE, RESULTS, DONE, STEPS = "tournament.json", "results.json", "done.json", "steps.json"
TABLES = ("table.txt", "table.json", "table.csv", "table.tex")
PAGE = "report.html"
_LOCK = ".lock"


def run_tournament(
    made: Tournament,
    folder: Path,
    *,
    progress: Progress,
    child: Child | None = None,
    words: Sequence[str] = (),
    jobs: int = 1,
    fresh: Sequence[str] = (),
    yes: bool = False,
) -> Results:
    """Run what is left of a tournament and return what was found.

    Args:
        folder: everything of it lies there; one that holds a tournament goes on.
        child: called with a piece in the piece's own process; it can be pickled. None: the pieces run in this one.
        words: what makes this tournament behind `alignkit tournament`, for the page; none: it is made otherwise.
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
    refuse_own_data(made, folder)
    with claimed(folder):
        for name in fresh:
            work.set_entrant_aside(made, place, name)
        done = folder / DONE
        is_whole = all((folder / name).exists() for name in (DONE, RESULTS, *TABLES, PAGE))
        if is_whole and read_object(done).get("signature") == signature(made, place):
            for entry in made.entrants:
                for seed in made.seeds_of(entry):
                    report(place, Piece(entry, seed, ()))  # somebody may have removed one
            return Results.read(folder / RESULTS)
        done.unlink(missing_ok=True)
        with opened_slots(0 if child is None else jobs) as slots:  # they import while this process does
            from alignkit.training.lifecycle.signals import terminated_as_interrupted  # torch: nothing above needs it

            try:
                with terminated_as_interrupted():
                    return _run(made, place, progress, child=child, slots=slots, words=words, yes=yes)
            except KeyboardInterrupt as error:
                said = f"interrupted; what is done is kept in {folder}: go on with the same command"
                raise Interrupted(said) from error


def run_piece(made: Tournament, folder: Path, name: str, *, progress: Progress) -> None:
    """Do one piece of a tournament, NAME/SEED, in this process: what a job of a cluster's scheduler does.

    Raises:
        UsageError: there is no such piece.
        AlignkitError: as training and answering raise; the reason is kept for the table.
    """
    place, asked = Place(folder), choose(made)
    found = all_pieces(made, asked)
    if name not in found:
        raise UsageError(f"--only {name}: there is no such piece; there are: {', '.join(found)}")
    piece = found[name]
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    made = replace(made, budget=_steps(place))
    if (
        piece.entry.name not in made.budget
        and piece.entry.method is not None
        and (made.section.tokens or made.section.minutes)
    ):
        raise UsageError(f"--only {name}: the steps in the budget are not measured yet: type --plan once before")
    exclude = hold_back(asked, folder) if (folder / FILE).exists() else describe(made, asked, folder)
    do_alone(made, place, piece, asked, exclude, progress)
    report(place, piece)


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
        "halvings": made.halvings,
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
        UsageError: it is a file or lies below one, holds something else, or another process runs it.
        RunStopped: it cannot be written.
    """
    check_path(str(folder), "--out")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: this is a file; name a folder")
    try:
        if folder.exists() and not (folder / FILE).exists() and {f.name for f in folder.iterdir()} - {_LOCK}:
            raise UsageError(f"{folder} exists and is no tournament; give another --out")
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        lock = FolderLock(folder / _LOCK, MARK)
        is_locked = lock.acquire()
    except NotADirectoryError as error:
        raise UsageError(f"--out {folder}: a file stands where a folder must; name another one") from error
    except OSError as error:
        raise RunStopped(f"{folder}: cannot be written: {error.strerror or error}; give another --out") from error
    if not is_locked:
        raise UsageError(f"another process runs the tournament in {folder}; wait for it, or give another --out")
    try:
        yield
    finally:
        lock.release()


def _run(
    made: Tournament,
    place: Place,
    progress: Progress,
    *,
    child: Child | None,
    slots: Sequence[Slot],
    words: Sequence[str],
    yes: bool,
) -> Results:
    clock, judge_s = Clock(place.folder), list[float]()
    for entry in (*made.entrants, *made.opponents):  # before anything is trained
        if entry.start is None:
            find_model(entry.model)
    given, asked = made, choose(made)
    exclude = describe(made, asked, place.folder)
    made = with_judge(made, asked, yes=yes)
    steps = budget(made, place, exclude, progress)
    made = replace(made, budget=steps)
    for entry in made.entrants:
        for seed in made.seeds_of(entry):
            work.refuse_changes(made, place, entry, seed, asked)
    bill = agree(made, asked, steps, yes=yes)
    made = replace(made, common={**made.common, "yes": True})  # rewards that cost were agreed to as well
    if (warning := disk_warning(place, disk_needed(made, place))) is not None:
        progress.note(warning)

    begun: list[Piece] = []

    def show(running: Sequence[Piece], *, stopped: str = "") -> None:
        from alignkit.tournaments.page import write_live_page  # matplotlib: imported while the first piece runs

        states = {p.name: state(made, place, p, asked, running) for p in begun}
        write_live_page(place.folder, states, stopped=stopped)

    def do_all(pieces: Sequence[Piece]) -> None:
        begun[:] = pieces
        if child is None:
            in_turn(made, place, pieces, asked, exclude, progress, show)
        else:
            in_slots(made, place, pieces, asked, exclude, slots, child, progress.note, show)

    for entry in (*made.entrants, *made.opponents):
        for seed in made.seeds_of(entry):
            work.forget_failure(place, entry, seed)
    judge_s = list[float]()
    try:
        do_all(first_pieces(made, asked))
        judged = _judged(made, place, asked, do_all, progress.note, judge_s)
    except (AlignkitError, KeyboardInterrupt) as error:
        with suppress(AlignkitError):  # the disk may be what stopped it
            show([], stopped=error.line if isinstance(error, AlignkitError) else "interrupted")
        raise
    results = replace(judged, money=bill.text, paid=bill.by_entrant)
    from alignkit.tournaments.page import write_page
    from alignkit.tournaments.table import make_table

    results.write(place.folder / RESULTS)
    table = make_table(results)
    for name, text in zip(TABLES, (table.text(), table.json(), table.csv(), table.latex()), strict=True):
        write_atomically(place.folder / name, text, private=True)
    commands = _commands([*words, "--out", str(place.folder)], made) if words else []
    progress.note(f"report: {write_page(place.folder, results, table, commands=commands)}")
    if len(slots) <= 1 and (line := clock.stop(sum(judge_s))) is not None:
        progress.note(line)
    if not results.failed:
        write_atomically(place.folder / DONE, json.dumps({"signature": signature(given, place)}) + "\n", private=True)
    return results


def _commands(words: Sequence[str], made: Tournament) -> list[tuple[str, str]]:
    """What makes the table, and each run with its answers, again."""
    whole = shlex.join(["alignkit", "tournament", *words])
    runs = [f"{entry.name}/{seed}" for entry in made.entrants for seed in made.seeds_of(entry)]
    return [("the table", whole), *((name, f"{whole} --only {shlex.quote(name)}") for name in runs)]


def refuse_own_data(made: Tournament, folder: Path) -> None:
    """Refuse a folder that has the name of the data, or lies among them: it would be read in their place, or as rows.

    Raises:
        UsageError: names another option.
    """
    reads = (made.settings.data.data, made.section.test, made.section.off_task)
    for data in reads:
        if data and any(Path(name).absolute() == folder.absolute() for name in (data, data.partition(":")[0])):
            raise UsageError(f"--out {folder}: the data have that name too ({data}); give another --out")
    refuse_among_data("--out", folder, reads, is_folder=True)


def describe(made: Tournament, asked: Asked, folder: Path) -> Path:
    """Write what is asked for, and the prompts that no run may train on; returns the file of these.

    Raises:
        UsageError: the folder's tournament was judged on other prompts.
    """
    exclude = hold_back(asked, folder)
    text = json.dumps(_described(made), indent=1, ensure_ascii=False, default=str) + "\n"
    write_atomically(folder / FILE, text, private=True)
    return exclude


def _judged(
    made: Tournament,
    place: Place,
    asked: Asked,
    do: Callable[[Sequence[Piece]], None],
    note: Callable[[str], None],
    judge_s: list[float],
) -> Results:
    """Judge; where there are sweeps first on the tuning prompts, then what was picked on the test prompts."""
    from alignkit.tournaments.judged import Judging, better_half, pick, rung_of_results

    judging = Judging(made, place, asked, note)

    def judge(entries: Sequence[Entry], part: str, spec: str, *, first: int | None = None) -> Results:
        started = time.monotonic()
        with closing(_entrant_or_judge(made, place, spec)) as opened:
            found = judging.results(opened.named, entries, part, first=first)
        judge_s.append(time.monotonic() - started)
        return found

    spec = made.settings.judge.judge
    note("tournament: judging")
    shown, tuning, picked, rungs = made.judged, None, dict[str, str](), list[Rung]()
    if made.sweeps:
        left = [entry for entry in made.judged if entry.sweep is not None]
        for rung in range(made.halvings):
            found = judge(left, rung_part(rung), spec)
            rungs.append(rung_of_results(found, made, rung))
            kept = better_half(found, made.sweeps)
            note(f"tournament: halved the sweep: {', '.join(kept)} go on")
            left = [entry for entry in left if entry.name in kept]
            do(tuning_pieces(made, left, rung + 1))
        tuning = judge(left, TUNING, spec)
        rungs.append(rung_of_results(tuning, made, made.halvings))
        picked = pick(tuning, made.sweeps)
        do(picked_pieces(made, asked, list(picked.values())))
        shown = tuple(e for e in made.judged if e.sweep is None or e.name in picked.values())
    found = judge(shown, TEST, spec)
    if not any((entry.name, seed) not in found.failed for entry in shown if entry.method for seed in made.seeds):
        reasons = "; ".join(f"{name}/{seed}: {reason}" for (name, seed), reason in found.failed.items())
        raise RunStopped(f"no entrant came to anything: {reasons}")
    second = None
    if made.section.second is not None:
        second = judge(shown, TEST, made.section.second, first=made.section.second_prompts)
    return replace(
        found,
        tuning=tuning,
        rungs=tuple(rungs),
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
