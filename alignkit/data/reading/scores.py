"""What a row says about how much better its chosen answer is: two scores, under any of their names, or a tie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignkit.data.reading.cells import kind_of, number
from alignkit.data.reading.fields import SCORES, names
from alignkit.errors import InputError

TIE = "tie: equal scores"
_PAIRS = tuple(zip(names(SCORES, "score_chosen"), names(SCORES, "score_rejected"), strict=True))
_BOTH = names(SCORES, "rating")
_TIED = names(SCORES, "tie")


def scores_of(given: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """The scores of the chosen and the rejected answer, under any of their names; None where one is missing.

    Raises:
        InputError: a score is a truth value, or no one value.
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
                return first, second
    for name in _BOTH:
        both = given.get(name)
        if isinstance(both, dict) and {"chosen", "rejected"} <= both.keys():
            both = [both["chosen"], both["rejected"]]
        if isinstance(both, (list, tuple)) and len(both) == 2:
            first, second = number(both[0]), number(both[1])
            if first is not None and second is not None:
                return first, second
    return None


def says_tie(given: Mapping[str, Any]) -> bool:
    """Whether the row says by a word that its two answers tie."""
    status = given.get("status")
    return any(given.get(name) is True for name in _TIED) or (isinstance(status, str) and status.lower() == "tie")
