"""SPEC -> judge, for `--reward` and `--judge`: a judge's name, a reward model's run or folder, or FILE.py:function."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignkit.config.file import Settings
from alignkit.data.reading.rows import Row
from alignkit.errors import InputError, UsageError
from alignkit.registry import registry
from alignkit.runs import holds_run, places
from alignkit.scoring.functions.given import PREFIX, GivenFunction
from alignkit.scoring.functions.judge import FunctionJudge
from alignkit.scoring.judge import Item, Judge, Missing, Scored
from alignkit.scoring.score_cache import cached_scores
from alignkit.storage import is_too_long
from alignkit.trust import require

MAX_WEIGHT = 1e6


@dataclass(frozen=True)
class NamedJudge:
    """A judge, the name its scores are logged by, and the weight of its reward.

    `plain_label` is the name that it has alone, where `distinct` gave it another; a run keeps both.
    """

    label: str
    judge: Judge
    weight: float = 1.0
    plain_label: str | None = None

    def score(self, items: Sequence[Item], *, repeat: int = 0) -> list[Scored | Missing]:
        """Score items through the ledger; arguments and errors are those of `cached_scores`."""
        return cached_scores(self.judge, items, label=self.label, repeat=repeat)

    def ready(self, rows: Sequence[Row]) -> None:
        """Ask the judge whether it can score rows; an error about one that has no id names its file and line.

        Raises:
            AlignkitError: as `Judge.ready`.
        """
        try:
            self.judge.ready([row.fields for row in rows])
        except InputError as error:
            for row in rows if len(rows) > 1 else ():
                with suppress(UsageError):
                    try:
                        self.judge.ready([row.fields])
                    except InputError as own:
                        if str(own) == str(error) and row.name == row.where:
                            raise InputError(f"{row.where}: {error}") from error
            raise


def make_judge(spec: str, settings: Settings | None = None, *, named_at: tuple[str, str] | None = None) -> NamedJudge:
    """Make the judge that `spec` names; nothing heavy is loaded yet.

    Args:
        spec: NAME, RUN, FOLDER or FILE.py:function, each with =WEIGHT after it where wanted.
        settings: options of judges are in its [judge.NAME] tables.
        named_at: the key of alignkit.toml that may have named the spec: ("rollouts", "reward").

    Raises:
        UsageError: no judge of that name, a weight that is no number or too large, wrong options, or a file names code,
            an address, a key or a cost that its user did not agree to.
        InputError: a file that cannot be used.
    """
    target, weight = _weighted(spec)
    if settings is not None:
        require(settings, *filter(None, [named_at]), ("judge", target), ("judge", "reward-model"))
    tables = {} if settings is None else settings.judges
    if target.startswith(PREFIX):
        given = GivenFunction(target)
        return NamedJudge(given.label, given, weight)
    file, _, function = target.rpartition(":")
    if file.endswith(".py"):
        return NamedJudge(function, FunctionJudge(Path(file).expanduser(), function), weight)
    if target.endswith(".py"):
        raise UsageError(f"{target}: name the function too: {target}:FUNCTION")
    if target in registry().found["judge"]:
        return NamedJudge(target, _plugin(target, dict(tables.get(target, {}))), weight)
    if (
        target
        and not is_too_long(target)
        and any(holds_run(folder) or (folder / "config.json").exists() for folder in places(target))
    ):
        options = {"model": target} | dict(tables.get("reward-model", {}))
        return NamedJudge(Path(target).name, _plugin("reward-model", options), weight)
    registry().find("judge", target)
    raise AssertionError("find() raises for unknown names")


def distinct(judges: Sequence[NamedJudge]) -> tuple[NamedJudge, ...]:
    """Give judges that share a label labels of their own, the same for the same specs in the same order.

    Functions of files with different names get the file's name before theirs (a.score, b.score), all others a number
    from the second on (score, score#2). A label that no other has stays as it is.
    """
    plain = [named.label for named in judges]
    full = [
        f"{named.judge.path.stem}.{named.label}" if isinstance(named.judge, FunctionJudge) else named.label
        for named in judges
    ]
    alone = {label for label in plain if plain.count(label) == 1}
    taken = set(alone)
    found = []
    for number, named in enumerate(judges):
        label = named.label
        if plain.count(label) > 1:
            alike = [full[n] for n in range(len(judges)) if plain[n] == label]
            base = full[number] if len(set(alike)) == len(alike) and not alone & set(alike) else label
            label, times = base, 1
            while label in taken:
                times += 1
                label = f"{base}#{times}"
            taken.add(label)
        found.append(replace(named, label=label, plain_label=named.label))
    return tuple(found)


def function_file(spec: str) -> Path | None:
    """The file of a FILE.py:function, with or without a weight; None of anything else."""
    file = spec.rpartition("=")[0].rpartition(":")[0] or spec.rpartition(":")[0]
    return Path(file).expanduser() if file.endswith(".py") else None


def _plugin(name: str, options: dict[str, Any]) -> Judge:
    cls = registry().find("judge", name)
    assert issubclass(cls, Judge)
    try:
        return cls(cls.Config(**options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"judge {name!r}: option {key!r}: {first['msg'].lower()}; set it in [judge.{name}]") from error


def _weighted(spec: str) -> tuple[str, float]:
    target, equals, weight = spec.rpartition("=")
    if not equals:
        return spec, 1.0
    try:
        number = float(weight)
    except ValueError:
        raise UsageError(f"reward {spec!r}: the weight {weight!r} is not a number") from None
    if not abs(number) <= MAX_WEIGHT:
        raise UsageError(f"reward {spec!r}: the weight must be a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
    return target, number
