"""What people's votes say of a verdict: the win rate they would give, and whether the judge agrees with them.

People vote on some of the judged pairs, in the order of a poll (alignkit/scoring/votes.py); the judge scored all. The
win rate people would give comes from both, by prediction-powered inference (statistics/prediction_powered.py). Pairs
whose two answers are equal are ties, unasked. Agreement is over the pairs that were voted on, weighted by one over the
chance that they were asked about; Cohen's kappa = (agreement - expected) / (1 - expected), expected from how often each
of win, tie and loss is named (Cohen 1960); intervals are percentiles over resampled pairs, or clusters of them as in
the verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from alignkit.scoring.votes import Vote, Votes, text_hash
from alignkit.statistics.prediction_powered import MIN_VOTES, chances, prediction_powered
from alignkit.statistics.resampling import Clusters, resampled_counts

LEVEL = 0.95
_RESAMPLES = 2_000
_ONE_SIDED = 0.95  # share of one key among a voter's votes from which it is said ...
_FEW = 10  # ... of at least so many
_SOURCES = 6  # shown by name
_VOTERS = 6  # named


class Range(BaseModel):
    """A number with its interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float


class Part(BaseModel):
    """Agreement on some of the pairs: the share, and of how many voted pairs it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float
    num_pairs: int


class Agreement(BaseModel):
    """How often the judge names the outcome that people name, as shares; `longer` is the rule that the longer wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: Range
    kappa: Range | None = Field(description="None where people, or the judge, name one outcome alone")
    expected: float = Field(description="the agreement that chance alone gives, from how often each outcome is named")
    longer: float
    ours_longer: float | None = Field(description="agreement where our answer is the longer one")
    theirs_longer: float | None
    by_source: dict[str, Part] = Field({}, description="where rows name a source, by its name")
    is_no_better_than_length: bool


class People(BaseModel):
    """What people voted on the judged pairs. Rates in percent, None where there are too few votes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_pairs: int = Field(description="different judged pairs in the poll")
    num_voted: int
    num_skipped: int
    voters: dict[str, int] = Field(description="votes of each voter, skips included")
    rate: Range | None = Field(description="the win rate people would give on all unequal pairs, helped by the judge")
    alone: Range | None = Field(description="the same from the votes alone")
    skipped_lost: float | None = Field(description="the rate of the votes alone if every skipped pair were a loss")
    skipped_won: float | None
    agreement: Agreement | None
    units: str = Field("pairs", description="what the intervals are over")
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """One judged pair: its hash, ours' hash, the judge's outcome (nan: missing), and lengths in characters.

    Pairs of one `cluster` are no independent evidence of each other; None: it stands for itself.
    """

    pair: str
    ours: str
    outcome: float
    ours_chars: int
    theirs_chars: int
    cluster: int | None = None
    source: str | None = None


def people_of(
    judged: Sequence[Judged],
    votes: Votes,
    find: Callable[[str], Mapping[str, Any] | None],
    *,
    seed: int,
    units: str = "pairs",
) -> People | None:
    """Compare people's votes with a judge's outcomes; None where nobody voted on these pairs.

    Args:
        units: what the clusters are, in words.
        find: a poll's content by its name, as `scoring.votes.find_poll`. Of several polls the one with most votes on
            these pairs counts.
    """
    known = {one.pair: one for one in judged}
    polls = Counter(vote.poll for vote in votes.all if vote.pair in known)
    content = find(polls.most_common(1)[0][0]) if polls else None
    if content is None:
        return None
    poll = polls.most_common(1)[0][0]
    cast: dict[str, list[Vote]] = {}
    for vote in votes.all:
        if vote.poll == poll:
            cast.setdefault(vote.pair, []).append(vote)
    return _people(known, content["pairs"], cast, seed=seed, units=units)


def said_of_voters(pairs: Sequence[str], votes: Votes) -> list[str]:
    """Who voted on some pairs, by their hashes, and who always pressed the same key; where people are the judge."""
    cast = {pair: votes.on(pair) for pair in pairs}
    counts = Counter(vote.voter for some in cast.values() for vote in some)
    if not counts:
        return []
    skips = Counter(vote.voter for some in cast.values() for vote in some if vote.choice == "skip")
    by = ", ".join(
        f"{voter} {number}" + (f" ({skips[voter]} skipped)" if skips[voter] else "")
        for voter, number in counts.most_common(_VOTERS)
    )
    more = f" and {len(counts) - _VOTERS} more" if len(counts) > _VOTERS else ""
    return [*_notes_on_voters(cast), f"votes of: {by}{more}"]


def _people(
    known: Mapping[str, Judged],
    asked: Sequence[Sequence[Any]],
    cast: Mapping[str, Sequence[Vote]],
    *,
    seed: int,
    units: str,
) -> People | None:
    order = [str(pair[0]) for pair in asked]
    num_asked = next((place for place, pair in enumerate(order) if pair not in cast), len(order))
    key_N, weight_N = (np.array([pair[column] for pair in asked], dtype=np.float64) for column in (4, 5))
    chance = dict(zip(order, chances(key_N, weight_N, num_asked), strict=True))
    # equal answers are in no poll: they tie
    pairs = [one for one in known.values() if one.pair in chance]
    if not pairs:
        return None
    found = [one for one in pairs if one.pair in set(order[:num_asked])]
    mean = {one.pair: _mean(cast[one.pair], one.ours) for one in found}
    voted = [one for one in found if mean[one.pair] is not None]
    skipped = len(found) - len(voted)
    notes = list(_notes_on_voters(cast))
    if (beyond := sum(pair in known for pair in order[num_asked:] if pair in cast)) > 0:
        notes.append(f"{beyond} votes out of turn count for no rate: the chance that they were asked for is unknown")
    vote_K = np.array([mean[one.pair] for one in voted], dtype=np.float64)
    chance_K = np.array([chance[one.pair] for one in voted], dtype=np.float64)
    rate = alone = None
    lost = won = None
    if len(voted) >= MIN_VOTES:
        place = {one.pair: n for n, one in enumerate(pairs)}
        judged_N = np.array([0.5 if math.isnan(one.outcome) else one.outcome for one in pairs])
        chance_N = np.array([chance[one.pair] for one in pairs])
        at_K = np.array([place[one.pair] for one in voted])
        powered = prediction_powered(vote_K, at_K, judged_N, chance_N, level=LEVEL, clusters=_clusters(pairs))
        rate = _percent(powered.mean, powered.low, powered.high)
        alone = _percent(powered.alone_mean, powered.alone_low, powered.alone_high)
    else:
        notes.append(f"{len(voted)} pairs with votes: at least {MIN_VOTES} are needed to say what people would say")
    if skipped:
        weight = np.array([1 / chance[one.pair] for one in found])
        for_wins = np.array([mean[one.pair] if mean[one.pair] is not None else 1.0 for one in found])
        for_losses = np.array([mean[one.pair] if mean[one.pair] is not None else 0.0 for one in found])
        lost, won = (100 * float(weight @ x) / float(weight.sum()) for x in (for_losses, for_wins))
    agreement = _agreement(voted, vote_K, 1 / chance_K, seed=seed)
    return People(
        num_pairs=len(pairs),
        num_voted=len(voted),
        num_skipped=skipped,
        voters=dict(Counter(vote.voter for votes in cast.values() for vote in votes)),
        rate=rate,
        alone=alone,
        skipped_lost=lost,
        skipped_won=won,
        agreement=agreement,
        units=units,
        notes=tuple(notes),
    )


def _clusters(pairs: Sequence[Judged]) -> Clusters:
    return Clusters.of([one.pair if one.cluster is None else one.cluster for one in pairs])


def _mean(votes: Sequence[Vote], ours: str) -> float | None:
    values = [value for vote in votes if (value := vote.for_answer(ours)) is not None]
    return sum(values) / len(values) if values else None


def _percent(mean: float, low: float, high: float) -> Range:
    return Range(value=100 * mean, low=100 * low, high=100 * high)


def _notes_on_voters(cast: Mapping[str, Sequence[Vote]]) -> list[str]:
    """Voters who always press the same key, whichever answer stands there."""
    choices: dict[str, Counter[str]] = {}
    for votes in cast.values():
        for vote in votes:
            choices.setdefault(vote.voter, Counter())[vote.choice] += 1
    said = {"first": "the answer shown first", "second": "the answer shown second", "tie": "a tie"}
    return [
        f"{voter} chose {said[choice]} in {number} of {total} votes: that is hardly a judgement"
        for voter, counts in choices.items()
        for choice, number in counts.most_common(1)
        if choice in said and (total := counts.total() - counts["skip"]) >= _FEW and number >= _ONE_SIDED * total
    ]


def _agreement(voted: Sequence[Judged], vote_K: np.ndarray, weight_K: np.ndarray, *, seed: int) -> Agreement | None:
    """Agreement of judge and people over the pairs that both decided on; None below MIN_VOTES of them."""
    kept_K = np.array([not math.isnan(one.outcome) for one in voted], dtype=bool)
    if kept_K.sum() < MIN_VOTES:
        return None
    voted = [one for one, kept in zip(voted, kept_K, strict=True) if kept]
    people_K, judge_K = np.sign(vote_K[kept_K] - 0.5), np.sign(np.array([one.outcome for one in voted]) - 0.5)
    delta_K = np.array([one.ours_chars - one.theirs_chars for one in voted], dtype=np.float64)
    longer_K, weight_K = np.sign(delta_K), weight_K[kept_K]
    agrees_K, length_agrees_K = people_K == judge_K, people_K == longer_K
    rng = np.random.default_rng(seed)
    times_BK = np.concatenate(
        [part_KB.T for part_KB in resampled_counts(_clusters(voted), rng=rng, num_resamples=_RESAMPLES)]
    )
    weight_BK = times_BK * weight_K
    shares = weight_BK @ agrees_K / weight_BK.sum(axis=1)
    gains = weight_BK @ (agrees_K.astype(np.float64) - length_agrees_K) / weight_BK.sum(axis=1)
    kappas = np.array([kappa_of(people_K, judge_K, drawn_K)[0] for drawn_K in weight_BK])
    kappa, expected = kappa_of(people_K, judge_K, weight_K)
    kappas = kappas[~np.isnan(kappas)]

    def part(which_K: np.ndarray) -> float | None:
        return _weighted(agrees_K[which_K], weight_K[which_K]) if which_K.any() else None

    return Agreement(
        judge=_range(_weighted(agrees_K, weight_K), shares),
        kappa=None if math.isnan(kappa) or not len(kappas) else _range(kappa, kappas),
        expected=expected,
        longer=_weighted(length_agrees_K, weight_K),
        ours_longer=part(delta_K > 0),
        theirs_longer=part(delta_K < 0),
        by_source={
            source: Part(share=_weighted(agrees_K[in_K], weight_K[in_K]), num_pairs=int(in_K.sum()))
            for source in sorted({one.source for one in voted if one.source is not None})
            if (in_K := np.array([one.source == source for one in voted])).any()
        },
        is_no_better_than_length=bool(np.quantile(gains, (1 - LEVEL) / 2) <= 0),
    )


def kappa_of(people_K: np.ndarray, judge_K: np.ndarray, weight_K: np.ndarray) -> tuple[float, float]:
    """Cohen's kappa of two sets of outcomes -1, 0, 1, and the agreement that chance gives; nan where that is 1.

    >>> kappa_of(np.array([1, 1, -1, -1]), np.array([1, 1, -1, 1]), np.ones(4))
    (0.5, 0.5)
    """
    expected = sum(_weighted(people_K == x, weight_K) * _weighted(judge_K == x, weight_K) for x in (-1, 0, 1))
    agreement = _weighted(people_K == judge_K, weight_K)
    return ((agreement - expected) / (1 - expected) if expected < 1 - 1e-9 else math.nan), expected


def _weighted(which_K: np.ndarray, weight_K: np.ndarray) -> float:
    return float(weight_K @ which_K) / float(weight_K.sum())


def _range(value: float, drawn: np.ndarray) -> Range:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Range(value=value, low=float(low), high=float(high))


def judged_pair(
    pair: str, ours: str, theirs: str, outcome: float, *, cluster: int | None = None, source: str | None = None
) -> Judged:
    """One judged pair from its texts."""
    return Judged(pair, text_hash(ours), outcome, len(ours), len(theirs), cluster, source)


def facts(people: People) -> list[tuple[str, str]]:
    """What is shown of it beside a verdict: (name, text)."""
    rows = []
    if people.rate is not None and people.alone is not None:
        text = f"{_shown(people.rate)} from {people.num_voted} of {people.num_pairs} unequal pairs and the judge on all"
        rows.append(
            ("win rate people would give", f"{text}; their votes alone {_shown(people.alone)}; over {people.units}")
        )
    asked = people.num_voted + people.num_skipped
    if people.num_skipped and people.skipped_lost is not None:
        text = (
            f"{people.num_skipped} of {asked} asked ({100 * people.num_skipped / asked:.0f} %); the votes alone say "
            f"{people.skipped_lost:.1f} % if all of them were losses, {people.skipped_won:.1f} % if all were wins"
        )
        rows.append(("pairs people skipped", text))
    if (a := people.agreement) is not None:
        kappa = "" if a.kappa is None else f"; kappa {a.kappa.value:.2f} ({a.kappa.low:.2f} to {a.kappa.high:.2f})"
        parts = [
            f"{100 * x:.0f} % where {side} the longer answer"
            for x, side in ((a.ours_longer, "ours is"), (a.theirs_longer, "theirs is"))
            if x is not None
        ]
        text = (
            f"{100 * a.judge.value:.0f} % ({100 * a.judge.low:.0f} to {100 * a.judge.high:.0f}), by chance "
            f"{100 * a.expected:.0f} %{kappa}"
        )
        rows.append(("agreement of judge and people", "; ".join([text, *parts])))
        if a.by_source:
            most = sorted(a.by_source.items(), key=lambda item: -item[1].num_pairs)
            told = [f"{name} {100 * part.share:.0f} % ({part.num_pairs})" for name, part in most[:_SOURCES]]
            more = [f"{len(most) - _SOURCES} more sources in --json"] if len(most) > _SOURCES else []
            rows.append(("agreement by source", "; ".join([*told, *more])))
    rows.append(("voters", ", ".join(f"{voter} {number}" for voter, number in people.voters.items())))
    return rows


def briefly(people: People) -> str:
    """The rate and the agreement in one line, and what the votes say against either."""
    asked = f"votes on {people.num_voted} of {people.num_pairs} unequal pairs"
    parts = [asked if people.rate is None else f"would give {_shown(people.rate)}, by {asked} and the judge on all"]
    if (a := people.agreement) is not None:
        parts.append(f"the judge agrees in {100 * a.judge.value:.0f} %, by chance {100 * a.expected:.0f} %")
    return "; ".join([*parts, *caveats(people)])


def caveats(people: People) -> list[str]:
    """What the votes say against the judge, or against themselves, a sentence each."""
    said = list(people.notes)
    if (a := people.agreement) is not None and a.is_no_better_than_length:
        said.append(
            f"the judge agrees with people in {100 * a.judge.value:.0f} % of the pairs they voted on, the rule that "
            f"the longer answer wins in {100 * a.longer:.0f} %: nothing shows that it judges better than length does"
        )
    return said


def _shown(rate: Range) -> str:
    return f"{rate.value:.1f} % ({rate.low:.1f} to {rate.high:.1f})"
