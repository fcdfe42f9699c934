"""The judge `rules`: scores a completion by the rules that its own data row carries.

A row's `rules` is a list of objects such as `{"kind": "num_words", "max": 40, "weight": 2}`; the kinds and their fields
are the functions of `rule_kinds`. The score is the weighted share of rules satisfied,

    score = sum_i weight_i * share_i(completion) / sum_i weight_i        share_i in [0, 1], weight_i = 1 by default,

and 0 for an empty completion, which would satisfy every upper bound. Anyone can check such a score, so the judge is
verifiable: it may be reward and judge at once, on prompts that were not trained on.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import ValidationError, validate_call

from alignkit.plugin import Dataset, InputError, Item, Judge, Missing, Scored, UsageError, hookimpl, nearest
from alignkit_plugins.general_tasks import GeneralTasks
from alignkit_plugins.rule_kinds import KINDS

_CHECKED: dict[str, Callable[..., float]] = {kind: validate_call(function) for kind, function in KINDS.items()}


class Rules(Judge):
    """Scores a completion by the rules in its row, from 0 (none satisfied) to 1 (all)."""

    name: ClassVar[str] = "rules"
    version: ClassVar[str] = "1"
    verifiable: ClassVar[bool] = True
    default_for: ClassVar[frozenset[str]] = frozenset({"reward", "judge"})
    why_default: ClassVar[str] = "the rows carry rules that anyone can check"
    why_not_default: ClassVar[str] = "the rows carry no rules"

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Return the weighted share of rules that each completion satisfies; rows without rules do not apply.

        Raises:
            InputError: a row's rules are malformed; it names the row's id and the rule.
        """
        return [
            Scored(score_rules(rules, item.completion, row=item.said))
            if (rules := item.row.get("rules"))
            else Missing("the row has no rules", applies=False)
            for item in items
        ]

    def given(self, item: Item) -> Any:
        """The completion and the row's rules."""
        return {"completion": item.completion, "rules": item.row.get("rules")}

    @classmethod
    def applies_to(cls, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether every row carries rules."""
        return all(row.get("rules") for row in rows)

    def ready(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that some rows carry rules and that all of those are well-formed.

        Raises:
            UsageError: none of the rows has rules; it names the ways out.
            InputError: a row's rules are malformed; it names the row's id and the rule.
        """
        with_rules = [row for row in rows if row.get("rules")]
        if not with_rules:
            raise UsageError(
                f"judge rules: none of the {len(rows)} rows has `rules` to score by; add rules to the data, or "
                "name another reward or judge: a function as FILE.py:function, the folder of a reward model (train one "
                "with `alignkit train reward`), or a judge that `alignkit plugins list` shows"
            )
        for row in with_rules:
            score_rules(row["rules"], "text", row=_said(row))


def score_rules(rules: Any, completion: str, *, row: str) -> float:
    """Return the weighted share of the rules that the completion satisfies, in [0, 1].

    Args:
        rules: a non-empty list of {"kind": ..., "weight": ..., further fields}; a field that is None is not given.
        completion: the text scored; an empty one gets 0.
        row: what errors call it, "row r1".

    Raises:
        InputError: an unknown kind, a missing, unknown or wrong field, a weight that is not a positive number.
    """
    if isinstance(rules, str | Mapping) or not isinstance(rules, Sequence) or not rules:
        raise InputError(f"{row}: `rules` must be a list of objects with a `kind`, not {_short(rules)}")
    total = satisfied = 0.0
    for place, rule in enumerate(rules, start=1):
        weight, share = _weigh(rule, completion, where=f"{row}, rule {place}")
        total += weight
        satisfied += weight * share
    return satisfied / total if completion.strip() else 0.0


@hookimpl
def register_judges(register: Callable[[type[Judge]], None]) -> None:
    """Add the judge `rules`."""
    register(Rules)


@hookimpl
def register_datasets(register: Callable[[type[Dataset]], None]) -> None:
    """Add the data set `general`, whose rows carry rules."""
    register(GeneralTasks)


def _weigh(rule: Any, completion: str, *, where: str) -> tuple[float, float]:
    """Return one rule's weight and the share of it that the completion satisfies."""
    if not isinstance(rule, Mapping):
        raise InputError(f"{where}: a rule must be an object with a `kind`, not {_short(rule)}")
    fields = {name: value for name, value in rule.items() if value is not None}
    kind, weight = fields.pop("kind", None), fields.pop("weight", 1.0)
    if not isinstance(kind, str) or kind not in _CHECKED:
        known = list(KINDS)
        raise InputError(f"{where}: unknown kind {_short(kind)}{nearest(str(kind), known)}; known: {', '.join(known)}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not (0 < weight < math.inf):
        raise InputError(f"{where} ({kind}): weight must be a positive number, not {_short(weight)}")
    try:
        return float(weight), _CHECKED[kind](completion, **fields)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        accepted = ", ".join(list(inspect.signature(KINDS[kind]).parameters)[1:])
        raise InputError(f"{where} ({kind}): {field}: {problem['msg']}; its fields are: {accepted}") from error


def _said(row: Mapping[str, Any]) -> str:
    return f"row {row['id']}" if row.get("id") is not None else "a row without an id"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
