"""What a row says about how much better its chosen answer is: two scores, under any of their names, or a tie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.data.reading.cells import is_missing, kind_of, number, says_nothing
from alignkit.data.reading.fields import SCORES, SHAPE, names
from alignkit.errors import InputError

_PAIRS = tuple(zip(names(SCORES, "score_chosen"), names(SCORES, "score_rejected"), strict=True))
_BOTH = names(SCORES, "rating")
_TIED = names(SCORES, "tie")
_ANSWERS = (*names(SHAPE, "chosen"), *names(SHAPE, "rejected"))
_SCORED_BY = ("overall_score", "fine-grained_score", "fine_grained_score")


def scores_of(given: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """The scores of the chosen and the rejected answer, under any of their names; None where one is missing.

    Raises:
        InputError: a score is a truth value, no one value, or infinite.
    """
    for better, worse in _PAIRS:
        if better in given and worse in given:
            for name in (better, worse):
                if isinstance(given[name], (bool, list, tuple, dict)):
                    raise InputError(
                        f"{where}: {name!r} must be a number, found {kind_of(given[name])}; leave it unread by "
                        f"--ignore-fields {name}"
                    )
            first, second = number(given[better]), number(given[worse])
            if first is not None and second is not None:
                return _finite(first, better, where), _finite(second, worse, where)
    for name in _BOTH:
        both = given.get(name)
        if isinstance(both, dict) and {"chosen", "rejected"} <= both.keys():
            both = [both["chosen"], both["rejected"]]
        if isinstance(both, (list, tuple)) and len(both) == 2:
            if given.get("generations") == [given.get("rejected"), given.get("chosen")]:
                both = both[::-1]  # distilabel rates the answers in the order in which its judge saw them
            first, second = number(both[0]), number(both[1])
            if first is not None and second is not None:
                return _finite(first, name, where), _finite(second, name, where)
    if are_scored(given.get("completions")) and all(is_missing(given.get(name)) for name in _ANSWERS):
        scores = [_finite(score, "completions", where) for score, _ in scored_completions(given["completions"])]
        return max(scores), min(scores)
    return None


def _finite(score: float, name: str, where: str) -> float:
    """A score; an infinite one says nothing about by how much, and is refused."""
    if math.isinf(score):
        raise InputError(
            f"{where}: a score in {name!r} must be a finite number, found {score}; write null where there is none, or "
            f"leave it unread by --ignore-fields {name}"
        )
    return score


def are_scored(completions: Any) -> bool:
    """Whether these are openbmb's completions; lists of other things are columns of the user's own."""
    return isinstance(completions, (list, tuple)) and all(isinstance(c, dict) and "response" in c for c in completions)


def scored_completions(completions: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """The scores of openbmb's completions, each with its text; those without a score are left out."""
    found = []
    for completion in completions:
        scores = (number(completion.get(name)) for name in _SCORED_BY)
        score = next((score for score in scores if score is not None), None)
        if score is not None:
            found.append((score, completion["response"]))
    return found


def margin_of(given: Mapping[str, Any], where: str) -> float | None:
    """How much better the chosen answer is by the row's `margin`, None where it says nothing.

    Raises:
        InputError: it is no number.
    """
    value = given.get("margin")
    if value is None or (says_nothing(value) and value is not False):
        return None
    margin = number(value)
    if margin is None or not math.isfinite(margin):
        raise InputError(
            f"{where}: 'margin' must be a number, found {kind_of(value)}; leave it unread by --ignore-fields margin"
        )
    return margin


def says_tie(given: Mapping[str, Any]) -> bool:
    """Whether the row says by a word that its two answers tie."""
    status = given.get("status")
    return any(given.get(name) is True for name in _TIED) or (isinstance(status, str) and status.lower() == "tie")
