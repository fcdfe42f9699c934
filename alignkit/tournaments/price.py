"""What a tournament takes, before it runs: time from a few measured steps of each method, memory, disk, and money.

A step of a method that samples in some of its steps alone costs the mean over both kinds, each as often as it comes.
What is measured lies in OUT/measured.json; the runs that it took are removed.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.config.settings import TournamentSection
from alignkit.display import duration
from alignkit.errors import AlignkitError
from alignkit.methods import Method
from alignkit.progress import Progress
from alignkit.registry import registry
from alignkit.runs import holds_run, is_finished, read_run
from alignkit.storage import PRIVATE_FOLDER, read_object, write_atomically
from alignkit.tournaments.entrants import Tournament
from alignkit.tournaments.prompts import TEST, Asked
from alignkit.tournaments.results import Entry
from alignkit.tournaments.sweeps import num_left, part_steps
from alignkit.tournaments.work import Place, run_options
from alignkit.tracking import split_lines

FILE = "measured.json"
_STEPS, _MOST_STEPS, _LOOKED_AT = 3, 12, 64
_ANSWERED = 8  # prompts that measure how long an answer takes


@dataclass(frozen=True)
class Step:
    """A method's step.

    Args:
        seconds, tokens: of one step, samples included; the mean over steps with and without samples.
        beside_s: seconds of a run that are no steps: two validations and samples to show.
        num_steps: of a whole run, where the budget is not in tokens or minutes.
        rewards: what scored its samples: "" its own reward, else what stood in for it.
    """

    seconds: float
    tokens: float
    beside_s: float
    num_steps: int
    rewards: str = ""


@dataclass(frozen=True)
class _WithoutLines:
    """Shows what a measured run does, and not its lines: they warn of how short it is, and name a folder that goes."""

    shown: Progress

    def start(self, description: str, total: int | None, done: int = 0) -> None:
        self.shown.start(description, total, done)

    def advance(self, n: int = 1, **shown: float | str) -> None:
        self.shown.advance(n, **shown)

    def phase(self, description: str, done: int = 0, total: int | None = None) -> None:
        self.shown.phase(description, done, total)

    def stop(self) -> None:
        self.shown.stop()

    def note(self, line: str) -> None:
        pass


def measured(made: Tournament, place: Place, entry: Entry, *, exclude: Path, progress: Progress) -> Step:
    """Measure a step of an entrant's method, from the model that all start from; once for a tournament.

    Raises:
        AlignkitError: as training raises.
    """
    from alignkit.training.run.train_run import train_run

    file = place.folder / FILE
    known: dict[str, Any] = read_object(file) if file.exists() else {}
    method, resolved = made.resolved(entry)
    key = json.dumps([entry.method, sorted((k, str(v)) for k, v in entry.options.items())])
    if key in known:
        return Step(**known[key])
    draws = [bool(method.temperatures(step, resolved.method)) for step in range(1, _LOOKED_AT + 1)]
    last = next((n for n in range(_STEPS, _MOST_STEPS) if len(set(draws[1:n])) == len(set(draws))), _STEPS)
    out = place.folder / ".measured"
    shutil.rmtree(out, ignore_errors=True)
    options = run_options(made, place, entry, made.seeds[0], exclude=exclude) | {"max_steps": last}
    options |= {"model": made.entrants[0].model, "out": str(out)}
    stands_in = ""
    if method.trains_on.is_sampled and not _is_free(made, entry, resolved.rollouts.reward):
        from alignkit.scoring.functions.given import names_of

        options["reward"], stands_in = names_of([_any_reward]), "another reward"
    intervals = {"validation_interval": 10_000, "checkpoint_interval": 10_000, "sample_interval": 10_000}
    progress.note(f"measuring a step of {entry.name}")
    try:
        train_run(*made.resolved(entry, **{**options, **intervals}), progress=_WithoutLines(progress))
        step = _read(out, method, draws, resolved.method, stands_in)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    place.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    write_atomically(file, json.dumps(known | {key: asdict(step)}) + "\n", private=True)
    return step


def _any_reward(completion: str, row: dict[str, Any]) -> float:
    """A reward that differs between samples, in place of one that costs money or is not trained yet."""
    return float(len(completion) % 7)


def _is_free(made: Tournament, entry: Entry, specs: Sequence[str]) -> bool:
    """Whether an entrant's rewards can be asked before the tournament: judges of a name that cost nothing."""
    given = entry.options.get("reward", specs)
    names = [str(spec).partition("=")[0] for spec in (given if isinstance(given, list | tuple) else [given])]
    known = registry().found["judge"]
    return all(name in known and not known[name][0].cls.paid for name in names)


def _read(run: Path, method: Method, draws: Sequence[bool], config: Any, stands_in: str) -> Step:
    lines = [json.loads(line) for line in split_lines((run / "metrics.jsonl").read_text(encoding="utf-8"))]
    took = {line["step"]: float(line["value"]) for line in lines if line["name"] == "seconds"}
    seen = {line["step"]: float(line["tokens"]) for line in lines if line["name"] == "seconds"}
    record = read_run(run)
    kinds: dict[bool, list[tuple[float, float]]] = {}
    for step in sorted(took):
        if step > 1:  # the first one warms up
            kinds.setdefault(draws[step - 1], []).append((took[step], seen[step] - seen[step - 1]))
    means = {kind: np.mean(numbers, axis=0) for kind, numbers in kinds.items()}
    share = {True: float(np.mean(draws)), False: 1 - float(np.mean(draws))}
    total = sum(share[kind] for kind in means)
    seconds, tokens = sum(share[kind] * mean for kind, mean in means.items()) / total
    end = record.finished or {}
    per_epoch = math.ceil(record.rows.training.used / config.batch_size)
    return Step(
        float(seconds),
        max(1.0, float(tokens)),
        max(0.0, float(end.get("seconds", 0.0)) - sum(took.values())),
        config.planned_steps(per_epoch),
        stands_in,
    )


def steps_in_budget(section: TournamentSection, step: Step) -> int:
    """The steps that a budget in tokens or minutes pays for; without one those of the entrant's options."""
    counts = []
    if section.tokens is not None:
        counts.append(section.tokens / step.tokens)
    if section.minutes is not None:
        counts.append((60 * section.minutes - step.beside_s) / step.seconds)
    return max(1, round(min(counts))) if counts else step.num_steps


def answer_seconds(made: Tournament, asked: Asked, progress: Progress) -> float:
    """Seconds that an answer takes, from a few of the model that all start from."""
    import time

    from alignkit.judging.answers import Answering, Generation
    from alignkit.pretrained.names import find_model

    rows = asked.parts[TEST][:_ANSWERED]
    model: Any = Answering(find_model(made.entrants[0].model), made.settings.model, Generation.of(made.settings))
    started = time.monotonic()
    model.answer(rows, progress=progress)
    model.sampler.close()
    return (time.monotonic() - started) / len(rows)


def plan_lines(
    made: Tournament, place: Place, asked: Asked, *, exclude: Path, jobs: int, progress: Progress
) -> list[str]:
    """Say what is left to do and what it takes; steps are measured, nothing else is trained and nothing is bought."""
    from alignkit.tournaments.judges import judges_of, num_answers, num_rewards, num_scores, paid_rewards
    from alignkit.tournaments.planning import plan_lines as seeds_needed
    from alignkit.training.run.plan import make_plan

    lines, total_s, disk, most = [], 0.0, 0, 0
    for entry in made.entrants:
        if entry.method is None:
            continue
        method, resolved = made.resolved(entry)
        left = [seed for seed in made.seeds_of(entry) if not _is_there(place, entry, seed)]
        try:
            step = measured(made, place, entry, exclude=exclude, progress=progress)
        except AlignkitError as error:
            lines.append(f"{entry.name}: a step could not be measured: {error.line}")
            continue
        planned = make_plan(method, resolved)
        num = steps_in_budget(made.section, step)
        validations = 1 + num // resolved.method.steps_between_validations(num)
        share = _trained_share(made, entry, num)
        run_s = share * (num * step.seconds + step.beside_s * (1 + validations) / 2)
        total_s += run_s * len(left)
        disk += planned.disk * len(left)
        most = max(most, planned.total)
        note = f", with {step.rewards} in place of its own" if step.rewards else ""
        note += f", {share:.0%} of them on average over the sweep" if share < 1 else ""
        lines.append(
            f"{entry.name}: {len(left)} of {len(made.seeds)} runs left, {num} steps of {step.seconds:.2g} s{note}: "
            f"{duration(run_s)} each; {planned.total / 2**20:,.0f} MiB of memory, "
            f"{planned.disk / 2**20:,.0f} MiB of disk"
        )
    num = num_answers(made, asked, list(asked.parts))
    answers_s = num * answer_seconds(made, asked, progress)
    lines.append(f"answers: {num:,}: {duration(answers_s)}")
    for entry in made.entrants:
        for named in paid_rewards(made, entry):
            num = num_rewards(made, entry, None)
            lines.append(f"reward {named.label} of {entry.name}: {num:,} samples, {named.judge.cost(num).price}")
            named.judge.close()
    num = num_scores(made, asked)
    for named in judges_of(made):
        cost = named.judge.cost(num)
        price = f", {cost.price}" if named.judge.paid else ""
        lines.append(f"judge {named.label}: at most {num:,} scores{price}")
        named.judge.close()
    whole = (total_s + answers_s) / jobs
    at_once = f" with {jobs} at once" if jobs > 1 else ""
    lines.append(
        f"in all about {duration(whole)}{at_once}, {most * jobs / 2**20:,.0f} MiB of memory, "
        f"{disk / 2**20:,.0f} MiB of disk"
    )
    lines += seeds_needed(
        num_entrants=len(made.judged) - sum(len(names) - 1 for names in made.sweeps.values()),
        num_seeds=len(made.seeds),
        num_prompts=len(asked.parts[TEST]),
    )
    if (warning := disk_warning(place, disk)) is not None:
        lines.append(warning)
    return lines


def _trained_share(made: Tournament, entry: Entry, num_steps: int) -> float:
    """The share of its steps that one of a sweep's entrants trains on average, where the sweep is halved."""
    if entry.sweep is None or not made.halvings:
        return 1.0
    num = len(made.sweeps[entry.sweep])
    parts = part_steps(num_steps, made.halvings)
    return sum(n * steps for n, steps in zip(num_left(num, made.halvings), parts, strict=True)) / (num * num_steps)


def disk_warning(place: Place, needed: int) -> str | None:
    """Say that the disk will not last for so many bytes."""
    free = shutil.disk_usage(place.folder if place.folder.exists() else Path()).free
    if free >= needed:
        return None
    return (
        f"disk: about {needed / 2**20:,.0f} MiB are needed, and {free / 2**20:,.0f} MiB are free below "
        f"{place.folder}: it will not last; what stops there can go on"
    )


def disk_needed(made: Tournament, place: Place) -> int:
    """Bytes of all runs that are left. Raises as `make_plan`."""
    from alignkit.training.run.plan import make_plan

    return sum(
        make_plan(*made.resolved(entry)).disk * sum(not _is_there(place, entry, seed) for seed in made.seeds_of(entry))
        for entry in made.entrants
        if entry.method is not None
    )


def _is_there(place: Place, entry: Entry, seed: int) -> bool:
    run = place.run(entry, seed)
    return holds_run(run) and is_finished(run, read_run(run))
