"""What a row says about how much better its chosen answer is: two scores, under any of their names, or a tie."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

from pydantic_core import from_json

from alignkit.data.reading.cells import (
    is_missing,
    is_text_of_missing,
    is_truth,
    kind_of,
    number,
    says_nothing,
    truth_of,
)
from alignkit.data.reading.fields import SCORES, SHAPE, letters, like_scores, misspelt, names
from alignkit.data.reading.given import UNREAD
from alignkit.errors import InputError

_BETTER = {name: letters(name).replace("chosen", "") for name in names(SCORES, "score_chosen")}
_WORSE = {name: letters(name).replace("rejected", "") for name in names(SCORES, "score_rejected")}
"""What each counts: score_chosen and rejected_score are of one kind, score_chosen and rejected_rating of two."""
_TWINS = tuple(zip(_BETTER, _WORSE, strict=True))
_PAIRS = (
    *_TWINS,
    *(pair for pair in product(_BETTER, _WORSE) if pair not in _TWINS and _BETTER[pair[0]] == _WORSE[pair[1]]),
)
_BOTH = (*names(SCORES, "rating"), *names(SCORES, "score"))
_TIED = names(SCORES, "tie")
_ANSWERS = (*names(SHAPE, "chosen"), *names(SHAPE, "rejected"))
_DIFFERENCE = re.compile("diff|gap|delta|margin")
_UNREADABLE = " is no number: ties and margins"
_SCORED_BY = ("overall_score", "fine-grained_score", "fine_grained_score")


def scores_of(given: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """The scores of the chosen and the rejected answer, under any of their names; None where one is missing.

    Raises:
        InputError: a score is a truth value, no one value, or infinite, two names give scores that differ, or the one
            score is of another kind than the other.
    """
    found: tuple[tuple[str, str], tuple[float, float]] | None = None
    for better, worse in _pairs_in(tuple(given)):
        for name in (better, worse):
            if isinstance(given[name], (bool, list, tuple, dict)):
                raise InputError(
                    f"{where}: {name!r} must be a number, found {kind_of(given[name])}; leave it unread by "
                    f"--ignore-fields {name}"
                )
        first, second = number(given[better]), number(given[worse])
        if first is not None and second is not None:
            scores = _finite(first, better, where), _finite(second, worse, where)
            if found is not None and scores != found[1]:
                others = [name for name in (better, worse) if name not in found[0]]
                raise InputError(
                    f"{where}: the row has scores under {found[0][others[0] == worse]!r} and {others[0]!r}, which "
                    f"differ: {UNREAD.format(','.join(others))}"
                )
            found = found or ((better, worse), scores)
    if found is not None:
        return found[1]
    for name in _BOTH:
        both = _of_both(given.get(name))
        if both is not None:
            if given.get("generations") == [given.get("rejected"), given.get("chosen")]:
                both = both[::-1]  # distilabel rates the answers in the order in which its judge saw them
            first, second = number(both[0]), number(both[1])
            if first is not None and second is not None:
                return _finite(first, name, where), _finite(second, name, where)
    if are_scored(given.get("completions")) and all(is_missing(given.get(name)) for name in _ANSWERS):
        of_all = [_finite(score, "completions", where) for score, _ in scored_completions(given["completions"])]
        return max(of_all), min(of_all)
    _refuse_two_kinds(given, where)
    return None


@lru_cache(maxsize=4096)
def _pairs_in(found: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Of a row's field names, those that are scores of one kind."""
    return tuple((better, worse) for better, worse in _PAIRS if better in found and worse in found)


def _refuse_two_kinds(given: Mapping[str, Any], where: str) -> None:
    """Refuse a row whose answers both have scores, and none of one kind."""
    better, worse = (
        [name for name in names_ if name in given and number(given[name]) is not None] for names_ in (_BETTER, _WORSE)
    )
    if better and worse and not any(pair in _PAIRS for pair in product(better, worse)):
        ours = {"score_chosen": better[0], "score_rejected": worse[0]}
        columns = ",".join(f"{name}={theirs}" for name, theirs in ours.items() if name != theirs)
        raise InputError(
            f"{where}: {better[0]!r} and {worse[0]!r} may be two kinds of scores: where they are one, say so by "
            f"--columns {columns}; else leave them unread by --ignore-fields {','.join((*better, *worse))}"
        )


def lone_score(given: Mapping[str, Any]) -> tuple[str, str] | None:
    """The name of a score that only one answer of a row has, and what the other's would be; None where there is none.

    Args:
        given: the fields of a row without scores of both.
    """
    has_other = {True: any(name in given for name in _BETTER), False: any(name in given for name in _WORSE)}
    if has_other[True] is has_other[False]:
        return None
    for better, worse in _TWINS:
        for one, other in ((better, worse), (worse, better)):
            if one in given and not says_nothing(given[one]):
                return one, other
    return None


def _of_both(value: Any) -> Sequence[Any] | None:
    """What a field holds for the chosen and the rejected answer: a list of two or by name, also as JSON text."""
    if type(value) is str and value[:1] in ("[", "{"):
        try:
            value = from_json(value)
        except ValueError:
            return None
    if isinstance(value, dict):
        return [value["chosen"], value["rejected"]] if {"chosen", "rejected"} <= value.keys() else None
    return value if isinstance(value, (list, tuple)) and len(value) == 2 else None


def unread_scores(given: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what looks like scores of a pair that has none that are read: its columns, and what reads them.

    Args:
        given: the fields of a pair, by the file's names.
        columns: our name = the file's name; of columns in it nothing is said.
    """
    like = [name for name in like_scores(tuple(given)) if name not in columns and name not in columns.values()]
    for name in like:
        value = given[name]
        held = value.values() if isinstance(value, dict) and _names_both(value) else _of_both(value)
        if held is not None and all(number(score) is not None for score in held):
            is_written_so = _of_both(value) is not None
            yield (name,), f"--columns scores={name} reads it" if is_written_so else "name them chosen and rejected"
    for name in like:
        if name != "margin" and _DIFFERENCE.search(name.lower()) and number(given[name]) is not None:
            yield (name,), f"--columns margin={name} reads it as how much better the chosen answer is"
        other = _other_answers(name)
        if (
            other in like
            and misspelt(name) is None
            and number(given[name]) is not None
            and number(given[other]) is not None
        ):
            yield (name, other), f"--columns score_chosen={name},score_rejected={other} reads them"


def _names_both(scores: Mapping[Any, Any]) -> bool:
    """Whether an object holds one score for the chosen and one for the rejected answer."""
    keys = [str(key).lower() for key in scores]
    return len(keys) == 2 and any("chosen" in key for key in keys) and any("reject" in key for key in keys)


def _other_answers(name: str) -> str:
    """What a field of the chosen answer is called for the rejected one; "" for any other."""
    return name.replace("chosen", "rejected") if "chosen" in name and name not in _BETTER else ""


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


def unreadable(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the scores of a row that are text and no number, each with its field's name."""
    single, of_both = _named(tuple(given))
    found = [(name, given[name]) for name in single]
    for name in of_both:
        found += [(name, score) for score in _of_both(given[name]) or ()]
    if are_scored(given.get("completions")):
        found += [(name, one[name]) for one in given["completions"] for name in _SCORED_BY if name in one]
    for name, score in found:
        if isinstance(score, str) and number(score) is None and not (says_nothing(score) or _is_missing(score.strip())):
            yield name, score


@lru_cache(maxsize=4096)
def _named(found: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of a row's field names, those of one answer's score and those of both answers' scores."""
    return tuple(name for name in (*_BETTER, *_WORSE) if name in found), tuple(n for n in _BOTH if n in found)


def _is_missing(score: str) -> bool:
    return is_text_of_missing(score) or score.lower() in ("nan", "+nan", "-nan")


def say_unreadable(name: str, score: str) -> str:
    """Say that a score is text and no number, and how to write it where that is plain."""
    point = score.strip().replace(",", ".")
    instead = point if number(point) is not None else "it as one number"
    return f"{name} {score!r}{_UNREADABLE} are not read from it; write {instead}"


def is_unreadable(line: str) -> bool:
    """Whether a line is what `say_unreadable` says."""
    return _UNREADABLE in line


def says_tie(given: Mapping[str, Any], where: str, columns: Mapping[str, str] | None = None) -> bool:
    """Whether the row says by a word that its two answers tie.

    Raises:
        InputError: its `tie` is neither true nor false, nor 1 nor 0, nor nothing.
    """
    status = given.get("status")
    is_tie = isinstance(status, str) and status.strip().lower() == "tie"
    for name in _TIED:
        value = given.get(name)
        if isinstance(value, str) and (columns or {}).get(name):
            value = truth_of(value)  # a cell of CSV in a column of another name is text
        if says_nothing(value):
            continue
        if not is_truth(value):
            raise InputError(
                f"{where}: {name!r} must be true or false (or 1 or 0), found {kind_of(value)}: write true where the "
                f"answers tie, or leave it unread by --ignore-fields {name}"
            )
        is_tie = is_tie or bool(value)
    return is_tie
