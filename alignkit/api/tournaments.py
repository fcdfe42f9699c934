"""Compare several ways to train in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import UsageError
from alignkit.progress import Progress, Silent
from alignkit.scoring.functions.given import give, names_of
from alignkit.tournaments.entrants import Tournament, read_tournament

if TYPE_CHECKING:
    from alignkit.tournaments.pieces import Child
    from alignkit.tournaments.results import Results
    from alignkit.tournaments.table import Table

OUT = Path("runs/tournament")


def tournament(
    entrants: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    *,
    out: str | Path = OUT,
    config: Path | None = None,
    preset: str | None = None,
    set: Sequence[str] = (),
    sweep: Sequence[str] = (),
    draws: int | None = None,
    halvings: int = 0,
    fresh: Sequence[str] = (),
    yes: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Table:
    """As `alignkit.tournament` (python.py), with names in the place of runs and rows."""
    from alignkit.tournaments.page import NAME as PAGE
    from alignkit.tournaments.table import make_table
    from alignkit.tournaments.tournament import run_tournament

    if entrants is not None:
        entrants = {name: _named(table) for name, table in _tables(entrants).items()}
    options = _named(options)
    made = made_of(
        config, entrants, preset=preset, options=options, set=set, sweep=sweep, draws=draws, halvings=halvings
    )
    results = run_tournament(made, Path(out), progress=progress or Silent(), fresh=fresh, yes=yes)
    return replace(make_table(results), report=Path(out) / PAGE)


def _tables(entrants: Mapping[str, Mapping[str, Any]] | Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """Entrants as tables by name.

    Raises:
        UsageError: they are something else.
    """
    if isinstance(entrants, Sequence) and not isinstance(entrants, str):
        if (odd := next((one for one in entrants if not isinstance(one, str)), None)) is not None:
            raise UsageError(f"entrants: {odd!r} is no name of a method; with options give {{NAME: OPTIONS}}")
        return {name: {} for name in entrants}
    if not isinstance(entrants, Mapping):
        raise UsageError(f"entrants: {entrants!r} was given: give {{NAME: OPTIONS}} or a list of methods")
    for name, table in entrants.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"entrant {name}: {table!r} was given: give its options by name, {{}} for none")
    return entrants


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a name in the place of each function."""
    named = dict(options)
    if "reward" in named:
        named["reward"] = names_of(named["reward"])
    if callable(named.get("judge")):
        named["judge"] = give(named["judge"])
    return named


def made_of(
    config: Path | None = None,
    entrants: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    set: Sequence[str] = (),
    sweep: Sequence[str] = (),
    draws: int | None = None,
    halvings: int = 0,
) -> Tournament:
    """Resolve a tournament without running it. Arguments and errors are those of `tournament`."""
    given = dict(options or {})
    budget = [name for name in ("steps", "tokens", "minutes") if given.get(name) is not None]
    if len(budget) > 1:
        raise UsageError(f"--{budget[0]} and --{budget[1]} are both a budget: give one")
    return read_tournament(
        config, entrants=entrants, preset=preset, options=given, sets=set, sweeps=sweep, draws=draws, halvings=halvings
    )


def tournament_plan(made: Tournament, out: Path, *, jobs: int, yes: bool, progress: Progress) -> list[str]:
    """Say what a tournament takes: time from measured steps, memory, disk, money.

    Raises:
        AlignkitError: as `tournament`.
    """
    from alignkit.tournaments.judges import with_judge
    from alignkit.tournaments.price import plan_lines
    from alignkit.tournaments.prompts import choose
    from alignkit.tournaments.tournament import budget, claimed, describe, refuse_own_data
    from alignkit.tournaments.work import Place

    refuse_own_data(made, out)
    with claimed(out):
        asked = choose(made)
        exclude = describe(made, asked, out)
        made = with_judge(made, asked, yes=yes)
        made = replace(made, budget=budget(made, Place(out), exclude, progress))
        return plan_lines(made, Place(out), asked, exclude=exclude, jobs=jobs, progress=progress)


def tournament_piece(made: Tournament, out: Path, name: str, *, progress: Progress, yes: bool) -> None:
    """Do one piece of a tournament, NAME/SEED, in this process. Errors are those of training and answering.

    Args:
        yes: agree to a reward that costs money.
    """
    from alignkit.tournaments.tournament import run_piece

    made = replace(made, common={**made.common, "yes": yes})
    run_piece(made, out, name, progress=progress)


def run_made(
    made: Tournament,
    out: Path,
    *,
    progress: Progress,
    child: Child,
    words: Sequence[str],
    jobs: int,
    fresh: Sequence[str],
    yes: bool,
) -> Results:
    """Run a resolved tournament, its pieces in processes of their own. Errors are those of `tournament`."""
    from alignkit.tournaments.tournament import run_tournament

    return run_tournament(made, out, progress=progress, child=child, words=words, jobs=jobs, fresh=fresh, yes=yes)
