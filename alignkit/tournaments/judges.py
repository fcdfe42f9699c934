"""Who judges a tournament, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from alignkit.data.reading.read import Source
from alignkit.errors import UsageError
from alignkit.registry import registry
from alignkit.scoring.confirm_cost import confirm_cost
from alignkit.scoring.judge import Cost
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.tournaments.entrants import Tournament, is_reward
from alignkit.tournaments.prompts import TEST, TUNING, Asked
from alignkit.tournaments.results import Entry
from alignkit.tournaments.sweeps import num_left
from alignkit.trust import require


@dataclass
class Bill:
    """What judges and rewards cost at most: a text, and by entrant requests and their price (None: not known)."""

    said: list[str] = field(default_factory=list)
    by_entrant: dict[str, tuple[int, float | None]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "; ".join(self.said)

    def add(self, name: str, cost: Cost) -> None:
        """Add to an entrant's part."""
        requests, money = self.by_entrant.get(name, (0, 0.0))
        total = None if money is None or cost.money is None else money + cost.money
        self.by_entrant[name] = requests + cost.num_requests, total


def agree(made: Tournament, asked: Asked, steps: Mapping[str, int], *, yes: bool) -> Bill:
    """Make the judges and agree to what they and rewards cost, before anything is trained.

    Args:
        steps: of entrants whose budget is in tokens or minutes.

    Raises:
        UsageError: there is no such judge, or its cost, or code that only a file names, was not agreed to.
        InputError: a file of code is not there.
    """
    bill = Bill()
    _require_agreed_code(made)
    with closing_all(judges_of(made)) as judges:
        for named in judges:
            if named.judge.paid:
                named.judge.check_key()
            else:
                named.ready(asked.parts[TEST])
        for named in judges:
            num = num_scores(made, asked) * _times(made, named)
            confirm_cost([named], num, yes=yes)
            if named.judge.paid:
                bill.said.append(f"judge {named.label} {named.judge.cost(num).price}")
                for entry in made.judged:
                    own = num_answers(made, asked, (TEST, TUNING), of=entry) * _times(made, named)
                    bill.add(entry.name, named.judge.cost(own))
    for entry in made.entrants:
        num = num_rewards(made, entry, steps.get(entry.name))
        with closing_all(paid_rewards(made, entry)) as rewards:
            confirm_cost(rewards, num, yes=yes)
            for named in rewards:
                cost = named.judge.cost(num)
                bill.said.append(f"reward {named.label} of {entry.name} {cost.price}")
                bill.add(entry.name, cost)
    return bill


def _require_agreed_code(made: Tournament) -> None:
    """Ask now about code and addresses that only a file names: the processes of the pieces cannot ask.

    Raises:
        UsageError, InputError: as `require`.
    """
    for entry in made.entrants:
        if entry.method is not None:
            method, resolved = made.resolved(entry)
            require(resolved, ("train", method.name))
            if method.trains_on.is_sampled:
                require(resolved, ("rollouts", "reward"))


def _times(made: Tournament, named: NamedJudge) -> int:
    """How often an answer is judged: once, or against each opponent."""
    return len(made.section.vs) if named.judge.pairwise else 1


def paid_rewards(made: Tournament, entry: Entry) -> list[NamedJudge]:
    """The rewards of an entrant that cost money."""
    if entry.method is None or not registry().find("method", entry.method).trains_on.is_sampled:
        return []
    specs = made.resolved(entry)[1].rollouts.reward
    names = [spec.rpartition("=")[0] if "=" in spec else spec for spec in specs]
    known = registry().found["judge"]
    return [make_one(made, name) for name in names if name in known and known[name][0].cls.paid]


def num_rewards(made: Tournament, entry: Entry, steps: int | None) -> int:
    """How many samples of all seeds a reward scores, validation apart; at most, where the number of rows decides."""
    if entry.method is None:
        return 0
    method, resolved = made.resolved(entry)
    config = resolved.method
    if (num := steps or config.max_steps) is None:
        rows = sum(1 for _ in Source(made.settings.data.data, made.settings.data.read_as).rows(numbered=False))
        num = config.planned_steps(math.ceil(rows / config.batch_size))
    return num * config.batch_size * len(method.temperatures(1, config)) * len(made.seeds)


def num_scores(made: Tournament, asked: Asked) -> int:
    """How many scores the judge is asked for at most."""
    return num_answers(made, asked, (TEST, TUNING))


def num_answers(made: Tournament, asked: Asked, parts: Sequence[str], *, of: Entry | None = None) -> int:
    """How many answers to these parts there are at most: of a sweep the tuning prompts at every halving that it sees.

    Args:
        of: count this entrant's alone; one of a sweep may see all halvings and the test.
    """
    length = {part: len(asked.parts.get(part, [])) for part in parts}
    tuning, whole = length.get(TUNING, 0), sum(length.values())
    if of is not None:
        halvings = made.halvings if of.sweep is not None else 0
        return len(made.seeds_of(of)) * (whole + halvings * tuning)
    sides = sum(len(made.seeds_of(entry)) for entry in (*made.judged, *made.opponents) if entry.sweep is None)
    total = sides * whole
    for names in made.sweeps.values():
        total += len(made.seeds) * (whole - tuning + sum(num_left(len(names), made.halvings)) * tuning)
    return total


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

    try:
        chosen = choose_judge(asked.parts[TEST], made.settings, num_items=num_scores(made, asked), yes=yes)
    except UsageError as error:
        if not str(error).startswith("no judge: "):
            raise
        own = next(iter(reward_models(made)), None)
        way = (
            f"--judge {own}, which is an entrant"
            if own
            else "an entrant that is one: [entrants.reward], --judge reward"
        )
        raise UsageError(f"{error}; or here {way}") from error
    judge = made.settings.judge.model_copy(update={"judge": chosen.spec})
    return replace(made, settings=replace(made.settings, judge=judge))
