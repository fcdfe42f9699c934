"""Beam search, the same on every engine: the engine gives each beam's likeliest next tokens, everything else is here.

    score of a beam = sum of log p of its tokens / (number of its tokens) ^ length_penalty

Tokens are those generated, the end token included, the prompt not: vLLM 0.32 counts the prompt too and 0.33 does not,
so that its own beam search ranks differently from version to version. At each step every live beam offers its 2 W
likeliest tokens; those that end a completion are set aside, of the others the W likeliest beams live on. The search
ends when no live beam can still beat the best that is set aside, or at the last token. Source: Wu et al. 2016, section
7, without coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from alignkit.rollouts.sampler import Completion, Request

Candidates = Sequence[tuple[int, float]]  # (token, log p), at least 2 W of them where the vocabulary has so many


@dataclass(frozen=True)
class Beam:
    """A completion in the making: its token ids, their log-probs, and the sum of these."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0

    def then(self, token: int, logprob: float) -> Beam:
        return Beam((*self.ids, token), (*self.logprobs, logprob), self.total + logprob)


@dataclass
class Search:
    """The search for one request's best completion."""

    request: Request
    num_beams: int
    length_penalty: float
    end_ids: frozenset[int]
    live: list[Beam] = field(default_factory=lambda: [Beam()])
    ended: Beam | None = None  # the best of those that have an end token

    def advance(self, candidates: Sequence[Candidates]) -> list[int]:
        """Take one token further.

        Args:
            candidates: of each live beam, in order.

        Returns:
            for each beam that lives now, the place of the one it came from.
        """
        grown: list[tuple[int, Beam]] = []
        for place, (beam, offered) in enumerate(zip(self.live, candidates, strict=True)):
            likeliest = sorted(offered, key=lambda one: -one[1])[: 2 * self.num_beams]
            for token, logprob in likeliest:
                if token in self.end_ids:
                    self._end(beam.then(token, logprob))
                else:
                    grown.append((place, beam.then(token, logprob)))
        grown = sorted(grown, key=lambda one: -one[1].total)[: self.num_beams]
        self.live = [beam for _, beam in grown]
        return [place for place, _ in grown]

    @property
    def is_done(self) -> bool:
        """Whether the best completion is known."""
        if not self.live or len(self.live[0].ids) >= self.request.max_new_tokens:
            return True
        longest = self.request.max_new_tokens ** max(self.length_penalty, 0.0)  # log p <= 0: no beam can do better
        return self.ended is not None and self._score(self.ended) >= self.live[0].total / longest

    def best(self) -> Completion:
        """The completion of the highest score; truncated where it has no end token."""
        beams = [*([self.ended] if self.ended else []), *self.live]
        chosen = max(beams, key=self._score)
        return Completion(
            np.array(chosen.ids, np.int32), np.array(chosen.logprobs, np.float32), chosen.ids[-1] not in self.end_ids
        )

    def _end(self, beam: Beam) -> None:
        if self.ended is None or self._score(beam) > self._score(self.ended):
            self.ended = beam

    def _score(self, beam: Beam) -> float:
        return beam.total / len(beam.ids) ** self.length_penalty


def beam_search(
    requests: Sequence[Request],
    expand: Callable[[Sequence[Sequence[int]]], Sequence[Candidates]],
    *,
    num_beams: int,
    length_penalty: float,
    end_ids: frozenset[int],
) -> list[Completion]:
    """Search on an engine that remembers prompts itself, such as vLLM: whole texts go in, one token further each time.

    Args:
        expand: token ids of texts -> each one's likeliest next tokens.
    """
    searches = [Search(request, num_beams, length_penalty, end_ids) for request in requests]
    while going := [search for search in searches if not search.is_done]:
        texts = [[*search.request.prompt_ids, *beam.ids] for search in going for beam in search.live]
        offered = iter(expand(texts))
        for search in going:
            search.advance([next(offered) for _ in search.live])
    return [search.best() for search in searches]
