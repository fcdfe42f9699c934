"""Who judges a tournament, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from alignkit.scoring.confirm_cost import confirm_cost
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.tournaments.entrants import Tournament, is_reward
from alignkit.tournaments.prompts import TEST, TUNING, Asked
from alignkit.tournaments.results import Entry


def agree(made: Tournament, asked: Asked, *, yes: bool) -> str:
    """Make the judges and agree to what they cost, before anything is trained; returns the money as a text.

    Raises:
        UsageError: there is no such judge, or its cost was not agreed to.
    """
    with closing_all(judges_of(made)) as judges:
        for named in judges:
            if named.judge.paid:
                named.judge.check_key()
            else:
                named.judge.ready([row.fields for row in asked.parts[TEST]])
        num = num_scores(made, asked)
        confirm_cost(judges, num, yes=yes)
        return "; ".join(named.judge.cost(num).price for named in judges if named.judge.paid)


def num_scores(made: Tournament, asked: Asked) -> int:
    """How many scores the judge is asked for at most."""
    sides = sum(len(made.seeds_of(entry)) for entry in (*made.judged, *made.opponents))
    return sides * sum(len(asked.parts.get(part, [])) for part in (TEST, TUNING))


@contextmanager
def closing_all(judges: list[NamedJudge]) -> Iterator[list[NamedJudge]]:
    """Close judges behind the block."""
    try:
        yield judges
    finally:
        for named in judges:
            named.judge.close()


def judges_of(made: Tournament) -> list[NamedJudge]:
    """The judges that are there before anything is trained: neither is an entrant."""
    specs = dict.fromkeys(filter(None, [made.settings.judge.judge, made.section.second]))
    return [make_one(made, spec) for spec in specs if spec not in reward_models(made)]


def reward_models(made: Tournament) -> dict[str, Entry]:
    return {entry.name: entry for entry in made.entrants if is_reward(entry)}


def make_one(made: Tournament, spec: str) -> NamedJudge:
    is_first = spec == made.settings.judge.judge
    return make_judge(spec, made.settings, named_at=("judge", "judge") if is_first else None)


def with_judge(made: Tournament, asked: Asked, *, yes: bool) -> Tournament:
    """Name the judge that `auto` stands for with these rows.

    Raises:
        UsageError: there is none, or its cost was not agreed to.
    """
    if made.settings.judge.judge != "auto":
        return made
    from alignkit.judging.auto import choose_judge

    chosen = choose_judge(asked.parts[TEST], made.settings, num_items=num_scores(made, asked), yes=yes)
    judge = made.settings.judge.model_copy(update={"judge": chosen.spec})
    return replace(made, settings=replace(made.settings, judge=judge))
