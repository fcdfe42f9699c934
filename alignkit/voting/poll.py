"""What people are asked about: the pairs of answers of two models, and the order drawn before the first vote."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.config.file import Settings
from alignkit.errors import UsageError
from alignkit.judging.answers import Generation, answers_of
from alignkit.judging.compare import generations_of, models_of
from alignkit.judging.prompts import choose_prompts
from alignkit.pretrained.weights import weights_fingerprint
from alignkit.progress import Progress
from alignkit.scoring.judge import Item
from alignkit.scoring.ledger import canonical, open_ledger
from alignkit.scoring.votes import find_poll, keep_poll, pair_hash
from alignkit.statistics.prediction_powered import keys_of, weights_of


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


def make_poll(model: str | None, settings: Settings, *, data_given: bool, progress: Progress) -> Poll:
    """Answer the prompts with both models and draw the order; a poll that was begun goes on as it is.

    Raises:
        UsageError: the models answer every prompt alike.
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
    if known is None:
        ours, theirs = (
            answers_of(one, prompts.rows, section=settings.model, generation=generation, progress=progress).texts
            for one, generation in zip((source, vs), generations_of(source, vs, settings), strict=True)
        )
        asked = {
            pair_hash(row.prompt, one, other): ([dict(message) for message in row.prompt], one, other)
            for row, one, other in zip(prompts.rows, ours, theirs, strict=True)
            if one != other
        }
        weight_N = weights_of(np.zeros(len(asked)))
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


def as_poll(poll_id: str, content: Mapping[str, Any]) -> Poll:
    """A poll from what the ledger keeps of it."""
    return Poll(poll_id, content["run"], content["vs"], tuple(Pair(*pair) for pair in content["pairs"]))
