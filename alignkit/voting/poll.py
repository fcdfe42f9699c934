"""What people are asked about: the pairs of answers of two models, and the order drawn before the first vote."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from alignkit.config.file import Settings
from alignkit.errors import UsageError
from alignkit.judging.answers import Generation, answers_of
from alignkit.judging.compare import generations_of, models_of
from alignkit.judging.prompts import choose_prompts
from alignkit.judging.scores import items, score_both, values
from alignkit.pretrained.weights import weights_fingerprint
from alignkit.progress import Progress
from alignkit.scoring.judge import Item, Missing, Scored
from alignkit.scoring.ledger import Source, canonical, open_ledger
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.scoring.votes import find_poll, keep_poll, pair_hash
from alignkit.statistics.prediction_powered import keys_of, weights_of
from alignkit.statistics.win_rate import outcomes


@dataclass(frozen=True)
class Pair:
    """One prompt with both answers. `key` and `weight` are what the order was drawn by."""

    id: str
    prompt: Sequence[Mapping[str, Any]]
    ours: str
    theirs: str
    key: float
    weight: float

    @property
    def turns(self) -> list[tuple[str, str]]:
        return Item(self.prompt, "").turns


@dataclass(frozen=True)
class Poll:
    """What is asked; `pairs` stand in the order of asking. Equal answers are not in it."""

    id: str
    run: str
    vs: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class _Remembered(NamedJudge):
    """A judge of which only the scores in the ledger count; none is asked for."""

    def score(self, items: Sequence[Item], *, repeat: int = 0) -> list[Scored | Missing]:
        source = Source.of(self.judge.name, self.judge.version, self.judge.parameters())
        keys = [source.key(self.judge.given(item), repeat=repeat) for item in items]
        found = open_ledger().find(list(dict.fromkeys(keys)))
        return [found.get(key, Missing("not in the ledger")) for key in keys]


def make_poll(
    model: str | None, settings: Settings, *, data_given: bool, progress: Progress, judges: Sequence[str] = ()
) -> Poll:
    """Answer the prompts with both models and draw the order; a poll that was begun goes on as it is.

    Args:
        judges: at least two; pairs on which their scores in the ledger disagree are asked about sooner.

    Raises:
        UsageError: the models answer every prompt alike, or the ledger does not hold scores of two of the judges.
    """
    section = settings.judge
    source, vs = models_of(model, section.vs, progress)
    prompts = choose_prompts(
        source, settings.data, data_given=data_given, num_prompts=section.num_prompts, seed=section.seed, vs=vs
    )
    how = settings.model.model_dump(mode="json", exclude={"model"})
    weights = [weights_fingerprint(one.folder) for one in (source, vs)]
    parts = [weights, repr(Generation.of(settings)), how, prompts.fingerprint]
    poll_id = hashlib.sha256(canonical(parts).encode("ascii")).hexdigest()[:16]
    known = find_poll(open_ledger(), poll_id)
    named = [_Remembered(one.label, one.judge) for one in (make_judge(spec, settings) for spec in judges)]
    if named and known is not None:
        progress.note("this poll goes on in the order drawn when it began, whatever --favour says now")
    if known is None:
        ours, theirs = (
            answers_of(one, prompts.rows, section=settings.model, generation=generation, progress=progress)
            for one, generation in zip((source, vs), generations_of(source, vs, settings), strict=True)
        )
        disagreement_P = _disagreement(named, items(ours), items(theirs)) if named else np.zeros(len(prompts.rows))
        asked: dict[str, tuple[list[dict[str, Any]], str, str]] = {}
        disagreements = []
        rows = zip(prompts.rows, ours.texts, theirs.texts, disagreement_P, strict=True)
        for row, one, other, disagreement in rows:
            if one != other and (pair := pair_hash(row.prompt, one, other)) not in asked:
                asked[pair] = ([dict(message) for message in row.prompt], one, other)
                disagreements.append(float(disagreement))
        weight_N = weights_of(np.array(disagreements))
        key_N = keys_of(weight_N, seed=section.seed)
        order = np.argsort(key_N, kind="stable")
        listed = list(asked.items())
        content = {
            "run": source.name,
            "vs": vs.name,
            "pairs": [[listed[n][0], *listed[n][1], float(key_N[n]), float(weight_N[n])] for n in order],
        }
        known = keep_poll(open_ledger(), poll_id, content) if asked else content
    poll = as_poll(poll_id, known)
    if not poll.pairs:
        raise UsageError(f"{source.name} and {vs.name} give the same answer to every prompt: nothing to vote on")
    return poll


def _disagreement(named: Sequence[_Remembered], ours: Sequence[Item], theirs: Sequence[Item]) -> np.ndarray:
    """Share of the pairs of judges that name different outcomes, a tie half; float64 [P].

    A prompt that fewer than two scored has the mean share.
    """
    scored = [score_both(one, ours, theirs) for one in named]
    outcome_JP = np.array([outcomes(values(one.ours), values(one.theirs)) for one in scored])
    known_P = (~np.isnan(outcome_JP)).sum(axis=0) >= 2
    if not known_P.any():
        raise UsageError(
            f"--favour {' --favour '.join(one.label for one in named)}: the ledger holds no two judges' scores of "
            "these answers; judge with two of them first, with the same options"
        )
    apart_KP = np.array([np.abs(one_P - other_P) for one_P, other_P in combinations(outcome_JP, 2)])
    disagreement_P = np.zeros(len(ours))
    disagreement_P[known_P] = np.nanmean(apart_KP[:, known_P], axis=0)
    disagreement_P[~known_P] = disagreement_P[known_P].mean()
    return disagreement_P


def as_poll(poll_id: str, content: Mapping[str, Any]) -> Poll:
    """A poll from what the ledger keeps of it."""
    return Poll(poll_id, content["run"], content["vs"], tuple(Pair(*pair) for pair in content["pairs"]))
