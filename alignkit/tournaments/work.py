"""One piece of a tournament's work: one entrant with one seed is trained, and answers.

    OUT/NAME-SEED/                   the run, as `alignkit train` writes it
    OUT/answers/NAME-SEED.PART.jsonl its answers (judging/answer_file.py); .json beside it: what they were drawn with
    OUT/answers/NAME-SEED.kl.json    how far it is from the base on its answers to the test prompts
    OUT/failed/NAME-SEED.json        why there is nothing

All of it goes on after a kill: a run from its checkpoint, answers behind the last that was drawn. What is there is not
made again. torch is imported only where something is computed.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.config.file import dump
from alignkit.data.prepared.selection import prompt_key
from alignkit.errors import InputError, UsageError
from alignkit.progress import Progress
from alignkit.registry import registry
from alignkit.runs import FILE as RUN_FILE
from alignkit.runs import RunRecord, holds_run, is_finished, read_run
from alignkit.storage import PRIVATE_FOLDER, read_object, set_aside, write_atomically
from alignkit.tournaments.entrants import Tournament, is_reward
from alignkit.tournaments.prompts import TEST, Asked, rung_of, rung_part
from alignkit.tournaments.results import BASE, Entry
from alignkit.tournaments.times import add_time
from alignkit.tracking import split_lines

if TYPE_CHECKING:
    from alignkit.data.reading.rows import Row
    from alignkit.judging.answers import Answer, Answering

_KL_TOKENS = 2048  # of answers: both models run over them, with the whole vocabulary
_DRAWN_BY = ("temperature", "top_p", "num_beams", "length_penalty", "max_new_tokens", "seed", "strip_thinking")
_OWN_KEYS = {"model.model", "data.exclude", "model.micro_batch_tokens", "rollouts.vllm_memory"}


@dataclass(frozen=True)
class Place:
    """Where everything of a tournament lies."""

    folder: Path

    def run(self, entry: Entry, seed: int) -> Path:
        """The folder of a run."""
        return self.folder / _file_name(entry, seed)

    def answers(self, entry: Entry, seed: int, part: str) -> Path:
        """The file of the answers to a part of the prompts."""
        return self.folder / "answers" / f"{_file_name(entry, seed)}.{part}.jsonl"

    def kl(self, entry: Entry, seed: int) -> Path:
        """The file that says how far a run is from the base on its answers to the test prompts."""
        return self.folder / "answers" / f"{_file_name(entry, seed)}.kl.json"

    def failed(self, entry: Entry, seed: int) -> Path:
        """The file that says why a piece of work came to nothing."""
        return self.folder / "failed" / f"{_file_name(entry, seed)}.json"


def _file_name(entry: Entry, seed: int) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._=,+-]', '_', entry.name)}-{seed}"


def is_trained(made: Tournament, place: Place, entry: Entry, seed: int, rung: int | None = None) -> bool:
    """Whether an entrant's run of a seed is finished; one that is not trained needs none.

    Args:
        rung: of a run in parts the last one that is asked for, from 0; None: all.
    """
    if entry.method is None:
        return True
    run = place.run(entry, seed)
    if not holds_run(run) or not is_finished(run, record := read_run(run)):
        return False
    if (parts := made.parts(entry)) is None or record.end is None:
        return True
    own = record.options["max_steps"] + sum(record.options["added_steps"])
    return record.end.steps >= sum(_until(parts, rung)) or record.end.steps < own  # it stopped early: it is done


def _until(parts: Sequence[int], rung: int | None) -> list[int]:
    return list(parts if rung is None else parts[: rung + 1])


def is_answered(made: Tournament, place: Place, entry: Entry, seed: int, part: str, rows: Sequence[Row]) -> bool:
    """Whether the answers to a part are there, of this model, drawn as it is asked for now."""
    file = place.answers(entry, seed, part)
    about = file.with_suffix(".json")
    key = _key(made, place, entry, seed, part, rows)
    return file.exists() and about.exists() and read_object(about).get("key") == key


def do_work(
    made: Tournament,
    place: Place,
    entry: Entry,
    seed: int,
    *,
    asked: Asked,
    parts: Sequence[str],
    exclude: Path,
    progress: Progress,
    rung: int | None = None,
) -> None:
    """Train an entrant with a seed and let it answer these parts; what is there already is left as it is.

    Args:
        exclude: the file of prompts that it may not train on.
        rung: of a run in parts the last one to train; None: all.

    Raises:
        AlignkitError: as training and answering raise.
    """
    _refuse_left_weights(made, place, entry, seed, rung, asked)
    if not is_trained(made, place, entry, seed, rung):
        _train(made, place, entry, seed, exclude=exclude, rung=rung, progress=progress)
        gc.collect()  # the run's models must not count in what follows
    if is_reward(entry):
        return
    left = [part for part in parts if not is_answered(made, place, entry, seed, part, asked.rows(part))]
    lacks_kl = not has_kl(made, place, entry, seed, parts, asked)
    if left or lacks_kl:
        rows = {part: asked.rows(part) for part in left}
        _answer(made, place, entry, seed, rows, progress, kl_rows=asked.parts[TEST] if lacks_kl else None)
        gc.collect()


def run_options(made: Tournament, place: Place, entry: Entry, seed: int, *, exclude: Path) -> dict[str, Any]:
    """The options of a run that come from its place in the tournament: of a run in parts, its first one's."""
    options: dict[str, Any] = {"seed": seed, "out": str(place.run(entry, seed)), "exclude": str(exclude)}
    if entry.start is not None:
        start = made.entrant(entry.start)
        options["model"] = start.model if start.method is None else str(place.run(start, seed))
    if "reward" in entry.options:
        options["reward"] = [_reward(made, place, spec, seed) for spec in _listed(entry.options["reward"])]
    if entry.name in made.budget:
        options["max_steps"] = made.budget[entry.name]
    return options


def _reward(made: Tournament, place: Place, spec: Any, seed: int) -> Any:
    """A reward that names an entrant names its run."""
    if not isinstance(spec, str):
        return spec
    target, equals, weight = spec.rpartition("=") if "=" in spec else (spec, "", "")
    rewards = {entry.name: entry for entry in made.entrants if is_reward(entry)}
    return f"{place.run(rewards[target], seed)}{equals}{weight}" if target in rewards else spec


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _train(
    made: Tournament, place: Place, entry: Entry, seed: int, *, exclude: Path, rung: int | None, progress: Progress
) -> None:
    from alignkit.training.run.train_run import train_run

    options = run_options(made, place, entry, seed, exclude=exclude)
    run = place.run(entry, seed)
    if (parts := made.parts(entry)) is not None:
        options |= _in_parts(run, _until(parts, rung))
    method, resolved = made.resolved(entry, **options, resume=run.exists())
    train_run(
        method,
        resolved,
        progress=progress,
        saves_end=parts is not None and len(_until(parts, rung)) < len(parts),
        command=partial(_command, entry),
    )
    if (end := read_run(run).end) is not None and end.wall_seconds is not None:
        add_time(place.folder, "training", end.wall_seconds)


def _command(entry: Entry, changed: Sequence[str] = (), *, instead: Mapping[str, Any] | None = None) -> str:
    """What is typed to go on with an entrant's run; where its reward or its options change it begins anew."""
    options = ", ".join(f"{key} = {value}" for key, value in (instead or {}).items())
    also = f" with {options} for {entry.name}, and" if options else " with"
    return f"the same command{also} --fresh {entry.name}" if changed or instead else "the same command"


def report(place: Place, entry: Entry, seed: int) -> None:
    """Write the report of an entrant's run, where there is a run that has begun its steps and is newer than it.

    Raises:
        AlignkitError: as `write_run_report` raises.
    """
    run = place.run(entry, seed)
    if entry.method is None or not holds_run(run) or not (run / "metrics.jsonl").exists():
        return
    page = run / "report.html"
    if page.exists() and page.stat().st_mtime_ns >= (run / RUN_FILE).stat().st_mtime_ns:
        return
    from alignkit.reports.run_report import write_run_report

    write_run_report(run, curves=registry().find("method", entry.method).curves)


def _in_parts(run: Path, parts: Sequence[int]) -> dict[str, Any]:
    """The options with which a run goes on through its next part: `--more-steps`, unless it was begun before."""
    if holds_run(run) and is_finished(run, read_run(run)):
        return {"max_steps": parts[0], "added_steps": tuple(parts[1:-1]), "more_steps": parts[-1]}
    return {"max_steps": parts[0], "added_steps": tuple(parts[1:])}


def _key(made: Tournament, place: Place, entry: Entry, seed: int, part: str, rows: Sequence[Row]) -> str:
    """Hash what decides an answer: the model, the prompts, and how it is drawn."""
    model: Any = entry.model
    if entry.method is not None:
        record, rung = read_run(place.run(entry, seed)), rung_of(part)
        parts = None if rung is None else made.parts(entry)
        steps = sum(_until(parts, rung)) if parts is not None else record.end and record.end.steps
        model = [record.id, steps]
    settings = made.settings
    how = {name: getattr(settings.judge, name) for name in _DRAWN_BY} | {"sampler": settings.rollouts.sampler}
    said = settings.model.model_dump(mode="json", exclude={"model"})
    prompts = [[row.id, prompt_key(row), row.reference] for row in rows]
    return hashlib.sha256(json.dumps([model, how, said, prompts], sort_keys=True).encode()).hexdigest()


def _answer(
    made: Tournament,
    place: Place,
    entry: Entry,
    seed: int,
    asked: Mapping[str, Sequence[Row]],
    progress: Progress,
    *,
    kl_rows: Sequence[Row] | None,
) -> None:
    """Draw the answers to some parts with one loaded model, and measure how it predicts their references.

    Args:
        kl_rows: of the test prompts, to measure how far it is from the base on its answers to them.
    """
    from alignkit.judging.answers import Answering, Generation
    from alignkit.pretrained.names import find_model

    source = find_model(entry.model if entry.method is None else str(place.run(entry, seed)))
    started = time.monotonic()
    answering: Any = Answering(source, made.settings.model, Generation.of(made.settings))
    add_time(place.folder, "answering", time.monotonic() - started)
    try:
        for part, rows in asked.items():
            _answer_part(made, place, entry, seed, part, rows, answering, progress)
    finally:
        answering.sampler.close()
    if kl_rows is not None:
        _measure_kl(made, place, entry, seed, kl_rows, answering)


def has_kl(made: Tournament, place: Place, entry: Entry, seed: int, parts: Sequence[str], asked: Asked) -> bool:
    """Whether it is known how far an entrant is from the base on its answers, or nothing is to be known of it."""
    if TEST not in parts or entry.method is None or not made.is_from_base(entry):
        return True
    file = place.kl(entry, seed)
    return file.exists() and read_object(file).get("key") == _kl_key(made, place, entry, seed, asked.parts[TEST])


def _kl_key(made: Tournament, place: Place, entry: Entry, seed: int, rows: Sequence[Row]) -> list[str]:
    return [_key(made, place, entry, seed, TEST, rows), made.entrant(BASE).model]


def _measure_kl(
    made: Tournament, place: Place, entry: Entry, seed: int, rows: Sequence[Row], answering: Answering
) -> None:
    from alignkit.policy.load import load_policy
    from alignkit.pretrained.names import find_model
    from alignkit.tournaments.answer_kl import answers_kl

    started, section = time.monotonic(), made.settings.model
    base = load_policy(
        find_model(made.entrant(BASE).model).folder, precision=section.precision, attention=section.attention
    )
    answers = read_answers(place.answers(entry, seed, TEST), rows)
    by_row = answers_kl(answering, base.eval(), answers, most_tokens=_KL_TOKENS)
    add_time(place.folder, "answering", time.monotonic() - started)
    content = {"key": _kl_key(made, place, entry, seed, rows), "by_row": by_row}
    write_atomically(place.kl(entry, seed), json.dumps(content) + "\n", private=True)


def read_answers(file: Path, rows: Sequence[Row]) -> list[Answer]:
    """Read the answers to these rows.

    Raises:
        InputError: they are to others.
    """
    from alignkit.judging.answers import Answer

    lines = [json.loads(line) for line in split_lines(file.read_text(encoding="utf-8"))]
    if [line["id"] for line in lines] != [row.id for row in rows]:
        raise InputError(f"{file}: answers other prompts than this tournament's; remove it and go on")
    return [
        Answer(
            row,
            line["completion"],
            line["num_tokens"],
            line["finish"] == "length",
            line["num_thinking_tokens"],
            line["num_prompt_tokens"],
        )
        for row, line in zip(rows, lines, strict=True)
    ]


def _answer_part(
    made: Tournament,
    place: Place,
    entry: Entry,
    seed: int,
    part: str,
    rows: Sequence[Row],
    answering: Answering,
    progress: Progress,
) -> None:
    from alignkit.judging.answer_file import AnswerFile

    path, key = place.answers(entry, seed, part), _key(made, place, entry, seed, part, rows)
    path.parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    prompts = [(row.id, list(row.prompt)) for row in rows]
    settings = asdict(answering.generation) | {"key": key}
    try:
        file = AnswerFile(path, settings, prompts, resume=True)
    except UsageError:  # of another model, or drawn otherwise: it stays beside
        forget_answers(path)
        file = AnswerFile(path, settings, prompts, resume=True)
    started = time.monotonic()
    if not file.is_finished:
        file.begin()
        left = [row for row in rows if row.id not in file.known]
        for drawn in answering.stream(left, progress=progress):
            file.add([a.as_json() | {"num_thinking_tokens": a.num_thinking_tokens} for a in drawn.values()])
        file.finish()
    predicted = answering.perplexity(rows)
    seconds = time.monotonic() - started
    add_time(place.folder, "answering", seconds)
    about = {"key": key, "by_row": predicted.by_row, "seconds": seconds}
    write_atomically(path.with_suffix(".json"), json.dumps(about) + "\n", private=True)


def forget_answers(path: Path) -> None:
    """Put a file of answers aside, with what lies beside it."""
    for beside in (path, path.with_suffix(".json"), *path.parent.glob(f".{path.name}.*")):
        if beside.exists():
            set_aside(beside, "old")


def refuse_changes(made: Tournament, place: Place, entry: Entry, seed: int, asked: Asked) -> None:
    """Refuse an entrant whose run is there and was begun with other options, or left weights that have to answer anew.

    Raises:
        UsageError: names the options, before and now, and what to type.
    """
    run = place.run(entry, seed)
    if entry.method is None or not holds_run(run):
        return
    record, parts = read_run(run), made.parts(entry)
    options = run_options(made, place, entry, seed, exclude=Path("-"))
    _, resolved = made.resolved(entry, **options, **({} if parts is None else {"max_steps": parts[0]}))
    old, new = _flat(_options_of(record)), _flat({**dump(resolved), "method": entry.method})
    changed = [key for key in sorted(new) if key in old and old[key] != new[key] and key not in _OWN_KEYS]
    changed = [key for key in changed if not key.startswith("judge.") and not key.endswith("_timeout_s")]
    changed = [key for key in changed if not key.endswith(".added_steps")]
    if changed:
        said = ", ".join(f"{key} was {old[key]!r}, is {new[key]!r}" for key in changed[:3])
        said += f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UsageError(
            f"entrant {entry.name}: {run} was trained otherwise ({said}): give the changed one a name of its own, or "
            f"type --fresh {entry.name} to train it anew (what is there is kept beside)"
        )
    _refuse_left_weights(made, place, entry, seed, 0, asked)


def _refuse_left_weights(
    made: Tournament, place: Place, entry: Entry, seed: int, rung: int | None, asked: Asked
) -> None:
    """Refuse a run in parts that trains, or trained, on before its weights answered at each halving.

    Raises:
        UsageError: says what to do.
    """
    if (parts := made.parts(entry)) is None:
        return
    run = place.run(entry, seed)
    num = len(parts) - 1 if rung is None else rung
    if holds_run(run):
        num = max(num, len(read_run(run).options["added_steps"]))
    for part in map(rung_part, range(num)):
        if not holds_run(run):
            raise UsageError(f"{entry.name}/{seed}: its first part is not there yet: do {entry.name}/{seed}/1 before")
        if not is_answered(made, place, entry, seed, part, asked.rows(part)):
            raise UsageError(
                f"entrant {entry.name}: {run} would leave, or has left, weights that a halving of its sweep needs: set "
                f"the judge's options back if they changed, do its parts in order, or type --fresh {entry.name}"
            )


def set_entrant_aside(made: Tournament, place: Place, name: str) -> None:
    """Put an entrant's runs and answers aside, and those of all that start from it.

    Raises:
        UsageError: there is no such entrant.
    """
    if name not in {entry.name for entry in made.entrants}:
        raise UsageError(f"--fresh {name}: no entrant is named so: {', '.join(e.name for e in made.entrants)}")
    stale = {name}
    for entry in made.entrants:  # starts stand before what starts from them
        if stale & set(made.needs(entry)):
            stale.add(entry.name)
    for entry in made.entrants:
        for seed in made.seeds_of(entry) if entry.name in stale else ():
            if place.run(entry, seed).exists():
                set_aside(place.run(entry, seed), "old")
            for file in sorted((place.folder / "answers").glob(f"{_file_name(entry, seed)}.*.jsonl")):
                forget_answers(file)


def _options_of(record: RunRecord) -> dict[str, Any]:
    config: dict[str, Any] = record.content["config"]
    return {**config, "method": record.method}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def note_failure(place: Place, entry: Entry, seed: int, reason: str) -> None:
    """Keep why a piece of work came to nothing."""
    place.failed(entry, seed).parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    write_atomically(place.failed(entry, seed), json.dumps({"reason": reason}) + "\n", private=True)


def failure(place: Place, entry: Entry, seed: int) -> str | None:
    """Why a piece of work came to nothing, or None."""
    file = place.failed(entry, seed)
    return str(read_object(file).get("reason")) if file.exists() else None


def forget_failure(place: Place, entry: Entry, seed: int) -> None:
    """It is tried again."""
    with suppress(OSError):
        place.failed(entry, seed).unlink()
